"""The skin of a synthetic head, painted on its canvas: tone, blood, age, beard, lids, lips, brows.

The canvas unrolls face, scalp, ears and neck (`anatomy.canvas`); distances are in units of the distance between the pupils. The places
are those of the average face: an identity's shape carries them along when the texture is drawn.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from src.datamodules.synthetic.anatomy import CANVAS_SIZE, canvas, canvas_grid, canvas_texels
from src.datamodules.synthetic.brushes import (
    Picture,
    Plane,
    Texels,
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
from src.datamodules.synthetic.mesh import smoothstep, unit
from src.datamodules.synthetic.regions import BROW, LOWER_LID, LOWER_LIP, UPPER_LID, UPPER_LIP, mirrored
from src.face.average_face import average_face
from src.face.topology import LIPS_OUTER

_NOSTRIL = np.array([166, 79, 239, 238, 20, 60, 75, 59])
_FOLD = np.array([129, 203, 206, 216, 212])  # from the wing of the nose past the corner of the mouth
_UNDER_EYE = np.array([112, 232, 231, 230, 229, 228])
_LIP_LINE_Y = 1.13
_SHADE = (0.8, 1.0, 1.0)  # folds of the skin keep a little more red than green and blue


@dataclass(frozen=True)
class SkinMap:
    """Where things are on the canvas at one resolution; the same for every identity. Distances are negative inside."""

    x: Plane  # place on the canvas; x is 0 in the middle of the face
    y: Plane
    lips: Plane
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
        return np.exp(-0.5 * (((np.abs(self.x) - x) / rx) ** 2 + ((self.y - y) / ry) ** 2))


@functools.lru_cache(4)
def skin_map(resolution: int) -> SkinMap:
    """Distances from every texel to the features of the average face."""
    grid = canvas_grid(resolution)
    left = grid * [1, 1]  # what comes in pairs is measured in the left half
    left[..., 0] = -np.abs(grid[..., 0])
    face = canvas(average_face())
    crease = face[UPPER_LID[0]] * 0.4 + face[UPPER_LID[1]] * 0.6
    lid = np.concatenate([face[UPPER_LID[0]], face[UPPER_LID[1]][::-1]])
    return SkinMap(
        x=grid[..., 0].astype(np.float32),
        y=grid[..., 1].astype(np.float32),
        lips=outline_distance(grid, smooth_closed(face[LIPS_OUTER]), 0.3),
        lip_line=path_distance(grid, smooth_open((face[UPPER_LIP[3]] + face[LOWER_LIP[3]]) / 2), 0.2),
        nostrils=outline_distance(left, smooth_closed(face[_NOSTRIL]), 0.2),
        upper_rim=path_distance(left, smooth_open(face[UPPER_LID[0]]), 0.2),
        lower_rim=path_distance(left, smooth_open(face[LOWER_LID[0]]), 0.2),
        crease=path_distance(left, smooth_open(crease), 0.2),
        lid=outline_distance(left, smooth_closed(lid), 0.2),
        fold=path_distance(left, smooth_open(face[_FOLD]), 0.4),
        under_eye=path_distance(left, smooth_open(face[_UNDER_EYE]), 0.3),
    )


def paint_skin(identity: Identity, resolution: int, scalp: Plane) -> Texels:
    """The skin of face, scalp, ears, neck and shoulders.

    Args:
        scalp: how densely hair grows on each texel, for the colour of the roots.
    """
    rng = np.random.default_rng([identity.seed, 1])
    where = skin_map(resolution)
    size = (resolution, resolution)
    tone = np.asarray(identity.skin, np.float32)
    skin = np.broadcast_to(tone, (*size, 3)).copy()

    blotches, red_blotches, pores = (noise(rng, (n, n), size) for n in (26, 40, 420))
    _change(skin, 0.025 * blotches + 0.018 * pores)
    _change(skin, 0.03 * red_blotches, (0.4, -0.6, -0.6))
    _paint_blood(skin, where, identity)
    _paint_eye_sockets(skin, where, identity.age)
    _paint_freckles(rng, skin, where, identity.freckles)
    _paint_moles(rng, skin, where)
    _paint_wrinkles(rng, skin, where, identity.age)
    skin = _paint_roots_and_beard(rng, skin, where, identity, scalp, pores)
    skin = _paint_creases(skin, where, identity)
    skin = _paint_lids(skin, where, identity)
    skin, lip_gloss = _paint_lips(rng, skin, where, identity)
    skin = _paint_brows(rng, skin, identity)
    shine = (
        0.22 * where.spot(0, 0.5, 0.1, 0.2)
        + 0.14 * where.spot(0, -0.5, 0.4, 0.2)
        + 0.1 * where.spot(0.6, 0.5, 0.2, 0.15)
    )
    return to_bytes(skin, np.maximum((0.5 + shine) * (1 + 0.12 * pores), lip_gloss))


def _change(picture: Picture, amount: Plane, tint: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """Brighten in place by the share `amount`, times `tint` in each channel; negative amounts darken."""
    picture *= 1 + amount[..., None] * np.array(tint, np.float32)


def _line(distance: Plane, width: float) -> Plane:
    """A soft line where the distance is zero."""
    return np.exp(-0.5 * (distance / width) ** 2)


def _draw_hairs(
    mask: Plane,
    roots: Float64[np.ndarray, "n 2"],
    tips: Float64[np.ndarray, "n 2"],
    width: Float[np.ndarray, " n"] | float,
    tip_width: Float[np.ndarray, " n"] | float,
    opacity: Float[np.ndarray, " n"] | float,
) -> None:
    """Straight hairs between places on the canvas, widths in its unit; changes `mask`."""
    scale = len(mask) / CANVAS_SIZE
    ends = [canvas_texels(places, len(mask)) for places in (roots, tips)]
    columns = [
        np.broadcast_to(values, len(roots))
        for values in (np.multiply(width, scale), np.multiply(tip_width, scale), opacity)
    ]
    paint_strokes(mask, np.concatenate([*ends, np.stack(columns, axis=1)], axis=1))


def _hair_colour(identity: Identity) -> Float32[np.ndarray, " 3"]:
    """Of brows and beard, which whiten with the hair."""
    hair = np.asarray(identity.hair, np.float32)
    return hair + (np.array([0.42, 0.42, 0.41], np.float32) - hair) * np.float32(identity.grey * 0.8)


def _paint_blood(skin: Picture, where: SkinMap, identity: Identity) -> None:
    """Cheeks, nose, chin and ears are redder, the forehead and the sides of the mouth paler; less so in dark skin."""
    blood = 0.9 * where.spot(0.62, 0.62, 0.22, 0.2) + 0.8 * where.spot(0, 0.6, 0.16, 0.14)
    blood += 0.4 * where.spot(0, 1.6, 0.2, 0.12) + 1.2 * where.spot(1.65, 0.3, 0.25, 0.5)
    darkness = 1 - float(np.mean(identity.skin)) / 0.6
    _change(skin, blood * (0.35 + 0.65 * identity.blush) * (1 - 0.45 * darkness), (0.06, -0.17, -0.14))
    pale = 0.5 * where.spot(0.0, -0.5, 0.5, 0.25) + 0.3 * where.spot(0.35, 0.95, 0.1, 0.12)
    _change(skin, pale, (0.03, 0.04, 0.01))


def _paint_eye_sockets(skin: Picture, where: SkinMap, age: float) -> None:
    """Around the eyes the skin is thin: darker, towards violet, more so with age."""
    socket = where.spot(0.42, 0.1, 0.28, 0.12) + 0.6 * where.spot(0.26, 0.02, 0.08, 0.1)
    _change(skin, -(0.1 + 0.14 * age) * socket, (0.8, 1.1, 0.9))
    _change(skin, -(0.05 + 0.2 * age) * _line(where.under_eye, 0.025), _SHADE)


def _paint_freckles(rng: np.random.Generator, skin: Picture, where: SkinMap, strength: float) -> None:
    n = int(260 * strength)
    places = np.stack([rng.normal(0, 0.5, n), rng.normal(0.42, 0.28, n)], axis=1)
    mask = np.zeros_like(where.x)
    width = 2 * rng.uniform(0.006, 0.016, n)
    _draw_hairs(mask, places, places, width, width, rng.uniform(0.2, 0.6, n))
    _change(skin, -mask * smoothstep(where.lips, 0.02, 0.08), (0.3, 0.48, 0.55))


def _paint_moles(rng: np.random.Generator, skin: Picture, where: SkinMap) -> None:
    for _ in range(int(rng.integers(0, 4))):
        x, y, radius = rng.uniform(-0.9, 0.9), rng.uniform(-0.5, 1.6), rng.uniform(0.008, 0.016)
        away = np.hypot(where.x - x, where.y - y)
        _change(skin, -0.65 * smoothstep(away, radius * 1.5, radius * 0.5), (0.75, 0.9, 1.0))


def _paint_wrinkles(rng: np.random.Generator, skin: Picture, where: SkinMap, age: float) -> None:
    """Across the forehead, beside the eyes, between the brows."""
    if age <= 0.3:
        return
    lines = np.zeros_like(where.x)
    for level in (-0.48, -0.56, -0.645):
        bend = 0.03 * np.sin(where.x * rng.uniform(2, 4) + rng.uniform(0, 6)) - 0.05 * where.x**2
        lines += _line(where.y - level - bend, 0.009) * np.exp(-0.5 * (where.x / 0.42) ** 4) * rng.uniform(0.5, 1)
    x, y = np.abs(where.x) - 0.86, where.y - 0.05  # from the outer corner of the eye
    for angle in (-0.35, 0.0, 0.35):
        across, along = np.cos(angle) * y - np.sin(angle) * x, np.cos(angle) * x + np.sin(angle) * y
        lines += 0.8 * _line(across, 0.008) * smoothstep(along, 0.0, 0.03) * smoothstep(along, 0.16, 0.08)
    for middle in (0.045, -0.05):
        lines += 0.7 * _line(where.x - middle, 0.009) * np.exp(-0.5 * ((where.y + 0.24) / 0.06) ** 4)
    _change(skin, -0.55 * (age - 0.3) * np.clip(lines, 0, 1), (0.75, 1.0, 1.0))


def _paint_roots_and_beard(
    rng: np.random.Generator, skin: Picture, where: SkinMap, identity: Identity, scalp: Plane, pores: Plane
) -> Picture:
    """Roots on the scalp, a shaved or grown beard."""
    hair = _hair_colour(identity)
    skin = mix(skin, hair * 1.3 + 0.02, np.clip(scalp, 0, 1) * 0.86 * (0.9 + 0.1 * pores))
    if not identity.stubble:
        return skin
    x, y = np.abs(where.x), where.y
    border = np.interp(x, [0, 0.42, 0.5, 0.75, 1.0, 1.22, 1.4], [0.86, 0.9, 1.2, 1.18, 0.92, 0.5, 0.05]).astype(
        np.float32
    )
    uneven = 0.03 * noise(rng, (60, 60), where.x.shape)
    region = smoothstep(y - border + uneven, -0.03, 0.1) * smoothstep(y, 2.1, 1.8) * smoothstep(x, 1.62, 1.42)
    region = region * smoothstep(where.lips, 0.005, 0.03)
    shaved = region * (0.1 + 0.32 * identity.stubble) * np.clip(0.75 + 0.5 * pores, 0, 1.3)
    skin = mix(skin, hair * 0.8 + np.array([0.03, 0.033, 0.038]), shaved)
    if identity.beard == "none":
        return skin
    moustache = smoothstep(y, 0.84, 0.9) * smoothstep(y, 1.16, 1.05) * smoothstep(x, 0.5, 0.4)
    chin = smoothstep(y, 1.3, 1.4) * smoothstep(x, 0.45, 0.3) + where.spot(0.43, 1.25, 0.06, 0.2)
    grown = {"moustache": moustache, "goatee": np.maximum(moustache, chin), "full": np.ones_like(x)}[identity.beard]
    bare = where.spot(0.17, 1.43, 0.08, 0.06)  # beside the tuft under the lip
    strands = _beard_hairs(rng, where)
    thick = np.clip(region * grown * (1 - 0.5 * bare), 0, 1)
    return mix(skin, hair * (0.75 + 0.55 * strands)[..., None], np.clip(thick * (0.55 + 0.6 * strands), 0, 0.96))


def _beard_hairs(rng: np.random.Generator, where: SkinMap) -> Plane:
    """Hairs that hang down and a little outwards, all over the lower face."""
    n = 5200
    roots = np.stack([rng.uniform(-1.6, 1.6, n), rng.uniform(0.4, 2.0, n)], axis=1)
    length = rng.uniform(0.05, 0.11, n)
    lean = 0.35 * np.clip(roots[:, 0], -1, 1) + rng.normal(0, 0.3, n)
    mask = np.zeros_like(where.x)
    tips = roots + length[:, None] * np.stack([np.sin(lean), np.cos(lean)], axis=1)
    _draw_hairs(mask, roots, tips, 0.014, 0.0056, rng.uniform(0.3, 0.9, n))
    return mask


def _paint_creases(skin: Picture, where: SkinMap, identity: Identity) -> Picture:
    """Shade where the mesh is too coarse for it: nostrils, folds beside nose and mouth, under the lip, the groove above it."""
    dark = np.asarray(identity.skin) * [0.10, 0.055, 0.05]
    skin = mix(skin, dark, 0.93 * smoothstep(where.nostrils, 0.02, -0.012))
    wing = 0.22 * _line(where.fold, 0.03) * smoothstep(where.y, 0.85, 0.6)
    fold = (0.03 + 0.24 * max(identity.age - 0.2, 0)) * _line(where.fold, 0.028)
    _change(skin, -wing, _SHADE)
    _change(skin, -fold, _SHADE)
    _change(skin, -0.1 * where.spot(0, 1.42, 0.22, 0.045), _SHADE)
    _change(skin, -0.07 * (where.spot(0, 0.9, 0.035, 0.09) - 0.5 * where.spot(0.075, 0.9, 0.025, 0.09)))
    return skin


def _paint_lids(skin: Picture, where: SkinMap, identity: Identity) -> Picture:
    """Lids a little darker or made up, their crease, and the roots of the lashes along both rims."""
    darker = np.asarray(identity.skin, np.float32) * np.array([0.55, 0.42, 0.42], np.float32)
    shadow = darker + 0.25 * (0.5 * np.asarray(identity.lip_colour, np.float32) - darker)
    skin = mix(skin, shadow, smoothstep(where.lid, 0.05, -0.02) * (0.12 + 0.6 * identity.eye_shadow))
    _change(skin, -0.4 * _line(where.crease, 0.014), (0.75, 1.0, 1.0))
    upper = smoothstep(where.upper_rim, 0.028, 0.006) * (0.55 + 0.35 * identity.lashes)
    skin = mix(skin, np.array([0.018, 0.012, 0.011]), upper)
    outer = np.clip((np.abs(where.x) - 0.3) / 0.5, 0, 1)
    lower = smoothstep(where.lower_rim, 0.02, 0.008) * (0.15 + 0.25 * identity.lashes * outer)
    return mix(skin, np.array([0.05, 0.03, 0.027]), lower)


def _paint_lips(rng: np.random.Generator, skin: Picture, where: SkinMap, identity: Identity) -> tuple[Picture, Plane]:
    """The lips, and their gloss."""
    tone = np.asarray(identity.skin, np.float32)
    natural = tone * np.array([0.86, 0.52, 0.50], np.float32) + np.array([0.02, 0.0, 0.004], np.float32)
    painted = np.asarray(identity.lip_colour, np.float32) * (0.5 + 0.6 * tone[0])
    lip = natural + (painted - natural) * identity.lip_tint
    inside = smoothstep(where.lips, 0.012, -0.016)
    furrows = noise(rng, (24, 330), where.x.shape)
    light = (1 + 0.06 * furrows) * np.where(where.y < _LIP_LINE_Y, 0.86, 1.04).astype(np.float32)
    skin = mix(skin, lip * light[..., None], inside * (0.78 + 0.2 * identity.lip_tint))
    _change(
        skin, 0.06 * _line(where.lips - 0.012, 0.012) * smoothstep(where.y, 1.14, 1.0)
    )  # the ridge above the upper lip
    gap = _line(where.lip_line, 0.013) * smoothstep(np.abs(where.x), 0.42, 0.37)
    skin = mix(skin, lip * np.array([0.28, 0.2, 0.2]), 0.78 * gap)
    _change(skin, -0.35 * where.spot(0.375, 1.115, 0.028, 0.022))  # the corners
    return skin, inside * (0.72 + 0.25 * identity.lip_tint + 0.1 * furrows)


def _paint_brows(rng: np.random.Generator, skin: Picture, identity: Identity) -> Picture:
    face = canvas(average_face())
    hairs, soft = np.zeros(skin.shape[:2], np.float32), np.zeros(skin.shape[:2], np.float32)
    for border in (face[BROW], face[mirrored()[BROW]]):
        upper, lower = smooth_open(border[0], 6), smooth_open(border[1], 6)  # from outside to inside
        middle, half = (upper + lower) / 2, (lower - upper) / 2 * identity.brow_thickness
        t = np.linspace(0, 1, len(middle))
        middle[:, 1] -= identity.brow_arch * 0.03 * np.sin(np.pi * np.clip(1.1 - t, 0, 1)) ** 2
        half *= (0.35 + 0.65 * smoothstep(t, 0.0, 0.5))[:, None]
        n = int(190 * identity.brow_density)
        along, across = rng.beta(1.15, 1.0, n), np.clip(rng.normal(0, 0.5, n), -1, 1)
        index = np.clip((along * (len(t) - 1)).astype(int), 0, len(t) - 2)
        roots = middle[index] + across[:, None] * half[index]
        # Near the nose the hairs stand up; further out they lie along the brow, from both borders towards its middle.
        rise = 0.8 * smoothstep(along, 0.72, 1.0) + 0.35 * across
        direction = unit(unit(middle[index] - middle[index + 1]) - rise[:, None] * [0.0, 1.0])
        tips = roots + direction * rng.uniform(0.06, 0.12, n)[:, None] * (0.6 + 0.4 * identity.brow_thickness)
        width = rng.uniform(0.011, 0.018, n)
        _draw_hairs(hairs, roots, tips, width, 0.3 * width, rng.uniform(0.45, 0.95, n))
        breadth = np.linalg.norm(half, axis=1) * 1.7
        _draw_hairs(soft, middle[:-1], middle[1:], breadth[:-1], breadth[1:], 0.14)
    brow = np.clip(_hair_colour(identity) * 0.75 + np.asarray(identity.skin, np.float32) * 0.035, 0, 0.3)
    return mix(skin, brow, 1 - (1 - 0.9 * hairs) * (1 - 0.75 * np.clip(soft, 0, 1) * identity.brow_density))
