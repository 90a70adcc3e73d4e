"""Where a synthetic head is, and how it is turned."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head is in every frame: angles in radians, shifts in distances between the pupils."""

    yaw: Float64[np.ndarray, " t"]  # positive: the face turns to the right of the picture
    pitch: Float64[np.ndarray, " t"]  # positive: down
    roll: Float64[np.ndarray, " t"]  # positive: clockwise in the picture
    shift: Float64[np.ndarray, "t 3"]
    sway: Float64[np.ndarray, "t 3"]  # of the shoulders

    def __len__(self) -> int:
        return len(self.yaw)

    def __getitem__(self, frames: slice) -> "Pose":
        return Pose(**{field.name: getattr(self, field.name)[frames] for field in fields(self)})

    @classmethod
    def still(cls, n_frames: int, yaw: float = 0.0, pitch: float = 0.0) -> "Pose":
        """No motion."""
        zero, at_rest = np.zeros(n_frames), np.zeros((n_frames, 3))
        return cls(yaw=zero + yaw, pitch=zero + pitch, roll=zero, shift=at_rest, sway=at_rest)

    def rotation(self) -> Float64[np.ndarray, "t 3 3"]:
        """Matrices R with x_camera = R x_head."""
        return rotations(self.yaw, self.pitch, self.roll)


def rotations(
    yaw: Float64[np.ndarray, " t"], pitch: Float64[np.ndarray, " t"], roll: Float64[np.ndarray, " t"] | float = 0.0
) -> Float64[np.ndarray, "t 3 3"]:
    """Matrices that nod by `pitch`, then turn by `yaw`, then tilt by `roll`; angles as in `Pose`."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll + np.zeros_like(yaw)))
    zero, one = np.zeros_like(cy), np.ones_like(cy)

    def matrix(*rows: tuple[np.ndarray, ...]) -> Float64[np.ndarray, "t 3 3"]:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    turn = matrix((cy, zero, -sy), (zero, one, zero), (sy, zero, cy))
    nod = matrix((one, zero, zero), (zero, cp, -sp), (zero, sp, cp))
    tilt = matrix((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return _product(tilt, _product(turn, nod))


def _product(a: Float64[np.ndarray, "*t 3 3"], b: Float64[np.ndarray, "*t n 3"]) -> Float64[np.ndarray, "*t 3 3"]:
    """Matrix product without BLAS, whose last bits may depend on the number of threads."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2)
