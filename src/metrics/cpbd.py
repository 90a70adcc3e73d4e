"""CPBD, cumulative probability of blur detection (Narvekar and Karam, IEEE TIP 2011): sharpness without a reference.

The share of edges whose blur nobody would notice. It follows the published Python port down to its rounding, so that values compare with
those in papers. It depends on the resolution: compare at one size only, and not below 64 pixels a side, where it is 0.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numba import njit
from scipy.ndimage import convolve
from skimage.feature import canny
from torch import Tensor
from torchmetrics import Metric

BLOCK = 64  # pixels; incomplete blocks at the right and the bottom do not count
EDGE_SHARE = 0.002  # of the pixels of a block, from which it counts
LOW_CONTRAST = 50  # grey levels; up to there a width of 5 pixels is just noticeable, above it 3
BETA = 3.6
UNNOTICED = 63  # per cent: edges whose blur is detected less often than this count as sharp
MAX_SIDE = 100  # pixels that are searched to each side of an edge
SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8

Grey = UInt8[np.ndarray, "h w"]


def cpbd(grey: Grey) -> float:
    """Sharpness of a picture, 0 to 1; 0 without edges."""
    histogram = _histogram(
        grey.astype(np.int64),
        edge_widths(grey),
        canny(grey.astype(np.float64)) if min(grey.shape) >= BLOCK else grey > 0,
    )
    total = histogram.sum()
    return float(histogram[: UNNOTICED + 1].sum() / total) if total else 0.0


def luma(frames: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w"]:
    """Grey levels of RGB pictures (ITU-R BT.601), rounded as the usual image readers do."""
    weighted = frames.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def sobel_edges(grey: Grey) -> Bool[np.ndarray, "h w"]:
    """Thinned vertical edges: squared gradients above twice their root mean, strictly larger than both neighbours on one axis."""
    strength = convolve(grey.astype(np.float64), SOBEL, mode="reflect") ** 2
    strength[strength <= 2 * np.sqrt(strength.mean())] = 0  # squares against a root, as in Octave
    padded = np.pad(strength, 1)
    across = (strength > padded[1:-1, :-2]) & (strength > padded[1:-1, 2:])
    down = (strength > padded[:-2, 1:-1]) & (strength > padded[2:, 1:-1])
    return across | down


def edge_widths(grey: Grey) -> Int64[np.ndarray, "h w"]:
    """Width in pixels of the edges that run up and down, 0 elsewhere: how far the grey levels go on rising or falling."""
    levels = grey.astype(np.float64)
    down, right = np.gradient(levels)
    if not ((right < 0) | ((right != 0) & (down != 0))).any():  # every gradient points to the right
        return np.zeros(grey.shape, np.int64)
    flat = np.abs(down) < np.abs(right) * np.tan(np.pi / 8)  # within 22.5 degrees of the horizontal
    direction = np.where(right == 0, 1, np.where(flat, np.sign(right), 0)).astype(np.int64)
    return _widths(grey.astype(np.int64), sobel_edges(grey), direction)


@njit(cache=True)
@no_type_check
def _widths(levels, edges, direction):
    """Distance to the left plus to the right over which the levels keep falling and rising; swapped where direction is -1."""
    rows, cols = levels.shape
    widths = np.zeros((rows, cols), np.int64)
    for row in range(1, rows - 1):
        for col in range(1, cols - 1):
            sign = direction[row, col]
            if edges[row, col] and sign != 0:
                widths[row, col] = _reach(levels[row], col, -1, -sign) + _reach(levels[row], col, 1, sign)
    return widths


@njit(cache=True)
@no_type_check
def _reach(row, col, step, sign):
    """Steps from `col` until the level no longer changes in the direction of `sign`, at most 101."""
    for k in range(MAX_SIDE + 1):
        outer = col + step * (k + 2)
        if outer < 0 or outer >= len(row) or (row[outer] - row[outer - step]) * sign <= 0:
            return k + 1
    return MAX_SIDE + 1


@njit(cache=True)
@no_type_check
def _histogram(levels, widths, edges):
    """How often a blur is detected with each probability in per cent, over the edges of blocks that have enough of them."""
    counts = np.zeros(101, np.int64)
    for top in range(0, levels.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, levels.shape[1] - BLOCK + 1, BLOCK):
            block = levels[top : top + BLOCK, left : left + BLOCK]
            if edges[top : top + BLOCK, left : left + BLOCK].sum() <= EDGE_SHARE * BLOCK * BLOCK:
                continue
            noticeable = 5 if block.max() - block.min() <= LOW_CONTRAST else 3
            for width in widths[top : top + BLOCK, left : left + BLOCK].ravel():
                if width:
                    probability = 1 - np.exp(-((width / noticeable) ** BETA))
                    counts[int(np.rint(100 * probability))] += 1
    return counts


class CPBD(Metric):
    """Mean over frames of the sharpness, 0 to 1, higher is sharper; noise counts as sharp."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    frames: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, frames: UInt8[Tensor, "t 3 h w"]) -> None:
        """Add frames, RGB."""
        greys = luma(frames.permute(0, 2, 3, 1).numpy(force=True))
        self.total += sum(cpbd(grey) for grey in greys)
        self.frames += len(greys)

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the frames; NaN before the first."""
        return (self.total / self.frames).float()
