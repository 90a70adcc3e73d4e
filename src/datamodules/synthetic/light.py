"""The lights of an identity's room, and how much of them reaches each vertex of its head at rest."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32
from numba import njit

from src.datamodules.synthetic import raster
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import Mesh, smoothstep

_RESOLUTION = 160  # of the relief in which shadows are looked for
_EXTENT = 2.4  # half its side
_CASTERS = ("skin", "ear", "hair", "hair_inner", "cloth", "scarf")


def lights(identity: Identity) -> Float32[np.ndarray, "l 6"]:
    """The light table of `src.datamodules.synthetic.raster`."""
    table = np.zeros((raster.N_LIGHT_ROWS, 6), np.float32)
    key = _direction(identity.key_azimuth, identity.key_elevation)
    warm = np.array([1 + 0.10 * identity.key_warmth, 1.0, 1 - 0.14 * identity.key_warmth])
    strength = 0.62 + 0.42 * identity.key_strength
    soft = 1.42 - strength  # what the key light lacks, the room gives
    table[raster.KEY_LIGHT] = [*key, *(strength * warm)]
    table[raster.FILL_LIGHT] = [*_direction(-1.3 * np.sign(identity.key_azimuth), 0.1), *(0.30 * soft * warm[::-1])]
    table[raster.RIM_LIGHT] = [
        *_direction(-2.4 * np.sign(identity.key_azimuth), 0.5),
        *(identity.rim_strength * warm[::-1]),
    ]
    room = np.asarray(identity.background_colours[0])
    room = 0.75 + 0.25 * room / room.mean()
    table[raster.AMBIENT] = [*(0.34 * soft * room), *(0.2 * soft * room * np.array([1.06, 1.0, 0.94]))]
    halfway = key + np.array([0.0, 0.0, -1.0])
    table[raster.HALFWAY, :3] = halfway / np.linalg.norm(halfway)
    return table


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector towards a light; azimuth 0 is the camera's side."""
    return np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)])


def openness_and_key(mesh: Mesh, identity: Identity, materials: Sequence[str]) -> Float32[np.ndarray, "v 2"]:
    """Shares of the sky and of the key light that each vertex sees, looked for in the relief of the head from in front."""
    relief = _relief(mesh, materials)
    normals = raster.vertex_normals(mesh.points, mesh.triangles)
    golden = np.pi * (3 - np.sqrt(5))
    n = np.arange(40)
    z = 1 - 2 * (n + 0.5) / len(n)
    sky = np.stack([np.sqrt(1 - z**2) * np.cos(golden * n), np.sqrt(1 - z**2) * np.sin(golden * n), z], axis=1).astype(
        np.float32
    )
    openness = _visible(mesh.points, normals, relief, sky, 0.9, True)
    key = _direction(identity.key_azimuth, identity.key_elevation)
    spread = np.random.default_rng(0).normal(0, 0.13, (20, 3))
    towards = (key + spread).astype(np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    lit = _visible(mesh.points, normals, relief, towards, 1.6, False)
    # The relief knows nothing of what it does not show: sides that face away get ordinary values.
    away = smoothstep(normals[:, 2], -0.15, 0.25)
    openness = 0.25 + 0.75 * (openness + (0.75 - openness) * away)
    lit = lit + (0.85 - lit) * away
    openness, lit = (_spread(values, mesh.triangles, 2) for values in (openness, lit))
    given = ~np.isnan(mesh.openness)
    openness[given] = mesh.openness[given]
    lit[given] = mesh.openness[given]
    return np.stack([openness, lit], axis=1).astype(np.float32)


def _spread(
    values: Float32[np.ndarray, " v"], triangles: Int32[np.ndarray, "f 3"], times: int
) -> Float32[np.ndarray, " v"]:
    """Values blurred over the mesh: each vertex takes half of the mean of its triangles."""
    for _ in range(times):
        mean = values[triangles].mean(axis=1)
        total, count = np.zeros_like(values), np.full_like(values, 1e-6)
        for corner in range(3):
            np.add.at(total, triangles[:, corner], mean)
            np.add.at(count, triangles[:, corner], 1)
        values = 0.5 * values + 0.5 * np.where(count > 0.5, total / count, values)
    return values


def _relief(mesh: Mesh, materials: Sequence[str]) -> Float32[np.ndarray, "r r"]:
    """Depth of the head at rest, seen from in front without perspective."""
    casting = np.isin(mesh.material, [materials.index(name) for name in _CASTERS])
    screen = mesh.points.copy()
    screen[:, 0] = (mesh.points[:, 0] / _EXTENT + 1) / 2 * _RESOLUTION - 0.5
    screen[:, 1] = ((mesh.points[:, 1] - 0.1) / _EXTENT + 1) / 2 * _RESOLUTION - 0.5
    depth, owner = np.empty((_RESOLUTION, _RESOLUTION), np.float32), np.empty((_RESOLUTION, _RESOLUTION), np.int16)
    solid = np.zeros((len(materials), raster.N_MATERIAL_COLUMNS), np.float32)
    solid[:, raster.TWO_SIDED] = 1
    triangles: Int32[np.ndarray, "f 3"] = mesh.triangles[casting]
    attributes = np.zeros((len(screen), raster.N_ATTRIBUTES), np.float32)
    raster.cover(screen, attributes, triangles, mesh.material[casting], solid, np.zeros((1, 4), np.uint8), depth, owner)
    return depth


@njit(cache=True, nogil=True, fastmath=True)
def _visible(
    points: Float32[np.ndarray, "v 3"],
    normals: Float32[np.ndarray, "v 3"],
    relief: Float32[np.ndarray, "r r"],
    directions: Float32[np.ndarray, "d 3"],
    reach: float,
    weighted: bool,
) -> Float32[np.ndarray, " v"]:
    """Share of the directions in which nothing stands in the way within `reach`; `weighted` by the cosine to the normal."""
    seen = np.ones(len(points), np.float32)
    steps = 11
    for v in range(len(points)):
        total, free = 1e-6, 0.0
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        for d in range(len(directions)):
            dx, dy, dz = directions[d, 0], directions[d, 1], directions[d, 2]
            cosine = dx * nx + dy * ny + dz * nz
            if cosine <= 0.02 and weighted:
                continue
            weight = cosine if weighted else 1.0
            clear = 1.0
            for step in range(steps):
                t = reach * ((step + 1.0) / steps) ** 1.6
                x = points[v, 0] + nx * 0.02 + dx * t
                y = points[v, 1] + ny * 0.02 + dy * t
                z = points[v, 2] + nz * 0.02 + dz * t
                column = int((x / _EXTENT + 1) / 2 * _RESOLUTION)
                row = int(((y - 0.1) / _EXTENT + 1) / 2 * _RESOLUTION)
                if column < 0 or row < 0 or column >= _RESOLUTION or row >= _RESOLUTION:
                    break
                behind = z - relief[row, column]
                if behind > 0.03 + 0.04 * t and behind < 0.9:
                    clear = 0.0
                    break
            total += weight
            free += weight * clear
        seen[v] = free / total
    return seen
