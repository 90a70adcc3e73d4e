"""What all speech features have in common: the interface, and how sound and rows are fitted to video frames.

Clock: sample k lasts from `k / 16000` to `(k + 1) / 16000` s, frame i from `i / 25` to `(i + 1) / 25` s; frame i is samples
`640 i ... 640 i + 639`, and its middle lies `640 i + 320` samples after the beginning.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from src.errors import FeatureError

FPS = 25
SAMPLE_RATE = 16_000  # per second, of all sound between rooms
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
TOLERANCE = (
    1  # frames by which sound or rows may be longer or shorter than the video: recorders and encoders round differently
)


class SpeechFeatures(ABC):
    """Turns sound into one row of numbers per video frame.

    Building an extractor is cheap: pretrained weights are loaded on first use, so that a configuration can be instantiated where
    nothing is left to compute.

    Args:
        name: what the features are called in a clip store, `features/<name>/`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers per row."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that determine the rows; a clip store refuses to mix rows of different settings."""

    @abstractmethod
    def encode(self, samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, "t d"]:
        """Rows of the first `n_frames` frames of a sound that lasts at least as long; what follows is context at most."""

    def __call__(self, samples: Float32[np.ndarray, " s"], n_frames: int | None = None) -> Float32[np.ndarray, "t d"]:
        """Rows of speech features; row i is centred on the middle of video frame i, `(i + 0.5) / 25` s.

        Args:
            samples: 16 kHz mono in [-1, 1].
            n_frames: frames of the video that the sound belongs to, at 25 fps; exactly as many rows come out. None: all frames that
                the sound fills.

        Raises:
            FeatureError: the sound lasts less than a frame, differs from the video by more than one frame, or is not finite.
        """
        if n_frames is None:
            n_frames = len(samples) // SAMPLES_PER_FRAME
            if n_frames == 0:
                raise FeatureError(
                    f"The sound lasts {1000 * len(samples) / SAMPLE_RATE:.0f} ms, less than one video frame "
                    f"({1000 // FPS} ms): give a longer one."
                )
        if not np.isfinite(samples).all():
            raise FeatureError("The sound holds numbers that are not finite: record or convert it again.")
        return self.encode(fit_sound(samples, n_frames), n_frames)


def fit_sound(samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, " n"]:
    """The sound of a video of `n_frames` frames, padded with silence where it is shorter by up to a frame.

    Raises:
        FeatureError: sound and video differ by more than one frame.
    """
    missing = n_frames * SAMPLES_PER_FRAME - len(samples)
    if abs(missing) > TOLERANCE * SAMPLES_PER_FRAME:
        raise FeatureError(
            f"The sound lasts {len(samples) / SAMPLE_RATE:.2f} s but the video has {n_frames} frames, {n_frames / FPS:.2f} s: "
            "cut them to the same length."
        )
    return np.pad(samples, (0, max(0, missing)))


def fit_rows(rows: Float[np.ndarray, "t d"], n_frames: int) -> Float[np.ndarray, "n d"]:
    """Rows that were made elsewhere, as many as the video has frames: one too many is cut, one too few repeats the last.

    Raises:
        FeatureError: rows and frames differ by more than one.
    """
    missing = n_frames - len(rows)
    if abs(missing) > TOLERANCE or len(rows) == 0:
        raise FeatureError(
            f"There are {len(rows)} rows of speech features for {n_frames} video frames, and they may differ by {TOLERANCE}: "
            f"make them from the same recording, {FPS} rows per second."
        )
    return np.pad(rows[:n_frames], ((0, max(0, missing)), (0, 0)), mode="edge")


def rows_at_frames(
    rows: Float32[np.ndarray, "r d"], first: float | int, spacing: float | int, n_frames: int
) -> Float32[np.ndarray, "t d"]:
    """Rows at another rate, interpolated linearly at the middles of the video frames.

    Args:
        rows: at equal distances.
        first: centre of the first row, samples after the beginning of the sound.
        spacing: samples from one row to the next.
        n_frames: rows to make.
    """
    middles = (np.arange(n_frames) + 0.5) * SAMPLES_PER_FRAME
    position = np.clip((middles - first) / spacing, 0, len(rows) - 1)
    left = np.minimum(position.astype(np.int64), max(len(rows) - 2, 0))
    right = np.minimum(left + 1, len(rows) - 1)
    weight = (position - left).astype(np.float32)[:, None]
    return (1 - weight) * rows[left] + weight * rows[right]
