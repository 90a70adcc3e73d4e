"""Which part of a frame is repainted, and what of its landmarks may be known: the conditions of DiffTalk (arXiv:2301.03786).

A mask is True where the frame is **kept**. What is kept must tell nothing of the lips, or the network learns to read them off instead of
listening. The shapes:

    steady      the default: a region fixed to the skull, from below the tip of the nose to below a fully open chin, out to the jaw's
                corners. It is placed by eye corners and the bridge of the nose alone, in three dimensions, so that it covers the mouth at
                any pose of the head and its border is the same whatever the mouth does.
    nose_tip    all rows from the tip of the nose on: the original's training.
    nose_base   all rows from the base of the nose on: the original's masked frames at inference.
    jaw         the polygon through jaw line and base of the nose: the original's sampling. Its border follows the chin, and so gives away
                how far the mouth is open.
"""

from dataclasses import dataclass
from typing import Literal, get_args, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numba import njit
from PIL import Image
from scipy.ndimage import binary_erosion

from src.errors import require_choice, require_least
from src.face.landmarks import detected, to_ibug68
from src.face.masks import polygon_masks

Shape = Literal["steady", "nose_tip", "nose_base", "jaw"]

CONDITION_POINTS = np.r_[0:4, 13:48]  # of the 68: upper jaw, brows, nose, eyes; neither mouth nor chin

_FIRST_ROW_AT = {"nose_tip": 30, "nose_base": 33}  # of the 68
_JAW_POLYGON = np.r_[2:15, 33]

# Points of an average face in a frame of its own: x to the right of the picture, y down, z away from the camera, zero between the pupils,
# unit the distance between the pupils.
_RIGID = np.r_[27:31, 36, 39, 42, 45]  # of the 68: bridge of the nose, eye corners
# fmt: off
_RIGID_PLACES = np.array([
    [0, -0.007, -0.240], [0, 0.247, -0.369], [0, 0.459, -0.522], [0, 0.689, -0.509],
    [-0.701, 0.013, 0.111], [-0.265, 0.057, 0.027], [0.265, 0.057, 0.027], [0.701, 0.013, 0.111],
])
_HALF_REGION = np.array([
    [0.30, 0.72, -0.20], [0.70, 0.72, 0.10], [1.03, 0.72, 1.00],  # beside the nose, cheek, jaw line below the ear
    [0.94, 1.01, 0.94], [0.72, 1.38, 0.64], [0.58, 1.52, 0.51], [0.34, 1.70, 0.30], [0.00, 1.78, 0.21],  # jaw line, closed
    [0.90, 1.20, 0.94], [0.72, 1.70, 0.75], [0.58, 1.95, 0.65], [0.34, 2.20, 0.50], [0.00, 2.30, 0.45],  # and wide open
    [0.45, 1.10, -0.20], [0.20, 1.35, -0.30],  # lips, pushed forward
])
# fmt: on
_REGION = np.concatenate([_HALF_REGION, _HALF_REGION * [-1, 1, 1]])
_DIRECTIONS = np.arange(48) * (2 * np.pi / 48)  # of the straight lines that bound the region


@dataclass(frozen=True)
class MaskRule:
    """How masks are made.

    Args:
        shape: see this module.
        margin: of the steady shape on every side, in distances between the pupils.
        eroded_cells: cells of the latent grid, beside repainted ones, that are repainted, too, since the encoder sees beyond a cell. Not
            for the jaw polygon, which is taken to the grid as the original does.
    """

    shape: str = "steady"
    margin: float = 0.1
    eroded_cells: int = 1

    def __post_init__(self) -> None:
        require_choice("mask.shape", self.shape, get_args(Shape))
        require_least("mask.margin", self.margin, 0)
        require_least("mask.eroded_cells", self.eroded_cells, 0)


def condition_points(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 39 2"]:
    """The 39 of 68 (or 478) points that the network is given: none of the mouth, none of the lower jaw."""
    return to_ibug68(landmarks)[..., CONDITION_POINTS, :2]


def kept_masks(
    landmarks: Float[np.ndarray, "t n d"], size: tuple[int, int], rule: MaskRule | None = None
) -> Bool[np.ndarray, "t h w"]:
    """Masks that are True where a frame is kept.

    Args:
        landmarks: 478 or 68 points in pixels; they may lie outside the picture. Of a frame with a non-finite one nothing is kept.
        size: height and width of the picture in pixels.
        rule: default: `MaskRule()`.
    """
    rule = rule or MaskRule()
    points = to_ibug68(landmarks)[..., :2]
    found = detected(points)
    points = np.where(found[:, None, None], points, 0)
    if rule.shape == "steady":
        repainted = _steady_masks(points, size, rule.margin)
    elif rule.shape == "jaw":
        repainted = filled_polygons(np.trunc(points[:, _JAW_POLYGON]).astype(np.int64), size)
    else:
        first = np.trunc(points[:, _FIRST_ROW_AT[rule.shape], 1])
        repainted = np.broadcast_to(np.arange(size[0])[:, None] >= first[:, None, None], (len(points), *size))
    return ~repainted & found[:, None, None]


def latent_masks(
    kept: Bool[np.ndarray, "t h w"], factor: int, rule: MaskRule | None = None
) -> Bool[np.ndarray, "t rows columns"]:
    """Masks of latents from masks of their frames: a cell is kept where all its pixels and all cells around it are.

    The jaw polygon is resized as the original does it, cells along its border being kept or not by half.

    Args:
        kept: of frames whose sides are multiples of `factor`.
        factor: pixels per cell.
        rule: by which `kept` was made.
    """
    rule = rule or MaskRule()
    t, height, width = kept.shape
    if rule.shape == "jaw":
        return resized_masks(kept, (height // factor, width // factor))
    cells = np.asarray(kept.reshape(t, height // factor, factor, width // factor, factor).all(axis=(2, 4)))
    if not rule.eroded_cells:
        return cells
    neighbours = np.ones((1, 3, 3), bool)
    return binary_erosion(cells, neighbours, iterations=rule.eroded_cells, border_value=True)


def resized_masks(masks: Bool[np.ndarray, "t h w"], size: tuple[int, int]) -> Bool[np.ndarray, "t height width"]:
    """Masks resized as bytes of 0 and 1, bicubically and antialiased, by Pillow."""
    resized = [Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC) for mask in masks]
    return np.array([np.asarray(mask) for mask in resized], bool).reshape(len(masks), *size)


# --- the steady region


def _steady_masks(points: Float[np.ndarray, "t 68 2"], size: tuple[int, int], margin: float) -> np.ndarray:
    """The convex hull of the projected region, grown by `margin`: in every row, the pixels between the straight lines that bound it."""
    axes, origin, scale = _fit_camera(points[:, _RIGID].astype(np.float64))
    outline = _REGION @ np.swapaxes(axes, 1, 2) + origin[:, None]  # (t, m, 2)
    cos, sin = np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)
    reach = (outline @ np.stack([cos, sin])).max(axis=1) + margin * scale[:, None]  # (t, k), cos x + sin y <= reach
    rows = np.arange(size[0])[:, None]
    slack = reach[:, None] - sin * rows  # (t, h, k)
    right, left, level = cos > 1e-9, cos < -1e-9, np.abs(cos) <= 1e-9
    last = (slack[..., right] / cos[right]).min(axis=-1)[..., None]
    first = (slack[..., left] / cos[left]).max(axis=-1)[..., None]
    columns = np.arange(size[1])
    return (columns >= first) & (columns <= last) & (slack[..., level] >= 0).all(axis=-1)[..., None]


def _fit_camera(
    points: Float64[np.ndarray, "t 8 2"],
) -> tuple[Float64[np.ndarray, "t 2 3"], Float64[np.ndarray, "t 2"], Float64[np.ndarray, " t"]]:
    """The scaled orthographic view of the average face that shows its rigid points where they are.

    The affine view of least squares, then the scaled rotation nearest to it (POS: DeMenthon and Davis, IJCV 1995).

    Returns:
        axes and origin, so that a place of the face is seen at `axes @ place + origin`, and pixels per distance between the pupils.
    """
    centre = _RIGID_PLACES.mean(axis=0)
    affine = np.einsum(
        "tni,jn->tij", points - points.mean(axis=1, keepdims=True), np.linalg.pinv(_RIGID_PLACES - centre)
    )
    u, spread, v = np.linalg.svd(affine, full_matrices=False)
    scale = spread.mean(axis=1)
    axes = scale[:, None, None] * (u @ v)
    return axes, points.mean(axis=1) - axes @ centre, scale


# --- the original's polygon


def filled_polygons(polygons: Int64[np.ndarray, "t m 2"], size: tuple[int, int]) -> Bool[np.ndarray, "t h w"]:
    """Closed polygons with corners at pixel centres, their border lines included: what OpenCV's fillPoly draws."""
    masks = polygon_masks(polygons.astype(np.float64), size)
    _draw_outlines(polygons, masks)
    return masks


@njit(cache=True, nogil=True)
@no_type_check
def _draw_outlines(polygons, masks):
    """Bresenham's lines from every corner to the next, drawn from left to right, as far as they lie in the picture."""
    n_points, height, width = polygons.shape[1], masks.shape[1], masks.shape[2]
    for t in range(polygons.shape[0]):
        for i in range(n_points):
            x0, y0 = polygons[t, i, 0], polygons[t, i, 1]
            x1, y1 = polygons[t, (i + 1) % n_points, 0], polygons[t, (i + 1) % n_points, 1]
            if x1 < x0:
                x0, y0, x1, y1 = x1, y1, x0, y0
            dx, dy, down = x1 - x0, abs(y1 - y0), 1 if y1 > y0 else -1
            long, short = max(dx, dy), min(dx, dy)
            error = long - 2 * short
            x, y = x0, y0
            for _ in range(long + 1):
                if 0 <= x < width and 0 <= y < height:
                    masks[t, y, x] = True
                aside = error < 0
                error += 2 * long * aside - 2 * short
                if dx >= dy:
                    x += 1
                    y += down * aside
                else:
                    y += down
                    x += aside
