"""The painted surfaces of a synthetic head: skin, eyes, teeth, lashes, cloth.

Every function returns texels (h, w, 4) as `src.datamodules.synthetic.raster` reads them: colour, and in the fourth byte the gloss (1/2 is
ordinary) or, for lashes and hair, the opacity. Distances are in units of the distance between the pupils.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from src.datamodules.synthetic.anatomy import CANVAS_SIZE, EYE_REACH, IRIS_ANGLE, canvas, canvas_grid
from src.datamodules.synthetic.average_face import average_face
from src.datamodules.synthetic.brushes import (
    mix,
    noise,
    outline_distance,
    paint_strokes,
    path_distance,
    smooth_closed,
    smooth_open,
    to_bytes,
)
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import smoothstep
from src.datamodules.synthetic.regions import BROW, LOWER_LID, LOWER_LIP, UPPER_LID, UPPER_LIP, mirrored
from src.face.topology import LIPS_OUTER

Texels = UInt8[np.ndarray, "h w 4"]
Plane = Float32[np.ndarray, "h w"]
Picture = Float32[np.ndarray, "h w 3"]

_NOSTRIL = np.array([166, 79, 239, 238, 20, 60, 75, 59])
_FOLD = np.array([129, 203, 206, 216, 212])  # from the wing of the nose past the corner of the mouth
_UNDER_EYE = np.array([112, 232, 231, 230, 229, 228])


@dataclass(frozen=True)
class SkinMap:
    """Where things are on the skin's canvas at one resolution; the same for every identity."""

    x: Plane  # canvas coordinates; x is 0 in the middle of the face
    y: Plane
    lips: Plane  # signed distances, negative inside
    lip_line: Plane
    nostrils: Plane
    upper_rim: Plane
    lower_rim: Plane
    crease: Plane
    lid: Plane
    fold: Plane
    under_eye: Plane

    def spot(self, x: float, y: float, rx: float, ry: float) -> Plane:
        """A soft spot and its mirror image."""
        return np.exp(-0.5 * (((np.abs(self.x) - abs(x)) / rx) ** 2 + ((self.y - y) / ry) ** 2))


@functools.lru_cache(4)
def skin_map(resolution: int) -> SkinMap:
    """Distances from every texel to the features of the average face."""
    grid = canvas_grid(resolution)
    face = canvas(average_face())
    folded = grid.copy()  # symmetric: everything is measured in the left half
    folded[..., 0] = -np.abs(folded[..., 0])
    crease = face[UPPER_LID[0]] * 0.4 + face[UPPER_LID[1]] * 0.6
    lid = np.concatenate([face[UPPER_LID[0]], face[UPPER_LID[1]][::-1]])
    return SkinMap(
        x=grid[..., 0].astype(np.float32),
        y=grid[..., 1].astype(np.float32),
        lips=outline_distance(grid, smooth_closed(face[LIPS_OUTER]), 0.3),
        lip_line=path_distance(grid, smooth_open((face[UPPER_LIP[3]] + face[LOWER_LIP[3]]) / 2), 0.2)[0],
        nostrils=outline_distance(folded, smooth_closed(face[_NOSTRIL]), 0.2),
        upper_rim=path_distance(folded, smooth_open(face[UPPER_LID[0]]), 0.2)[0],
        lower_rim=path_distance(folded, smooth_open(face[LOWER_LID[0]]), 0.2)[0],
        crease=path_distance(folded, smooth_open(crease), 0.2)[0],
        lid=outline_distance(folded, smooth_closed(lid), 0.2),
        fold=path_distance(folded, smooth_open(face[_FOLD]), 0.4)[0],
        under_eye=path_distance(folded, smooth_open(face[_UNDER_EYE]), 0.3)[0],
    )


# ---- Skin --------------------------------------------------------------------------------------------------------------------


def paint_skin(identity: Identity, resolution: int, scalp: Plane) -> Texels:
    """The skin of face, scalp, ears, neck and shoulders on its canvas.

    Args:
        scalp: how densely hair grows on each texel, for the colour of the roots.
    """
    rng = np.random.default_rng([identity.seed, 1])
    where = skin_map(resolution)
    size = (resolution, resolution)
    skin = np.asarray(identity.skin, np.float32)
    dark = float(1 - skin.mean() / 0.6)  # 0 light skin, ~0.9 dark skin
    colour = np.broadcast_to(skin, (*size, 3)).copy()

    # Uneven tone: blotches, then pores.
    blotches = noise(rng, (26, 26), size)
    red_blotches = noise(rng, (40, 40), size)
    pores = noise(rng, (420, 420), size)
    colour *= (1 + 0.025 * blotches + 0.018 * pores)[..., None]
    colour *= 1 + 0.03 * red_blotches[..., None] * np.array([0.4, -0.6, -0.6], np.float32)

    # Blood: cheeks, nose, ears, chin are redder; forehead and the sides of the mouth paler.
    blood = (
        0.9 * where.spot(0.62, 0.62, 0.22, 0.2)
        + 0.8 * where.spot(0, 0.6, 0.16, 0.14)
        + 0.4 * where.spot(0, 1.6, 0.2, 0.12)
    )
    blood += 1.2 * where.spot(1.65, 0.3, 0.25, 0.5)
    blood = blood * (0.35 + 0.65 * identity.blush) * (1 - 0.45 * dark)
    colour *= 1 + blood[..., None] * np.array([0.06, -0.17, -0.14], np.float32)
    pale = where.spot(0.0, -0.5, 0.5, 0.25) * 0.5 + where.spot(0.35, 0.95, 0.1, 0.12) * 0.3
    colour *= 1 + pale[..., None] * np.array([0.03, 0.04, 0.01], np.float32)

    # Around the eyes the skin is thin: darker, towards violet, more so with age.
    socket = where.spot(0.42, 0.1, 0.28, 0.12) + 0.6 * where.spot(0.26, 0.02, 0.08, 0.1)
    weight = (0.1 + 0.14 * identity.age) * socket
    colour *= 1 - weight[..., None] * np.array([0.8, 1.1, 0.9], np.float32)
    bags = np.exp(-0.5 * (where.under_eye / 0.025) ** 2) * (0.05 + 0.2 * identity.age)
    colour *= 1 - bags[..., None] * np.array([0.8, 1.0, 1.0], np.float32)

    if identity.freckles:
        _freckles(rng, colour, where, identity.freckles)
    _moles(rng, colour, where)
    _wrinkles(rng, colour, where, identity.age)
    colour = _stubble(rng, colour, where, identity, scalp, pores)

    # Creases of shade that the mesh is too coarse for.
    nostril = smoothstep(where.nostrils, 0.02, -0.012)
    colour = mix(colour, skin * np.array([0.10, 0.055, 0.05]), 0.93 * nostril)
    wing = np.exp(-0.5 * ((where.fold - 0.0) / 0.03) ** 2) * smoothstep(where.y, 0.85, 0.6)
    colour *= 1 - (0.22 * wing)[..., None] * np.array([0.8, 1, 1], np.float32)
    fold = np.exp(-0.5 * (where.fold / 0.028) ** 2) * (0.03 + 0.24 * max(identity.age - 0.2, 0))
    colour *= 1 - fold[..., None] * np.array([0.8, 1, 1], np.float32)
    under_lip = where.spot(0, 1.42, 0.22, 0.045)
    colour *= 1 - (0.1 * under_lip)[..., None] * np.array([0.8, 1, 1], np.float32)
    philtrum = where.spot(0, 0.9, 0.035, 0.09) - 0.5 * where.spot(0.075, 0.9, 0.025, 0.09)
    colour *= 1 - (0.07 * philtrum)[..., None]

    colour = _paint_lids(colour, where, identity, skin)
    colour, gloss = _paint_lips(rng, colour, where, identity, skin)
    colour = _paint_brows(rng, colour, identity, resolution)
    shine = (
        0.5
        + 0.22 * where.spot(0, 0.5, 0.1, 0.2)
        + 0.14 * where.spot(0, -0.5, 0.4, 0.2)
        + 0.1 * where.spot(0.6, 0.5, 0.2, 0.15)
    )
    return to_bytes(colour, np.maximum(shine * (1 + 0.12 * pores), gloss))


def _freckles(rng: np.random.Generator, colour: Picture, where: SkinMap, strength: float) -> None:
    n = int(260 * strength)
    x, y = rng.normal(0, 0.5, n), rng.normal(0.42, 0.28, n)
    resolution = len(colour)
    scale = resolution / CANVAS_SIZE
    radius = rng.uniform(0.006, 0.016, n) * scale
    u, v = (x + CANVAS_SIZE / 2) * scale, (y + 2.3) * scale
    mask = np.zeros(colour.shape[:2], np.float32)
    paint_strokes(mask, np.stack([u, v, u + 0.1, v, 2 * radius, 2 * radius, rng.uniform(0.2, 0.6, n)], axis=1))
    colour *= 1 - (mask * smoothstep(where.lips, 0.02, 0.08))[..., None] * np.array([0.3, 0.48, 0.55], np.float32)


def _moles(rng: np.random.Generator, colour: Picture, where: SkinMap) -> None:
    for _ in range(int(rng.integers(0, 4))):
        x, y, radius = rng.uniform(-0.9, 0.9), rng.uniform(-0.5, 1.6), rng.uniform(0.008, 0.016)
        away = np.hypot(where.x - x, where.y - y)
        colour *= 1 - (0.65 * smoothstep(away, radius * 1.5, radius * 0.5))[..., None] * np.array(
            [0.75, 0.9, 1.0], np.float32
        )


def _wrinkles(rng: np.random.Generator, colour: Picture, where: SkinMap, age: float) -> None:
    strength = max(age - 0.3, 0) * 0.55
    if strength <= 0:
        return
    lines = np.zeros_like(where.x)
    for level in (-0.48, -0.56, -0.645):
        bend = 0.03 * np.sin(where.x * rng.uniform(2, 4) + rng.uniform(0, 6)) - 0.05 * where.x**2
        lines += (
            np.exp(-0.5 * ((where.y - level - bend) / 0.009) ** 2)
            * np.exp(-0.5 * (where.x / 0.42) ** 4)
            * rng.uniform(0.5, 1)
        )
    for angle in (-0.35, 0.0, 0.35):
        x, y = np.abs(where.x) - 0.86, where.y - 0.05
        across = -np.sin(angle) * x + np.cos(angle) * y
        along = np.cos(angle) * x + np.sin(angle) * y
        lines += (
            np.exp(-0.5 * (across / 0.008) ** 2) * smoothstep(along, 0.0, 0.03) * smoothstep(along, 0.16, 0.08) * 0.8
        )
    for x in (0.045, -0.05):
        lines += np.exp(-0.5 * ((where.x - x) / 0.009) ** 2) * np.exp(-0.5 * ((where.y + 0.24) / 0.06) ** 4) * 0.7
    colour *= 1 - (strength * np.clip(lines, 0, 1))[..., None] * np.array([0.75, 1.0, 1.0], np.float32)


def _stubble(
    rng: np.random.Generator, colour: Picture, where: SkinMap, identity: Identity, scalp: Plane, pores: Plane
) -> Picture:
    """Roots on the scalp, a shaved or grown beard."""
    hair = _aged_hair(identity)
    colour = mix(colour, hair * 1.3 + 0.02, np.clip(scalp, 0, 1) * 0.86 * (0.9 + 0.1 * pores))
    if identity.masculinity <= 0.6:
        return colour
    x, y = np.abs(where.x), where.y
    upper = np.interp(x, [0, 0.42, 0.5, 0.75, 1.0, 1.22, 1.4], [0.86, 0.9, 1.2, 1.18, 0.92, 0.5, 0.05]).astype(
        np.float32
    )
    wobble = 0.03 * noise(rng, (60, 60), where.x.shape)
    region = smoothstep(y - upper + wobble, -0.03, 0.1) * smoothstep(y, 2.1, 1.8) * smoothstep(x, 1.62, 1.42)
    region = region * smoothstep(where.lips, 0.005, 0.03)
    soul = where.spot(0.17, 1.43, 0.08, 0.06)  # bare skin beside the tuft under the lip
    shaved = region * (0.1 + 0.32 * identity.stubble)
    short = np.clip(0.75 + 0.5 * pores, 0, 1.3)
    colour = mix(colour, hair * 0.8 + np.array([0.03, 0.033, 0.038]), shaved * short)
    if identity.beard == "none":
        return colour
    moustache = smoothstep(y, 0.84, 0.9) * smoothstep(y, 1.16, 1.05) * smoothstep(x, 0.5, 0.4)
    chin = smoothstep(y, 1.3, 1.4) * smoothstep(x, 0.45, 0.3) + where.spot(0.43, 1.25, 0.06, 0.2)
    grown = {"moustache": moustache, "goatee": np.maximum(moustache, chin), "full": np.ones_like(x)}[identity.beard]
    mask = np.zeros_like(x)
    _beard_hairs(rng, mask, where)
    thick = np.clip(region * grown * (1 - 0.5 * soul), 0, 1)
    strands = hair * (0.75 + 0.55 * mask)[..., None]
    return mix(colour, strands, np.clip(thick * (0.55 + 0.6 * mask), 0, 0.96))


def _beard_hairs(rng: np.random.Generator, mask: Plane, where: SkinMap) -> None:
    scale = len(mask) / CANVAS_SIZE
    n = 5200
    x, y = rng.uniform(-1.6, 1.6, n), rng.uniform(0.4, 2.0, n)
    length = rng.uniform(0.05, 0.11, n)
    lean = 0.35 * np.sign(x) * np.minimum(np.abs(x), 1) + rng.normal(0, 0.3, n)
    u, v = (x + CANVAS_SIZE / 2) * scale, (y + 2.3) * scale
    strokes = [u, v, u + np.sin(lean) * length * scale, v + np.cos(lean) * length * scale]
    width = np.full(n, 0.014 * scale)
    paint_strokes(mask, np.stack([*strokes, width, 0.4 * width, rng.uniform(0.3, 0.9, n)], axis=1))


def _aged_hair(identity: Identity) -> Float32[np.ndarray, " 3"]:
    hair = np.asarray(identity.hair, np.float32)
    return hair + (np.array([0.42, 0.42, 0.41], np.float32) - hair) * np.float32(identity.grey * 0.8)


def _paint_lids(colour: Picture, where: SkinMap, identity: Identity, skin: Float32[np.ndarray, " 3"]) -> Picture:
    shadow_colour = mix(skin * np.array([0.55, 0.42, 0.42], np.float32), np.asarray(identity.lip_colour) * 0.5, 0.25)
    lid = smoothstep(where.lid, 0.05, -0.02)
    colour = mix(colour, shadow_colour, lid * (0.12 + 0.6 * identity.eye_shadow))
    crease = np.exp(-0.5 * (where.crease / 0.014) ** 2)
    colour *= 1 - (crease * 0.4)[..., None] * np.array([0.75, 1.0, 1.0], np.float32)
    # The lash line: dark along the rim of the upper lid, faint along the lower one, whose edge is moist and pink.
    outer = np.clip((np.abs(where.x) - 0.3) / 0.5, 0, 1)
    line = smoothstep(where.upper_rim, 0.028, 0.006) * (0.55 + 0.35 * identity.lashes)
    colour = mix(colour, np.array([0.018, 0.012, 0.011]), line)
    lower = smoothstep(where.lower_rim, 0.02, 0.008) * (0.15 + 0.25 * identity.lashes * outer)
    return mix(colour, np.array([0.05, 0.03, 0.027]), lower)


def _paint_lips(
    rng: np.random.Generator, colour: Picture, where: SkinMap, identity: Identity, skin: Float32[np.ndarray, " 3"]
) -> tuple[Picture, Plane]:
    size = where.x.shape
    natural = skin * np.array([0.86, 0.52, 0.50], np.float32) + np.array([0.02, 0.0, 0.004], np.float32)
    painted = np.asarray(identity.lip_colour, np.float32) * (0.5 + 0.6 * skin[0])
    tint = natural + (painted - natural) * identity.lip_tint
    inside = smoothstep(where.lips, 0.012, -0.016)
    furrows = noise(rng, (24, 330), size)
    shade = 1 + 0.06 * furrows
    shade = shade * np.where(where.y < 1.13, 0.86, 1.04).astype(np.float32)
    colour = mix(colour, tint * shade[..., None], inside * (0.78 + 0.2 * identity.lip_tint))
    ridge = np.exp(-0.5 * ((where.lips - 0.012) / 0.012) ** 2) * smoothstep(where.y, 1.14, 1.0)
    colour *= 1 + 0.06 * ridge[..., None]
    gap = np.exp(-0.5 * (where.lip_line / 0.013) ** 2) * smoothstep(np.abs(where.x), 0.42, 0.37)
    colour = mix(colour, tint * np.array([0.28, 0.2, 0.2]), 0.78 * gap)
    corner = where.spot(0.375, 1.115, 0.028, 0.022)
    colour *= 1 - (0.35 * corner)[..., None]
    return colour, inside * (0.72 + 0.25 * identity.lip_tint + 0.1 * furrows)


def _paint_brows(rng: np.random.Generator, colour: Picture, identity: Identity, resolution: int) -> Picture:
    face = canvas(average_face())
    scale = resolution / CANVAS_SIZE
    mask = np.zeros(colour.shape[:2], np.float32)
    soft = np.zeros_like(mask)
    for side in (-1.0, 1.0):
        border = face[BROW] if side < 0 else face[mirrored()[BROW]]
        upper, lower = smooth_open(border[0], 6), smooth_open(border[1], 6)
        middle, half = (upper + lower) / 2, (lower - upper) / 2 * identity.brow_thickness
        t = np.linspace(0, 1, len(middle))
        middle[:, 1] -= identity.brow_arch * 0.03 * np.sin(np.pi * np.clip(1.1 - t, 0, 1)) ** 2
        half *= (0.35 + 0.65 * smoothstep(t, 0.0, 0.5))[:, None]
        n = int(190 * identity.brow_density)
        along, across = rng.beta(1.15, 1.0, n), np.clip(rng.normal(0, 0.5, n), -1, 1)
        index = np.clip((along * (len(t) - 1)).astype(int), 0, len(t) - 2)
        root = middle[index] + across[:, None] * half[index]
        direction = middle[index] - middle[index + 1]  # outwards
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        # Near the nose the hairs stand up; further out they lie along the brow, from both borders towards its middle.
        rise = 0.8 * smoothstep(along, 0.72, 1.0) + 0.35 * across
        direction += np.stack([np.zeros(n), -rise], axis=1)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        tip = root + direction * rng.uniform(0.06, 0.12, n)[:, None] * (0.6 + 0.4 * identity.brow_thickness)
        corner = np.array([CANVAS_SIZE / 2, 2.3])
        ends = [(root + corner) * scale, (tip + corner) * scale]
        width = rng.uniform(0.011, 0.018, n) * scale
        paint_strokes(
            mask,
            np.concatenate([*ends, width[:, None], 0.3 * width[:, None], rng.uniform(0.45, 0.95, n)[:, None]], axis=1),
        )
        body = [(middle[:-1] + corner) * scale, (middle[1:] + corner) * scale]
        breadth = np.linalg.norm(half, axis=1) * 1.7 * scale
        paint_strokes(
            soft, np.concatenate([*body, breadth[:-1, None], breadth[1:, None], np.full((len(t) - 1, 1), 0.14)], axis=1)
        )
    brow = np.clip(_aged_hair(identity) * 0.75 + np.asarray(identity.skin, np.float32) * 0.035, 0, 0.3)
    cover = 1 - (1 - 0.9 * mask) * (1 - 0.75 * np.clip(soft, 0, 1) * identity.brow_density)
    return mix(colour, brow, cover)


# ---- Eyes and mouth ----------------------------------------------------------------------------------------------------------


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


# ---- Things ------------------------------------------------------------------------------------------------------------------


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
