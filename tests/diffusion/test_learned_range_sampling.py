"""Samplers on a distribution whose denoiser is known: Gaussian pixels of a few deviations around a mean."""

from functools import partial

import pytest
import torch
from diffusers.schedulers import DPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor

from src.diffusion.learned_range import LearnedRangeDiffusion
from src.diffusion.learned_range_sampling import FrameSampler, solver_positions
from src.diffusion.noise import generators_from
from src.diffusion.sampling import SAMPLERS
from src.errors import ConfigError

DIFFUSION = LearnedRangeDiffusion()
MEAN, DEVIATIONS = 0.3, torch.tensor([0.03, 0.1, 0.2])[:, None, None]  # per channel
NOISE = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def best_denoiser(x: Tensor, t: Tensor, error: float = 0.0) -> Tensor:
    """E[eps | x_t], computed in float64, and nu for the upper variance; `error` disturbs the noise."""
    ab = DIFFUSION.alphas_cumprod[t].double()[:, None, None, None]
    variance = ab * DEVIATIONS.double() ** 2 + 1 - ab
    noise = (1 - ab).sqrt() * (x.double() - ab.sqrt() * MEAN) / variance
    noise = noise + error * torch.sin(3 * x.double().flip(-1) + t[0].item())
    return torch.cat([noise, torch.ones_like(noise)], dim=1).float()


def sampled(sampler: object, steps: int, **options: float) -> Tensor:
    denoiser = partial(best_denoiser, **options)
    return FrameSampler(DIFFUSION, sampler, steps)(denoiser, NOISE, generators=generators_from(range(len(NOISE))))


def deviations(frames: Tensor) -> list[float]:
    """Of the channels, as parts of the true ones."""
    return (frames.std(dim=(0, 2, 3)) / DEVIATIONS.flatten()).tolist()


@pytest.mark.parametrize("name", [None, *SAMPLERS])
def test_every_sampler_converges_to_the_distribution(name):
    frames = sampled(name, 400)
    assert frames.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert deviations(frames) == pytest.approx([1, 1, 1], abs=0.08)  # the ancestral steps take the upper variance here


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("name", ["dpm_solver", "unipc"])
def test_a_few_steps_of_a_second_order_solver_keep_detail(name, steps):
    frames = sampled(name, steps)
    assert frames.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert deviations(frames) == pytest.approx([1, 1, 1], abs=0.08 if steps == 10 else 0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ten_steps_of_every_solver_keep_most_of_it(name):
    assert min(deviations(sampled(name, 10))) > 0.6
    assert min(deviations(sampled(name, 20))) > 0.75


@pytest.mark.parametrize("name", SAMPLERS)
def test_errors_of_the_network_are_not_blown_up_at_the_noisy_end(name):
    """At t = 999 the way from the noise to the clean sample multiplies errors by 20000."""
    exact, disturbed = sampled(name, 20), sampled(name, 20, error=0.03)
    assert (disturbed - exact).abs().mean() < 0.03


def test_the_published_sampler_asks_for_original_time_steps_and_ends_at_the_mean():
    seen: list[int] = []

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return best_denoiser(x, t)

    xs: list[Tensor] = []
    frames = FrameSampler(DIFFUSION, "ancestral", 10)(
        denoiser, NOISE[:1], generators=generators_from([0]), callback=lambda k, output, x: xs.append(x)
    )
    assert seen == list(range(999, -1, -111))
    assert torch.equal(frames, xs[-1])
    last = DIFFUSION.respaced(10).predict(best_denoiser(xs[-2], torch.tensor([0])), xs[-2], torch.tensor([0]))
    assert torch.equal(frames, last.step.mean)


def test_given_noise_replaces_the_generators():
    sampler = FrameSampler(DIFFUSION, steps=8)
    step_noise = torch.randn(7, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    once, twice = (sampler(best_denoiser, NOISE[:2], step_noise=step_noise) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, sampler(best_denoiser, NOISE[:2], step_noise=-step_noise))
    with pytest.raises(ValueError, match="needs generators or given noise"):
        sampler(best_denoiser, NOISE[:2])


@pytest.mark.parametrize("name", [None, *SAMPLERS])
def test_the_batch_size_changes_nothing(name):
    sampler = FrameSampler(DIFFUSION, name, 8)
    whole = sampler(best_denoiser, NOISE[:3], generators=generators_from(range(3)))
    part = sampler(best_denoiser, NOISE[1:2], generators=generators_from([1]))
    torch.testing.assert_close(whole[1:2], part, atol=1e-5, rtol=1e-5)


def test_positions_are_distinct_for_every_number_of_steps():
    signal = DIFFUSION.alphas_cumprod
    for steps in (2, 10, 25, 100, 500, 979):
        positions = solver_positions(DIFFUSION, steps)
        assert positions[0] == 0
        assert (positions.diff() > 0).all()
        assert signal[positions[-1]] >= 1e-3 > signal[positions[-1] + 1] or steps < 979
    levels = torch.logit(signal.double())[solver_positions(DIFFUSION, 20)]
    assert (
        levels.diff()[2:].std() < 0.1 * levels.diff().mean().abs()
    )  # even but for the integer steps next to the clean end


@pytest.mark.parametrize("steps", [1, 990])
def test_impossible_numbers_of_steps_are_named(steps):
    with pytest.raises(ConfigError, match=rf"steps={steps}: this sampler takes 2 to 979 steps"):
        FrameSampler(DIFFUSION, "ddim", steps)


def test_samplers_that_choose_their_own_time_steps_are_refused():
    for sampler in (HeunDiscreteScheduler, partial(DPMSolverMultistepScheduler, use_karras_sigmas=True)):
        with pytest.raises(ConfigError, match="chooses time steps of its own"):
            FrameSampler(DIFFUSION, sampler, 20)
    with pytest.raises(ConfigError, match="sampler=dimd: choose one of"):
        FrameSampler(DIFFUSION, "dimd", 20)


@pytest.mark.parametrize("name", [None, "ancestral", "dpm_solver", "euler"])
def test_randomness_that_a_sampler_does_not_know_is_refused(name):
    with pytest.raises(ConfigError, match=r"eta=0\.5 is for sampler=ddim"):
        FrameSampler(LearnedRangeDiffusion(), name, 20, eta=0.5)


def test_without_a_number_of_steps_all_are_taken():
    process = LearnedRangeDiffusion(12)
    assert FrameSampler(process).steps == 12
    assert FrameSampler(process).diffusion is process
