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
from torch import Tensor
from torchmetrics import Metric

BLOCK = 64  # pixels; incomplete blocks at the right and the bottom do not count
EDGE_SHARE = 0.002  # of the pixels of a block, from which it counts
LOW_CONTRAST = 50  # grey levels; up to there a width of 5 pixels is just noticeable, above it 3
BETA = 3.6
UNNOTICED = 63  # per cent: edges whose blur is detected less often than this count as sharp
MAX_SIDE = 100  # pixels that are searched to each side of an edge, from its neighbour on
SMOOTHING_REACH = 4  # pixels, in front of Canny's detector: four standard deviations
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
    return _thinned(_sobel(grey.astype(np.float64), axis=1))


@njit(cache=True)
@no_type_check
def _thinned(gradients):
    """Squares of what is an eighth of these, thresholded and thinned; outside of the picture is 0."""
    rows, cols = gradients.shape
    strength = np.zeros((rows + 2, cols + 2))
    total = 0.0  # exact, whatever the order: gradients are whole numbers
    for row in range(rows):
        for col in range(cols):
            strength[row + 1, col + 1] = (gradients[row, col] / 8) ** 2
            total += strength[row + 1, col + 1]
    threshold = 2 * np.sqrt(total / (rows * cols))  # squares against a root, as in Octave
    for row in range(1, rows + 1):
        for col in range(1, cols + 1):
            if strength[row, col] <= threshold:
                strength[row, col] = 0
    edges = np.empty((rows, cols), np.bool_)
    for row in range(rows):
        above, line, below = strength[row], strength[row + 1], strength[row + 2]
        for col in range(cols):
            here = line[col + 1]
            across = (here > line[col]) & (here > line[col + 2])
            down = (here > above[col + 1]) & (here > below[col + 1])
            edges[row, col] = across | down
    return edges


def canny_edges(grey: Grey) -> Bool[np.ndarray, "h w"]:
    """Edges by Canny's detector with thresholds of 0.1 and 0.2 grey levels: scikit-image's defaults on 0 to 255, several times as fast."""
    levels = _smoothed(grey, _WEIGHTS) / _weight_inside(grey.shape)
    down, right = _sobel(levels, axis=0), _sobel(levels, axis=1)
    return _linked_ridges(down, right, np.sqrt(down * down + right * right))


@lru_cache(maxsize=8)
def _weight_inside(shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Which part of the Gaussian window around each pixel lies inside the picture."""
    return _smoothed(np.ones(shape, np.uint8), _WEIGHTS) + np.finfo(np.float64).eps


def _gaussian_weights() -> Float[np.ndarray, " n"]:
    """Weights of the centre and of the pixels beside it, for a standard deviation of 1 pixel, cut at 4."""
    weights = np.exp(-0.5 * np.arange(-SMOOTHING_REACH, SMOOTHING_REACH + 1) ** 2.0)
    return (weights / weights.sum())[SMOOTHING_REACH:]


# The order of these sums is SciPy's, down to the last bit: whether neighbours of equal strength are ridges depends on it.
@njit(cache=True)
@no_type_check
def _smoothed(grey, weights):
    """Weighted sum of the levels around each pixel, columns first; outside of the picture is 0."""
    rows, cols = grey.shape
    reach = len(weights) - 1
    levels = grey.astype(np.float64)
    out = np.empty((rows, cols))
    line = np.zeros(cols + 2 * reach)
    for row in range(rows):
        inner = line[reach : reach + cols]
        middle = levels[row]
        for col in range(cols):
            inner[col] = middle[col] * weights[0]
        for k in range(reach, 0, -1):
            if row - k >= 0 and row + k < rows:
                above, below = levels[row - k], levels[row + k]
                for col in range(cols):
                    inner[col] += (above[col] + below[col]) * weights[k]
            elif row - k >= 0 or row + k < rows:
                only = levels[row - k] if row - k >= 0 else levels[row + k]
                for col in range(cols):
                    inner[col] += only[col] * weights[k]
        here = out[row]
        for col in range(cols):
            here[col] = inner[col] * weights[0]
        for k in range(reach, 0, -1):
            left, right = line[reach - k : reach - k + cols], line[reach + k : reach + k + cols]
            for col in range(cols):
                here[col] += (left[col] + right[col]) * weights[k]
    return out


@njit(cache=True)
@no_type_check
def _sobel(levels, axis):
    """Difference of the neighbours along the axis, summed with weights 1 2 1 across it; border pixels are repeated."""
    rows, cols = levels.shape
    out = np.empty((rows, cols))
    line = np.empty(cols + 2)
    for row in range(rows):
        above, middle, below = levels[max(row - 1, 0)], levels[row], levels[min(row + 1, rows - 1)]
        inner, here = line[1 : cols + 1], out[row]
        if axis == 0:
            for col in range(cols):
                inner[col] = below[col] - above[col]
        else:
            for col in range(cols):
                inner[col] = middle[col]
        line[0], line[cols + 1] = line[1], line[cols]
        left, right = line[:cols], line[2:]
        if axis == 0:
            for col in range(cols):
                here[col] = inner[col] * 2 + (left[col] + right[col])
        else:
            for col in range(cols):
                before, after = max(col - 1, 0), min(col + 1, cols - 1)
                beside = (above[after] - above[before]) + (below[after] - below[before])
                here[col] = (right[col] - left[col]) * 2 + beside
    return out


@njit(cache=True)
@no_type_check
def _linked_ridges(down, right, strength):
    """Pixels no weaker than what lies before and behind them across the edge, that a chain of such pixels links to a strong one."""
    rows, cols = strength.shape
    state = np.zeros((rows, cols), np.uint8)  # 1: a ridge, 2: an edge
    stack = np.empty(rows * cols, np.int64)
    top = 0
    for i in range(1, rows - 1):
        for j in range(1, cols - 1):
            if strength[i, j] >= LOW and _is_ridge(down, right, strength, i, j):
                state[i, j] = 1
                if strength[i, j] >= HIGH:
                    state[i, j] = 2
                    stack[top] = i * cols + j
                    top += 1
    while top > 0:
        top -= 1
        i, j = stack[top] // cols, stack[top] % cols
        for row in range(i - 1, i + 2):
            for col in range(j - 1, j + 2):
                if state[row, col] == 1:
                    state[row, col] = 2
                    stack[top] = row * cols + col
                    top += 1
    return state == 2


@njit(cache=True, error_model="numpy")
@no_type_check
def _is_ridge(down, right, strength, i, j):
    """Whether a pixel is no weaker than the strengths, interpolated, one step along its gradient and one against it."""
    d, r, here = down[i, j], right[i, j], strength[i, j]
    side = 1 if (d >= 0 and r >= 0) or (d <= 0 and r <= 0) else -1
    if abs(d) > abs(r):
        slope = abs(r) / abs(d)
        if strength[i + 1, j + side] * slope + strength[i + 1, j] * (1 - slope) > here:
            return False
        return strength[i - 1, j - side] * slope + strength[i - 1, j] * (1 - slope) <= here
    slope = abs(d) / abs(r)  # the pixel is not flat: its strength is above the threshold
    if strength[i + side, j + 1] * slope + strength[i, j + 1] * (1 - slope) > here:
        return False
    return strength[i - side, j - 1] * slope + strength[i, j - 1] * (1 - slope) <= here


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
            inside = 0 < row < rows - 1 and 0 < col < cols - 1
            if turned and not (inside and edges[row, col]):
                continue
            right = _difference(levels[row], col)
            down = _difference(levels[:, col], row)
            turned = turned or right < 0 or (right != 0 and down != 0)
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


_DETECTED, _WEIGHTS = _detection_table(), _gaussian_weights()


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
