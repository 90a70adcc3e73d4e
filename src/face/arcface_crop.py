"""Faces as identity networks expect them: five points brought onto a template of 112x112 pixels (insightface's alignment)."""

import numpy as np
from jaxtyping import Float, Float64, UInt8

from src.face.geometry import similarity_transform
from src.face.landmarks import eye_centres, to_ibug68
from src.face.warp import warp

SIDE = 112
TEMPLATE = np.array(  # eyes, tip of the nose, corners of the mouth; the picture's left side first
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
NOSE_TIP, MOUTH_CORNERS = 30, [48, 54]  # of the 68 points


def five_points(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 5 2"]:
    """Eye centres, tip of the nose and corners of the mouth of 478 or 68 points."""
    points = to_ibug68(landmarks)
    return np.concatenate([eye_centres(points), points[..., [NOSE_TIP], :], points[..., MOUTH_CORNERS, :]], axis=-2)[
        ..., :2
    ]


def template_transforms(points: Float[np.ndarray, "*t 5 2"]) -> Float64[np.ndarray, "*t 3 3"]:
    """Frame pixels -> pixels of the aligned face, by least squares."""
    return similarity_transform(points, TEMPLATE)


def aligned_faces(
    frames: UInt8[np.ndarray, "t h w 3"], points: Float[np.ndarray, "t 5 2"]
) -> UInt8[np.ndarray, "t 112 112 3"]:
    """The faces of the frames, bilinearly, black beyond the frame."""
    return warp(frames, template_transforms(points), SIDE, antialias=False)
