"""Which frames of a clip a method trains on, by its own rule.

A rule maps (number of frames, split) to frame indices. The clip store writes one index per rule,
`selection/<name>.csv`, so that near-duplicate neighbours are left out by reference instead of being copied.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

SelectionRule = Callable[[int, str], Int64[np.ndarray, "n"]]


class Stride(NamedTuple):
    """Frames `range(start, n_frames - end, step)`."""

    start: int
    end: int
    step: int


# As the original's second preprocessing step samples: dense in training, sparse in validation, no test identities.
LANDMARK_DRIVEN = {"train": Stride(5, 5, 2), "validation": Stride(10, 10, 3)}


def kept_frames(n_frames: int, split: str) -> Int64[np.ndarray, "n"]:
    """Frames that landmark_driven samples as targets from a clip of `n_frames` frames.

    Neighbouring frames are nearly the same picture, so every second (train) or third (validation) one is kept, away
    from both ends of the clip; frame 0 is the reference and never a target. Empty for short clips and the test split.

    Args:
        n_frames: length of the clip, in frames of the 25 fps store.
        split: "train", "validation" or "test".
    """
    stride = LANDMARK_DRIVEN.get(split)
    if stride is None:
        return np.empty(0, np.int64)
    return np.arange(stride.start, n_frames - stride.end, stride.step, dtype=np.int64)


SELECTIONS: dict[str, SelectionRule] = {"landmark_driven": kept_frames}
