"""AToM's diffusion: its loss, DDIM, guidance, and motion that is joined from windows."""

import pytest
import torch

from src.diffusion.motion import MotionDiffusion, guidance_weights, guided, join_windows, window_starts
from src.diffusion.noise import generators_from
from src.errors import ConfigError


def test_the_grid_of_the_original():
    times = MotionDiffusion().ddim_times(50)
    assert (times[0], times[1], times[-1], len(times)) == ((999, 979), (979, 959), (19, -1), 50)


def test_more_steps_than_noise_levels_are_refused():
    with pytest.raises(ConfigError, match="give 1 to 100"):
        MotionDiffusion(100).ddim_times(101)


def test_padding_does_not_count_in_the_loss():
    diffusion = MotionDiffusion(10)
    clean, predicted = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)
    predicted[:, 3:] = 9.0
    predicted[0, 1] = 1.0
    valid = torch.tensor([True, True, True, False, False]).expand(2, -1)
    terms = diffusion.terms(predicted, clean, torch.tensor([1, 2]), valid)
    # One of three frames is off by 1 in one of two samples; two of two differences are.
    assert terms.position.item() == pytest.approx(7.5 * (1 / 3) / 2)
    assert terms.velocity.item() == pytest.approx(1.5 * 1 / 2)
    assert terms.total.item() == pytest.approx(terms.position.item() + terms.velocity.item())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_perfect_network_is_believed(eta):
    clean = 0.5 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    made = MotionDiffusion().sample(
        lambda x, t, weight: clean, torch.randn(2, 6, 4), 7, eta=eta, generators=generators_from([1, 2])
    )
    torch.testing.assert_close(made, clean)


def test_clean_samples_are_clipped_where_it_is_asked_for():
    noise = torch.zeros(1, 2, 3)
    for clip in (1.0, 2.5):
        made = MotionDiffusion(clip=clip).sample(lambda x, t, w: x + 9, noise, 2, eta=0)
        assert made.unique().tolist() == [clip]


def test_a_sample_is_the_same_in_every_batch():
    def denoise(x, t, weight):
        return 0.3 * x + weight * 0.01

    diffusion, noise = MotionDiffusion(), torch.randn(3, 4, 2)
    together = diffusion.sample(denoise, noise, 5, generators=generators_from([1, 2, 3]))
    alone = diffusion.sample(denoise, noise[1:2], 5, generators=generators_from([2]))
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("steps", [1, 2, 5, 33])
def test_any_number_of_steps_ends_in_numbers(steps):
    made = MotionDiffusion().sample(lambda x, t, w: 0 * x, torch.randn(1, 2, 2), steps, generators=generators_from([1]))
    assert made.isfinite().all()


def test_random_steps_need_noise():
    with pytest.raises(ValueError, match="generators"):
        MotionDiffusion().sample(lambda x, t, w: x, torch.zeros(1, 2, 2), 3)


def test_guidance_rises_over_the_first_half_of_long_sampling():
    assert guidance_weights(2.0, 5, rising=False) == [2.0] * 5
    assert guidance_weights(2.0, 5, rising=True) == [0.0, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_guidance_extrapolates_from_no_conditions(weight, calls):
    seen = []

    def predict(keep):
        seen.append(len(keep))
        return torch.where(keep, 5.0, 3.0)[:, None, None].expand(-1, 2, 2)

    made = guided(predict, 4, weight, torch.device("cpu"))
    assert made.unique().tolist() == [3.0 + 2.0 * weight]
    assert seen == [4 * calls]


@pytest.mark.parametrize("n_frames", [1, 7, 8, 9, 12, 13, 31, 32])
def test_windows_cover_motion_of_any_length_and_join_to_it(n_frames):
    window = 8
    starts = window_starts(n_frames, window)
    assert starts == list(range(0, 4 * len(starts), 4))
    assert starts[-1] + window >= n_frames
    assert n_frames <= window or starts[-1] + window - n_frames < 4
    motion = torch.arange(starts[-1] + window).float()[:, None].expand(-1, 3)
    windows = torch.stack([motion[start : start + window] for start in starts])
    torch.testing.assert_close(join_windows(windows, n_frames), motion[:n_frames])


def test_windows_that_are_sampled_together_agree_where_they_overlap():
    seen = []
    noise = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    made = MotionDiffusion().sample(
        lambda x, t, w: 0.5 * x, noise, 10, windows=True, generators=generators_from([1, 2, 3]),
        callback=lambda i, x, clean: seen.append(x),
    )  # fmt: skip
    assert all(torch.equal(x[1:, :3], x[:-1, 3:]) for x in seen[1:])
    torch.testing.assert_close(made[1:, :3], made[:-1, 3:])
