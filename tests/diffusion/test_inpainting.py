import pytest
import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor

from src.diffusion.inpainting import ancestral_inpaint, ddim_schedule, inpaint, published_ddim
from src.diffusion.noise import generators_from
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.diffusion.sampling import SAMPLERS, sampler_for
from src.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(4)
CLEAN = torch.randn(3, 3, 4, 4, generator=GENERATOR) * 2.5  # latents go far beyond [-1, 1]
KNOWN = torch.randn(3, 3, 4, 4, generator=GENERATOR)
NOISE = torch.randn(3, 3, 4, 4, generator=GENERATOR)
KEPT = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
KEPT[:, :, :2] = True
TABLES = noise_tables(scaled_linear_betas())
AB = TABLES["alphas_cumprod"]


def schedule(**changed) -> DDIMScheduler:
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "steps_offset": 1}
    return DDIMScheduler(**settings | {"clip_sample": False, "set_alpha_to_one": False} | changed)


def oracle(x: Tensor, t: Tensor) -> Tensor:
    """The noise, for one who knows the clean latents."""
    ab = AB[t.long()].view(-1, 1, 1, 1)
    return (x - ab.sqrt() * CLEAN[: len(x)]) / (1 - ab).sqrt()


def linear(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser that knows nothing; rows do not influence each other."""
    return 0.1 * x + t.reshape(-1, 1, 1, 1) / 2000


@pytest.mark.parametrize("name", [None, *SAMPLERS])
def test_the_known_part_comes_back_to_the_last_bit_and_the_rest_is_painted(name):
    result = inpaint(
        oracle, NOISE, sampler_for(schedule(), name), 25, known=KNOWN, kept=KEPT, generators=generators_from(range(3))
    )
    assert torch.equal(result[:, :, :2], KNOWN[:, :, :2])
    assert (result - CLEAN)[:, :, 2:].abs().max() < 0.25  # ab_0 is not 1: a little noise is left by some


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_batch_size_changes_nothing(name):
    solver = sampler_for(schedule(), name)
    whole = inpaint(linear, NOISE, solver, 5, known=KNOWN, kept=KEPT, generators=generators_from(range(3)))
    for i in range(3):
        one = slice(i, i + 1)
        alone = inpaint(
            linear, NOISE[one], solver, 5, known=KNOWN[one], kept=KEPT[one], generators=generators_from([i])
        )
        assert torch.allclose(alone, whole[one], atol=1e-5)


@pytest.mark.parametrize("name", [None, "ddim", "dpm_solver", "unipc", "euler"])
@pytest.mark.parametrize("steps", [1, 3, 300, 1000])
def test_any_number_of_steps(name, steps):
    seen: list[int] = []
    result = inpaint(
        lambda x, t: seen.append(int(t[0])) or linear(x, t),
        NOISE[:1],
        sampler_for(schedule(), name),
        steps,
        known=KNOWN[:1],
        kept=KEPT[:1],
    )
    assert result.isfinite().all()
    assert len(seen) == steps
    assert max(seen) <= 999


def test_too_many_or_no_steps_are_one_sentence():
    for steps in (0, 1001):
        with pytest.raises(ConfigError, match=f"steps={steps}: give 1 to 1000"):
            inpaint(linear, NOISE, schedule(), steps)
        with pytest.raises(ConfigError, match=f"steps={steps}: give 1 to 1000"):
            published_ddim(linear, NOISE, AB, steps)


def test_noisy_known_latents_are_what_the_network_sees():
    seen: list[Tensor] = []
    times: list[int] = []

    def watch(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        times.append(int(t[0]))
        return linear(x, t)

    inpaint(watch, NOISE, schedule(), 4, known=KNOWN, kept=KEPT)
    for x, t in zip(seen, times, strict=True):
        expected = AB[t].sqrt() * KNOWN + (1 - AB[t]).sqrt() * NOISE
        assert torch.allclose(x[:, :, :2], expected[:, :, :2], atol=1e-5)


def test_without_a_mask_all_is_painted_and_half_a_mask_is_an_error():
    assert (inpaint(oracle, NOISE, schedule(), 50) - CLEAN).abs().max() < 0.3
    with pytest.raises(ValueError, match="belong together"):
        inpaint(linear, NOISE, schedule(), 5, known=KNOWN)
    with pytest.raises(ValueError, match="belong together"):
        published_ddim(linear, NOISE, AB, 5, kept=KEPT)


def test_published_ddim_is_the_library_s_where_nothing_is_known():
    ours = published_ddim(linear, NOISE, AB, 50)
    theirs = inpaint(linear, NOISE, schedule(), 50)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_published_ddim_leaves_the_known_part_a_little_noisy():
    result = published_ddim(oracle, NOISE, AB, 20, known=KNOWN, kept=KEPT, generators=generators_from(range(3)))
    assert not torch.allclose(result[:, :, :2], KNOWN[:, :, :2], atol=0.05)  # nothing is put back after the last step


def test_published_ddim_draws_per_sample_in_the_original_s_order():
    generator = torch.Generator().manual_seed(7)
    known_noise, step_noise = [], []
    for _ in range(4):
        known_noise.append(torch.randn(1, 3, 4, 4, generator=generator))
        step_noise.append(torch.randn(1, 3, 4, 4, generator=generator))
    given = published_ddim(
        linear, NOISE[:1], AB, 4, eta=1.0, known=KNOWN[:1], kept=KEPT[:1],
        known_noise=torch.stack(known_noise), step_noise=torch.stack(step_noise),
    )  # fmt: skip
    drawn = published_ddim(
        linear, NOISE[:1], AB, 4, eta=1.0, known=KNOWN[:1], kept=KEPT[:1], generators=generators_from([7])
    )
    assert torch.equal(given, drawn)


def test_temperature_scales_the_noise_of_steps_and_dropout_thins_it():
    def sampled(**options):
        return published_ddim(linear, NOISE, AB, 4, eta=1.0, generators=generators_from(range(len(NOISE))), **options)

    def given(step_noise):
        return published_ddim(linear, NOISE, AB, 4, eta=1.0, step_noise=step_noise)

    drawn = torch.stack(
        [torch.stack([torch.randn(NOISE.shape[1:], generator=g) for _ in range(4)]) for g in generators_from(range(len(NOISE)))], 1
    )  # fmt: skip
    assert torch.allclose(sampled(temperature=0.5), given(0.5 * drawn), atol=1e-6)
    assert torch.allclose(sampled(temperature=0.0), given(0 * drawn), atol=1e-6)
    nearly_all = sampled(noise_dropout=0.999)
    assert not torch.equal(nearly_all, sampled())
    assert (nearly_all - given(0 * drawn)).abs().median() < 1e-6
    with pytest.raises(ValueError, match="noise_dropout needs generators"):
        published_ddim(linear, NOISE, AB, 4, eta=1.0, step_noise=drawn, noise_dropout=0.5)


def test_clean_latents_are_quantised_in_every_step():
    levels = []

    def quantize(clean):
        levels.append(clean)
        return clean.round()

    result = published_ddim(oracle, NOISE, AB, 5, quantize=quantize)
    assert len(levels) == 5
    # The last step leaves the noise level of the first time step around a clean latent of whole numbers.
    assert (result - result.round()).abs().mean() < (published_ddim(oracle, NOISE, AB, 5) - CLEAN.round()).abs().mean()


@pytest.mark.parametrize(
    ("steps", "count", "last"),
    [(1, 1, 1), (3, 4, 999), (7, 8, 995), (200, 200, 996), (300, 334, 999), (1000, 999, 999)],
)
def test_published_time_steps(steps, count, last):
    found = ddim_schedule(AB, steps)
    assert (len(found), int(found.timesteps[-1]), int(found.timesteps[0])) == (count, last, 1)
    assert found.alphas_prev[0] == AB[0]
    assert published_ddim(linear, NOISE, AB, steps).isfinite().all()


def test_randomness_needs_a_source():
    with pytest.raises(ValueError, match="generators or given noise"):
        published_ddim(linear, NOISE, AB, 3, eta=1.0)
    with pytest.raises(ValueError, match="generators or given noise"):
        published_ddim(linear, NOISE, AB, 3, known=KNOWN, kept=KEPT)


def test_ancestral_sampling_finds_the_clean_latents():
    result = ancestral_inpaint(oracle, NOISE, TABLES, generators=generators_from(range(3)))
    assert (result - CLEAN).abs().max() < 0.05
    masked = ancestral_inpaint(
        oracle, NOISE, TABLES, first=40, known=KNOWN, kept=KEPT, generators=generators_from(range(3))
    )
    expected = (KNOWN * AB[0].sqrt())[:, :, :2]
    assert ((masked[:, :, :2] - expected) / (1 - AB[0]).sqrt()).std().item() == pytest.approx(1, abs=0.25)
