"""How far a generated video wanders from its first frame: what autoregressive methods lose over time.

Each curve compares frame t with frame 0 of the same video, second by second. Movement of the head and the mouth changes the frames of real
videos as well, so that a real video of the same length is the measure of what is harmless.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from src.media import atomic_path

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
CURVES = {
    "difference": "mean absolute difference to the first frame, grey levels",
    "colour": "shift of the mean colour since the first frame, grey levels",
    "sharpness": "mean gradient relative to the first frame's",
}

Curves = dict[str, Float[np.ndarray, " seconds"]]


def drift(chunks: Iterable[UInt8[np.ndarray, "_ h w 3"]], fps: float) -> Curves:
    """Curves of a video, one value per second (the mean over its frames); a last part of less than half a second is left out.

    difference   mean |frame - first frame| over pixels and channels
    colour       |mean colour of the frame - of the first frame|, mean over the channels
    sharpness    mean length of the luma gradient, divided by the first frame's: below 1 blurred, above 1 grain or artefacts

    Args:
        chunks: frames in order.
        fps: frames per second.
    """
    first: np.ndarray | None = None
    rows: list[np.ndarray] = []
    for chunk in chunks:
        frames = chunk.astype(np.float32)
        first = frames[:1] if first is None else first
        colour = (frames - first).mean(axis=(1, 2))
        values = (np.abs(frames - first).mean(axis=(1, 2, 3)), np.abs(colour).mean(axis=-1), _sharpness(frames))
        rows.append(np.stack(values, axis=1))
    frames = np.concatenate(rows) if rows else np.zeros((0, len(CURVES)))
    frames[:, 2] /= frames[:1, 2] + 1e-9
    second = (np.arange(len(frames)) / fps).astype(int)
    enough = [s for s in np.unique(second) if (second == s).sum() >= fps / 2]
    means = np.array([frames[second == s].mean(axis=0) for s in enough]).reshape(-1, len(CURVES))
    return {name: means[:, i] for i, name in enumerate(CURVES)}


def _sharpness(frames: Float[np.ndarray, "t h w 3"]) -> Float[np.ndarray, " t"]:
    """Mean length of the luma gradient."""
    luma = frames @ LUMA
    down, right = np.diff(luma, axis=1)[:, :, :-1], np.diff(luma, axis=2)[:, :-1]
    return np.hypot(down, right).mean(axis=(1, 2))


def plot_drift(path: Path, curves: Mapping[str, list[Curves]]) -> None:
    """A panel per curve: for each label the mean over its videos, and the range between the least and the largest.

    Args:
        path: of the picture.
        curves: those of each video, by label.
    """
    figure = Figure(figsize=(4.2 * len(CURVES), 3.2), layout="constrained")
    for axes, (name, meaning) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for label, videos in curves.items():
            seconds = min(len(video[name]) for video in videos)
            values = np.stack([video[name][:seconds] for video in videos])
            time = np.arange(seconds) + 0.5
            (line,) = axes.plot(time, values.mean(axis=0), label=label)
            axes.fill_between(
                time, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
            )
        axes.set_title(meaning, fontsize=8)
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
