"""What a synthetic head wears below the neck."""

import numpy as np

from src.datamodules.synthetic.anatomy import body_surface
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import Part, grid_triangles, grid_uv, smoothstep

# Where the neckline runs (level of `body_surface` at the back and in front), how thick the cloth is, and how far it stands off at its rim.
_NECKLINES = {
    "crew": (2.55, 2.85, 0.05, 0.0),
    "shirt": (2.45, 3.3, 0.05, 0.02),
    "turtleneck": (1.55, 1.75, 0.07, 0.01),
    "wide": (3.1, 3.9, 0.04, 0.0),
    "hood": (2.3, 2.9, 0.11, 0.14),
}
_COLUMNS = 31


def clothing(identity: Identity) -> list[Part]:
    """A garment around neck and shoulders, and the folded collar of a shirt."""
    behind, ahead, thickness, stand = _NECKLINES[identity.collar]
    angles = np.linspace(-np.pi, np.pi, _COLUMNS)
    rim = behind + (ahead - behind) * np.exp(-0.5 * (angles / 0.75) ** 2)
    t = np.concatenate([[0.0, 0.0, 0.02], np.linspace(0.1, 1, 8)])
    level = rim[None, :] + t[:, None] * (6.7 - rim[None, :])
    outward = thickness + stand * np.exp(-t / 0.06)
    outward[0] = -0.02  # the rim turns in to the skin
    garment = _cloth("cloth", level, angles, outward[:, None], identity, 0.0)
    if identity.collar != "shirt":
        return [garment]
    t = np.linspace(0, 1, 7)
    top = 1.9 + 0.75 * np.exp(-0.5 * (angles / 0.4) ** 2)
    level = top[None, :] + t[:, None] * (0.95 - 0.35 * np.exp(-0.5 * (angles / 0.3) ** 2))[None, :]
    outward = (
        0.05
        + 0.1 * smoothstep(t, 0.05, 0.8)[:, None]
        + 0.05 * t[:, None] * np.exp(-0.5 * ((np.abs(angles) - 0.5) / 0.25) ** 2)[None, :]
    )
    return [garment, _cloth("collar", level, angles, outward, identity, 0.06)]


def _cloth(
    name: str, level: np.ndarray, angles: np.ndarray, outward: np.ndarray, identity: Identity, v_start: float
) -> Part:
    angle = np.broadcast_to(angles, level.shape)
    points = body_surface(level, angle, identity.neck_width, identity.shoulders, np.broadcast_to(outward, level.shape))
    uv = grid_uv(*level.shape)
    uv[:, 1] = v_start + uv[:, 1] * (1 - v_start)
    return Part(
        name=name,
        material="cloth",
        points=points.reshape(-1, 3),
        triangles=grid_triangles(*level.shape),
        uv=uv,
        head=0.6 * smoothstep(level.ravel(), 3.0, 1.2),
    )
