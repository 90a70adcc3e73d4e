"""Region masks from landmarks: polygons, ellipses and boxes, one per frame, compiled.

A pixel belongs to a region when its centre lies inside the outline.
"""

from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numba import njit
from scipy.ndimage import distance_transform_edt

from src.face.landmarks import bounding_boxes, detected, inter_ocular_distance
from src.face.topology import FACE_OVAL, IBUG68_GROUPS, LIPS_OUTER, NUM_LANDMARKS

Region = Literal["face", "mouth", "lips", "lower_face"]

# From cheek to cheek over the chin; closed over the base of the nose this bounds what speech moves.
_JAW = np.array([93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323])
_OUTLINES = {"face": FACE_OVAL, "lips": LIPS_OUTER, "mouth": LIPS_OUTER, "lower_face": np.append(_JAW, 2)}

_LIPS_IBUG68 = np.arange(68)[IBUG68_GROUPS["outer_lip"]]
_OUTLINES_IBUG68 = {
    "face": np.concatenate([np.arange(17), np.arange(26, 16, -1)]),
    "lips": _LIPS_IBUG68,
    "mouth": _LIPS_IBUG68,
    "lower_face": np.append(np.arange(2, 15), 33),
}


def region_masks(
    landmarks: Float[np.ndarray, "t n d"], size: tuple[int, int], region: Region, *, margin: float = 0.0
) -> Bool[np.ndarray, "t h w"]:
    """Masks of a facial region.

    Args:
        landmarks: 478 or 68 points in pixels; a frame with a non-finite coordinate gets an empty mask.
        size: height and width in pixels.
        region: "face" the face's outline (for 68 points jaw and brows), "lips" the outer contour of the lips, "mouth" the box around
            the lips, "lower_face" from the base of the nose to the jaw line.
        margin: widens the region by this fraction of the inter-ocular distance on every side.
    """
    reach = margin * inter_ocular_distance(landmarks[..., :2])
    outline = _outline(landmarks[..., :2].astype(np.float64), region)
    outline[~detected(landmarks)] = np.nan
    if region == "mouth":
        grown = bounding_boxes(outline) + reach[:, None] * np.array([-1.0, -1.0, 1.0, 1.0])
        return box_masks(grown, size)
    return polygon_masks(_grown(outline, reach), size)


def _outline(points: Float[np.ndarray, "t n 2"], region: Region) -> Float[np.ndarray, "t m 2"]:
    """The points of a region's closed outline."""
    outlines = _OUTLINES if points.shape[1] == NUM_LANDMARKS else _OUTLINES_IBUG68
    return points[:, outlines[region]]


def _grown(outline: Float[np.ndarray, "t m 2"], reach: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t m 2"]:
    """Every point of the outline moved away from its mean by `reach` pixels."""
    rays = outline - outline.mean(axis=1, keepdims=True)
    return outline + rays / np.linalg.norm(rays, axis=-1, keepdims=True) * reach[:, None, None]


def polygon_masks(polygons: Float[np.ndarray, "t m 2"], size: tuple[int, int]) -> Bool[np.ndarray, "t h w"]:
    """Filled closed polygons, even-odd rule; a polygon with a non-finite point is empty."""
    masks = np.zeros((len(polygons), *size), dtype=np.bool_)
    _fill_polygons(polygons.astype(np.float64), masks)
    return masks


def box_masks(boxes: Float[np.ndarray, "t 4"], size: tuple[int, int]) -> Bool[np.ndarray, "t h w"]:
    """Filled boxes (left, top, right, bottom)."""
    x, y = np.arange(size[1]), np.arange(size[0])
    left, top, right, bottom = boxes.T[:, :, None]
    across, down = (x >= left) & (x <= right), (y >= top) & (y <= bottom)
    return down[:, :, None] & across[:, None, :]


def ellipse_masks(
    centres: Float[np.ndarray, "t 2"], radii: Float[np.ndarray, "t 2"], size: tuple[int, int]
) -> Bool[np.ndarray, "t h w"]:
    """Filled ellipses with axes along x and y."""
    x = (np.arange(size[1]) - centres[:, :1]) / radii[:, :1]
    y = (np.arange(size[0]) - centres[:, 1:]) / radii[:, 1:]
    return y[:, :, None] ** 2 + x[:, None, :] ** 2 <= 1


def feathered(regions: Bool[np.ndarray, "t h w"], width: float) -> UInt8[np.ndarray, "t h w"]:
    """Weights of regions, 0 outside to 255 within, that rise over `width` pixels inside the border; 0: at once.

    The borders of the picture are none of the region's.
    """
    if width <= 0:
        return regions.astype(np.uint8) * np.uint8(255)
    weights = np.empty(regions.shape, np.uint8)
    for weight, region in zip(weights, regions, strict=True):
        depth = distance_transform_edt(region) if not region.all() else np.inf
        ramp = np.clip(depth / width, 0, 1)
        weight[...] = np.rint(255 * ramp * ramp * (3 - 2 * ramp))  # smooth at both ends
    return weights


@njit(cache=True, nogil=True)
@no_type_check
def _fill_polygons(polygons, masks):
    """Even-odd scan conversion: in every row, the pixels between the 1st and 2nd crossing of the outline, 3rd and 4th, ..."""
    n_points, height, width = polygons.shape[1], masks.shape[1], masks.shape[2]
    crossings = np.empty(n_points, dtype=np.float64)
    for t in range(polygons.shape[0]):
        if not np.isfinite(polygons[t]).all():
            continue
        ys = polygons[t, :, 1]
        for row in range(max(0, int(np.ceil(ys.min()))), min(height - 1, int(np.floor(ys.max()))) + 1):
            count = 0
            for i in range(n_points):
                x0, y0 = polygons[t, i, 0], polygons[t, i, 1]
                x1, y1 = polygons[t, (i + 1) % n_points, 0], polygons[t, (i + 1) % n_points, 1]
                if (y0 <= row) != (y1 <= row):
                    crossings[count] = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
                    count += 1
            ordered = np.sort(crossings[:count])
            for k in range(0, count - 1, 2):
                first = max(0, int(np.ceil(ordered[k])))
                last = min(width - 1, int(np.floor(ordered[k + 1])))
                if first <= last:  # else beyond the left or right border
                    masks[t, row, first : last + 1] = True
