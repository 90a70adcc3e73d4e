"""Painting on a float canvas: strokes, distances to outlines, and noise that does not depend on the resolution."""

import math

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from numba import njit
from PIL import Image

Plane = Float32[np.ndarray, "h w"]
Picture = Float32[np.ndarray, "h w 3"]
Texels = UInt8[np.ndarray, "h w 4"]


@njit(cache=True, nogil=True)
def paint_strokes(mask: Float32[np.ndarray, "h w"], strokes: Float64[np.ndarray, "n 7"]) -> None:
    """Cover `mask` with straight hairs.

    Args:
        mask: coverage in [0, 1], changed in place.
        strokes: rows of x0, y0, x1, y1 (texels), width at both ends (texels), opacity.
    """
    height, width = mask.shape
    for n in range(len(strokes)):
        x0, y0, x1, y1, w0, w1, opacity = strokes[n]
        reach = max(w0, w1) / 2 + 1
        dx, dy = x1 - x0, y1 - y0
        length2 = max(dx * dx + dy * dy, 1e-12)
        for row in range(max(0, int(min(y0, y1) - reach)), min(height, int(max(y0, y1) + reach) + 2)):
            for column in range(max(0, int(min(x0, x1) - reach)), min(width, int(max(x0, x1) + reach) + 2)):
                t = min(max(((column - x0) * dx + (row - y0) * dy) / length2, 0.0), 1.0)
                away = math.hypot(column - x0 - t * dx, row - y0 - t * dy)
                half = (w0 + t * (w1 - w0)) / 2
                # A hair thinner than a texel covers only its share of it.
                cover = min(max(max(half, 0.5) + 0.5 - away, 0.0), 1.0) * min(1.0, 2 * half) * opacity
                mask[row, column] = 1 - (1 - mask[row, column]) * (1 - cover)


@njit(cache=True, nogil=True)
def outline_distance(
    points: Float64[np.ndarray, "h w 2"], outline: Float64[np.ndarray, "n 2"], reach: float
) -> Float32[np.ndarray, "h w"]:
    """Signed distance to a closed outline: negative inside, `reach` further away than that."""
    height, width = points.shape[:2]
    distance = np.full((height, width), reach, np.float32)
    n = len(outline)
    left, right = outline[:, 0].min() - reach, outline[:, 0].max() + reach
    top, bottom = outline[:, 1].min() - reach, outline[:, 1].max() + reach
    for row in range(height):
        for column in range(width):
            x, y = points[row, column, 0], points[row, column, 1]
            if x < left or x > right or y < top or y > bottom:
                continue
            nearest, inside = 1e9, False
            for i in range(n):
                ax, ay = outline[i, 0], outline[i, 1]
                bx, by = outline[(i + 1) % n, 0], outline[(i + 1) % n, 1]
                dx, dy = bx - ax, by - ay
                t = min(max(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0), 1.0)
                nearest = min(nearest, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
                if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * dx:
                    inside = not inside
            away = math.sqrt(nearest)
            distance[row, column] = -away if inside else min(away, reach)
    return distance


@njit(cache=True, nogil=True)
def path_distance(points: Float64[np.ndarray, "h w 2"], path: Float64[np.ndarray, "n 2"], reach: float) -> Plane:
    """Distance to an open path, `reach` further away than that."""
    height, width = points.shape[:2]
    distance = np.full((height, width), reach, np.float32)
    left, right = path[:, 0].min() - reach, path[:, 0].max() + reach
    top, bottom = path[:, 1].min() - reach, path[:, 1].max() + reach
    for row in range(height):
        for column in range(width):
            x, y = points[row, column, 0], points[row, column, 1]
            if x < left or x > right or y < top or y > bottom:
                continue
            nearest = reach * reach
            for i in range(len(path) - 1):
                ax, ay = path[i, 0], path[i, 1]
                dx, dy = path[i + 1, 0] - ax, path[i + 1, 1] - ay
                t = min(max(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0), 1.0)
                nearest = min(nearest, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
            distance[row, column] = math.sqrt(nearest)
    return distance


def noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> Plane:
    """Smooth noise of zero mean and unit variance: `cells` random values, (rows, columns), spread over `size` texels.

    The same cells are drawn whatever the size, so that a face looks alike at every resolution.
    """
    values = rng.standard_normal(cells).astype(np.float32)
    resized = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32) * np.float32(1.3)


def to_bytes(linear: Picture, alpha: Plane | float) -> Texels:
    """Texels of a linear colour and an opacity (or gloss), see `src.datamodules.synthetic.raster`."""
    texels = np.empty((*linear.shape[:2], 4), np.uint8)
    texels[..., :3] = np.sqrt(np.clip(linear, 0, 1)) * 255 + 0.5
    texels[..., 3] = np.clip(alpha, 0, 1) * 255 + 0.5
    return texels


def mix(under: Picture, over: Float[np.ndarray, "... 3"], cover: Plane | float) -> Picture:
    """`over` (a colour or a picture) laid on `under` with the given coverage."""
    share = np.asarray(cover, np.float32)
    share = share[..., None] if share.ndim == 2 else share
    return under + (np.asarray(over, np.float32) - under) * share


def smooth_closed(outline: Float64[np.ndarray, "n d"], steps: int = 4) -> Float64[np.ndarray, "m d"]:
    """A closed outline with a Catmull-Rom curve through its points."""
    before, after, after2 = np.roll(outline, 1, 0), np.roll(outline, -1, 0), np.roll(outline, -2, 0)
    return _catmull_rom(before, outline, after, after2, steps)


def smooth_open(path: Float64[np.ndarray, "n d"], steps: int = 4) -> Float64[np.ndarray, "m d"]:
    """An open path with a Catmull-Rom curve through its points."""
    padded = np.concatenate([2 * path[:1] - path[1:2], path, 2 * path[-1:] - path[-2:-1]])
    curve = _catmull_rom(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], steps)
    return np.concatenate([curve, path[-1:]])


def _catmull_rom(
    p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, p3: np.ndarray, steps: int
) -> Float64[np.ndarray, "m d"]:
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return curve.reshape(-1, curve.shape[-1])
