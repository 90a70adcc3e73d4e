"""Optical flow and differences between consecutive frames."""

import builtins

import numpy as np
import pytest
import torch

from src.errors import ConfigError
from src.metrics.smoothness import VideoSmoothness, smoothness


@pytest.fixture
def opencv():
    return pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)


def moving_texture(pixels: int, n_frames: int = 4) -> np.ndarray:
    """A smooth texture that moves to the right by so many pixels of 128 x 128 per frame."""
    noise = np.random.default_rng(0).uniform(0, 255, (16, 16, 3))
    texture = (
        torch.nn.functional.interpolate(
            torch.from_numpy(noise).permute(2, 0, 1)[None], size=(128, 160), mode="bicubic"
        )[0]
        .permute(1, 2, 0)
        .clamp(0, 255)
        .numpy()
        .astype(np.uint8)
    )
    return np.stack([texture[:, 32 - i * pixels : 160 - i * pixels] for i in range(n_frames)])


def test_the_plain_flow_is_the_displacement_in_pixels(opencv):
    assert smoothness(moving_texture(2)).flow_magnitude == pytest.approx(2, rel=0.15)


def test_a_frozen_video_moves_by_nothing_but_has_a_published_number(opencv):
    frozen = smoothness(moving_texture(0))
    assert frozen.flow_magnitude < 0.01
    assert frozen.frame_mse == frozen.f_mse == frozen.f_mse_std == 0
    assert frozen.ofm > 40


@pytest.mark.parametrize(("step", "wrapped"), [(3, 9), (16, 0), (20, 400 - 256)])
def test_the_published_error_wraps_around_at_256(opencv, step, wrapped):
    frames = np.full((3, 20, 30, 3), 50, np.uint8)
    frames[1] += step
    numbers = smoothness(frames)
    assert (numbers.f_mse, numbers.frame_mse) == (wrapped, step**2)


def test_one_frame_says_nothing(opencv):
    assert np.isnan(smoothness(moving_texture(1, 1)).ofm)
    metric = VideoSmoothness()
    metric.update(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert all(value.isnan() for value in metric.compute().values())


def test_videos_count_alike_whatever_their_length(opencv):
    clips = [moving_texture(1, 3), moving_texture(3, 5)]
    metric = VideoSmoothness()
    for clip in clips:
        metric.update(torch.from_numpy(clip).permute(0, 3, 1, 2))
    expected = np.mean([smoothness(clip).flow_magnitude for clip in clips])
    assert metric.compute()["flow_magnitude"].item() == pytest.approx(expected, rel=1e-6)


def test_a_missing_system_library_is_named(monkeypatch):
    load = builtins.__import__

    def without_cv2(name, *args):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_cv2)
    with pytest.raises(ConfigError, match="apt install libgl1"):
        smoothness(np.zeros((2, 8, 8, 3), np.uint8))
