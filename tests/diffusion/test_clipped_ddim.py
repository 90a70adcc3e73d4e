import pytest
import torch
from diffusers.schedulers import DDIMScheduler

from src.diffusion.clipped_ddim import END, clipped_ddim, ddim_times, noised, times_from
from src.diffusion.noise import generators_from
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.diffusion.sampling import sample
from src.errors import ConfigError

AB = noise_tables(scaled_linear_betas())["alphas_cumprod"]


def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return 0.7 * x + 0.1 * x.mean(dim=-1, keepdim=True) + (t / 1000).view(-1, 1, 1)


def test_times_run_from_the_noisiest_to_the_end():
    assert ddim_times(1000, 4) == [999, 749, 499, 249, END]
    assert ddim_times(1000, 3) == [999, 665, 332, END]
    with pytest.raises(ConfigError, match="steps=1001: give 1 to 1000"):
        ddim_times(1000, 1001)


def test_a_weaker_start_takes_fewer_steps():
    times = ddim_times(1000, 100)
    first, left = times_from(times, 1000, 0.25)
    assert (first, left[0], len(left) - 1) == (250, 249, 25)
    for strength in (0.0, 1.0):
        with pytest.raises(ConfigError, match="give a share above 0 and below 1"):
            times_from(times, 1000, strength)


def test_steps_that_divide_the_training_are_those_of_diffusers_ddim():
    noise = torch.randn(2, 4, 1, 24, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=True, timestep_spacing="trailing"
    )
    theirs = sample(lambda x, t: denoise(x[:, :, 0], t)[:, :, None], noise, scheduler, 10)[:, :, 0]
    ours = clipped_ddim(denoise, noise[:, :, 0], AB, ddim_times(1000, 10), eta=0.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_noise_belongs_to_the_sample_not_to_the_batch():
    start = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1))
    times = ddim_times(1000, 5)
    together = clipped_ddim(denoise, start, AB, times, generators=generators_from([1, 2, 3]))
    alone = clipped_ddim(denoise, start[1:2], AB, times, generators=generators_from([2]))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="eta > 0 needs generators or given noise"):
        clipped_ddim(denoise, start, AB, times)


def test_samples_are_clipped():
    start = 5 * torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(2))
    assert clipped_ddim(denoise, start, AB, ddim_times(1000, 4), eta=0.0).abs().max() <= 1


def test_little_noise_leaves_what_is_known():
    clean = torch.rand(1, 2, 8) * 2 - 1
    torch.testing.assert_close(noised(clean, torch.randn(1, 2, 8), AB, 0), clean, rtol=0, atol=0.2)
