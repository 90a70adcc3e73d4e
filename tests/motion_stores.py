"""Landmarks of turning heads whose mouths open with the loudness of a sound, and clip stores of them, without any model file."""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from src.datamodules.store import StoreWriter, samples_of
from src.face.mesh_motion import spread
from src.face.moditalker_atom import neutral_mesh

SIZE = 64
JAW, LOWER_LIP = slice(5, 12), [55, 56, 57, 58, 59, 65, 66, 67]


def speaking_landmarks(opening: np.ndarray, turn: float = 0.3) -> np.ndarray:
    """Pixels of a SIZE x SIZE frame, (t, 478, 3) float32; `opening` in centimetres, `turn` to either side in radians."""
    moved = np.zeros((len(opening), 68, 3))
    moved[:, LOWER_LIP, 1] = moved[:, JAW, 1] = -0.1 * opening[:, None]
    angles = turn * np.sin(0.3 * np.arange(len(opening)))
    turns = Rotation.from_euler("y", angles[:, None]).as_matrix().swapaxes(1, 2)
    points = (neutral_mesh() + spread(moved)) @ turns
    return (points * np.array([1, -1, -1]) * 25 + [SIZE / 2, SIZE / 3, 0]).astype(np.float32)


def write_speaking_store(root: Path, *, n_clips: int = 4, n_frames: int = 30) -> Path:
    """Clips in turn of train and validation; in the second one no face was found in frames 3 and 4."""
    with StoreWriter(root, SIZE) as writer:
        for number in range(n_clips):
            rng = np.random.default_rng(number)
            opening = np.convolve(rng.random(n_frames + 4), np.ones(5) / 5, mode="valid")
            n_samples = samples_of(n_frames, 25.0)
            loudness = np.repeat(opening, n_samples // n_frames)
            valid = np.ones(n_frames, bool)
            if number == 1:
                valid[3:5] = False
            writer.add(
                f"clip{number}",
                f"person{number}",
                [np.zeros((n_frames, SIZE, SIZE, 3), np.uint8)],
                speaking_landmarks(opening),
                np.zeros((n_frames, 52), np.float32),
                audio=(0.5 * loudness * rng.uniform(-1, 1, n_samples)).astype(np.float32),
                valid=valid,
                split=("train", "validation")[number % 2],
            )
        writer.finish()
    return root
