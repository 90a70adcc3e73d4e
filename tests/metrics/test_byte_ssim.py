"""SSIM of grey levels is the defined value, whatever the layout of the memory."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from src.metrics.images import ssim


def grey_levels(shape, seed=0, noise=12):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return x, (x + rng.normal(0, noise, shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(6, 7), (11, 64), (37, 20)])
def test_it_is_the_value_of_torchmetrics(size):
    x, y = (torch.from_numpy(images) for images in grey_levels((3, 3, *size)))
    if min(size) < 11:  # torchmetrics' smallest size; below it the path of floats is the witness
        exact = ssim(x.double() / 255, y.double() / 255)
    else:
        exact = structural_similarity_index_measure(
            x.double() / 255, y.double() / 255, data_range=1.0, reduction="none"
        )
    assert (ssim(x, y) - exact).abs().max() < 1e-6


def test_flat_bright_pictures_lose_no_digits():
    x = torch.full((1, 3, 32, 32), 250, dtype=torch.uint8)
    y = x.clone()
    y[..., ::2, :] = 251
    exact = ssim(x.double() / 255, y.double() / 255).item()
    assert ssim(x, y).item() == pytest.approx(exact, abs=1e-6)


def test_without_the_border_it_is_that_of_floats():
    x, y = (torch.from_numpy(images) for images in grey_levels((2, 3, 30, 26)))
    assert (ssim(x, y, "left_out") - ssim(x.double() / 255, y.double() / 255, "left_out")).abs().max() < 1e-6
    assert not torch.allclose(ssim(x, y, "left_out"), ssim(x, y))
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[..., :10], y[..., :10], "left_out")


def test_frames_need_no_copy():
    x, y = (torch.from_numpy(frames).permute(0, 3, 1, 2) for frames in grey_levels((2, 24, 24, 3)))
    assert torch.equal(ssim(x, y), ssim(x.contiguous(), y.contiguous()))
