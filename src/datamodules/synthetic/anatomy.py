"""The head around the 468 points: skull, ears, neck, shoulders, eyes, lashes, and the inside of the mouth.

What surrounds the face is built around the average face (`skull`, `ears`, `neck`) and bent with it into an identity's shape by
`src.datamodules.synthetic.identity`; what lies inside it (`eyes`, `mouth`) is fitted to the bent face. Unit and axes:
`src.face.average_face`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy.interpolate import PchipInterpolator

from src.datamodules.synthetic.expression import Eyeball
from src.datamodules.synthetic.mesh import Part, grid_triangles, grid_uv, slerp, smoothstep, unit
from src.datamodules.synthetic.regions import LOWER_LID, LOWER_LIP, N_POINTS, UPPER_LID, UPPER_LIP, mirrored
from src.face.average_face import average_face
from src.face.topology import FACE_OVAL, LIPS_INNER, TESSELATION

# The skull: an ellipsoid that passes within 4 % of the forehead and the temples of the average face.
SKULL_CENTRE = np.array([0.0, -0.415, 1.25])
SKULL_RADII = np.array([1.2, 1.4, 1.53])
NECK_PIVOT = np.array([0.0, 1.0, 1.25])  # the head turns about this point

# The skin is unrolled onto a square canvas: x is the angle about a vertical axis, times a radius; y is the height.
CANVAS_SIZE = 5.2
CANVAS_AXIS, CANVAS_RADIUS = 1.0, 1.15
_CANVAS_CORNER = np.array([-2.6, -2.3])

EYE_REACH = 1.25  # radians from the pupil that an eyeball's texture covers
IRIS_ANGLE = 0.41  # radians


def canvas(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    """Place on the skin's canvas of points around the average face, in its unit."""
    angle = np.arctan2(points[..., 0], CANVAS_AXIS - points[..., 2])
    return np.stack([angle * CANVAS_RADIUS, points[..., 1]], axis=-1)


def canvas_uv(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    """Texture coordinates, [0, 1], of points around the average face."""
    return np.clip(canvas_texels(canvas(points), 1), 0, 1)


def canvas_grid(resolution: int) -> Float64[np.ndarray, "r r 2"]:
    """Canvas coordinates of the texels of a `resolution` x `resolution` texture."""
    ticks = (np.arange(resolution) + 0.5) / resolution * CANVAS_SIZE
    return np.stack(np.meshgrid(ticks + _CANVAS_CORNER[0], ticks + _CANVAS_CORNER[1], indexing="xy"), axis=-1)


def canvas_texels(places: Float[np.ndarray, "*n 2"], resolution: int) -> Float[np.ndarray, "*n 2"]:
    """Texels, in a `resolution` x `resolution` texture, of places on the canvas."""
    return (places - _CANVAS_CORNER) * (resolution / CANVAS_SIZE)


def on_skull(directions: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Where rays from the skull's centre leave it."""
    return SKULL_CENTRE + directions / np.linalg.norm(directions / SKULL_RADII, axis=-1, keepdims=True)


def skull() -> Part:
    """Face and skull in one skin: the 468 points, then rings from the oval of the face to the back of the head."""
    face = average_face()
    oval = face[FACE_OVAL] - SKULL_CENTRE
    stretch = np.linalg.norm(oval / SKULL_RADII, axis=1)
    steps = np.array([0.06, 0.14, 0.25, 0.4, 0.58, 0.78, 0.95])
    start, back = unit(oval), unit(np.array([0.0, 0.05, 1.0]))
    rings = []
    for step in steps:
        size = stretch + (1 - stretch) * smoothstep(step, 0.0, 0.55)
        rings.append(SKULL_CENTRE + (on_skull(slerp(start, back, step)) - SKULL_CENTRE) * size[:, None])
    points = np.concatenate([face, *rings])
    n_oval = len(FACE_OVAL)
    shell = grid_triangles(len(steps) + 1, n_oval, closed=True, flip=True)
    index = np.concatenate([FACE_OVAL, np.arange(N_POINTS, len(points))])
    follow = np.repeat((1 - steps) ** 2, n_oval)
    return Part(
        name="skull",
        material="skin",
        points=points,
        triangles=np.concatenate([TESSELATION, index[shell]]),
        uv=canvas_uv(points),
        anchor=np.concatenate([np.arange(N_POINTS), np.tile(FACE_OVAL, len(steps))]),
        follow=np.concatenate([np.ones(N_POINTS), follow]),
    )


def ears(size: float, stand: float) -> list[Part]:
    """Both ears: a shell with a rim, a fold and a hollow, leaning out by `stand` radians."""
    radii, angles = np.array([0.0, 0.3, 0.5, 0.66, 0.8, 0.92, 1.0]), np.linspace(0, 2 * np.pi, 18, endpoint=False)
    r, a = np.meshgrid(radii, angles, indexing="ij")
    # Outline: broad above, a narrow lobe below; a = 0 points backwards, pi / 2 up.
    width = 0.25 + 0.06 * np.sin(a) - 0.05 * np.cos(2 * a)
    back, up = r * width * np.cos(a), r * 0.41 * np.sin(a)
    rim = np.interp(r, [0, 0.25, 0.45, 0.62, 0.76, 0.9, 1.0], [-0.1, -0.085, 0.02, -0.02, 0.0, 0.055, 0.0])
    front = smoothstep(np.cos(a), -0.3, -0.9) * smoothstep(r, 0.3, 0.9)
    height = rim * (1 - 0.6 * front) - 0.05 * front
    hollow = np.interp(r, [0, 0.3, 0.5, 0.66, 0.8, 0.92, 1.0], [0.3, 0.35, 0.75, 0.5, 0.6, 0.85, 0.7]).ravel()
    lean = 0.14
    along_up, along_back = np.cos(lean) * up - np.sin(lean) * back, np.sin(lean) * up + np.cos(lean) * back + 0.2
    outwards = np.sin(stand) * along_back + np.cos(stand) * height
    backwards = np.cos(stand) * along_back - np.sin(stand) * height
    parts = []
    for side, sign in (("left", -1.0), ("right", 1.0)):
        points = [sign * 1.08 + sign * size * outwards, 0.3 - size * along_up, 0.98 + size * backwards]
        points = np.stack(points, axis=-1).reshape(-1, 3)
        parts.append(
            Part(
                name=f"ear_{side}",
                material="ear",
                points=points,
                triangles=grid_triangles(len(radii), len(angles), closed=True, flip=sign < 0),
                uv=canvas_uv(points),
                openness=hollow,
            )
        )
    return parts


# Rings of neck and shoulders: height in front, at the side, behind; half width; depth in front of and behind the axis.
_BODY = np.array(
    [
        [0.75, 0.75, 0.75, 0.80, 0.58, 0.72],
        [1.35, 1.30, 1.25, 0.75, 0.54, 0.72],
        [1.85, 1.68, 1.45, 0.76, 0.50, 0.74],
        [2.25, 1.93, 1.58, 0.92, 0.50, 0.80],
        [2.50, 2.10, 1.75, 1.35, 0.68, 0.88],
        [2.85, 2.32, 1.95, 2.00, 0.90, 0.95],
        [3.40, 2.75, 2.40, 2.75, 1.05, 1.05],
        [4.40, 3.70, 3.50, 3.20, 1.20, 1.10],
    ]
)
_BODY_AXIS = 1.3
_body_profile = PchipInterpolator(np.arange(len(_BODY)), _BODY)


def body_surface(
    level: Float64[np.ndarray, "*n"],
    angle: Float64[np.ndarray, "*n"],
    neck: float,
    build: float,
    outward: Float64[np.ndarray, "*n"] | float = 0.0,
) -> Float64[np.ndarray, "*n 3"]:
    """Points of neck and shoulders.

    Args:
        level: 0 inside the head, 3 at the base of the neck, 5 on the shoulders, 7 below.
        angle: about the vertical axis; 0 in front, positive to the right of the picture.
        neck, build: factors of the widths of neck and shoulders.
        outward: distance in front of the skin.
    """
    front, side, behind, width, fore, aft = np.moveaxis(_body_profile(np.clip(level, 0, len(_BODY) - 1)), -1, 0)
    width = width * (neck + (build - neck) * smoothstep(np.asarray(level), 2.2, 5.0))
    cos, sin = np.cos(angle), np.sin(angle)
    depth = np.where(cos > 0, fore, aft) + outward
    height = side + np.where(cos > 0, front - side, behind - side) * cos**2
    lift = outward * smoothstep(np.asarray(level), 3.0, 5.0)
    return np.stack([(width + outward) * sin, height - lift, _BODY_AXIS - depth * cos], axis=-1)


def neck_and_shoulders(neck: float, build: float) -> Part:
    """Skin from inside the head down to the shoulders."""
    levels, angles = np.linspace(0.6, 4.4, 9), np.linspace(-np.pi, np.pi, 24, endpoint=False)
    level, angle = np.meshgrid(levels, angles, indexing="ij")
    points = body_surface(level, angle, neck, build).reshape(-1, 3)
    return Part(
        name="neck",
        material="skin",
        points=points,
        triangles=grid_triangles(len(levels), len(angles), closed=True, flip=False),
        uv=canvas_uv(points),
        head=smoothstep(level.ravel(), 3.2, 0.8),
    )


def eyes(eyeballs: Mapping[str, Eyeball]) -> list[Part]:
    """Both eyeballs looking straight ahead, as rings about the pupil; the texture is a disc."""
    angles, turns = np.linspace(0, EYE_REACH, 6), np.linspace(0, 2 * np.pi, 16, endpoint=False)
    a, t = np.meshgrid(angles, turns, indexing="ij")
    directions = np.stack([np.sin(a) * np.cos(t), np.sin(a) * np.sin(t), -np.cos(a)], axis=-1).reshape(-1, 3)
    disc = (a / EYE_REACH)[..., None] * np.stack([np.cos(t), np.sin(t)], axis=-1)
    uv = 0.5 + 0.48 * disc.reshape(-1, 2)
    triangles = grid_triangles(len(angles), len(turns), closed=True, flip=True)
    return [
        Part(
            name=f"eye_{side}",
            material="eye",
            points=ball.centre + ball.radius * directions,
            triangles=triangles,
            uv=uv,
            openness=1.0,
        )
        for side, ball in eyeballs.items()
    ]


def lid_rims(face: Float64[np.ndarray, "468 3"]) -> list[Part]:
    """Behind each lid's rim a band of moist skin that closes the gap to the eyeball."""
    parts = []
    for side in ("left", "right"):
        loop = np.concatenate([UPPER_LID[0], LOWER_LID[0][-2:0:-1]])
        loop = loop if side == "left" else mirrored()[loop]
        rim = face[loop]
        middle = rim.mean(axis=0)
        inner = middle + (rim - middle) * [0.97, 0.97, 1.0] + [0, 0, 0.05]
        deep = middle + (rim - middle) * [1.05, 1.1, 1.0] + [0, 0, 0.3]
        points = np.concatenate([rim + [0, 0, 0.01], inner, deep])
        parts.append(
            Part(
                name=f"rim_{side}",
                material="flesh",
                points=points,
                triangles=grid_triangles(3, len(loop), closed=True, flip=side == "right"),
                uv=np.repeat([[0.5, 0.05], [0.5, 0.15], [0.5, 0.5]], len(loop), axis=0),
                anchor=np.tile(loop, 3),
                follow=np.repeat([1.0, 1.0, 0.6], len(loop)),
                openness=np.repeat([0.85, 0.7, 0.2], len(loop)),
            )
        )
    return parts


def lashes(face: Float64[np.ndarray, "468 3"]) -> list[Part]:
    """Strips that stand on the rims of the lids; `head.SyntheticHead` points them away from the eyeball in every frame."""
    parts = []
    for side in ("left", "right"):
        for lid, rings in (("upper", UPPER_LID), ("lower", LOWER_LID)):
            rim = rings[0] if side == "left" else mirrored()[rings[0]]
            parts.append(
                Part(
                    name=f"lash_{lid}_{side}",
                    material=f"lash_{lid}",
                    points=np.concatenate([face[rim], face[rim]]),
                    triangles=grid_triangles(2, len(rim)),
                    uv=grid_uv(2, len(rim)),
                    anchor=np.tile(rim, 2),
                    follow=1.0,
                    openness=0.8,
                )
            )
    return parts


def mouth(face: Float64[np.ndarray, "468 3"]) -> list[Part]:
    """Cavity, teeth and tongue behind the closed lips of `face`."""
    corner, line = face[UPPER_LIP[3, -1]], face[UPPER_LIP[3, 5]]
    half_width = corner[0]
    return [_cavity(face, line), *_teeth(half_width, line), _tongue(half_width, line)]


def _cavity(face: Float64[np.ndarray, "468 3"], line: Float64[np.ndarray, " 3"]) -> Part:
    rim = face[LIPS_INNER]
    upwards = np.isin(LIPS_INNER, UPPER_LIP[3, 1:-1]).astype(float) - np.isin(LIPS_INNER, LOWER_LIP[3, 1:-1])
    rings = [rim + [0, 0, 0.012]]  # a little behind the lips, which hide it when they are closed
    for depth, spread, height in ((0.07, 1.03, 0.07), (0.3, 1.15, 0.2), (0.9, 1.0, 0.25)):
        ring = rim * [spread, 1, 1]
        ring[:, 1] = line[1] - height * upwards
        ring[:, 2] = np.maximum(rim[:, 2], line[2]) + depth
        rings.append(ring)
    rings.append(np.tile(line + [0, 0.05, 1.1], (len(rim), 1)))
    n = len(rim)
    return Part(
        name="cavity",
        material="flesh",
        points=np.concatenate(rings),
        triangles=grid_triangles(len(rings), n, closed=True),
        uv=np.repeat([[0.5, 0.3], [0.5, 0.5], [0.5, 0.75], [0.5, 0.95], [0.5, 0.98]], n, axis=0),
        anchor=np.tile(LIPS_INNER, len(rings)),
        follow=np.repeat([1.0, 1.0, 0.8, 0.4, 0.2], n),
        openness=np.repeat([0.75, 0.4, 0.18, 0.05, 0.02], n),
    )


# Height of the cutting edge and of the root below the line of the lips, distance behind it, width over the mouth's, share of light.
_TEETH = {"teeth_upper": (0.055, -0.2, 0.09, 0.88, 0.85), "teeth_lower": (0.035, 0.25, 0.135, 0.8, 0.7)}


def _teeth(half_width: float, line: Float64[np.ndarray, " 3"]) -> list[Part]:
    turns, levels = (
        np.linspace(-1.25, 1.25, 21),
        np.linspace(0, 1, 4),
    )  # along the arch; from the cutting edge to the root
    level, turn = np.meshgrid(levels, turns, indexing="ij")
    bulge = 0.03 * np.sin(np.pi * level)
    parts = []
    for name, (edge, root, recess, width, light) in _TEETH.items():
        x = (width * half_width + bulge) * np.sin(turn) / np.sin(turns[-1])
        z = line[2] + recess + 1.24 * half_width * (1 - np.cos(turn)) - bulge
        towards_root = 1 if root > edge else -1
        shorter = 0.015 * towards_root * np.abs(turn) ** 1.5 * (1 - level)  # towards the molars
        y = line[1] + edge + (root - edge) * level + shorter
        shade = np.clip(1.0 - 0.42 * np.abs(turn) ** 1.4, 0.12, 1) * (1 - 0.45 * level)
        parts.append(
            Part(
                name=name,
                material="teeth",
                points=np.stack([x, y, z], axis=-1).reshape(-1, 3),
                triangles=grid_triangles(len(levels), len(turns), flip=root < edge),
                uv=grid_uv(len(levels), len(turns)),
                openness=light * shade.ravel(),
            )
        )
    return parts


def _tongue(half_width: float, line: Float64[np.ndarray, " 3"]) -> Part:
    rows, columns = 7, 9
    along, across = np.meshgrid(np.linspace(0, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    width = 0.62 * half_width * np.sqrt(np.clip(1 - (1 - np.clip(along * 2.2, 0, 1)) ** 2, 0.02, 1))
    groove = 0.025 * np.exp(-((across / 0.25) ** 2))
    arch = 0.12 * np.clip(1 - across**2, 0, 1) ** 0.5
    points = np.stack(
        [
            width * across,
            line[1] + 0.3 - arch * np.clip(along * 3, 0.25, 1) - 0.04 * along + groove,
            line[2] + 0.17 + 0.75 * along + 0.06 * across**2,
        ],
        axis=-1,
    ).reshape(-1, 3)
    uv = np.stack([0.5 + 0.5 * across.ravel(), 0.12 + 0.1 * along.ravel()], axis=1)
    shade = np.clip(0.9 - 0.7 * along.ravel(), 0.1, 1)
    return Part(
        name="tongue",
        material="flesh",
        points=points,
        triangles=grid_triangles(rows, columns, flip=True),
        uv=uv,
        openness=shade,
    )


def glasses(
    eyeballs: Mapping[str, Eyeball], face: Float64[np.ndarray, "468 3"], squareness: float, size: float
) -> Part:
    """Frames in front of the eyes: two rims, the bridge and the temples, as thin tubes."""
    turns = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    bridge_z = face[6, 2] - 0.03
    tubes = []
    for ball in eyeballs.values():
        shape = (np.abs(np.cos(turns)) ** squareness + np.abs(np.sin(turns)) ** squareness) ** (-1 / squareness)
        side = np.sign(ball.centre[0])
        rim = np.stack(
            [
                ball.centre[0] + side * 0.03 + 0.36 * size * shape * np.cos(turns),
                ball.centre[1] + 0.06 + 0.29 * size * shape * np.sin(turns),
                bridge_z
                + 0.01
                + 0.35 * np.maximum(np.abs(ball.centre[0] + 0.36 * size * shape * np.cos(turns)) - 0.45, 0) ** 1.6,
            ],
            axis=-1,
        )
        tubes.append(_tube(rim, 0.016, closed=True))
        outer = rim[0] if side > 0 else rim[len(turns) // 2]
        temple = np.array([outer, outer + [side * 0.1, -0.02, 0.06], [side * 1.14, outer[1] - 0.02, 0.95]])
        tubes.append(_tube(temple, 0.018))
    left, right = (b.centre for b in eyeballs.values())
    inner = 0.36 * size - 0.03
    ends = np.array([left[0] + inner, right[0] - inner])
    x = np.linspace(ends[0], ends[1], 7)
    arch = np.stack(
        [x, np.full(7, left[1] - 0.02) - 0.03 * (1 - (x / ends[1]) ** 2), np.full(7, bridge_z - 0.01)], axis=-1
    )
    tubes.append(_tube(arch, 0.016))
    starts = np.cumsum([0] + [len(p) for p, _ in tubes[:-1]])
    points = np.concatenate([p for p, _ in tubes])
    triangles = np.concatenate([t + start for (_, t), start in zip(tubes, starts, strict=True)])
    return Part(
        name="glasses",
        material="frame",
        points=points,
        triangles=triangles,
        uv=np.full((len(points), 2), 0.5),
        openness=0.9,
    )


def _tube(
    path: Float64[np.ndarray, "n 3"], radius: float, *, closed: bool = False
) -> tuple[Float64[np.ndarray, "v 3"], np.ndarray]:
    """A square tube along a path, and its triangles."""
    around: Sequence[tuple[float, float]] = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0) if closed else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9
    beside = np.cross(ahead, [0.0, 0.0, 1.0])
    weak = np.linalg.norm(beside, axis=1, keepdims=True) < 0.3
    beside = np.where(weak, np.cross(ahead, [0.0, 1.0, 0.0]), beside)
    beside /= np.linalg.norm(beside, axis=1, keepdims=True) + 1e-9
    above = np.cross(ahead, beside)
    rings = np.stack([path + radius * (a * beside + b * above) for a, b in around], axis=1)
    if closed:
        rings = np.concatenate([rings, rings[:1]])
    return rings.reshape(-1, 3), grid_triangles(len(rings), 4, closed=True)
