"""Where eyes and mouth lie, for discriminators that see nothing else (section 3.2 of arXiv:2407.03168).

The regions are pixel for pixel those of an unofficial trainer, liutaocode/LivePortrait-Train.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import binary_dilation, binary_erosion

from src.face.masks import polygon_masks
from src.face.topology import IBUG68_GROUPS

KERNEL = 7  # pixels by which one step of an erosion or a dilation looks around, a square


def eye_and_mouth_regions(
    landmarks: Float[np.ndarray, "68 2"],
    side: int,
    *,
    eye_erosion: int = 1,
    eye_dilation: int = 5,
    mouth_dilation: int = 5,
    kernel: int = KERNEL,
) -> tuple[Bool[np.ndarray, "side side"], Bool[np.ndarray, "side side"]]:
    """Generous regions around both eyes, and around the lips, of a square picture.

    Args:
        landmarks: in [0, 1].
        side: of the picture in pixels.
        eye_erosion: steps by which the eyes are shrunk first.
        eye_dilation: steps by which they are grown then.
        mouth_dilation: steps by which the lips are grown.
        kernel: width of a step in pixels.
    """
    points = (landmarks * side).astype(np.int64)  # truncated
    step = np.ones((kernel, kernel), dtype=bool)
    eyes, lips = (
        np.logical_or.reduce([_filled(points[IBUG68_GROUPS[name]], side) for name in names])
        for names in (("left_eye", "right_eye"), ("outer_lip",))
    )
    if eye_erosion:
        eyes = binary_erosion(eyes, step, eye_erosion, border_value=1)
    return _grown(eyes, step, eye_dilation), _grown(lips, step, mouth_dilation)


def _grown(region: Bool[np.ndarray, "h w"], step: Bool[np.ndarray, "k k"], n: int) -> Bool[np.ndarray, "h w"]:
    return binary_dilation(region, step, n) if n else region  # scipy repeats 0 steps for ever


def _filled(polygon: Int64[np.ndarray, "n 2"], side: int) -> Bool[np.ndarray, "side side"]:
    """A closed polygon with the pixels that its outline runs through."""
    region = polygon_masks(polygon[None].astype(np.float64), (side, side))[0]
    x, y = np.concatenate([_line(a, b) for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]).T
    inside = (x >= 0) & (y >= 0) & (x < side) & (y < side)
    region[y[inside], x[inside]] = True
    return region


def _line(start: Int64[np.ndarray, " 2"], end: Int64[np.ndarray, " 2"]) -> Int64[np.ndarray, "n 2"]:
    """Pixels of a line; midway between two of them, the one is taken that lies on the side of its left (or, where steep, upper) end."""
    longer = int(np.abs(end - start).argmax())
    if start[longer] > end[longer]:
        start, end = end, start
    n = max(int(end[longer] - start[longer]), 1)
    away = np.arange(n + 1)[:, None] * (end - start) / n
    return start + (np.sign(away) * np.ceil(np.abs(away) - 0.5)).astype(np.int64)
