"""Named groups of the 468 mesh points that the synthetic heads move, paint or build upon.

"Left" and "right" are sides of the picture, as in `src.face.topology`. Contours with an upper and a lower half run from left to right, so
that entry i of one half lies above or below entry i of the other.
"""

import functools

import numpy as np
from jaxtyping import Int
from scipy.spatial import KDTree

from src.face.average_face import average_face

N_POINTS = 468

# The lips as four rings, from the border of the skin to the inner rim: upper and lower half, corner to corner.
# fmt: off
UPPER_LIP = np.array([
    [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
    [76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306],
    [62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292],
    [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
])
LOWER_LIP = np.array([
    [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
    [76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306],
    [62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292],
    [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
])
# Lids of the left eye: the rim, then the rings of skin around it; corner to corner.
UPPER_LID = np.array([
    [33, 246, 161, 160, 159, 158, 157, 173, 133],
    [130, 247, 30, 29, 27, 28, 56, 190, 243],
])
LOWER_LID = np.array([
    [33, 7, 163, 144, 145, 153, 154, 155, 133],
    [130, 25, 110, 24, 23, 22, 26, 112, 243],
])
BROW = np.array([[70, 63, 105, 66, 107], [46, 53, 52, 65, 55]])  # upper and lower border of the left brow, outside to inside
CHIN = np.array([152, 148, 377, 176, 400, 175, 171, 396, 199, 208, 428, 200, 201, 421, 18, 83, 313, 140, 369])
JAW_LINE = np.array([152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234])  # chin to the left ear
NOSE = np.array([
    168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 327, 97, 326, 48, 278, 64, 294, 129, 358, 49, 279, 102, 331, 115, 344, 122, 351, 193, 417,
    196, 419, 174, 399, 3, 248, 51, 281, 45, 275, 44, 274, 220, 440, 218, 438, 219, 439, 235, 455, 60, 290, 75, 305, 59, 289, 240, 460,
])
# fmt: on


@functools.cache
def mirrored() -> Int[np.ndarray, " 468"]:
    """Index of the point that mirrors each point."""
    face = average_face()
    _, index = KDTree(face).query(face * [-1, 1, 1])
    return index


def both(indices: Int[np.ndarray, "*n"]) -> Int[np.ndarray, " m"]:
    """The points and their mirror images."""
    return np.unique(np.concatenate([np.ravel(indices), mirrored()[np.ravel(indices)]]))
