"""Hair, and what is worn instead of it.

A style is a few sheets of strands over the skull, each a grid whose columns are strands from root to tip. Two ways of laying the strands
cover all styles: around a whorl on the crown down to the hairline (short hair), or from a parting to both sides and on towards the
shoulders (long hair). The strands are painted with gaps and uneven ends, and the sheets lie over one another, so that the outline is
that of hair and not of a helmet.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from src.datamodules.synthetic.anatomy import (
    CANVAS_AXIS,
    CANVAS_RADIUS,
    SKULL_CENTRE,
    SKULL_RADII,
    body_surface,
    canvas_grid,
    on_skull,
)
from src.datamodules.synthetic.brushes import Plane, Texels, mix, noise, smooth_closed, to_bytes
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import Part, grid_triangles, slerp, smoothstep, unit
from src.face.average_face import average_face
from src.face.topology import FACE_OVAL

# The hairline: elevation in degrees by azimuth, both seen from the skull's centre; azimuth 0 is in front. It dips at the sideburns, passes
# over the ears and ends in the neck.
_AZIMUTHS = np.array([0, 14, 28, 40, 50, 58, 66, 72, 78, 84, 100, 112, 140, 180.0])
_HAIRLINE = np.array([21, 22.5, 23, 18, 9, 0, -13, -22, -20, -12, -12, -28, -38, -40.0])
_RECEDED = np.array([34, 42, 44, 34, 16, 0, -14, -21, -20, -12, -12, -28, -38, -40.0])
_BALD = np.array([80, 80, 70, 50, 22, 4, -10, -18, -18, -10, -6, -16, -30, -36.0])


@dataclass(frozen=True)
class Cut:
    """How a style is built: thickness of the hair above the skull, and how far it falls."""

    top: float = 0.0  # thickness on the crown
    side: float = 0.0  # and above the ears
    front: float = 0.0  # extra height above the forehead
    parted: bool = False
    length: float = 0.0  # height y that the tips of falling hair reach; 0: no falling hair
    wave: float = 0.0  # amplitude of waves in falling hair
    lumps: float = 0.0  # amplitude of bumps of the surface
    curly: float = 0.0  # 0 straight strands .. 1 curls
    ragged: float = 0.05  # unevenness of the tips, in lengths of the strands
    strand: float = 0.1  # length over which the eye follows one strand, in lengths from root to tip
    roots: float = 0.8  # how much the scalp is darkened by roots
    spread: float = 0.0  # how far falling hair stands off


_CUTS = {
    "bald": Cut(roots=0.12),
    "receding": Cut(top=0.07, side=0.07, roots=0.6, strand=0.16),
    "buzz": Cut(top=0.04, side=0.025, roots=0.85, curly=0.25, strand=0.03),
    "crop": Cut(top=0.17, side=0.07, front=0.04, lumps=0.014, strand=0.14),
    "side_part": Cut(top=0.19, side=0.07, front=0.1, lumps=0.012, strand=0.3),
    "quiff": Cut(top=0.2, side=0.05, front=0.26, lumps=0.02, strand=0.22),
    "curls": Cut(top=0.26, side=0.17, front=0.08, ragged=0.02, lumps=0.05, curly=0.75, strand=0.08),
    "afro": Cut(top=0.5, side=0.42, front=0.1, ragged=0.02, lumps=0.03, curly=1.0, strand=0.04),
    "bob": Cut(top=0.17, side=0.15, parted=True, length=1.5, ragged=0.05, lumps=0.012, spread=0.1, strand=0.5),
    "long": Cut(top=0.15, side=0.12, parted=True, length=3.1, ragged=0.08, lumps=0.012, spread=0.08, strand=0.4),
    "long_wavy": Cut(
        top=0.2,
        side=0.2,
        parted=True,
        length=2.9,
        wave=0.07,
        ragged=0.1,
        lumps=0.025,
        curly=0.25,
        spread=0.2,
        strand=0.3,
    ),
    "tied_back": Cut(top=0.09, side=0.07, ragged=0.01, roots=0.9, strand=0.6),
    "headscarf": Cut(roots=0.0),
}


def _elevation(identity: Identity, azimuth: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Elevation of this person's hairline, radians."""
    table = {"receding": _RECEDED, "bald": _BALD}.get(identity.hair_style, _HAIRLINE)
    away = np.abs(np.degrees(azimuth))
    higher = (
        identity.hairline * smoothstep(away, 60, 30)
        + identity.widows_peak * np.sin(np.radians(np.clip(away, 0, 50) * 3.6)) ** 2
    )
    return np.radians(np.interp(away, _AZIMUTHS, table) + higher)


def _direction(azimuth: Float64[np.ndarray, "*n"], elevation: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n 3"]:
    return np.stack(
        [np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)], axis=-1
    )


def scalp_density(identity: Identity, resolution: int) -> Float32[np.ndarray, "r r"]:
    """How much of each texel of the skin's canvas roots of hair cover."""
    rng = np.random.default_rng([identity.seed, 6])
    grid = canvas_grid(resolution)
    angle, y = grid[..., 0] / CANVAS_RADIUS, grid[..., 1]
    # The canvas is wound about an axis: where does the ray from there, at this height and angle, leave the skull?
    rest = np.maximum(1 - ((y - SKULL_CENTRE[1]) / SKULL_RADII[1]) ** 2, 0.02)
    sin, cos, offset = np.sin(angle), np.cos(angle), CANVAS_AXIS - SKULL_CENTRE[2]
    a = (sin / SKULL_RADII[0]) ** 2 + (cos / SKULL_RADII[2]) ** 2
    b = -2 * offset * cos / SKULL_RADII[2] ** 2
    c = (offset / SKULL_RADII[2]) ** 2 - rest
    radius = (-b + np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / (2 * a)
    x, z = radius * sin, offset - radius * cos
    azimuth, elevation = np.arctan2(x, -z), np.arctan2(SKULL_CENTRE[1] - y, np.hypot(x, z))
    above = np.degrees(elevation - _elevation(identity, azimuth)) + 1.5 * noise(rng, (90, 90), (resolution, resolution))
    cut = _CUTS[identity.hair_style]
    start = 6.0 if cut.parted else -2.0
    return (smoothstep(above, start, start + 6.0) * cut.roots).astype(np.float32)


def covers_ears(identity: Identity) -> bool:
    """Whether the ears are out of sight."""
    return _CUTS[identity.hair_style].parted or identity.hair_style == "headscarf"


def build_hair(identity: Identity) -> list[Part]:
    """The sheets of hair around the average face; empty for bald heads."""
    cut = _CUTS[identity.hair_style]
    if identity.hair_style == "headscarf":
        return _headscarf(identity)
    parts = []
    if cut.top > 0:
        layers = ((1.0, "hair", 0.0), (0.86, "hair", 0.37), (1.1, "hair_wisps", 0.61))
        if identity.hair_style in ("buzz", "tied_back"):
            layers = ((0.8, "hair", 0.0), (1.05, "hair_wisps", 0.37))
        lay = _parted if cut.parted else _whorl
        parts += [lay(identity, cut, layer, *sheet) for layer, sheet in enumerate(layers)]
    if identity.hair_style == "tied_back":
        parts.append(_bun(identity))
    if identity.fringe and cut.parted:
        parts += [_fringe(identity, cut, layer) for layer in range(2)]
    return parts


def _lumps(rng: np.random.Generator, cut: Cut, directions: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n"]:
    """Bumps of the surface: waves in random directions over the head."""
    bumps = np.zeros(directions.shape[:-1])
    n = 14
    for _ in range(n):
        frequency = rng.normal(0, 3.5 + 5 * cut.curly, 3)
        bumps += np.sin((directions * frequency).sum(axis=-1) + rng.uniform(0, 2 * np.pi))
    return cut.lumps * bumps / np.sqrt(n / 2) * 1.2


def _thickness(
    identity: Identity, cut: Cut, directions: Float64[np.ndarray, "*n 3"], along: Float64[np.ndarray, "*n"]
) -> Float64[np.ndarray, "*n"]:
    """Height of the hair above the skull; where strands end on the skin (along -> 1) it tapers to nothing."""
    up = smoothstep(-directions[..., 1], -0.1, 0.75)
    ahead = smoothstep(-directions[..., 2], 0.15, 0.8) * up
    thick = (cut.side + (cut.top - cut.side) * up + cut.front * ahead) * identity.hair_volume
    if cut.parted:
        return thick * (1 - 0.35 * smoothstep(along, 0.8, 1.0)) + 0.012
    ahead = np.maximum(smoothstep(-directions[..., 2], 0.35, 0.8), cut.curly)
    swept, faded = np.sqrt(np.clip(1 - along**6, 0, 1)), np.clip(1 - along**2, 0, 1) ** 0.8
    return thick * (faded + (swept - faded) * ahead) + 0.012


def _whorl(identity: Identity, cut: Cut, layer: int, thickness: float, material: str, shift: float) -> Part:
    """Strands from the crown to the hairline, all around."""
    rng = np.random.default_rng([identity.seed, 7])
    columns, rows = 44, 9
    if identity.hair_style == "tied_back":
        pole = unit(np.array([0.0, -0.55, 0.85]))
    elif identity.hair_style in ("side_part", "quiff", "receding"):
        pole = unit(np.array([0.35 * identity.part, -1.0, 0.15]))
    else:
        pole = unit(np.array([0.15 * identity.part, -1.0, 0.3]))
    azimuth = np.linspace(-np.pi, np.pi, columns + 1)
    edge = _direction(azimuth, _elevation(identity, azimuth) - (0.02 if material == "hair" else -0.01))
    along = 1 - (1 - np.linspace(0.0, 1.0, rows)) ** 1.5  # closer rows where the hair meets the skin
    t, _ = np.meshgrid(along, azimuth, indexing="ij")
    start = np.broadcast_to(pole, (rows, columns + 1, 3))
    directions = unit(slerp(start, np.broadcast_to(edge, start.shape), t))
    height = _thickness(identity, cut, directions, t) * thickness + _lumps(rng, cut, directions) * smoothstep(
        1 - t, 0.0, 0.3
    )
    if identity.hair_style in ("side_part", "quiff"):  # swept to one side
        height += (
            0.06 * identity.part * directions[..., 0] * cut.front / 0.1 * smoothstep(-directions[..., 1], 0.2, 0.8)
        )
    points = on_skull(directions) + directions * np.maximum(height, 0.012)[..., None]
    u = np.broadcast_to((azimuth / (2 * np.pi) + 0.5 + shift) * 0.98, t.shape)
    return _sheet(f"hair_{layer}", material, points, np.stack([_wrap(u), t], axis=-1), np.ones_like(t))


def _wrap(u: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Fold texture coordinates beyond 1 back, without a seam."""
    return 1 - np.abs(1 - np.mod(u, 2.0))


def _sheet(
    name: str,
    material: str,
    points: Float[np.ndarray, "r c 3"],
    uv: Float[np.ndarray, "r c 2"],
    head: Float[np.ndarray, "r c"],
    *,
    flip: bool = False,
) -> Part:
    rows, columns = points.shape[:2]
    return Part(
        name=name,
        material=material,
        points=points.reshape(-1, 3),
        triangles=grid_triangles(rows, columns, flip=flip),
        uv=uv.reshape(-1, 2),
        head=head.ravel(),
    )


def _parted(identity: Identity, cut: Cut, layer: int, thickness: float, material: str, shift: float) -> Part:
    """Strands from a parting to both sides, along the forehead and over the ears, then down."""
    rng = np.random.default_rng([identity.seed, 8])
    half, on_scalp, falling = 17, 8, 7
    s = np.linspace(0, 1, half)  # 0 at the forehead, 1 at the back of the head
    part_azimuth = 0.38 * identity.part
    sides = []
    for sign in (-1.0, 1.0):
        front = _direction(np.array(part_azimuth), np.radians(25.0))
        crown = unit(np.array([0.1 * identity.part, -0.9, 0.75]))
        root = unit(slerp(np.broadcast_to(front, (half, 3)), np.broadcast_to(crown, (half, 3)), np.minimum(s * 1.3, 1)))
        azimuth = sign * np.radians(50 + 130 * s**0.9)
        edge = _direction(azimuth, np.minimum(_elevation(identity, azimuth), np.radians(-8.0)))
        t, _ = np.meshgrid(np.linspace(0, 1, on_scalp), s, indexing="ij")
        directions = unit(slerp(np.broadcast_to(root, (*t.shape, 3)), np.broadcast_to(edge, (*t.shape, 3)), t))
        # Strands that start at the forehead keep to the hairline.
        lift = np.radians(8.0) * np.sin(np.pi * t**0.8) * smoothstep(s, 0.4, 0.0)
        directions = unit(directions - np.array([0, 1, 0]) * lift[..., None])
        height = _thickness(identity, cut, directions, t) * thickness * (0.3 + 0.7 * smoothstep(t, 0.0, 0.25)) + _lumps(
            rng, cut, directions
        )
        scalp = on_skull(directions) + directions * np.maximum(height, 0.02)[..., None]
        fall = _falling(identity, cut, scalp[-1], s, falling, rng, sign)
        points = np.concatenate([scalp, fall])
        sides.append(points if sign < 0 else points[:, ::-1])
    left, right = sides
    rows = on_scalp + falling
    # From the forehead over the left side to the back, and over the right side to the forehead again.
    points = np.concatenate([left, right[:, 1:]], axis=1)
    columns = points.shape[1]
    lengths = np.linspace(0, 1, rows)
    v, u = np.meshgrid(lengths, np.linspace(0, 1, columns), indexing="ij")
    uv = np.stack([_wrap(u * 0.98 + shift), v], axis=-1)
    head = 1 - 0.65 * smoothstep(points[..., 1], 1.0, 2.6)
    # The innermost sheet is seen from inside too: beside the cheeks and behind the neck.
    return _sheet(f"hair_{layer}", material if layer else "hair_inner", points, uv, head, flip=True)


def _falling(
    identity: Identity,
    cut: Cut,
    start: Float64[np.ndarray, "c 3"],
    s: Float64[np.ndarray, " c"],
    rows: int,
    rng: np.random.Generator,
    sign: float,
) -> Float64[np.ndarray, "r c 3"]:
    """Strands that leave the head at `start` and fall to the length of the cut."""
    t = np.linspace(0, 1, rows + 1)[1:, None]
    arm = start - [0, 0, 1.25]
    out = arm[:, [0, 2]] / np.linalg.norm(arm[:, [0, 2]], axis=1, keepdims=True)
    length = cut.length + 0.15 * np.sin(5 * s)
    y = start[:, 1] + t * (length - start[:, 1])
    stand = (
        cut.spread * identity.hair_volume * np.sin(np.pi * np.clip(t * (0.9 if cut.length > 2 else 1.1), 0, 1))
        + 0.05 * t
    )
    if cut.length < 2:  # a bob curves in at its tips
        stand = stand - 0.22 * smoothstep(t, 0.65, 1.0)
    phase = rng.uniform(0, 2 * np.pi)
    waves = cut.wave * np.sin(5.5 * y + phase + 3 * np.sin(4 * s) + sign) * smoothstep(t, 0.0, 0.3)
    widen = 0.1 * smoothstep(y, 0.0, 1.0)
    x = start[:, 0] + out[:, 0] * (stand + waves + widen)
    z = start[:, 2] + out[:, 1] * (stand + 0.6 * waves) + 0.12 * smoothstep(y, 0.3, 1.6) * (s < 0.3)
    # Keep clear of cheeks and neck.
    x = sign * np.maximum(sign * x, np.where(z < 1.2, 1.02 - 0.12 * smoothstep(y, 0.8, 1.6), 0.0))
    return np.stack([x, y, z], axis=-1)


def _fringe(identity: Identity, cut: Cut, layer: int) -> Part:
    """Hair cut straight above the brows."""
    columns, rows = 18, 7
    across = np.linspace(-1, 1, columns)
    tip = -0.82 + (0.44 + 0.03 * layer) * identity.fringe - 0.1 * across**2
    t, a = np.meshgrid(np.linspace(0, 1, rows), across, indexing="ij")
    azimuth = np.radians(46) * a + 0.1 * identity.part * (1 - t)
    top = np.radians(44)
    bottom = np.arcsin(np.clip((SKULL_CENTRE[1] - tip) / 1.49, -0.9, 0.9))
    elevation = top + (bottom - top) * t
    directions = _direction(azimuth, elevation)
    height = (0.17 - 0.02 * layer) * identity.hair_volume * np.sin(np.pi * (0.25 + 0.62 * t)) + 0.02
    points = on_skull(directions) + directions * height[..., None]
    uv = np.stack([_wrap(0.31 * layer + 0.22 + 0.3 * (a + 1) / 2), 0.45 + 0.55 * t], axis=-1)
    return _sheet(f"fringe_{layer}", "hair", points, uv, np.ones_like(t))


def _bun(identity: Identity) -> Part:
    """A knot on the crown."""
    rows, columns = 12, 24
    v, u = np.meshgrid(np.linspace(0.02, 0.98, rows), np.linspace(0, 1, columns), indexing="ij")
    a, b = np.pi * v, 2 * np.pi * u
    ball = np.stack([np.sin(a) * np.cos(b), -np.cos(a), np.sin(a) * np.sin(b)], axis=-1)
    ball *= (1 + 0.05 * np.sin(7 * b + 4 * a))[..., None]
    size = 0.42 * identity.hair_volume
    centre = np.array([0.0, -1.98, 1.95 if identity.part > 0 else 1.5])
    uv = np.stack([u * 0.3, 0.15 + 0.3 * v], axis=-1)
    return _sheet("bun", "hair", centre + size * ball, uv, np.ones_like(u))


def _headscarf(identity: Identity) -> list[Part]:
    """A scarf around the face, over the head and down to the shoulders."""
    oval = smooth_closed(average_face()[FACE_OVAL], 2)
    low = smoothstep(oval[:, 1], 0.9, 1.6)[:, None]
    high = smoothstep(-oval[:, 1], 0.0, 0.5)[:, None]
    rim = oval * [1.03, 1.0, 1.0] + low * np.array([0.0, 0.1, 0.16]) + high * np.array([0.0, 0.16, -0.05])
    start = unit(rim - SKULL_CENTRE)
    reach = np.linalg.norm(rim - SKULL_CENTRE, axis=1) / np.linalg.norm(on_skull(start) - SKULL_CENTRE, axis=1)
    back = np.broadcast_to(unit(np.array([0.0, 0.1, 1.0])), start.shape)
    rings = [rim + [0, 0, 0.1], rim]  # the hem turns in
    for step in (0.02, 0.06, 0.12, 0.2, 0.3, 0.42, 0.56, 0.72, 0.9):
        directions = unit(slerp(start, back, step))
        puffed = reach + 0.11 * min(step / 0.05, 1.0)
        size = 1.2 + (puffed - 1.2) * (1 - step) ** 2.5
        rings.append(SKULL_CENTRE + (on_skull(directions) - SKULL_CENTRE) * size[:, None])
    n = len(oval)
    hood = Part(
        name="hood",
        material="scarf",
        points=np.concatenate(rings),
        triangles=grid_triangles(len(rings), n, closed=True, flip=True),
        uv=np.full((n * len(rings), 2), 0.5),
        anchor=np.tile(np.repeat(FACE_OVAL, 2), len(rings)),
        follow=np.repeat(np.linspace(0.7, 0, len(rings)), n),
    )
    levels, angles = np.linspace(1.0, 6.7, 14), np.linspace(-np.pi, np.pi, 41)
    level, angle = np.meshgrid(levels, angles, indexing="ij")
    folds = 0.03 * np.sin(9 * angle + 3 * level) + 0.02 * np.sin(15 * angle - 2 * level)
    drape = body_surface(level, angle, identity.neck_width * 1.05, identity.shoulders, 0.2 + folds)
    v, u = np.meshgrid(np.linspace(0.3, 1, len(levels)), np.linspace(0, 1, len(angles)), indexing="ij")
    return [hood, _sheet("drape", "scarf", drape, np.stack([u, v], axis=-1), smoothstep(level, 3.4, 1.4))]


# ---- Paint -------------------------------------------------------------------------------------------------------------------


def paint_hair(identity: Identity, resolution: int, *, wisps: bool) -> Texels:
    """Strands: u across them, v from root to tip; the fourth byte is the opacity. `wisps` is the thin outermost sheet."""
    rng = np.random.default_rng([identity.seed, 9, wisps])
    cut = _CUTS[identity.hair_style]
    width, height = 3 * resolution, resolution
    size = (height, width)
    v = ((np.arange(height) + 0.5) / height)[:, None].astype(np.float32)
    straight = noise(rng, (max(int(1 / cut.strand), 3), 420), size)
    fine = noise(rng, (max(int(1.5 / cut.strand), 5), 900), size)
    locks = noise(rng, (5, 64), size)
    if cut.curly:
        straight, fine, locks = _curl(rng, cut, size, straight, fine, locks)
    if cut.wave:
        columns = np.arange(width)[None, :] + 0.012 * width * np.sin(14 * v + 2)
        straight = np.take_along_axis(straight, np.clip(columns, 0, width - 1).astype(int), axis=1)
    hair = np.asarray(identity.hair, np.float32)
    colour = hair * (1 + 0.36 * straight + 0.2 * fine + 0.24 * locks)[..., None].clip(0.2, 2.4)
    colour = mix(
        colour,
        hair * np.array([1.4, 1.12, 0.85], np.float32),
        (0.35 * smoothstep(v, 0.5, 1.0) * np.ones(size)).astype(np.float32),
    )
    if identity.grey:
        white = np.clip(identity.grey * 0.75 + 0.22 * fine + 0.12 * straight, 0, 1) * min(1.0, 2 * identity.grey)
        colour = mix(
            colour, np.array([0.47, 0.47, 0.46]) * (0.85 + 0.15 * straight)[..., None], white.astype(np.float32)
        )
    if cut.parted:
        colour *= (0.62 + 0.38 * smoothstep(v, 0.0, 0.2))[..., None]
    ends = 1 - cut.ragged * (
        1 + 0.7 * np.clip(noise(rng, (1, 700), size) * 0.6 + 0.5 * noise(rng, (1, 90), size), -1.2, 1.2)
    )
    opaque = smoothstep(v, ends + 0.02, ends - 0.04 * (1 - cut.curly)) * smoothstep(
        fine - 3.2 * smoothstep(v, 0.9 + 0.09 * cut.curly, 1.02), -3.2, -2.2
    )
    if wisps:
        opaque = opaque * smoothstep(straight + 0.8 * fine, 0.25, 0.9)
    elif identity.hair_style == "buzz":
        opaque = opaque * smoothstep(fine + 0.4 * straight, -0.9, 0.4)
    return to_bytes(colour.astype(np.float32), opaque.astype(np.float32))


def _curl(
    rng: np.random.Generator, cut: Cut, size: tuple[int, int], straight: Plane, fine: Plane, locks: Plane
) -> tuple[Plane, Plane, Plane]:
    """Strands wound into curls: bright ridges around dark gaps, in all directions."""
    share = cut.curly
    rows, columns = int(16 + 22 * share), int(70 + 110 * share)
    ridges = 1.1 - 2.4 * np.abs(noise(rng, (rows, columns), size)) * np.abs(noise(rng, (rows, columns), size)) ** 0.5
    coils = np.sin(5 * noise(rng, (2 * rows, 2 * columns), size))
    straight = (1 - share) * straight + share * (0.8 * ridges + 0.5 * coils)
    fine = (1 - 0.7 * share) * fine + 0.7 * share * noise(rng, (240, 900), size)
    return straight, fine, (1 - 0.5 * share) * locks + 0.5 * share * noise(rng, (14, 60), size)
