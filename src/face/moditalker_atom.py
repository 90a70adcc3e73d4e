"""Geometry of faces for AToM (MoDiTalker, arXiv:2403.19144): landmarks without head pose, and back onto a moving head.

Frontal faces have 68 iBUG points in decimetres, x to the right of the picture, y **up**, z towards the viewer. The network's unit is
another: 10 times the displacement from a neutral face. Landmarks of pictures are pixels, y down, z away from the viewer.

Heads are found by MediaPipe's spatial landmarks alone, with a similarity fitted to points that expressions do not move (`fit_heads`). The
original's way, by a 3D morphable face model, is `src.face.moditalker_atom_exact`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from src.errors import FaceError
from src.face.average_face import average_face
from src.face.drawing import draw_points
from src.face.landmarks import to_ibug68
from src.face.topology import IBUG68

NETWORK_UNIT = 10.0  # of a decimetre
N_VALUES = 3 * 68  # of a face
PUPIL_DISTANCE = 0.62  # decimetres: the unit of the average face; the original's standard face has it, too
STABLE_POINTS = (*range(27, 36), 36, 39, 42, 45)  # nose and eye corners: speech does not move them
EYE_CORNERS = ((33, 133), (362, 263))  # of MediaPipe's mesh
PICTURE_SIZE, DOT_RADIUS = 256, 3  # of landmark pictures


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


# --- heads


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
        enlargement: about the middle of the stable points; `moditalker_atom_exact.ENLARGEMENT` for the original's second stage.
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
