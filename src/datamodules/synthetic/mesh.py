"""Triangle meshes made of parts, and the simple surfaces that parts are made of.

Triangles are clockwise on the screen where their front is seen (y points down), as in MediaPipe's tesselation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int, Int32


@dataclass(frozen=True, kw_only=True)
class Part:
    """One surface of one material, in the frame of the head at rest."""

    name: str
    material: str
    points: Float[np.ndarray, "v 3"]
    triangles: Int[np.ndarray, "f 3"]  # indices into `points`
    uv: Float[np.ndarray, "v 2"]  # place in the material's texture, [0, 1]
    anchor: Int[np.ndarray, " v"] | int = 0  # point of the face whose motion a vertex copies ...
    follow: Float[np.ndarray, " v"] | float = 0.0  # ... by this share
    head: Float[np.ndarray, " v"] | float = 1.0  # 1 turns with the head, 0 stays with the body
    openness: Float[np.ndarray, " v"] | float | None = None  # share of the sky that is seen; None: computed


@dataclass(frozen=True)
class Mesh:
    """All parts together; `parts` and `faces` say which vertices and triangles belong to which."""

    points: Float32[np.ndarray, "v 3"]
    triangles: Int32[np.ndarray, "f 3"]
    uv: Float32[np.ndarray, "v 2"]
    material: Int32[np.ndarray, " f"]
    anchor: Int32[np.ndarray, " v"]
    follow: Float32[np.ndarray, " v"]
    head: Float32[np.ndarray, " v"]
    openness: Float32[np.ndarray, " v"]  # NaN: to be computed
    parts: dict[str, slice] = field(default_factory=dict)
    faces: dict[str, slice] = field(default_factory=dict)


def assemble(parts: Sequence[Part], materials: Sequence[str]) -> Mesh:
    """One mesh of all parts; materials become indices into `materials`."""

    def column(values: Sequence[Float[np.ndarray, " v"] | float | None]) -> Float32[np.ndarray, " v"]:
        filled = [
            np.full(len(p.points), np.nan) if v is None else np.zeros(len(p.points)) + v
            for p, v in zip(parts, values, strict=True)
        ]
        return np.concatenate(filled).astype(np.float32)

    vertex_ends = np.cumsum([len(p.points) for p in parts])
    face_ends = np.cumsum([len(p.triangles) for p in parts])
    vertices = {p.name: slice(int(end) - len(p.points), int(end)) for p, end in zip(parts, vertex_ends, strict=True)}
    faces = {p.name: slice(int(end) - len(p.triangles), int(end)) for p, end in zip(parts, face_ends, strict=True)}
    return Mesh(
        points=np.concatenate([p.points for p in parts]).astype(np.float32),
        triangles=np.concatenate([p.triangles + vertices[p.name].start for p in parts]).astype(np.int32),
        uv=np.concatenate([p.uv for p in parts]).astype(np.float32),
        material=np.repeat([materials.index(p.material) for p in parts], [len(p.triangles) for p in parts]).astype(
            np.int32
        ),
        anchor=column([p.anchor for p in parts]).astype(np.int32),
        follow=column([p.follow for p in parts]),
        head=column([p.head for p in parts]),
        openness=column([p.openness for p in parts]),
        parts=vertices,
        faces=faces,
    )


def grid_triangles(rows: int, columns: int, *, closed: bool = False, flip: bool = False) -> Int[np.ndarray, "f 3"]:
    """Triangles of a grid of `rows` x `columns` vertices in row-major order; `closed` joins the last column to the first."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    a = (r * columns + c).ravel()
    b = (r * columns + (c + 1) % columns).ravel()
    triangles = np.concatenate([np.stack([a, a + columns, b], 1), np.stack([b, a + columns, b + columns], 1)])
    return triangles[:, ::-1] if flip else triangles


def grid_uv(rows: int, columns: int) -> Float[np.ndarray, "v 2"]:
    """Texture coordinates of a grid: u along the columns, v along the rows."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack([u.ravel(), v.ravel()], axis=1)


def smoothstep(x: Float[np.ndarray, "..."] | float, low: float, high: float) -> Float[np.ndarray, "..."]:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def unit(vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """The vectors scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slerp(
    start: Float[np.ndarray, "*n 3"], end: Float[np.ndarray, "*n 3"], t: Float[np.ndarray, "*n"] | float
) -> Float[np.ndarray, "*n 3"]:
    """Directions on the way from `start` (t = 0) to `end` (t = 1), all unit vectors."""
    angle = np.arccos(np.clip((start * end).sum(axis=-1, keepdims=True), -1, 1))
    t = np.asarray(t)[..., None]
    return (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.maximum(np.sin(angle), 1e-6)
