import copy
from functools import partial
from itertools import product

import pytest
import torch
from diffusers.schedulers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from src.diffusion.noise import generators_from
from src.diffusion.sampling import SAMPLERS, sample, sampler_for
from src.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(3)
CLEAN = torch.rand(4, 3, 4, 4, generator=GENERATOR) * 1.8 - 0.9
NOISE = torch.randn(4, 3, 4, 4, generator=GENERATOR)


def oracle(scheduler, prediction_type: str):
    """A denoiser that knows the clean samples; x as DDPM scales it."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        ab = scheduler.alphas_cumprod[t.long()].reshape(-1, 1, 1, 1)
        clean = CLEAN[: len(x)]
        noise = (x - ab.sqrt() * clean) / (1 - ab).sqrt()
        return {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": ab.sqrt() * noise - (1 - ab).sqrt() * clean,
        }[prediction_type]

    return denoise


def linear(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser that knows nothing; rows do not influence each other."""
    return 0.5 * x + t.reshape(-1, 1, 1, 1) / 2000


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    sorted(set(product(SAMPLERS, ["epsilon", "sample", "v_prediction"])) - {("euler_ancestral", "sample")}),
)
def test_every_sampler_ends_at_what_a_perfect_denoiser_sees(name, prediction_type):
    schedule = DDIMScheduler(prediction_type=prediction_type)
    result = sample(
        oracle(schedule, prediction_type),
        NOISE,
        sampler_for(schedule, name),
        20,
        generators=generators_from(range(len(NOISE))),
    )
    assert (result - CLEAN).abs().max() < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_batch_size_changes_nothing(name):
    scheduler = sampler_for(DDIMScheduler(), name)
    options = {"eta": 0.8} if name == "ddim" else {}
    whole = sample(linear, NOISE, scheduler, 5, generators=generators_from(range(4)), **options)
    halves = [
        sample(linear, NOISE[rows], scheduler, 5, generators=generators_from(range(4)[rows]), **options)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(torch.cat(halves), whole)


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral", "ddim"])
def test_steps_are_as_random_as_their_generators(name):
    scheduler = sampler_for(DDIMScheduler(), name)
    options = {"eta": 1.0} if name == "ddim" else {}
    first, again, other = (
        sample(linear, NOISE, scheduler, 5, generators=generators_from(range(seed, seed + 4)), **options)
        for seed in (0, 0, 50)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_argument_is_changed(name):
    scheduler, noise = sampler_for(DDIMScheduler(), name), NOISE.clone()
    before = copy.deepcopy(scheduler.__dict__)
    sample(linear, noise, scheduler, 4, generators=generators_from(range(4)))
    assert torch.equal(noise, NOISE)
    assert scheduler.config == before["_internal_dict"]
    assert torch.equal(scheduler.timesteps, before["timesteps"])
    assert scheduler.num_inference_steps == before["num_inference_steps"]


def test_original_time_steps_begin_below_the_noisiest_and_end_at_zero():
    seen: list[int] = []
    sample(lambda x, t: seen.append(t[0].item()) or x, NOISE, DDIMScheduler(), 50)
    assert seen == list(range(980, -1, -20))


def test_presets_for_few_steps_begin_at_the_noisiest_time_step():
    for name in ("dpm_solver", "unipc", "euler", "euler_ancestral"):
        seen: list[float] = []
        sample(
            lambda x, t, seen=seen: seen.append(t[0].item()) or x, NOISE, sampler_for(DDIMScheduler(), name), 5,
            generators=generators_from(range(4)),
        )  # fmt: skip
        assert seen[0] == 999, name


def test_x0_is_clipped_but_the_noise_is_not_recomputed():
    """One step from t with p < 0 returns the clipped x_0 itself."""
    schedule = DDIMScheduler()
    result = sample(lambda x, t: torch.zeros_like(x), 100 * NOISE, schedule, 1)
    assert torch.equal(result, (100 * NOISE / schedule.alphas_cumprod[0].sqrt()).clamp(-1, 1))


def test_the_callback_sees_every_step():
    steps: list[tuple[int, Tensor]] = []
    result = sample(linear, NOISE, DDIMScheduler(), 3, callback=lambda i, output, x: steps.append((i, x)))
    assert [i for i, _ in steps] == [0, 1, 2]
    assert torch.equal(steps[-1][1], result)


def test_a_sampler_keeps_the_betas_and_the_prediction_of_the_training():
    schedule = DDIMScheduler(beta_end=0.012, prediction_type="v_prediction")
    for sampler in ("unipc", DDPMScheduler, partial(EulerDiscreteScheduler, timestep_spacing="linspace")):
        made = sampler_for(schedule, sampler)
        assert made.config.prediction_type == "v_prediction"
        assert torch.equal(made.alphas_cumprod, schedule.alphas_cumprod)
    assert made.config.timestep_spacing == "linspace"
    assert sampler_for(schedule) is schedule


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="sampler=dimd: choose one of ddim, ddpm"):
        sampler_for(DDIMScheduler(), "dimd")
    with pytest.raises(ConfigError, match="scheduler class"):
        sampler_for(DDIMScheduler(), print)
    with pytest.raises(ConfigError, match="has no version for prediction_type=sample"):
        sampler_for(DDIMScheduler(prediction_type="sample"), "euler_ancestral")
    euler = sampler_for(DDIMScheduler(), "euler")
    with pytest.raises(ValueError, match="EulerDiscreteScheduler has no such setting"):
        sample(linear, NOISE, euler, 2, eta=0.5)
    with pytest.raises(ValueError, match="draws its own step noise"):
        sample(linear, NOISE, euler, 2, step_noise=NOISE.expand(2, -1, -1, -1, -1))
