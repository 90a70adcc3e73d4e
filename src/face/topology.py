"""Named index tables into the 478 points of MediaPipe's face mesh.

The first 468 points are the mesh, the last ten the irises (centre, then four points around it). "Left" and "right" are sides of the
**picture**: `LEFT_EYE` is the eye at the smaller x of an unmirrored frame, that is, the person's right eye. (MediaPipe's own tables and
its blendshape names use the person's sides.) Closed contours list each point once, in order along the contour.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from src.face.tesselation import TESSELATION

__all__ = [
    "FACE_OVAL",
    "IBUG68",
    "IBUG68_GROUPS",
    "LEFT_EYE",
    "LEFT_EYEBROW",
    "LEFT_IRIS",
    "LIPS_INNER",
    "LIPS_OUTER",
    "MIRRORED_IBUG68",
    "NOSE_RIDGE",
    "NUM_LANDMARKS",
    "NUM_MESH_POINTS",
    "RIGHT_EYE",
    "RIGHT_EYEBROW",
    "RIGHT_IRIS",
    "RIGID",
    "SIMPLIFIED",
    "SIMPLIFIED_GROUPS",
    "STABLE",
    "STABLE_IBUG68",
    "TESSELATION",
]

NUM_LANDMARKS = 478
NUM_MESH_POINTS = 468


def _table(indices: Sequence[int]) -> Int[np.ndarray, " n"]:
    """A read-only index table."""
    table = np.array(indices, dtype=np.int64)
    table.setflags(write=False)
    return table


LEFT_EYEBROW = _table([70, 63, 105, 66, 107, 55, 65, 52, 53, 46])
RIGHT_EYEBROW = _table([300, 293, 334, 296, 336, 285, 295, 282, 283, 276])
LEFT_EYE = _table([33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7])
RIGHT_EYE = _table([263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249])
LIPS_INNER = _table([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95])
LIPS_OUTER = _table([61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146])
NOSE_RIDGE = _table([168, 6, 197, 195, 5, 4, 1])
LEFT_IRIS = _table([468, 469, 470, 471, 472])
RIGHT_IRIS = _table([473, 474, 475, 476, 477])

# Clockwise on the screen from the top of the forehead (10) over the right side of the picture to the chin (152) and back.
# fmt: off
FACE_OVAL = _table([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])
# fmt: on

# The 135 points of landmark_driven's pictures, in the order in which its data sets store them.
_SIMPLIFIED_PARTS = {
    "left_eyebrow": LEFT_EYEBROW,
    "right_eyebrow": RIGHT_EYEBROW,
    "left_eye": LEFT_EYE,
    "right_eye": RIGHT_EYE,
    "inner_lip": LIPS_INNER,
    "outer_lip": LIPS_OUTER,
    "face_oval": FACE_OVAL,
    "nose_ridge": NOSE_RIDGE,
}
SIMPLIFIED = _table(np.concatenate(list(_SIMPLIFIED_PARTS.values())).tolist())


def _row_slices(parts: dict[str, Int[np.ndarray, " _"]]) -> dict[str, slice]:
    """Consecutive row ranges of the named parts."""
    ends = np.cumsum([len(indices) for indices in parts.values()]).tolist()
    return {name: slice(end - len(parts[name]), end) for name, end in zip(parts, ends, strict=True)}


SIMPLIFIED_GROUPS = _row_slices(_SIMPLIFIED_PARTS)
"""Name of a part -> its rows in `SIMPLIFIED`."""

# The 68-point layout of iBUG 300-W. No mesh point is an iBUG point by definition: the choice below keeps, for each iBUG point, the mesh
# point of the same anatomical meaning that lies closest to the mean face of `src.face.mean_face` over frontal video frames brought onto it
# by the five stable points. The jaw takes every second to third vertex of the oval, spaced as the iBUG jaw is (ear to ear over the chin).
# fmt: off
_IBUG68_PARTS = {
    "jaw": _table([127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356]),
    "left_eyebrow": _table([70, 63, 105, 66, 107]),
    "right_eyebrow": _table([336, 296, 334, 293, 300]),
    "nose_ridge": _table([168, 197, 5, 1]),
    "nose_base": _table([98, 97, 2, 326, 327]),
    "left_eye": _table([33, 160, 158, 133, 153, 144]),
    "right_eye": _table([362, 385, 387, 263, 373, 380]),
    "outer_lip": _table([61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91]),
    "inner_lip": _table([78, 82, 13, 312, 308, 317, 14, 87]),
}
# fmt: on
IBUG68 = _table(np.concatenate(list(_IBUG68_PARTS.values())).tolist())
IBUG68_GROUPS = _row_slices(_IBUG68_PARTS)
"""Name of a part -> its rows in the 68-point layout."""

# Row i of a mirrored picture's 68 points is row MIRRORED_IBUG68[i] of the picture's own.
# fmt: off
MIRRORED_IBUG68 = _table([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
])
# fmt: on

# Points that speech does not move: base of the nose, then the eye corners from the left to the right of the picture.
STABLE = _table([2, 33, 133, 362, 263])
STABLE_IBUG68 = _table([33, 36, 39, 42, 45])

# The part of the face that moves with the skull alone: eye corners, bridge and sides of the nose, temples, upper cheekbones.
# fmt: off
RIGID = _table([
    33, 133, 362, 263, 168, 6, 197, 195, 5, 2, 98, 327, 122, 351, 127, 356, 34, 264, 227, 447, 116, 345, 143, 372, 10, 338, 109, 151, 9,
])
# fmt: on
