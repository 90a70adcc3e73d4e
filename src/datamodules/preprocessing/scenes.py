"""Where one shot of a recording ends and the next begins."""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32, UInt8
from numba import njit

SAMPLED = 128  # pixels of the shorter side that are looked at
BLOCK = 8  # sampled pixels averaged into one cell: small enough to see a new picture, too large to see lips move
BINS = 16  # of a channel's histogram


class SceneCutDetector:
    """Says for each frame of a recording whether a new shot begins with it.

    A cut changes the picture in most places (mean difference of coarse cells), changes it much more than the frames just
    before did (so that a moving camera is no cut), and changes which colours there are (so that a quickly moving head is no
    cut). Dissolves are not found by this, but the tracker loses the face in them.

    Args:
        difference: least mean absolute difference of cells, in grey levels of 255.
        ratio: least factor over the recent differences.
        histogram: least share of pixels that change their bin of colour, 0 to 1.
    """

    def __init__(self, difference: float = 12.0, ratio: float = 3.0, histogram: float = 0.15) -> None:
        self.difference = difference
        self.ratio = ratio
        self.histogram = histogram
        self._cells: Float32[np.ndarray, "r c 3"] | None = None
        self._bins: Float32[np.ndarray, " n"] | None = None
        self._recent = 0.0  # running mean of the differences within this shot

    def update(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether `frame` starts a new shot; frames are given in order, the first is no cut."""
        cells, bins = _summary(frame, max(1, min(frame.shape[:2]) // SAMPLED))
        if self._cells is None or self._bins is None:
            self._cells, self._bins = cells, bins
            return False
        difference = float(np.abs(cells - self._cells).mean())
        moved = float(np.abs(bins - self._bins).sum()) / 2
        self._cells, self._bins = cells, bins
        cut = difference >= max(self.difference, self.ratio * self._recent) and moved >= self.histogram
        self._recent = 0.0 if cut else 0.7 * self._recent + 0.3 * difference
        return cut


def _summary(
    frame: UInt8[np.ndarray, "h w 3"], step: int
) -> tuple[Float32[np.ndarray, "r c 3"], Float32[np.ndarray, " n"]]:
    """Mean colour of blocks of every `step`-th pixel, and histograms of the three channels, each of sum 1/3.

    An incomplete last row or column of blocks is left out.
    """
    block = BLOCK * step
    shape = (max(1, frame.shape[0] // block), max(1, frame.shape[1] // block), 3)
    cells, bins = np.zeros(shape, np.float32), np.zeros(3 * BINS, np.float32)
    counts = np.zeros(shape[:2], np.float32)
    _accumulate(frame, step, block, cells, counts, bins)
    return cells / counts[..., None], bins / bins.sum()


@njit(cache=True, nogil=True)
@no_type_check
def _accumulate(frame, step, block, cells, counts, bins):
    rows, columns = min(frame.shape[0], cells.shape[0] * block), min(frame.shape[1], cells.shape[1] * block)
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            counts[y // block, x // block] += 1
            for k in range(3):
                value = frame[y, x, k]
                cells[y // block, x // block, k] += value
                bins[k * BINS + value * BINS // 256] += 1
