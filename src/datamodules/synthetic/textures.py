"""The painted surfaces of a synthetic head but its skin and hair: eyes, teeth, lashes, cloth.

Every function returns texels (h, w, 4) as `src.datamodules.synthetic.raster` reads them: colour, and in the fourth byte the gloss (1/2 is
ordinary) or, for lashes, the opacity.
"""

import numpy as np

from src.datamodules.synthetic.anatomy import EYE_REACH, IRIS_ANGLE
from src.datamodules.synthetic.brushes import Texels, mix, noise, paint_strokes, to_bytes
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import smoothstep


def paint_eye(identity: Identity, resolution: int) -> Texels:
    """White, iris and pupil as a disc about the pupil."""
    rng = np.random.default_rng([identity.seed, 2])
    ticks = ((np.arange(resolution) + 0.5) / resolution - 0.5) / 0.48
    x, y = np.meshgrid(ticks, ticks)
    radius, turn = np.hypot(x, y) * EYE_REACH / IRIS_ANGLE, np.arctan2(y, x)  # 1 at the rim of the iris
    size = (resolution, resolution)
    white = np.array([0.70, 0.66, 0.63], np.float32)
    veins = np.clip(noise(rng, (30, 30), size), 0, 2)
    colour = np.broadcast_to(white, (*size, 3)).copy()
    colour *= 1 - (0.1 + 0.12 * smoothstep(radius, 1.3, 2.6) * (1 + 0.6 * veins))[..., None] * np.array(
        [0.35, 1.0, 1.0], np.float32
    )
    iris = np.asarray(identity.iris, np.float32)
    fibres = np.zeros(size, np.float32)
    for n in (23, 41, 67):
        fibres += np.cos(n * turn + rng.uniform(0, 6) + 2 * np.sin(3 * turn + rng.uniform(0, 6))).astype(np.float32) / 3
    inner = smoothstep(radius, 0.75, 0.45)
    shade = (0.85 + 0.35 * fibres * smoothstep(radius, 0.3, 0.6)) * (1 - 0.75 * smoothstep(radius, 0.78, 1.0))
    shade = shade * (
        1 + 0.55 * np.clip(y * EYE_REACH / IRIS_ANGLE, -1, 1)
    )  # light from above collects in the lower half
    warm = mix(np.broadcast_to(iris, colour.shape), iris * np.array([1.4, 1.1, 0.7], np.float32), 0.6 * inner)
    colour = mix(colour, warm * 1.25 * shade[..., None].astype(np.float32), smoothstep(radius, 1.06, 0.95))
    pupil = rng.uniform(0.34, 0.46)
    colour = mix(colour, np.array([0.004, 0.004, 0.005]), smoothstep(radius, pupil + 0.06, pupil - 0.04))
    return to_bytes(colour.astype(np.float32), 0.5)


def paint_teeth(identity: Identity, resolution: int) -> Texels:
    """A row of teeth, cutting edge at v = 0, with the gum above."""
    rng = np.random.default_rng([identity.seed, 3])
    width, height = 2 * resolution, resolution // 2
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    borders = np.array([0.0, 0.062, 0.115, 0.155, 0.19]) * 1.9  # incisors, canine, premolar
    borders = np.concatenate([borders, borders[-1] + 0.055 * np.arange(1, 4)])
    off = np.abs(u - 0.5)
    nearest = np.min(np.abs(off[..., None] - borders * 0.72), axis=-1)
    enamel = np.array([0.66, 0.60, 0.50]) * rng.uniform(0.88, 1.08)
    colour = np.broadcast_to(enamel.astype(np.float32), (height, width, 3)).copy()
    colour *= (1 - 0.55 * smoothstep(nearest, 0.008, 0.001) * smoothstep(v, 0.0, 0.2))[..., None].astype(np.float32)
    colour *= (1 - 0.18 * smoothstep(v, 0.3, 0.7))[..., None].astype(np.float32) * np.array(
        [1.0, 0.98, 0.94], np.float32
    )
    gum = smoothstep(v + 1.2 * np.clip(nearest, 0, 0.03), 0.66, 0.74)
    colour = mix(colour, np.array([0.40, 0.14, 0.13]), gum.astype(np.float32))
    return to_bytes(colour, 0.8)


def paint_flesh(resolution: int) -> Texels:
    """Moist skin from the rims of the lids (v = 0) over tongue and lips to the throat (v = 1)."""
    size = max(resolution // 4, 16)
    v = (np.arange(size) + 0.5) / size
    stops = [0.0, 0.08, 0.13, 0.22, 0.3, 0.5, 0.8, 1.0]
    colours = [
        [0.55, 0.27, 0.24],
        [0.5, 0.22, 0.2],
        [0.46, 0.17, 0.16],
        [0.40, 0.13, 0.13],
        [0.36, 0.11, 0.10],
        [0.26, 0.06, 0.06],
        [0.1, 0.02, 0.02],
        [0.02, 0.005, 0.005],
    ]
    column = np.stack([np.interp(v, stops, channel) for channel in np.array(colours).T], axis=1).astype(np.float32)
    return to_bytes(np.repeat(column[:, None], 4, axis=1), 0.7)


def paint_lashes(identity: Identity, resolution: int, lid: str) -> Texels:
    """Hairs from the rim of a lid (v = 0) outwards; the fourth byte is their opacity."""
    rng = np.random.default_rng([identity.seed, 4, lid == "lower"])
    width, height = 2 * resolution, resolution // 2
    mask = np.zeros((height, width), np.float32)
    n = int((110 if lid == "upper" else 60) * (0.6 + 0.5 * identity.lashes))
    root = np.sort(rng.uniform(0.03, 0.97, n))
    length = rng.uniform(0.45, 0.95, n) * (0.75 + 0.25 * np.abs(root - 0.5) * 2)
    fan = (0.5 - root) * -0.1 + rng.normal(0, 0.012, n)
    thick = resolution * 0.02 * (1.0 if lid == "upper" else 0.6)
    strokes = [
        root * width,
        np.zeros(n),
        (root + fan) * width,
        length * height,
        np.full(n, 1.6 * thick),
        np.full(n, 0.3 * thick),
        np.ones(n),
    ]
    paint_strokes(mask, np.stack(strokes, axis=1))
    if lid == "upper":
        rows = (np.arange(height) + 0.5) / height
        mask = np.maximum(mask, smoothstep(rows, 0.32, 0.12).astype(np.float32)[:, None] * min(identity.lashes, 1.0))
    dark = np.array([0.012, 0.009, 0.009]) + 0.15 * np.asarray(identity.hair)
    return to_bytes(np.broadcast_to(dark.astype(np.float32), (height, width, 3)), mask)


def paint_cloth(identity: Identity, resolution: int) -> Texels:
    """Fabric: u around the body, v from the neck down."""
    rng = np.random.default_rng([identity.seed, 5])
    size = (resolution, 2 * resolution)
    first, second = np.asarray(identity.cloth, np.float32), np.asarray(identity.cloth_second, np.float32)
    u, v = np.meshgrid((np.arange(size[1]) + 0.5) / size[1], (np.arange(size[0]) + 0.5) / size[0])
    weave = noise(rng, (resolution, 2 * resolution), size)
    folds = noise(rng, (5, 22), size)
    colour = np.broadcast_to(first, (*size, 3)).copy()
    if identity.cloth_pattern == "stripes":
        n = rng.integers(5, 12)
        colour = mix(colour, second, smoothstep(np.cos(2 * np.pi * n * v), 0.1, 0.4).astype(np.float32))
    elif identity.cloth_pattern == "checks":
        n, m = rng.integers(5, 9), rng.integers(14, 22)
        bands = smoothstep(np.cos(2 * np.pi * n * v), 0.2, 0.5) + smoothstep(np.cos(2 * np.pi * m * u), 0.2, 0.5)
        colour = mix(colour, second, (0.45 * bands).astype(np.float32))
    elif identity.cloth_pattern == "knit":
        ribs = np.cos(2 * np.pi * 90 * u) * 0.5 + np.cos(2 * np.pi * 45 * v + np.pi * (np.floor(90 * u) % 2)) * 0.2
        colour *= (1 + 0.12 * ribs)[..., None].astype(np.float32)
    colour *= (1 + 0.07 * weave + 0.06 * folds)[..., None]
    hem = smoothstep(v, 0.028, 0.02) * 0.25 + 0.3 * np.exp(-0.5 * ((v - 0.03) / 0.004) ** 2)
    colour *= (1 - hem)[..., None].astype(np.float32)
    return to_bytes(colour, 0.35)


def paint_plain(colour: tuple[float, float, float]) -> Texels:
    """One colour."""
    return to_bytes(np.broadcast_to(np.asarray(colour, np.float32), (4, 4, 3)), 0.8)
