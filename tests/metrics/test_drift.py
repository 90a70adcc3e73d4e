"""Drift: nothing for a still picture, and each curve sees its own kind of change."""

import numpy as np
from PIL import Image

from src.metrics.drift import drift, plot_drift


def video(n_frames: int = 60, **change: float) -> np.ndarray:
    """A textured picture that becomes brighter by `colour` levels, and noisier by `noise` levels, a second."""
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 120, (24, 24, 3)).astype(np.float64)
    time = np.arange(n_frames) / 25
    frames = picture + change.get("colour", 0) * time[:, None, None, None]
    frames = frames + change.get("noise", 0) * time[:, None, None, None] * rng.standard_normal((n_frames, 24, 24, 3))
    return frames.clip(0, 255).astype(np.uint8)


def test_a_still_picture_does_not_drift():
    curves = drift([video()], 25.0)
    assert {len(curve) for curve in curves.values()} == {2}  # 2.4 seconds
    np.testing.assert_allclose(curves["difference"], 0)
    np.testing.assert_allclose(curves["sharpness"], 1, rtol=1e-6)


def test_colour_and_grain_are_told_apart():
    brighter, noisier = drift([video(colour=10)], 25.0), drift([video(noise=10)], 25.0)
    np.testing.assert_allclose(brighter["colour"], [4.8, 14.8], atol=0.6)
    np.testing.assert_allclose(brighter["sharpness"], 1, atol=0.02)
    assert noisier["colour"].max() < 1
    assert noisier["sharpness"][1] > 1.2


def test_chunks_change_nothing(tmp_path):
    frames = video(colour=5, noise=3)
    whole, parts = drift([frames], 25.0), drift([frames[:7], frames[7:]], 25.0)
    for name, curve in whole.items():
        np.testing.assert_allclose(curve, parts[name], rtol=1e-5)
    plot_drift(tmp_path / "drift.png", {"a": [whole, parts], "b": [whole]})
    assert Image.open(tmp_path / "drift.png").size[0] > 1000
