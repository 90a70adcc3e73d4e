"""Landmark pictures: the one place where landmarks are drawn.

The pictures are an input of trained networks, so every pixel counts: one pixel wide lines without anti-aliasing, rasterised by Bresenham's
algorithm from the end with the smaller x, parts and colours in a fixed order in which later lines cover earlier ones.
"""

from itertools import pairwise
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit

from src.face.landmarks import detected
from src.face.topology import SIMPLIFIED_GROUPS

# Part, closed, RGB: in drawing order. The right eyebrow is closed over its first nine points: its tenth has never been part of the picture.
_PARTS = (
    ("face_oval", True, (255, 0, 0)),
    ("left_eyebrow", True, (0, 255, 255)),
    ("right_eyebrow", True, (255, 255, 0)),
    ("left_eye", True, (255, 0, 128)),
    ("right_eye", True, (0, 128, 255)),
    ("outer_lip", True, (0, 255, 0)),
    ("inner_lip", True, (255, 255, 255)),
    ("nose_ridge", False, (0, 0, 255)),
)


def _segments() -> tuple[Int[np.ndarray, "n 2"], UInt8[np.ndarray, "n 3"]]:
    """Rows of the two ends, and colour, of every line segment in drawing order."""
    ends, colours = [], []
    for name, closed, colour in _PARTS:
        rows = list(range(SIMPLIFIED_GROUPS[name].start, SIMPLIFIED_GROUPS[name].stop))
        if name == "right_eyebrow":
            rows.pop()
        # The closing segment comes last and runs from the first point to the last.
        part = [*pairwise(rows), *([(rows[0], rows[-1])] if closed else [])]
        ends += part
        colours += [colour] * len(part)
    return np.array(ends), np.array(colours, dtype=np.uint8)


_ENDS, _COLOURS = _segments()


def draw_landmarks(
    points: Float[np.ndarray, "t 135 2"] | Int[np.ndarray, "t 135 2"],
    size: int | tuple[int, int],
    *,
    background: UInt8[np.ndarray, "t h w 3"] | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Pictures of the 135 simplified landmarks, RGB.

    Args:
        points: pixels of the canvas; fractions are dropped towards zero, lines are clipped at the border, and a frame with non-finite
            points stays empty.
        size: height and width of the canvas in pixels, or the side of a square one.
        background: frames to draw on (a copy of them), of that size; black by default.
    """
    height, width = (size, size) if isinstance(size, int) else size
    canvas = np.zeros((len(points), height, width, 3), dtype=np.uint8) if background is None else background.copy()
    drawn = detected(points.astype(np.float64))
    pixels = np.where(drawn[:, None, None], points, 0).astype(np.int64)
    _draw_segments(canvas, pixels, drawn, _ENDS, _COLOURS)
    return canvas


def draw_points(
    frames: UInt8[np.ndarray, "t h w 3"],
    points: Float[np.ndarray, "t n 2"],
    *,
    colour: tuple[int, int, int] = (0, 255, 0),
    radius: int = 1,
    disc: bool = False,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Copies of the frames with a dot at every finite point: a square, or a disc without anti-aliasing."""
    canvas = frames.copy()
    height, width = canvas.shape[1:3]
    finite = np.isfinite(points).all(axis=-1)
    times, _ = np.nonzero(finite)
    centres = np.floor(points[finite] + 0.5).astype(np.int64)
    reach = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    if disc:
        offsets = offsets[(offsets**2).sum(axis=1) <= radius**2]
    dots = (centres[:, None] + offsets).reshape(-1, 2)
    times = np.repeat(times, len(offsets))
    inside = ((dots >= 0) & (dots < (width, height))).all(axis=-1)
    canvas[times[inside], dots[inside, 1], dots[inside, 0]] = colour
    return canvas


@njit(cache=True, nogil=True)
@no_type_check
def _outcode(x, y, right, bottom):
    """Cohen-Sutherland region: 1 left, 2 right, 4 above, 8 below of the canvas."""
    return (x < 0) + (x > right) * 2 + (y < 0) * 4 + (y > bottom) * 8


@njit(cache=True, nogil=True)
@no_type_check
def _clip_end(x, y, code, x1, y1, x2, y2, right, bottom):
    """One end moved along the line onto the border it lies beyond (above or below first), coordinates truncated."""
    if code & 12:
        border = 0 if code < 8 else bottom
        x += int(float(border - y) * (x2 - x1) / (y2 - y1))
        y = border
        code = _outcode(x, y, right, bottom)
    return x, y, code


@njit(cache=True, nogil=True)
@no_type_check
def _clip(x1, y1, x2, y2, right, bottom):
    """The part of the segment inside the canvas in integers, and whether there is one (Cohen-Sutherland).

    The second end is clipped against the line through the already clipped first one, as OpenCV does: the order shows in the pixels.
    """
    code1, code2 = _outcode(x1, y1, right, bottom), _outcode(x2, y2, right, bottom)
    if (code1 & code2) == 0 and (code1 | code2) != 0:
        x1, y1, code1 = _clip_end(x1, y1, code1, x1, y1, x2, y2, right, bottom)
        x2, y2, code2 = _clip_end(x2, y2, code2, x1, y1, x2, y2, right, bottom)
        if (code1 & code2) == 0 and (code1 | code2) != 0:
            if code1:
                border = 0 if code1 == 1 else right
                y1 += int(float(border - x1) * (y2 - y1) / (x2 - x1))
                x1, code1 = border, 0
            if code2:
                border = 0 if code2 == 1 else right
                y2 += int(float(border - x2) * (y2 - y1) / (x2 - x1))
                x2, code2 = border, 0
    return x1, y1, x2, y2, (code1 | code2) == 0


@njit(cache=True, nogil=True)
@no_type_check
def _draw_line(picture, x1, y1, x2, y2, colour):
    """One 8-connected Bresenham line, drawn from the end with the smaller x."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2, visible = _clip(x1, y1, x2, y2, width - 1, height - 1)
    if not visible:
        return
    if x2 < x1:
        x1, y1, x2, y2 = x2, y2, x1, y1
    dx, dy = x2 - x1, abs(y2 - y1)
    step_y = 1 if y2 > y1 else -1
    steep = dy > dx
    major, minor = (dy, dx) if steep else (dx, dy)
    error = major - 2 * minor
    x, y = x1, y1
    for _ in range(major + 1):
        picture[y, x, 0], picture[y, x, 1], picture[y, x, 2] = colour[0], colour[1], colour[2]
        minor_step = error < 0
        error += 2 * major * minor_step - 2 * minor
        if steep:
            y += step_y
            x += minor_step
        else:
            x += 1
            y += step_y * minor_step


@njit(cache=True, nogil=True)
@no_type_check
def _draw_segments(canvas, pixels, drawn, ends, colours):
    """All segments of all frames, in order, in place."""
    for t in range(canvas.shape[0]):
        if drawn[t]:
            for i in range(ends.shape[0]):
                a, b = pixels[t, ends[i, 0]], pixels[t, ends[i, 1]]
                _draw_line(canvas[t], a[0], a[1], b[0], b[1], colours[i])
