"""Faces without a detector."""

import numpy as np

from src.face.landmarks import Face


def cloud(seed: int = 0, centre: tuple[float, float] = (100.0, 80.0), size: float = 60.0) -> np.ndarray:
    """478 points (x, y, z) spread over a disc: enough of a face for geometry."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, 478), np.sqrt(rng.uniform(0, 1, 478)) * size / 2
    return np.stack(
        [centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), rng.normal(0, size / 8, 478)], axis=1
    )


def face_at(x: float, y: float, size: float) -> Face:
    """A face whose box is centred at (x, y)."""
    points = cloud(centre=(x, y), size=size)
    points[:4, :2] = [[x - size / 2, y], [x + size / 2, y], [x, y - size / 2], [x, y + size / 2]]
    return Face(points.astype(np.float32), np.zeros(52, np.float32), np.eye(4, dtype=np.float32))


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """The matrix of a scaling and rotation about the origin, then a shift."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])
