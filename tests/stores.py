"""Clip stores of moving patterns: everything a store has but faces; made in a second, without any model file."""

from pathlib import Path

import numpy as np

from src.datamodules.store import StoreWriter, samples_of


def write_pattern_store(
    root: Path,
    *,
    n_clips: int = 4,
    n_frames: int = 24,
    size: int = 32,
    splits: tuple[str, ...] = ("train", "validation"),
) -> Path:
    """A store of an ellipse that opens and closes, with landmarks on its outline; clip i is of split i modulo their number."""
    with StoreWriter(root, size) as writer:
        for number in range(n_clips):
            rng = np.random.default_rng(number)
            opening = 0.5 + 0.4 * np.sin(np.arange(n_frames) * 0.7 + number)  # (t,)
            writer.add(
                f"clip{number}",
                f"person{number}",
                [_frames(opening, size, rng.integers(64, 192, 3))],
                _landmarks(opening, size),
                np.zeros((n_frames, 52), np.float32),
                audio=(0.3 * rng.standard_normal(samples_of(n_frames, 25.0))).astype(np.float32),
                split=splits[number % len(splits)],
            )
        writer.finish()
    return root


def _frames(opening: np.ndarray, size: int, colour: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    inside = (x / 0.3) ** 2 + (y / (0.1 + 0.3 * opening[:, None, None])) ** 2 < 1  # (t, h, w)
    return np.where(inside[..., None], colour.astype(np.uint8), np.uint8(30))


def _landmarks(opening: np.ndarray, size: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 478, endpoint=False)
    x = np.broadcast_to(0.5 + 0.3 * np.cos(angle), (len(opening), 478))
    y = 0.5 + (0.1 + 0.3 * opening[:, None]) * np.sin(angle)
    return (np.stack([x, y, np.zeros_like(x)], axis=-1) * size).astype(np.float32)
