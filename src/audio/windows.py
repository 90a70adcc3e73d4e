"""Overlapping windows of sound and of speech features, one per video frame."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from src.audio.features import SAMPLES_PER_FRAME
from src.errors import ConfigError, require_choice

AudioEdges = Literal["zero", "repeat"]


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


def audio_windows(
    rows: Float32[np.ndarray, "t d"],
    offsets: tuple[int, int],
    edges: AudioEdges = "zero",
    frames: Sequence[int] | Int64[np.ndarray, " f"] | None = None,
) -> Float32[np.ndarray, "f n d"]:
    """Speech features around video frames.

    Args:
        rows: of a whole clip, one per frame.
        offsets: first and last row of a window, counted from its frame, both included: (-4, 3) are eight rows, the frame's own the fifth.
        edges: beyond the clip's ends `zero` rows, or `repeat` the first and the last one.
        frames: whose windows are made; None: all.

    Raises:
        ConfigError: the first row comes after the last, or another choice of edges.
    """
    first, last = offsets
    if first > last:
        raise ConfigError(f"audio_offsets=[{first}, {last}]: give the first and the last row, from low to high.")
    require_choice("audio_edges", edges, get_args(AudioEdges))
    frames = np.arange(len(rows)) if frames is None else np.asarray(frames, np.int64)
    wanted = frames[:, None] + np.arange(first, last + 1)  # f n
    windows = rows[wanted.clip(0, len(rows) - 1)]
    if edges == "zero":
        windows[(wanted < 0) | (wanted >= len(rows))] = 0
    return windows
