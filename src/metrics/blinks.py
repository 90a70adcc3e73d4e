"""How often and how long the eyes close (rules of https://github.com/DinoMan/blink-detector, MIT; reported by Diffused Heads).

A blink is found where the eye aspect ratio (`src.face.landmarks.eye_aspect_ratio`) falls steeply. It begins at the last open peak before
that and ends at the first open peak after it: longer than the eyes are shut. The threshold is a change per frame, made for 25 fps.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.signal import find_peaks
from torch import Tensor
from torchmetrics import Metric

STEEPEST_FALL = 0.072  # least fall of the ratio from one frame to the next
LEAST_DISTANCE = 4  # frames between two closings
MIN_FRAMES = 3  # fewer have no peak


def find_closings(ratio: Float[np.ndarray, " t"]) -> Int64[np.ndarray, " n"]:
    """Frames after which the eyes close fastest."""
    return find_peaks(-np.diff(ratio), height=STEEPEST_FALL, distance=LEAST_DISTANCE)[0].astype(np.int64)


def find_blinks(ratio: Float[np.ndarray, " t"]) -> Int64[np.ndarray, "n 2"]:
    """First and last frame of every blink.

    A closing after which the eyes do not open before the next one is no blink of its own; the last one ends with the clip at the latest.

    Args:
        ratio: eye aspect ratio per frame; NaN where there is no face, bridged by interpolation.
    """
    ratio = _bridged(ratio)
    if len(ratio) < MIN_FRAMES:
        return np.empty((0, 2), np.int64)
    closings = find_closings(ratio)
    open_height = (ratio.min() + ratio.max()) / 2
    blinks = []
    for closing, following in pairwise([*closings.tolist(), len(ratio)]):
        opened = find_peaks(ratio[closing:following], height=open_height)[0]
        if len(opened):
            blinks.append((_beginning(ratio, closing, open_height), closing + int(opened[0])))
        elif following == len(ratio):
            blinks.append((_beginning(ratio, closing, open_height), len(ratio) - 1))
    return np.array(blinks, np.int64).reshape(-1, 2)


def _beginning(ratio: Float[np.ndarray, " t"], closing: int, open_height: float) -> int:
    """The last open peak up to a closing; the closing itself where the eyes are not falling shut yet."""
    if closing > 0 and ratio[closing - 1] <= ratio[closing]:
        return closing
    opened = find_peaks(ratio[: closing + 1], height=open_height)[0]
    return int(opened[-1]) if len(opened) else 0


def _bridged(ratio: Float[np.ndarray, " t"]) -> Float[np.ndarray, " n"]:
    """The series in float64, unknown frames interpolated; empty where nothing is known."""
    known = np.isfinite(ratio)
    if not known.any():
        return np.empty(0)
    frames = np.arange(len(ratio))
    return np.interp(frames, frames[known], ratio[known].astype(np.float64))


CLOSED = 0.2  # ratio below which the detector as you go takes the eyes for shut
CLOSED_FRAMES = 2  # in a row, for a blink
TOLERANCE = 0.01  # changes of the ratio below this are none


class OnlineBlinkDetector:
    """Finds blinks frame by frame, for live video: give it each frame's ratio, and it tells a blink's length where it ends."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._found, self._last, self._frames, self._closed = False, 0.0, 0, 0

    def __call__(self, ratio: float) -> int | None:
        """Length in frames of the blink that ends with this frame, from where the ratio began to fall; None otherwise."""
        self._frames += 1
        if self._found and ratio - self._last > TOLERANCE and ratio > CLOSED:
            length = self._frames
            self._forget()
            self._last = ratio
            return length
        if not self._found:
            self._look_for_closing(ratio)
        self._last = ratio
        return None

    def _look_for_closing(self, ratio: float) -> None:
        if ratio < CLOSED:
            self._closed += 1
        else:
            self._closed = 0
            if abs(self._last - ratio) < TOLERANCE or ratio > self._last:
                self._frames = 0
        self._found = self._closed >= CLOSED_FRAMES


class Blinks(Metric):
    """Blinks per second and their mean length over all clips; the closer to the real videos' values, the better.

    Pooled over the clips: most clips of a second have no blink.
    `compute` gives `blinks_per_second`, `blink_duration` (seconds), `blink_frames` (the same in frames, as the original counts) and
    `blinks_per_clip`; NaN where nothing was seen, durations NaN where there is no blink.
    """

    full_state_update = False
    blinks: Tensor
    blinks_of_length: Tensor
    clips: Tensor
    frames: Tensor
    seconds: Tensor
    total_seconds: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, dtype in (
            ("blinks", torch.int64),
            ("blinks_of_length", torch.int64),
            ("clips", torch.int64),
            ("frames", torch.int64),
            ("seconds", torch.float64),
            ("total_seconds", torch.float64),
        ):
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, ratio: Float[Tensor, " t"], fps: float | int = 25.0) -> None:
        """Add one whole clip: eye aspect ratio per frame, NaN where there is no face; clips without any face do not count."""
        series = ratio.numpy(force=True)
        if not np.isfinite(series).any():
            return
        blinks = find_blinks(series)
        lengths = blinks[:, 1] - blinks[:, 0]
        self.blinks += len(blinks)
        self.blinks_of_length += int((lengths > 0).sum())
        self.clips += 1
        self.frames += int(lengths.sum())
        self.seconds += float(lengths.sum() / fps)
        self.total_seconds += len(series) / fps

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Ratios of the sums."""
        return {
            "blinks_per_second": (self.blinks / self.total_seconds).float(),
            "blink_duration": (self.seconds / self.blinks_of_length).float(),
            "blink_frames": (self.frames / self.blinks_of_length).float(),
            "blinks_per_clip": (self.blinks / self.clips).float(),
        }
