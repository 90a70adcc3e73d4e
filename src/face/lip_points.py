"""How lips move, as six points in the frame of the head, by MediaPipe's landmarks.

They stand in for the lip key points of LivePortrait's motion extractor where its weights are not at hand, on synthetic heads above all:
the same number in the same order, lower and upper lip last.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64

from src.errors import FaceError
from src.face.average_face import average_face
from src.face.topology import RIGID

# Chin, dip below the lower lip, corners at the left and right of the picture, middle of the lower and of the upper lip.
POINTS = (152, 17, 61, 291, 14, 13)


def lip_points(landmarks: Float[np.ndarray, "t 478 3"]) -> Float32[np.ndarray, "t 6 3"]:
    """`POINTS` of a clip less their mean over its frames: motion alone, neither the person's shape nor their pose.

    Unit: the distance between the pupils of an average face; x to the right of the picture, y down, z away from the camera.

    Args:
        landmarks: of the frames of one clip, pixels with z in the same unit, without gaps.

    Raises:
        FaceError: the points of a frame coincide or are not finite.
    """
    rotation, scale, centre = _head_pose(landmarks[:, RIGID].astype(np.float64))
    points = (landmarks[:, list(POINTS)] - centre[:, None]) @ rotation * scale[:, None, None]
    return (points - points.mean(axis=0)).astype(np.float32)


def _head_pose(
    points: Float64[np.ndarray, "t n 3"],
) -> tuple[Float64[np.ndarray, "t 3 3"], Float64[np.ndarray, " t"], Float64[np.ndarray, "t 3"]]:
    """Rotation and scale that bring the rigid points, less their centre, onto those of the average face (Umeyama, TPAMI 1991)."""
    there = average_face()[RIGID]
    there = there - there.mean(axis=0)
    centre = points.mean(axis=1)
    here = points - centre[:, None]
    extent = (here**2).sum(axis=(1, 2))
    if not (np.isfinite(extent).all() and (extent > 0).all()):
        raise FaceError("The points of the skull coincide or are missing in a frame: the clip has no usable landmarks.")
    u, s, vt = np.linalg.svd(here.transpose(0, 2, 1) @ there)
    s[:, 2] *= np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]  # a rotation, never a reflection
    return u @ vt, s.sum(axis=1) / extent, centre
