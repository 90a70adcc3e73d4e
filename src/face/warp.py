"""Resampling frames through a matrix, compiled: the one place where face crops are cut."""

from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numba import njit

from src.face.geometry import invert, scale_of, transform_points


def warp(
    frames: UInt8[np.ndarray, "t h w c"],
    matrices: Float[np.ndarray, "t 3 3"],
    size: int | tuple[int, int],
    *,
    antialias: bool = True,
    rounding: Literal["nearest", "truncate"] = "nearest",
) -> UInt8[np.ndarray, "t size_h size_w c"]:
    """Crops of the frames: output pixel p takes the frame's value at inverse(matrix) p, bilinearly; black outside the frame.

    Args:
        frames: pictures of any channel number.
        matrices: frame pixels -> crop pixels, affine.
        size: height and width of the crops, or the side of square ones.
        antialias: where the crop shrinks the frame by 1.5 or more, average blocks of frame pixels first.
        rounding: "truncate" is the original implementations' arithmetic, without anti-aliasing: `warp_exact`.
    """
    if rounding == "truncate":
        return warp_exact(frames, invert(matrices), size)
    height, width = (size, size) if isinstance(size, int) else size
    out = np.empty((len(frames), height, width, frames.shape[3]), dtype=np.uint8)
    for frame, crop_to_frame, shrinkage, crop in zip(
        frames, invert(matrices), 1 / scale_of(matrices), out, strict=True
    ):
        factor = round(shrinkage) if antialias else 1
        if factor > 1:
            _warp_rounded(*_shrunk(frame, crop_to_frame, factor, (height, width)), crop)
        else:
            _warp_rounded(np.ascontiguousarray(frame), crop_to_frame, crop)
    return out


def _shrunk(
    frame: UInt8[np.ndarray, "h w c"], crop_to_frame: Float[np.ndarray, "3 3"], factor: int, size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "small_h small_w c"], Float[np.ndarray, "3 3"]]:
    """The part of the frame under the crop, shrunk by a whole factor, and the matrix from crop pixels to its pixels."""
    height, width = size
    corners = np.array([[-1.0, -1.0], [width, -1.0], [-1.0, height], [width, height]])
    corners = transform_points(corners, crop_to_frame)
    limits = np.array([frame.shape[1], frame.shape[0]])
    first = np.clip(np.floor(corners.min(axis=0)).astype(np.int64) - factor, 0, limits - 1)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(np.int64) + factor, first + 1, limits)
    cols, rows = (-(-(last - first) // factor)).tolist()
    small = np.empty((rows, cols, frame.shape[2]), dtype=np.float32)
    _box_shrink(np.ascontiguousarray(frame), factor, *first.tolist(), small)
    # Block b covers frame pixels first + b * factor ... + factor - 1: its centre lies (factor - 1) / 2 further.
    to_small = np.diag([1 / factor, 1 / factor, 1.0])
    to_small[:2, 2] = -(first + (factor - 1) / 2) / factor
    return small, to_small @ crop_to_frame


def warp_exact(
    frames: UInt8[np.ndarray, "t h w c"],
    crop_to_frame: Float[np.ndarray, "t 3 3"],
    size: int | tuple[int, int],
) -> UInt8[np.ndarray, "t size_h size_w c"]:
    """Crops in the arithmetic of the original implementations (scikit-image's float64 warp, then truncation).

    Grey level k is k * (1/255); bilinear between the floor and ceiling neighbours, zero outside; clipped to the frame's own range (0 stays
    where it occurs); times 255 and truncated, so that 24 of the 256 levels lose 1 even under the identity.

    Args:
        frames: pictures of any channel number.
        crop_to_frame: crop pixels -> frame pixels, the direction in which pixels are looked up.
        size: height and width of the crops, or the side of square ones.
    """
    height, width = (size, size) if isinstance(size, int) else size
    out = np.empty((len(frames), height, width, frames.shape[3]), dtype=np.uint8)
    levels = np.arange(256) * (1.0 / 255)
    buffer = np.empty(out.shape[1:], dtype=np.float64)
    for frame, matrix, crop in zip(frames, crop_to_frame, out, strict=True):
        _warp_float(np.ascontiguousarray(frame), matrix, levels, buffer)
        low, high = levels[frame.min()], levels[frame.max()]
        np.clip(buffer, min(low, buffer.min()) if buffer.min() <= 0 else low, high, out=buffer)
        crop[:] = (buffer * 255).astype(np.uint8)
    return out


@njit(cache=True, nogil=True)
@no_type_check
def _warp_float(frame, matrix, levels, out):
    """One frame, float64 in [0, 1]. The order of operations is part of the result: it decides the last bit."""
    rows, cols, channels = frame.shape
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            x = matrix[0, 0] * c + matrix[0, 1] * r + matrix[0, 2]
            y = matrix[1, 0] * c + matrix[1, 1] * r + matrix[1, 2]
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            x1, y1 = int(np.ceil(x)), int(np.ceil(y))
            dx, dy = x - x0, y - y0
            x0_in, x1_in = 0 <= x0 < cols, 0 <= x1 < cols
            y0_in, y1_in = 0 <= y0 < rows, 0 <= y1 < rows
            for k in range(channels):
                top_left = levels[frame[y0, x0, k]] if y0_in and x0_in else 0.0
                top_right = levels[frame[y0, x1, k]] if y0_in and x1_in else 0.0
                bottom_left = levels[frame[y1, x0, k]] if y1_in and x0_in else 0.0
                bottom_right = levels[frame[y1, x1, k]] if y1_in and x1_in else 0.0
                top = (1 - dx) * top_left + dx * top_right
                bottom = (1 - dx) * bottom_left + dx * bottom_right
                out[r, c, k] = (1 - dy) * top + dy * bottom


@njit(cache=True, nogil=True)
@no_type_check
def _box_shrink(frame, factor, left, top, out):
    """Means of factor x factor pixel blocks, starting at (left, top); blocks at the frame's end are smaller.

    Sums over rows first, contiguous in memory, then over the columns of every channel: loops that the compiler vectorises.
    """
    rows, cols, channels = frame.shape
    width = min(factor * out.shape[1], cols - left)
    sums = np.empty((width, channels), dtype=np.uint32)
    flat_sums = sums.reshape(-1)
    for r in range(out.shape[0]):
        first = top + r * factor
        last = min(first + factor, rows)
        flat_sums[:] = 0
        for y in range(first, last):
            row = frame[y, left : left + width].reshape(-1)
            for i in range(row.size):
                flat_sums[i] += row[i]
        for k in range(channels):
            norm = np.float32(1.0) / np.float32((last - first) * factor)
            for c in range(width // factor):
                total = np.float32(0)
                for x in range(factor):
                    total += np.float32(sums[c * factor + x, k])
                out[r, c, k] = total * norm
        for c in range(width // factor, out.shape[1]):
            for k in range(channels):
                out[r, c, k] = sums[c * factor :, k].sum() / ((last - first) * (width - c * factor))


@njit(cache=True, nogil=True)
@no_type_check
def _warp_rounded(frame, m, out):
    """One frame, uint8 or float32 in [0, 255], rounded to the nearest grey level."""
    rows, cols, channels = frame.shape
    half = np.float32(0.5)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            x = m[0, 0] * c + m[0, 1] * r + m[0, 2]
            y = m[1, 0] * c + m[1, 1] * r + m[1, 2]
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            dx, dy = np.float32(x - x0), np.float32(y - y0)
            if x0 >= 0 and y0 >= 0 and x0 + 1 < cols and y0 + 1 < rows:
                for k in range(channels):
                    top_left, bottom_left = np.float32(frame[y0, x0, k]), np.float32(frame[y0 + 1, x0, k])
                    top = top_left + dx * (np.float32(frame[y0, x0 + 1, k]) - top_left)
                    bottom = bottom_left + dx * (np.float32(frame[y0 + 1, x0 + 1, k]) - bottom_left)
                    out[r, c, k] = np.uint8(top + dy * (bottom - top) + half)
                continue
            for k in range(channels):
                value = half
                for j in range(2):
                    for i in range(2):
                        if 0 <= x0 + i < cols and 0 <= y0 + j < rows:
                            weight = (dx if i else 1 - dx) * (dy if j else 1 - dy)
                            value += weight * np.float32(frame[y0 + j, x0 + i, k])
                out[r, c, k] = np.uint8(value)
