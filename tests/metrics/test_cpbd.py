"""CPBD falls with blur and is what its definition says at the edges."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.feature import canny

from src.metrics.cpbd import CPBD, canny_edges, cpbd, edge_widths, luma


@pytest.fixture(scope="module")
def texture():
    """Noise: edges everywhere."""
    return np.random.default_rng(0).integers(0, 256, (128, 192)).astype(np.uint8)


def blurred(picture, sigma):
    return gaussian_filter(picture.astype(float), sigma).round().astype(np.uint8)


def test_blur_lowers_it(texture):
    values = [cpbd(blurred(texture, sigma)) for sigma in (0.4, 1, 1.5, 2.5)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.8
    assert values[-1] < 0.2


def test_nothing_to_see_is_zero():
    assert cpbd(np.full((128, 128), 90, np.uint8)) == 0
    assert cpbd(np.tile(np.uint8([0, 0, 0, 255, 255, 255]), (60, 20))) == 0  # no whole block


@pytest.mark.parametrize("kind", ["noise", "smooth noise", "texture", "steps", "flat"])
def test_edges_are_those_of_scikit_image(kind, texture):
    rng = np.random.default_rng(0)
    picture = {
        "noise": rng.integers(0, 256, (70, 90)).astype(np.uint8),
        "smooth noise": (gaussian_filter(rng.random((128, 96)), 2) * 255).astype(np.uint8),
        "texture": blurred(texture, 1),
        "steps": np.tile(np.arange(128, dtype=np.uint8) // 16 * 16, (70, 1)),
        "flat": np.full((64, 64), 7, np.uint8),
    }[kind]
    assert (canny_edges(picture) == canny(picture.astype(float))).all()


def test_the_width_of_a_ramp_is_its_length():
    row = np.concatenate([np.full(30, 40), 40 + 20 * np.arange(1, 7), np.full(40, 160)]).astype(np.uint8)
    widths = edge_widths(np.tile(row, (64, 1)))
    assert set(widths[widths > 0].tolist()) <= {4, 5, 6, 7}
    assert not widths[0].any()
    assert not widths[:, 0].any()


def test_the_metric_is_the_mean_over_frames_of_their_grey_levels(texture):
    frames = np.stack([np.repeat(p[..., None], 3, axis=2) for p in (blurred(texture, 0.4), blurred(texture, 2))])
    metric = CPBD()
    metric.update(torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert metric.compute().item() == pytest.approx(
        np.mean([cpbd(blurred(texture, 0.4)), cpbd(blurred(texture, 2))]), abs=1e-6
    )
    assert CPBD().compute().isnan()
    assert luma(np.uint8([[[255, 255, 255], [255, 0, 0], [0, 0, 255]]])).tolist() == [[255, 76, 29]]
