"""SSIM of grey levels on a processor: what `src.metrics.images.ssim` defines, in one pass over small buffers, several times as fast."""

from typing import no_type_check

import numpy as np
from jaxtyping import Float64, UInt8
from numba import njit


def byte_ssim(
    x: UInt8[np.ndarray, "b c h w"],
    y: UInt8[np.ndarray, "b c h w"],
    weights: Float64[np.ndarray, " n"],
    constants: tuple[float, float],
    margin: int = 0,
) -> Float64[np.ndarray, " b"]:
    """Mean similarity of each image, in double precision: variances are differences of large numbers.

    Args:
        x, y: larger than the window's radius.
        weights: of the window's centre and of what lies 1, 2, ... pixels from it; the window is their product over both axes.
        constants: the formula's two, for grey levels of 0 to 255.
        margin: pixels at each border that do not count.
    """
    if x.shape != y.shape:  # compiled code does not look where it reads
        raise ValueError(f"SSIM compares images of one shape, found {x.shape} and {y.shape}.")
    return _similarities(x, y, weights, *constants, margin)


# Contraction (fused multiply-add) changes the last bit only; other liberties would reorder the sums.
@njit(cache=True, fastmath={"contract"})
@no_type_check
def _similarities(x, y, weights, c1, c2, margin):
    """Mean over channels and the pixels inside the margin."""
    images, channels, height, width = x.shape
    radius = len(weights) - 1
    moments = np.empty((4, height, width), np.float64)
    column = np.empty((4, width + 2 * radius), np.float64)
    window = np.empty((4, width), np.float64)
    similarity = np.empty(width, np.float64)
    means = np.zeros(images, np.float64)
    for n in range(images):
        total = 0.0
        for c in range(channels):
            _fill(moments, x[n, c], y[n, c])
            for row in range(margin, height - margin):
                for k in range(4):
                    _weigh_column(column[k], moments[k], row, weights, height)
                    _weigh_row(window[k], column[k], weights)
                _compare(similarity, window, c1, c2)
                for col in range(margin, width - margin):
                    total += similarity[col]
        means[n] = total / (channels * (height - 2 * margin) * (width - 2 * margin))
    return means


@njit(cache=True)
@no_type_check
def _fill(moments, x, y):
    """Levels of both images, their product, and the sum of their squares."""
    for row in range(x.shape[0]):
        a, b, product, squares = moments[0, row], moments[1, row], moments[2, row], moments[3, row]
        for col in range(x.shape[1]):
            a[col] = np.float64(x[row, col])
            b[col] = np.float64(y[row, col])
        for col in range(x.shape[1]):
            product[col] = a[col] * b[col]
            squares[col] = a[col] * a[col] + b[col] * b[col]


@njit(cache=True, fastmath={"contract"})
@no_type_check
def _weigh_column(out, plane, row, weights, height):
    """Weighted sum of the rows around one, mirrored at the borders of the image; the columns, too, are continued by their mirror image."""
    radius, width = len(weights) - 1, plane.shape[1]
    middle, here = plane[row], out[radius : radius + width]
    for col in range(width):
        here[col] = weights[0] * middle[col]
    for k in range(1, radius + 1):
        above, below, weight = plane[abs(row - k)], plane[height - 1 - abs(height - 1 - row - k)], weights[k]
        for col in range(width):
            here[col] += weight * (above[col] + below[col])
    for k in range(radius):
        out[k] = here[radius - k]
        out[radius + width + k] = here[width - 2 - k]


@njit(cache=True, fastmath={"contract"})
@no_type_check
def _weigh_row(out, line, weights):
    """Weighted sum of the columns around each."""
    radius, width = len(weights) - 1, len(out)
    middle = line[radius : radius + width]
    for col in range(width):
        out[col] = weights[0] * middle[col]
    for k in range(1, radius + 1):
        left, right, weight = line[radius - k : radius - k + width], line[radius + k : radius + k + width], weights[k]
        for col in range(width):
            out[col] += weight * (left[col] + right[col])


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
@no_type_check
def _compare(out, window, c1, c2):
    """The formula, for one row of pixels."""
    a, b, products, squares = window[0], window[1], window[2], window[3]
    for col in range(len(out)):
        mu_xy, mu_xx_yy = a[col] * b[col], a[col] * a[col] + b[col] * b[col]
        covariance, variances = products[col] - mu_xy, max(squares[col] - mu_xx_yy, 0.0)
        structure = (2 * covariance + c2) / (variances + c2)
        out[col] = (2 * mu_xy + c1) / (mu_xx_yy + c1) * structure
