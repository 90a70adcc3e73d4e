"""CPBD, cumulative probability of blur detection (Narvekar and Karam, IEEE TIP 2011): sharpness without a reference.

The share of edges whose blur nobody would notice. It follows the published Python port down to its rounding, so that values compare with
those in papers. It depends on the resolution: compare at one size only, and not below 64 pixels a side, where it is 0.
"""

from functools import lru_cache
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numba import njit
from scipy.ndimage import gaussian_filter, sobel
from torch import Tensor
from torchmetrics import Metric

BLOCK = 64  # pixels; incomplete blocks at the right and the bottom do not count
EDGE_SHARE = 0.002  # of the pixels of a block, from which it counts
LOW_CONTRAST = 50  # grey levels; up to there a width of 5 pixels is just noticeable, above it 3
BETA = 3.6
UNNOTICED = 63  # per cent: edges whose blur is detected less often than this count as sharp
MAX_SIDE = 100  # pixels that are searched to each side of an edge, from its neighbour on
LOW, HIGH = 0.1, 0.2  # grey levels: thresholds of Canny's detector

Grey = UInt8[np.ndarray, "h w"]


def cpbd(grey: Grey) -> float:
    """Sharpness of a picture, 0 to 1; 0 without edges."""
    if min(grey.shape) < BLOCK:
        return 0.0
    histogram = _histogram(grey.astype(np.int64), edge_widths(grey), canny_edges(grey), _DETECTED)
    total = histogram.sum()
    return float(histogram[: UNNOTICED + 1].sum() / total) if total else 0.0


def luma(frames: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w"]:
    """Grey levels of RGB pictures (ITU-R BT.601), rounded as the usual image readers do."""
    weighted = frames.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def sobel_edges(grey: Grey) -> Bool[np.ndarray, "h w"]:
    """Thinned vertical edges: squared gradients above twice their root mean, strictly larger than both neighbours on one axis."""
    strength = (sobel(grey.astype(np.float64), axis=1, mode="reflect") / 8) ** 2
    strength[strength <= 2 * np.sqrt(strength.mean())] = 0  # squares against a root, as in Octave
    padded = np.pad(strength, 1)
    across = (strength > padded[1:-1, :-2]) & (strength > padded[1:-1, 2:])
    down = (strength > padded[:-2, 1:-1]) & (strength > padded[2:, 1:-1])
    return across | down


def canny_edges(grey: Grey) -> Bool[np.ndarray, "h w"]:
    """Edges by Canny's detector with thresholds of 0.1 and 0.2 grey levels: scikit-image's defaults on 0 to 255, in half the time."""
    levels = gaussian_filter(grey.astype(np.float64), 1.0, mode="constant") / _weight_inside(grey.shape)
    down, right = sobel(levels, axis=0), sobel(levels, axis=1)
    return _linked_ridges(down, right, np.sqrt(down * down + right * right))


@lru_cache(maxsize=8)
def _weight_inside(shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Which part of the Gaussian window around each pixel lies inside the picture."""
    return gaussian_filter(np.ones(shape), 1.0, mode="constant") + np.finfo(np.float64).eps


@njit(cache=True)
@no_type_check
def _linked_ridges(down, right, strength):
    """Pixels no weaker than what lies before and behind them across the edge, that a chain of such pixels links to a strong one."""
    rows, cols = strength.shape
    state = np.zeros((rows, cols), np.uint8)  # 1: a ridge, 2: an edge
    stack = np.empty((rows * cols, 2), np.int64)
    top = 0
    for i in range(1, rows - 1):
        for j in range(1, cols - 1):
            if strength[i, j] >= LOW and _is_ridge(down, right, strength, i, j):
                state[i, j] = 1
                if strength[i, j] >= HIGH:
                    state[i, j] = 2
                    stack[top] = i, j
                    top += 1
    while top > 0:
        top -= 1
        i, j = stack[top]
        for row in range(i - 1, i + 2):
            for col in range(j - 1, j + 2):
                if state[row, col] == 1:
                    state[row, col] = 2
                    stack[top] = row, col
                    top += 1
    return state == 2


@njit(cache=True)
@no_type_check
def _is_ridge(down, right, strength, i, j):
    """Whether a pixel is no weaker than the strengths, interpolated, one step along its gradient and one against it."""
    d, r, here = down[i, j], right[i, j], strength[i, j]
    steep = abs(d) > abs(r)
    if d == 0 and r == 0:
        return False
    slope = abs(r) / abs(d) if steep else abs(d) / abs(r)
    side = 1 if (d >= 0 and r >= 0) or (d <= 0 and r <= 0) else -1
    if steep:
        ahead = strength[i + 1, j + side] * slope + strength[i + 1, j] * (1 - slope)
        behind = strength[i - 1, j - side] * slope + strength[i - 1, j] * (1 - slope)
    else:
        ahead = strength[i + side, j + 1] * slope + strength[i, j + 1] * (1 - slope)
        behind = strength[i - side, j - 1] * slope + strength[i, j - 1] * (1 - slope)
    return ahead <= here and behind <= here


def edge_widths(grey: Grey) -> Int64[np.ndarray, "h w"]:
    """Width in pixels of the edges that run up and down, 0 elsewhere: how far the grey levels go on rising or falling."""
    return _widths(grey.astype(np.int64), sobel_edges(grey), np.tan(np.pi / 8))


@njit(cache=True)
@no_type_check
def _widths(levels, edges, slope):
    """Distance to the left plus to the right over which the levels keep falling and rising, or the other way round.

    Gradients within 22.5 degrees (`slope`) of the horizontal count, and those that do not point to a side at all; where every gradient
    points straight to the right, nothing does.
    """
    rows, cols = levels.shape
    widths = np.zeros((rows, cols), np.int64)
    turned = False
    for row in range(rows):
        for col in range(cols):
            right = _difference(levels[row], col)
            down = _difference(levels[:, col], row)
            turned = turned or right < 0 or (right != 0 and down != 0)
            inside = 0 < row < rows - 1 and 0 < col < cols - 1
            if inside and edges[row, col] and (right == 0 or abs(down) < abs(right) * slope):
                sign = -1 if right < 0 else 1
                widths[row, col] = _reach(levels[row], col, -1, -sign) + _reach(levels[row], col, 1, sign)
    return widths if turned else np.zeros((rows, cols), np.int64)


@njit(cache=True)
@no_type_check
def _difference(line, i):
    """Central difference, one-sided at the ends."""
    if i == 0:
        return float(line[1] - line[0])
    if i == len(line) - 1:
        return float(line[i] - line[i - 1])
    return (line[i + 1] - line[i - 1]) / 2


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
def _histogram(levels, widths, edges, detected):
    """How often a blur is detected with each probability in per cent, over the edges of blocks that have enough of them."""
    counts = np.zeros(101, np.int64)
    for top in range(0, levels.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, levels.shape[1] - BLOCK + 1, BLOCK):
            block = levels[top : top + BLOCK, left : left + BLOCK]
            if edges[top : top + BLOCK, left : left + BLOCK].sum() <= EDGE_SHARE * BLOCK * BLOCK:
                continue
            low_contrast = int(block.max() - block.min() <= LOW_CONTRAST)
            for row in range(top, top + BLOCK):
                for col in range(left, left + BLOCK):
                    if widths[row, col]:
                        counts[detected[low_contrast, widths[row, col]]] += 1
    return counts


def _detection_table() -> Int64[np.ndarray, "2 w"]:
    """Probability in per cent that the blur of an edge of each width is seen, in blocks of high and of low contrast."""
    widths = np.arange(2 * (MAX_SIDE + 1) + 1)
    noticeable = np.array([[3.0], [5.0]])
    return np.rint(100 * (1 - np.exp(-((widths / noticeable) ** BETA)))).astype(np.int64)


_DETECTED = _detection_table()


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
