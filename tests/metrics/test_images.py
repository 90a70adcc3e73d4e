import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from src.metrics.images import PSNR, SSIM, psnr, ssim


def pair(b=2, h=20, w=24, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(b, 3, h, w, generator=generator)
    return x, (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("size", [(20, 24), (11, 64), (64, 48)])
def test_ssim_is_the_value_of_torchmetrics(size):
    x, y = pair(3, *size)
    theirs = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    assert torch.allclose(ssim(x, y), theirs, atol=2e-6)


def test_psnr_of_a_known_error():
    x = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(x, x + 0.1).item() == pytest.approx(20.0, abs=1e-4)  # MSE 0.01


def test_psnr_of_grey_levels_is_that_of_0_to_255():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert psnr(x, x + 16).item() == pytest.approx(10 * np.log10(255**2 / 256), abs=1e-4)


def test_identical_images_score_the_cap_and_one():
    x, _ = pair()
    assert psnr(x, x).tolist() == [100.0, 100.0]
    assert torch.allclose(ssim(x, x), torch.ones(2))


def test_psnr_is_taken_per_image_before_the_mean():
    x = torch.zeros(2, 3, 8, 8)
    y = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    metric = PSNR()
    metric.update(y, x)
    assert metric.compute().item() == pytest.approx((20 + 40) / 2, abs=1e-3)  # pooled: 22.97


@given(noise=st.floats(0.02, 0.3), more=st.floats(1.2, 3.0), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_more_noise_scores_lower(noise, more, seed):
    x, y = pair(noise=noise, seed=seed)
    _, z = pair(noise=noise * more, seed=seed)
    for score in (psnr, ssim):
        assert (score(z, x) < score(y, x)).all()
        assert torch.allclose(score(y, x), score(x, y), atol=1e-5)


def test_integers_and_floats_agree():
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    y = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    for score in (psnr, ssim):
        assert torch.allclose(score(x, y), score(x / 255, y / 255), atol=1e-5)


@pytest.mark.parametrize("metric", [PSNR, SSIM])
def test_chunks_and_merged_states_give_the_value_of_the_whole(metric):
    x, y = pair(b=7)
    whole, first, second = metric(), metric(), metric()
    whole.update(x, y)
    first.update(x[:3], y[:3])
    second.update(x[3:], y[3:])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(whole.compute().item(), abs=1e-6)


def test_autocast_does_not_touch_the_scores():
    x, y = pair(noise=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        scores = ssim(x, y), psnr(x, y)
    assert torch.equal(scores[0], ssim(x, y))
    assert torch.equal(scores[1], psnr(x, y))


@pytest.mark.parametrize("metric", [PSNR, SSIM])
def test_images_in_minus_one_to_one_are_refused(metric):
    x, y = pair()
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        metric().update(2 * x - 1, y)


@pytest.mark.parametrize("metric", [PSNR, SSIM])
def test_non_finite_images_are_refused(metric):
    x, y = pair()
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        metric().update(x, y)


def test_ssim_names_the_smallest_size():
    x, y = pair(h=5)
    with pytest.raises(ValueError, match="at least 6 pixels"):
        ssim(x, y)
