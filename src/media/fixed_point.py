"""Bilinear resizing in OpenCV's arithmetic for 8-bit pictures, for what published networks and fixtures were made with."""

import numpy as np
from jaxtyping import Int64, UInt8

_UNIT = 2048  # weights are whole multiples of 1 / 2048


def resize_fixed_point(picture: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """The picture at `size`, (height, width), without anti-aliasing; weights have 11 bits, sums 7 more than grey levels.

    Beyond the first and the last row, weights are still split between two rows, which are the same one then: rounding tells.
    """
    if picture.shape[:2] == tuple(size):
        return picture.copy()
    rows, row_weights = _taps(picture.shape[0], size[0])
    cols, col_weights = _taps(picture.shape[1], size[1], hold=True)
    across = (picture.astype(np.int64)[:, cols] * col_weights[..., None]).sum(axis=2)  # h w2 c
    down = (row_weights[..., None, None] * (across[rows] >> 4)) >> 16  # h2 tap w2 c
    return ((down.sum(axis=1) + 2) >> 2).astype(np.uint8)


def _taps(length: int, wanted: int, *, hold: bool = False) -> tuple[Int64[np.ndarray, "n 2"], Int64[np.ndarray, "n 2"]]:
    """The two neighbours of every output pixel along one axis, and their weights in units of 1 / 2048.

    `hold` puts positions beyond the ends onto them.
    """
    position = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    if hold:
        position = np.clip(position, 0, length - 1)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    taps = np.stack([first, first + 1], axis=1).clip(0, length - 1)
    return taps, np.rint(np.stack([1 - fraction, fraction], axis=1) * _UNIT).astype(np.int64)
