"""Similarities between frame and crop: estimating, applying, inverting.

A matrix is (3, 3) float64 and maps column vectors (x, y, 1) of pixels, pixel centres at integer coordinates.
"""

import numpy as np
from jaxtyping import Float

from src.errors import FaceError


def similarity_transform(
    src: Float[np.ndarray, "*t n 2"], dst: Float[np.ndarray, "*#t n 2"]
) -> Float[np.ndarray, "*t 3 3"]:
    """The least-squares similarity (rotation, one scale, shift) that brings `src` onto `dst`, one per leading index.

    Closed form of Umeyama's estimate in the plane: with centred points s, d and a = sum(s . d), b = sum(s_x d_y - s_y d_x), n = sum(|s|^2),
    A = [[a, -b], [b, a]] / n and t = mean(d) - A mean(s). A reflection cannot occur.

    Raises:
        FaceError: the source points of some frame coincide or are not finite.
    """
    src, dst = src.astype(np.float64), dst.astype(np.float64)
    src_mean, dst_mean = src.mean(axis=-2), dst.mean(axis=-2)
    s, d = src - src_mean[..., None, :], dst - dst_mean[..., None, :]
    norm = (s * s).sum(axis=(-2, -1))
    if not (norm > 0).all():
        raise FaceError("The points that place the face coincide or are missing: no transform can be estimated.")
    a = (s * d).sum(axis=(-2, -1)) / norm
    b = (s[..., 0] * d[..., 1] - s[..., 1] * d[..., 0]).sum(axis=-1) / norm
    matrix = np.zeros((*src.shape[:-2], 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = a
    matrix[..., 1, 0], matrix[..., 0, 1] = b, -b
    matrix[..., :2, 2] = dst_mean - (matrix[..., :2, :2] @ src_mean[..., None])[..., 0]
    matrix[..., 2, 2] = 1.0
    return matrix


def scale_of(matrices: Float[np.ndarray, "*t 3 3"]) -> Float[np.ndarray, " *t"]:
    """Length in the target of one pixel of the source: the square root of the determinant's magnitude."""
    return np.sqrt(np.abs(np.linalg.det(matrices[..., :2, :2])))


def scale_and_shift(scale: Float[np.ndarray, " t"], origin: Float[np.ndarray, "t 2"]) -> Float[np.ndarray, "t 3 3"]:
    """Unrotated crops: a crop pixel is `scale` times the distance from `origin`, the picture point of the crop's upper left **edge**."""
    matrices = np.zeros((len(scale), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :2, 2] = -origin * scale[:, None] - 0.5
    matrices[:, 2, 2] = 1.0
    return matrices


def invert(matrices: Float[np.ndarray, "*t 3 3"]) -> Float[np.ndarray, "*t 3 3"]:
    """Crop pixels -> frame pixels, for pasting back."""
    return np.linalg.inv(matrices)


def transform_points(
    points: Float[np.ndarray, "*t n 2"], matrices: Float[np.ndarray, "*#t 3 3"]
) -> Float[np.ndarray, "*t n 2"]:
    """Points through the affine part of the matrices, float64."""
    return points.astype(np.float64) @ np.swapaxes(matrices[..., :2, :2], -1, -2) + matrices[..., None, :2, 2]


def transform_landmarks(
    landmarks: Float[np.ndarray, "t n d"], matrices: Float[np.ndarray, "t 3 3"]
) -> Float[np.ndarray, "t n d"]:
    """Landmarks in crop pixels, in the dtype given; z, where there is one, is scaled with the same factor."""
    moved = landmarks.copy()
    moved[..., :2] = transform_points(landmarks[..., :2], matrices)
    if landmarks.shape[-1] == 3:
        moved[..., 2] *= scale_of(matrices)[:, None].astype(landmarks.dtype)
    return moved
