"""Overlapping windows of sound, one per video frame."""

import numpy as np
from jaxtyping import Float32

from src.audio.features import SAMPLES_PER_FRAME


def frame_windows(
    samples: Float32[np.ndarray, " s"], length: int = 3200, hop: int = SAMPLES_PER_FRAME
) -> Float32[np.ndarray, "t w"]:
    """Windows of `length` samples around the middle of every whole frame, zeros beyond the ends; a read-only view.

    Window i holds the samples from `hop * i - floor((length - hop) / 2)` on; samples after the last whole frame make no window of
    their own. (Diffused Heads' demo: 3200 samples, 640 apart.)
    """
    n_windows = len(samples) // hop
    if n_windows == 0:
        return np.zeros((0, length), np.float32)
    outside = length - hop
    padded = np.pad(samples, (outside // 2, outside - outside // 2))
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop][:n_windows]


def window_hop(fps: float | int, rate: int) -> int:
    """Samples from one window to the next at one window per video frame, cut to whole ones."""
    return int(rate / fps)
