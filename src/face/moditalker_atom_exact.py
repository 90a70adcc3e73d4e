"""AToM's landmarks by a 3D morphable face model, as the original has them (MoDiTalker, arXiv:2403.19144).

Units and axes are those of `src.face.moditalker_atom`. `MorphableFace` makes landmarks out of coefficients, which
`src.nn.liveportrait_talker.FaceRegressor` finds in pictures; `align_by_coefficients` puts landmarks onto heads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.io import loadmat
from scipy.spatial.transform import Rotation

from src.errors import FaceError
from src.face.liveportrait_talker import (
    REGRESSOR_SCALE,
    REGRESSOR_SIZE,
    STANDARD_POINTS,
    five_points,
    standard_face_pose,
)
from src.face.moditalker_atom import NETWORK_UNIT

ENLARGEMENT = REGRESSOR_SIZE / 2 / REGRESSOR_SCALE  # of these landmarks, and so of the original's training data
MORPHABLE_ARRAYS = ("meanshape", "idBase", "exBase", "keypoints")

_EYE_GAP, _LIP_GAP = 0.003, 0.03  # half gaps of closed lids, and between inner and outer lips, in network units


def rotations(angles: Float[np.ndarray, "t 3"]) -> Float64[np.ndarray, "t 3 3"]:
    """(Rz Ry Rx)^T of angles about x, y and z in radians, for points that are rows: `points @ rotation`."""
    return Rotation.from_euler("xyz", angles).as_matrix().swapaxes(1, 2)


def quaternions(angles: Float[np.ndarray, "t 3"]) -> Float64[np.ndarray, "t 4"]:
    """x, y, z and the scalar, last, of the same rotations."""
    return Rotation.from_euler("xyz", angles).as_quat()


def euler_angles(quaternions: Float[np.ndarray, "t 4"]) -> Float64[np.ndarray, "t 3"]:
    """Angles about x, y and z; inverse of `quaternions`."""
    return Rotation.from_quat(quaternions).as_euler("xyz")


def y_flipped(points: Float[np.ndarray, "*t n 2"], height: int) -> Float[np.ndarray, "*t n 2"]:
    """Pixels counted from the other edge: y down becomes y up, and back."""
    flipped = points.copy()
    flipped[..., 1] = height - 1 - flipped[..., 1]
    return flipped


def in_crop(posed: Float[np.ndarray, "t 68 3"]) -> Int64[np.ndarray, "t 68 2"]:
    """Posed points of the face model in pixels of the regressor's crop, y up; fractions are dropped, as the original does."""
    half = np.float32(REGRESSOR_SIZE / 2)
    return (posed[..., :2] * half + half).astype(np.int64)


def align_by_coefficients(
    faces: Float[np.ndarray, "t 68 3"],
    angles: Float[np.ndarray, "t 3"],
    translation: Float[np.ndarray, "t 3"],
    detected: Float[np.ndarray, "t 68 2"],
    standard: Float[np.ndarray, "5 3"] = STANDARD_POINTS,
) -> Float64[np.ndarray, "t 68 2"]:
    """Frontal faces posed like the heads of a driving video, in its pixels: mean5(Q) + diag(1, -1) (P - mean5(P)) / s.

    P are the faces, turned and moved by the coefficients, in whole pixels of the regressor's crop; Q are the detected points; mean5 is
    the mean of the five points; s the crop's pixels per pixel of the picture. The faces become 112 / 102 times as large as the detected
    one, as those that the original's second stage was trained with. It keeps whole numbers: `.astype(int)` of this.

    Args:
        faces: in decimetres.
        angles: of the driving heads, coefficients of the face model, radians.
        translation: idem, decimetres; only rounding depends on it.
        detected: landmarks in the driving frames, pixels.
        standard: the five points of the standard face.
    """
    posed = faces.astype(np.float32) @ rotations(angles).astype(np.float32) + translation[:, None].astype(np.float32)
    pixels = in_crop(posed)
    aligned = np.empty(pixels.shape)
    for i, (points, found) in enumerate(zip(pixels, detected, strict=True)):
        scale = REGRESSOR_SCALE / standard_face_pose(five_points(found), standard)[1]
        moved = (points - five_points(points.astype(np.float64)).mean(axis=0)) / scale
        aligned[i] = five_points(found.astype(np.float64)).mean(axis=0) + moved * (1, -1)
    return aligned


@dataclass(frozen=True)
class MorphableFace:
    """The points (k = 68) of a linear 3D morphable face model, as AToM's data have them; decimetres.

    The original takes the model's key-point numbers, which count from 1, as if they counted from 0: each point is the vertex after the
    right one. Data and published weights agree in that, so it is kept.

    Attributes:
        neutral: mean face.
        identity: displacement per coefficient of the person.
        expression: displacement per coefficient of the expression.
    """

    neutral: Float32[np.ndarray, "k 3"]
    identity: Float32[np.ndarray, "k 3 n"]
    expression: Float32[np.ndarray, "k 3 m"]

    @classmethod
    def from_arrays(cls, arrays: Any) -> "MorphableFace":
        """From the arrays `MORPHABLE_ARRAYS` of BFM_model_front.mat, as numpy arrays."""
        vertices = arrays["keypoints"].reshape(-1).astype(np.int64)  # one too far on purpose

        def at_points(array: np.ndarray) -> Float32[np.ndarray, "k 3 n"]:
            return array.reshape(-1, 3, array.shape[-1])[vertices].astype(np.float32)

        mean = arrays["meanshape"].reshape(-1, 3)[vertices].astype(np.float32)
        return cls(mean, at_points(arrays["idBase"]), at_points(arrays["exBase"]))

    def displacements(
        self, identity: Float[np.ndarray, "t n"], expression: Float[np.ndarray, "t m"]
    ) -> Float32[np.ndarray, "t k 3"]:
        """Displacements from the neutral face in network units."""
        moved = np.einsum("kdn,tn->tkd", self.identity, identity) + np.einsum(
            "kdm,tm->tkd", self.expression, expression
        )
        return np.float32(NETWORK_UNIT) * moved

    def faces(
        self, identity: Float[np.ndarray, "t n"], expression: Float[np.ndarray, "t m"]
    ) -> Float32[np.ndarray, "t k 3"]:
        """Frontal faces in decimetres."""
        return self.displacements(identity, expression) / np.float32(NETWORK_UNIT) + self.neutral


def read_morphable_face(path: str | Path) -> MorphableFace:
    """The points of BFM_model_front.mat.

    Raises:
        FaceError: there is no such file, or it is another.
    """
    try:
        arrays = loadmat(path, variable_names=MORPHABLE_ARRAYS)
        return MorphableFace.from_arrays(arrays)
    except OSError as error:
        raise FaceError(f"{path} cannot be read ({error.strerror or error}): give BFM_model_front.mat.") from error
    except (KeyError, ValueError, IndexError, NotImplementedError) as error:
        raise FaceError(f"{path} is damaged or not BFM_model_front.mat: copy it again.") from error


def with_closed_mouth(faces: Float32[np.ndarray, "t 68 3"], *, still: bool = False) -> Float32[np.ndarray, "t 68 3"]:
    """Displacements in network units whose lips meet, in the original's arithmetic.

    Args:
        faces: of `MorphableFace.displacements`.
        still: the whole mouth is that of the neutral face instead.
    """
    edited = faces.copy()
    if still:
        edited[:, 48:68] = 0
        return edited
    y = edited[..., 1]
    outer, inner = (slice(49, 54), [59, 58, 57, 56, 55]), (slice(61, 64), [67, 66, 65])
    for upper, lower in (outer, inner):
        _meet(y, upper, lower, 0.0)
    for (upper, lower), (inner_lip, gap) in zip(
        (outer, outer), ((inner[0], _LIP_GAP), (inner[1], -_LIP_GAP)), strict=True
    ):
        lip: Any = upper if gap > 0 else lower
        y[:, lip] += (gap - y[:, lip].mean(axis=1) + y[:, inner_lip].mean(axis=1))[:, None]
    return edited


def with_closed_eyes(faces: Float32[np.ndarray, "t 68 3"]) -> Float32[np.ndarray, "t 68 3"]:
    """Displacements in network units whose lids nearly meet, in the original's arithmetic."""
    edited = faces.copy()
    for upper, lower in ((slice(37, 39), [41, 40]), (slice(43, 45), [47, 46])):
        _meet(edited[..., 1], upper, lower, _EYE_GAP)
    return edited


def _meet(y: Float32[np.ndarray, "t n"], upper: slice, lower: list[int], gap: float) -> None:
    """Bring upper points half-way to the lower ones, then the lower ones half-way to them, apart by the gap; in place."""
    y[:, upper] = (y[:, upper] + y[:, lower]) / 2 + gap
    y[:, lower] = (y[:, upper] + y[:, lower]) / 2 - gap
