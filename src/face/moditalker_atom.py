"""Geometry of faces for AToM (MoDiTalker, arXiv:2403.19144): landmarks without head pose, and back onto a moving head.

Frontal faces have 68 iBUG points in decimetres, x to the right of the picture, y **up**, z towards the viewer. The network's unit is
another: 10 times the displacement from a neutral face. Landmarks of pictures are pixels, y down, z away from the viewer.

There are two ways between the two, called tiers:

- exact: as the original, by the coefficients of a 3D morphable face model (`src.nn.liveportrait_talker.FaceRegressor`), `MorphableFace`
  for landmarks out of coefficients, and `align_by_coefficients`;
- free: by MediaPipe's spatial landmarks alone, with a similarity fitted to points that expressions do not move, `fit_heads`.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from scipy.io import loadmat
from scipy.spatial.transform import Rotation

from src.errors import FaceError
from src.face.average_face import average_face
from src.face.drawing import draw_points
from src.face.landmarks import to_ibug68
from src.face.liveportrait_talker import STANDARD_POINTS, five_points, standard_face_pose
from src.face.topology import IBUG68

NETWORK_UNIT = 10.0  # of a decimetre
N_VALUES = 3 * 68  # of a face
PUPIL_DISTANCE = (
    0.62  # decimetres: the unit of the average face, and the distance of the eyes of the original's standard face
)
REGRESSOR_SIZE, REGRESSOR_SCALE = 224, 102.0  # of the crop: its side, and its pixels per decimetre for the exact tier
ENLARGEMENT = (
    REGRESSOR_SIZE / 2
) / REGRESSOR_SCALE  # of the exact tier's landmarks, and so of the original's training data
STABLE_POINTS = (*range(27, 36), 36, 39, 42, 45)  # nose and eye corners: speech does not move them
EYE_CORNERS = ((33, 133), (362, 263))  # of MediaPipe's mesh
PICTURE_SIZE, DOT_RADIUS = 256, 3  # of landmark pictures
MORPHABLE_ARRAYS = ("meanshape", "idBase", "exBase", "keypoints")

_EYE_GAP, _LIP_GAP = 0.003, 0.03  # half gaps of closed lids, and between inner and outer lips, in network units


# --- units


@cache
def neutral_face() -> Float64[np.ndarray, "68 3"]:
    """The average face in decimetres: what displacements are counted from where there is no 3D morphable face model."""
    face = average_face()[IBUG68] * PUPIL_DISTANCE * np.array([1, -1, -1])
    face.setflags(write=False)
    return face


@cache
def neutral_mesh() -> Float64[np.ndarray, "478 3"]:
    """All points of the average face in decimetres; the irises lie in the middle of the eyes."""
    face = average_face()
    irises = [np.repeat(face[list(corners)].mean(axis=0)[None], 5, axis=0) for corners in EYE_CORNERS]
    mesh = np.concatenate([face, *irises]) * PUPIL_DISTANCE * np.array([1, -1, -1])
    mesh.setflags(write=False)
    return mesh


def to_network(
    faces: Float[np.ndarray, "*t 68 3"], neutral: Float[np.ndarray, "68 3"]
) -> Float32[np.ndarray, "*t 204"]:
    """Frontal faces in decimetres as the network knows them: ten times the displacement from the neutral face, point by point."""
    displacement = NETWORK_UNIT * (faces.astype(np.float64) - neutral)
    return displacement.reshape(*faces.shape[:-2], -1).astype(np.float32)


def from_network(
    values: Float[np.ndarray, "*t 204"], neutral: Float[np.ndarray, "68 3"]
) -> Float64[np.ndarray, "*t 68 3"]:
    """Frontal faces in decimetres; inverse of `to_network`."""
    return values.reshape(*values.shape[:-1], 68, 3).astype(np.float64) / NETWORK_UNIT + neutral


# --- rotations


def rotations(angles: Float[np.ndarray, "t 3"]) -> Float64[np.ndarray, "t 3 3"]:
    """(Rz Ry Rx)^T of angles about x, y and z in radians, for points that are rows: `points @ rotation`."""
    return Rotation.from_euler("xyz", angles).as_matrix().swapaxes(1, 2)


def quaternions(angles: Float[np.ndarray, "t 3"]) -> Float64[np.ndarray, "t 4"]:
    """x, y, z and the scalar, last, of the same rotations."""
    return Rotation.from_euler("xyz", angles).as_quat()


def euler_angles(quaternions: Float[np.ndarray, "t 4"]) -> Float64[np.ndarray, "t 3"]:
    """Angles about x, y and z; inverse of `quaternions`."""
    return Rotation.from_quat(quaternions).as_euler("xyz")


# --- exact tier


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


# --- free tier


@dataclass(frozen=True)
class Heads:
    """Where heads are in the frames of a video: frontal points -> pixels (`posed_points`), and back (`frontal_points`).

    Attributes:
        rotation: of points that are rows.
        scale: pixels per decimetre.
        centre: mean of the stable points of the frames, y up.
        origin: mean of the stable points of the frontal face that was fitted, decimetres.
    """

    rotation: Float64[np.ndarray, "t 3 3"]
    scale: Float64[np.ndarray, " t"]
    centre: Float64[np.ndarray, "t 3"]
    origin: Float64[np.ndarray, "3"]

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, frames: Any) -> "Heads":
        """Some of the frames."""
        return Heads(self.rotation[frames], self.scale[frames], self.centre[frames], self.origin)


def fit_heads(landmarks: Float[np.ndarray, "t n 3"], face: Float[np.ndarray, "68 3"] | None = None) -> Heads:
    """The head in every frame, by the similarity that brings a frontal face closest to what expressions do not move.

    Least squares in three dimensions (Umeyama, 1991), without reflection; mouth and jaw never count.

    Args:
        landmarks: 478 or 68 points, pixels, z in the same unit.
        face: frontal, decimetres; None: the average face.

    Raises:
        FaceError: landmarks that are missing.
    """
    stable = list(STABLE_POINTS)
    target = _upward(to_ibug68(landmarks))[:, stable]
    if not np.isfinite(target).all():
        raise FaceError("Landmarks are missing in some frames: interpolate them first.")
    source = (neutral_face() if face is None else face.astype(np.float64))[stable]
    origin, centre = source.mean(axis=0), target.mean(axis=1)
    s, d = source - origin, target - centre[:, None]
    u, stretch, vt = np.linalg.svd(s.T @ d)  # rows: s @ rotation * scale is closest to d
    sign = np.ones_like(stretch)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (stretch * sign).sum(axis=1) / (s * s).sum()
    return Heads(rotation, scale, centre, origin)


def frontal_points(landmarks: Float[np.ndarray, "t n 3"], heads: Heads) -> Float64[np.ndarray, "t n 3"]:
    """Points in decimetres without the pose of the head, of landmarks in pixels."""
    centred = _upward(landmarks) - heads.centre[:, None]
    return centred @ heads.rotation.swapaxes(1, 2) / heads.scale[:, None, None] + heads.origin


def posed_points(
    points: Float[np.ndarray, "t n 3"], heads: Heads, enlargement: float | int = 1.0
) -> Float64[np.ndarray, "t n 3"]:
    """Landmarks in pixels, y down, of frontal points on moving heads; inverse of `frontal_points`.

    Args:
        points: in decimetres.
        heads: one per frame.
        enlargement: about the middle of the stable points; `ENLARGEMENT` for the original's second stage.
    """
    posed = (points - heads.origin) @ heads.rotation * (enlargement * heads.scale[:, None, None])
    return _upward(posed + heads.centre[:, None])


def follow(head: Heads, driving: Heads) -> Heads:
    """One head that moves as those of a driving video move from their first frame on; it stays as large, and where it was at first.

    Args:
        head: a single one.
        driving: one per frame; shifts are taken in proportion to the sizes of the heads.
    """
    since = driving.rotation[0].T @ driving.rotation
    size = driving.scale / driving.scale[0]
    shift = (driving.centre - driving.centre[0]) * (head.scale[0] / driving.scale[0])
    return Heads(head.rotation[0] @ since, head.scale[0] * size, head.centre[0] + shift, head.origin)


def _upward(points: Float[np.ndarray, "t n 3"]) -> Float64[np.ndarray, "t n 3"]:
    """Pixels with y up and z towards the viewer, or back."""
    return points.astype(np.float64) * np.array([1.0, -1.0, -1.0])


# --- pictures


def landmark_discs(points: Int64[np.ndarray, "t 68 2"], side: int) -> UInt8[np.ndarray, "t 256 256 3"]:
    """White discs on black, 256 x 256, at landmarks in whole pixels of square frames: what the second stage is shown."""
    canvas = np.zeros((len(points), PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    pixels = (points / side * PICTURE_SIZE).astype(np.int64).astype(np.float64)
    return draw_points(canvas, pixels, colour=(255, 255, 255), radius=DOT_RADIUS, disc=True)


def frontal_picture(faces: Float[np.ndarray, "t 68 3"]) -> UInt8[np.ndarray, "t 256 256 3"]:
    """Frontal faces as black discs on white, for looking at."""
    canvas = np.full((len(faces), PICTURE_SIZE, PICTURE_SIZE, 3), 255, np.uint8)
    half = np.float32(PICTURE_SIZE / 2)
    pixels = (faces[..., :2].astype(np.float32) * half + half).astype(np.int64).astype(np.float64)
    return draw_points(canvas, pixels, colour=(0, 0, 0), radius=DOT_RADIUS, disc=True)[:, ::-1]
