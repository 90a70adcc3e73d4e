"""How MoDiTalker's second stage shows a face to its networks: landmarks as dots, masked frames, square crops (arXiv:2403.19144)."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from src.face.drawing import draw_points
from src.face.landmarks import detected

CANVAS = 256  # side of the original's landmark pictures, whatever the frames measure
DOT_RADIUS = 3  # pixels of that canvas
NOSE_BASE = 33  # of the 68 points: below it the frame is hidden
WHITE = (255, 255, 255)


def dots(
    points: Shaped[np.ndarray, "t 68 2"], frame_width: float | int, size: int = CANVAS, radius: int = DOT_RADIUS
) -> UInt8[np.ndarray, "t size size 3"]:
    """Landmark pictures: a white disc at each of the 68 points on black, no lines.

    Args:
        points: pixels of frames; fractions are dropped before and after the points are brought onto the canvas, as published weights saw
            them. A frame with non-finite points stays empty.
        frame_width: of those frames, in pixels; it scales both axes, so frames have to be square.
        size: side of the canvas.
        radius: of the discs, in pixels of the canvas.
    """
    drawn = detected(np.asarray(points, np.float64))
    whole = np.trunc(np.where(drawn[:, None, None], points, 0))
    placed = np.where(drawn[:, None, None], np.trunc(whole / frame_width * size), np.nan)
    black = np.zeros((len(points), size, size, 3), np.uint8)
    return draw_points(black, placed, colour=WHITE, radius=radius, disc=True)


def from_unit_square(points: Float[np.ndarray, "t 68 d"], frame_width: float | int) -> Int[np.ndarray, "t 68 2"]:
    """Whole pixels of points in [-1, 1], the form in which some tools store landmarks."""
    return (points[..., :2] * frame_width / 2 + frame_width / 2).astype(np.int64)


def mask_rows(points: Shaped[np.ndarray, "t 68 2"]) -> Int[np.ndarray, " t"]:
    """First hidden row of each frame: that of the point between nose and upper lip, its fraction dropped."""
    return np.trunc(points[:, NOSE_BASE, 1]).astype(np.int64)


def without_lower_face(
    frames: UInt8[np.ndarray, "t h w 3"], rows: Int[np.ndarray, " t"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Copies of the frames, black from the given rows on over their full width."""
    hidden = np.arange(frames.shape[1]) >= rows[:, None]
    return np.where(hidden[:, :, None, None], np.uint8(0), frames)


def square_crop(frames: Shaped[Tensor, "t c h w"], size: int) -> Float[Tensor, "t c size size"]:
    """The middle of the frames along their longer side, resized bilinearly without antialiasing, as the original does it; no rounding.

    Args:
        frames: 0..255 or any other range.
        size: side of the result.
    """
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side].float()
    return F.interpolate(square, size=(size, size), mode="bilinear", align_corners=False)
