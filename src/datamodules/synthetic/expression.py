"""Facial expression: controls over time -> the 468 mesh points, and MediaPipe's 52 blendshape scores.

Most controls move a few hand-placed points; a minimal-curvature field (the discrete bi-Laplacian of the mesh is as small as possible)
carries the rest of the skin along. The jaw turns about the axis through its joints with such a field as weight, lips never pass through
each other, and lids slide on the eyeball. Unit and axes: `src.face.average_face`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from src.datamodules.synthetic.regions import (
    BROW,
    CHIN,
    JAW_LINE,
    LOWER_LID,
    LOWER_LIP,
    N_POINTS,
    NOSE,
    UPPER_LID,
    UPPER_LIP,
    both,
    mirrored,
)
from src.face.average_face import average_face
from src.face.topology import FACE_OVAL, LEFT_EYE, LEFT_EYEBROW, RIGHT_EYE, RIGHT_EYEBROW, TESSELATION

JAW_JOINT = np.array([0.0, 0.36, 1.05])
JAW_ANGLE = 0.23  # radians at jaw = 1, an open vowel
_LIP_ROWS = np.array([0.2, 0.45, 0.75, 1.0])  # how far each ring of the lips follows the inner rim
_UPPER_SHARE = 0.3  # of the way that two opening lips travel towards each other to close


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What the face does, one value per frame; 0 is neutral and 1 strong unless said otherwise."""

    jaw: Float64[np.ndarray, "t"]
    close: Float64[np.ndarray, "t"]  # lips meet however far the jaw is open
    wide: Float64[np.ndarray, "t"]  # spread; negative: narrowed
    pucker: Float64[np.ndarray, "t"]
    funnel: Float64[np.ndarray, "t"]
    press: Float64[np.ndarray, "t"]
    upper_up: Float64[np.ndarray, "t"]
    lower_down: Float64[np.ndarray, "t"]
    tuck: Float64[np.ndarray, "t"]  # lower lip under the upper teeth
    smile: Float64[np.ndarray, "t"]  # negative: corners down
    skew: Float64[np.ndarray, "t"]  # mouth to the right of the picture
    brow_up: Float64[np.ndarray, "t"]
    brow_inner: Float64[np.ndarray, "t"]
    brow_down: Float64[np.ndarray, "t"]
    blink_left: Float64[np.ndarray, "t"]  # 1 closed, negative: wide open
    blink_right: Float64[np.ndarray, "t"]
    squint: Float64[np.ndarray, "t"]
    gaze_x: Float64[np.ndarray, "t"]  # radians, to the right of the picture
    gaze_y: Float64[np.ndarray, "t"]  # radians, down
    tongue: Float64[np.ndarray, "t"]  # tip raised to the upper teeth

    def __len__(self) -> int:
        return len(self.jaw)

    def __getitem__(self, frames: slice) -> "Controls":
        return Controls(**{field.name: getattr(self, field.name)[frames] for field in fields(self)})

    @classmethod
    def neutral(cls, n_frames: int, **given: Float64[np.ndarray, "t"]) -> "Controls":
        """Zero everywhere but for the given controls."""
        return cls(**{field.name: given.get(field.name, np.zeros(n_frames)) for field in fields(cls)})


@dataclass(frozen=True)
class Eyeball:
    """Centre and radius of an eyeball in the frame of the face."""

    centre: Float64[np.ndarray, " 3"]
    radius: float


def rest_face(points: Float64[np.ndarray, "468 3"]) -> Float64[np.ndarray, "468 3"]:
    """The face with its lips closed, which detections of calm faces leave a little apart."""
    points = points.copy()
    _close_lips(points[None], np.ones(1))
    return points


def fit_eyeball(points: Float64[np.ndarray, "468 3"], side: str) -> Eyeball:
    """The sphere that carries the lids of the "left" or "right" eye."""
    lids = np.stack([UPPER_LID[0], LOWER_LID[0]])
    lids = lids if side == "left" else mirrored()[lids]
    corners = points[lids[0, [0, -1]]]
    width = np.linalg.norm(corners[1, :2] - corners[0, :2])
    radius = 0.56 * float(width)
    middle = points[lids[:, 4]]
    centre = np.array([corners[:, 0].mean(), middle[:, 1].mean(), 0.0])
    reach = np.sqrt(np.maximum(radius**2 - ((middle - centre)[:, :2] ** 2).sum(axis=1), 0))
    centre[2] = (middle[:, 2] + reach).mean() + 0.012
    return Eyeball(centre, radius)


def seat_lids(points: Float64[np.ndarray, "468 3"], eyes: Mapping[str, Eyeball]) -> Float64[np.ndarray, "468 3"]:
    """The face with the rims of its lids on the eyeballs, and no skin of the lids inside them."""
    points = points.copy()
    for side, eye in eyes.items():
        rings = np.concatenate([UPPER_LID, LOWER_LID])
        rings = rings if side == "left" else mirrored()[rings]
        points[rings] = _outside(points[rings], eye, 1.02)
    return points


def deform(
    rest: Float64[np.ndarray, "468 3"], eyes: Mapping[str, Eyeball], controls: Controls
) -> Float64[np.ndarray, "t 468 3"]:
    """The face `rest` in the expressions of `controls`."""
    names, basis = _expression_fields()
    coefficients = np.stack([_coefficient(controls, name) for name in names], axis=1)
    # einsum without BLAS: the same bits whatever the number of threads
    points = rest + np.einsum("tk,kpd->tpd", coefficients, basis)
    points = turn_jaw(points, controls.jaw, jaw_weights())
    _close_lips(points, controls.close)
    for side, blink in (("left", controls.blink_left), ("right", controls.blink_right)):
        _close_lids(points, side, eyes[side], blink, controls.squint)
    return points


def turn_jaw(
    points: Float64[np.ndarray, "t n 3"],
    jaw: Float64[np.ndarray, " t"],
    weights: Float64[np.ndarray, " n"] | float = 1.0,
) -> Float64[np.ndarray, "t n 3"]:
    """Points turned with the jaw about the line through its joints, each by its weight."""
    angle = JAW_ANGLE * jaw[:, None] * weights
    y, z = points[..., 1] - JAW_JOINT[1], points[..., 2] - JAW_JOINT[2]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points.copy()
    turned[..., 1] = JAW_JOINT[1] + cos * y - sin * z
    turned[..., 2] = JAW_JOINT[2] + sin * y + cos * z
    return turned


def gaze_direction(controls: Controls) -> Float64[np.ndarray, "t 3"]:
    """Unit vectors from the eyeballs' centres through the pupils, in the frame of the face."""
    cos = np.cos(controls.gaze_y)
    return np.stack([np.sin(controls.gaze_x) * cos, np.sin(controls.gaze_y), -np.cos(controls.gaze_x) * cos], axis=1)


def mouth_gap(points: Float[np.ndarray, "t 468 3"]) -> Float[np.ndarray, " t"]:
    """Distance between the inner lips at their middle, in the unit of `points`."""
    return np.linalg.norm(points[:, 14] - points[:, 13], axis=-1)


def _coefficient(controls: Controls, name: str) -> Float64[np.ndarray, " t"]:
    """The field's weight over time: a control, or one sign of it."""
    signed = {"narrow": ("wide", -1), "frown": ("smile", -1), "wide": ("wide", 1), "smile": ("smile", 1)}
    if name == "cheeks":
        return controls.jaw
    if name in signed:
        control, sign = signed[name]
        return np.maximum(sign * getattr(controls, control), 0)
    return getattr(controls, name)


# ---- Fields ------------------------------------------------------------------------------------------------------------------


@functools.cache
def _stiffness() -> Float64[np.ndarray, "468 468"]:
    """Quadratic form of the mesh's curvature: the squared graph Laplacian with inverse edge lengths as weights."""
    face = average_face()
    sides: Int[np.ndarray, "e 2"] = np.concatenate(
        [TESSELATION[:, [0, 1]], TESSELATION[:, [1, 2]], TESSELATION[:, [2, 0]]]
    )
    start, end = np.unique(np.sort(sides, axis=1), axis=0).T.tolist()
    weight = 1 / (np.linalg.norm(face[start] - face[end], axis=1) + 0.03)
    adjacency = np.zeros((N_POINTS, N_POINTS))
    adjacency[start, end] = adjacency[end, start] = weight
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    laplacian /= adjacency.sum(axis=1, keepdims=True)
    return laplacian.T @ laplacian


def _smooth_field(
    values: Mapping[int, Float64[np.ndarray, " d"]], still: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, "468 d"]:
    """The field of least curvature that has the given values at some points and is zero at the points `still`.

    Rounded, so that the last bits of the linear solver, which depend on the machine's threads, do not matter.
    """
    size = len(next(iter(values.values())))
    field = np.zeros((N_POINTS, size))
    for point, value in values.items():
        field[point] = value
    known = np.zeros(N_POINTS, bool)
    known[list(values)] = True
    known[np.setdiff1d(still, list(values))] = True
    stiffness = _stiffness()
    field[~known] = np.linalg.solve(stiffness[np.ix_(~known, ~known)], -stiffness[np.ix_(~known, known)] @ field[known])
    return np.round(field, 4)


@functools.cache
def jaw_weights() -> Float64[np.ndarray, " 468"]:
    """How far each point of the face turns with the jaw: 1 at chin and lower lip, 0 from the upper lip upwards."""
    values = {int(i): np.ones(1) for i in np.concatenate([CHIN, LOWER_LIP[:, 2:9].ravel()])}
    along_jaw = [1, 1, 1, 1, 0.97, 0.92, 0.8, 0.55, 0.25, 0.06, 0]
    for point, weight in zip(JAW_LINE, along_jaw, strict=True):
        values[int(point)] = values[int(mirrored()[point])] = np.array([weight])
    for ring in range(4):
        for column, weight in ((0, 0.42), (1, 0.72)):
            for point in both(LOWER_LIP[ring, column : column + 1]):
                values[int(point)] = np.array([weight])
        for column, weight in ((1, 0.18), (2, 0.05)):
            for point in both(UPPER_LIP[ring, column : column + 1]):
                values[int(point)] = np.array([weight])
    still = np.concatenate([UPPER_LIP[:, 3:8].ravel(), _upper_face(), NOSE])
    return np.clip(_smooth_field(values, still)[:, 0], 0, 1)


def _upper_face() -> Int[np.ndarray, " n"]:
    """Points that the mouth never moves: eyes and what lies above, temples."""
    return np.flatnonzero(average_face()[:, 1] < 0.12)


@functools.cache
def _expression_fields() -> tuple[tuple[str, ...], Float64[np.ndarray, "k 468 3"]]:
    """Names and displacement fields of all linear controls."""
    made = {**_mouth_fields(), **_brow_fields()}
    return tuple(made), np.stack(list(made.values()))


class _LipPoint(NamedTuple):
    """Where a point of the lips is: x, its half and ring (0 at the skin .. 3 at the inner rim), and -1..1 from corner to corner."""

    x: float
    upper: bool
    ring: int
    across: float

    @property
    def middle(self) -> float:
        """1 in the middle of the mouth, 0 at its corners."""
        return max(1 - self.across**2, 0.0)


def _lips(move: Callable[[_LipPoint], list[float]]) -> dict[int, Float64[np.ndarray, " 3"]]:
    """Displacements of all points of the lips."""
    face = average_face()
    half_width = float(face[291, 0])
    values = {}
    for lip, upper in ((LOWER_LIP, False), (UPPER_LIP, True)):
        for ring, row in enumerate(lip):
            for point in row.tolist():
                x = float(face[point, 0])
                values[point] = np.array(move(_LipPoint(x, upper, ring, x / half_width)))
    return values


_MOUTH_MOVES: dict[str, Callable[[_LipPoint], list[float]]] = {
    "wide": lambda p: [
        0.13 * p.across * abs(p.across) ** 0.3,
        0.004 * (3 - p.ring) * (1 if p.upper else -1),
        0.05 * p.across**2 + 0.01,
    ],
    "narrow": lambda p: [-0.1 * p.across, 0.0027 * (3 - p.ring) * (-1 if p.upper else 1), -0.03],
    "pucker": lambda p: [
        -0.36 * p.x,
        0.012 * (1 if p.upper else -1) * (p.ring - 1.5) * p.middle,
        -0.13 + 0.02 * p.ring - 0.03 * p.across**2,
    ],
    "funnel": lambda p: [-0.24 * p.x, (-0.055 if p.upper else 0.06) * p.middle, -0.1 + 0.012 * p.ring],
    "press": lambda p: [0.0, (0.01 if p.upper else -0.012) * (3 - p.ring) * p.middle, 0.02 + 0.012 * p.ring],
    "upper_up": lambda p: [0.0, -0.085 * p.middle**0.8 if p.upper else 0.0, 0.0],
    "lower_down": lambda p: [0.0, 0.0 if p.upper else 0.085 * p.middle**0.8, 0.0],
    "tuck": lambda p: (
        [0.0, -0.03 * p.middle, 0.0]
        if p.upper
        else [0.0, (-0.05 - 0.01 * p.ring) * p.middle, (0.02 + 0.012 * p.ring) * p.middle]
    ),
    "smile": lambda p: [
        0.12 * p.across * abs(p.across),
        -0.1 * p.across**2 + (0.01 if p.upper else -0.015) * p.middle,
        0.09 * p.across**2 + 0.02,
    ],
    "frown": lambda p: [0.02 * p.across, 0.09 * p.across**2 - 0.015, 0.02 * p.across**2],
    "skew": lambda p: [0.08, -0.015 * p.across, 0.0],
    "cheeks": lambda p: [-0.05 * p.across**3, -0.015 * p.middle if p.upper else 0.0, 0.03 * p.across**2],
}
"""Name of a field -> how it moves a point of the lips (x, y, z)."""


def _mouth_fields() -> dict[str, Float64[np.ndarray, "468 3"]]:
    cheeks = {p: np.array([sign * 0.05, -0.06, -0.05]) for p, sign in ((50, -1), (280, 1), (205, -1), (425, 1))}
    wings = {p: np.array([sign * 0.02, -0.03, 0.0]) for p, sign in ((129, -1), (358, 1), (64, -1), (294, 1))}
    beside = {"smile": cheeks | wings, "upper_up": {p: 0.5 * move for p, move in wings.items()}}
    still = np.concatenate([_upper_face(), both(JAW_LINE)])
    nose_too = np.concatenate([still, NOSE])
    return {
        name: _smooth_field(_lips(move) | beside.get(name, {}), still if name in beside else nose_too)
        for name, move in _MOUTH_MOVES.items()
    }


def _brow_fields() -> dict[str, Float64[np.ndarray, "468 3"]]:
    face = average_face()
    still = np.concatenate([LEFT_EYE, RIGHT_EYE, np.flatnonzero(face[:, 1] > 0.1), FACE_OVAL])
    brows = np.concatenate([LEFT_EYEBROW, RIGHT_EYEBROW])

    def along(point: int) -> float:
        """0 at the inner end of a brow, 1 at the outer end."""
        return float(np.clip((abs(face[point, 0]) - 0.2) / 0.7, 0, 1))

    up = {int(p): np.array([0.0, -0.11 + 0.03 * along(p), -0.01]) for p in brows}
    inner = {int(p): np.array([0.0, -0.12 * (1 - along(p)) ** 1.5, 0.0]) for p in brows}
    down = {
        int(p): np.array([-np.sign(face[p, 0]) * 0.035 * (1 - along(p)), 0.075 * (1 - 0.6 * along(p)), 0.0])
        for p in brows
    }
    assert set(BROW.ravel()) <= set(brows.tolist())
    return {
        "brow_up": _smooth_field(up, still),
        "brow_inner": _smooth_field(inner, still),
        "brow_down": _smooth_field(down, still),
    }


# ---- Lips and lids -----------------------------------------------------------------------------------------------------------


def _close_lips(points: Float64[np.ndarray, "t 468 3"], close: Float64[np.ndarray, " t"]) -> None:
    """Bring the lips together by the share `close` of their distance, and apart where they overlap; in place."""
    upper, lower = points[:, UPPER_LIP[3]], points[:, LOWER_LIP[3]]
    apart = lower - upper
    share = np.where(apart[..., 1:2] < 0, 1.0, np.clip(close, 0, 1)[:, None, None])
    way = share * apart
    for ring, follow in enumerate(_LIP_ROWS):
        inside = slice(1, -1)  # both halves share their corners
        points[:, UPPER_LIP[ring, inside]] += _UPPER_SHARE * follow * way[:, inside]
        points[:, LOWER_LIP[ring, inside]] -= (1 - _UPPER_SHARE) * follow * way[:, inside]


def _close_lids(
    points: Float64[np.ndarray, "t 468 3"],
    side: str,
    eye: Eyeball,
    blink: Float64[np.ndarray, " t"],
    squint: Float64[np.ndarray, " t"],
) -> None:
    """Slide the lids over the eyeball; in place. At blink = 1 they meet low, near the lower lid."""
    to_side = (lambda i: i) if side == "left" else (lambda i: mirrored()[i])
    upper, lower = points[:, to_side(UPPER_LID[0])], points[:, to_side(LOWER_LID[0])]
    meeting = lower + 0.2 * (upper - lower)
    upper_way = (meeting - upper) * np.clip(blink, -0.35, 1)[:, None, None]
    lower_way = (meeting - lower) * np.maximum(np.clip(blink, 0, 1), 0.6 * np.clip(squint, 0, 1))[:, None, None]
    for rings, way, follow in ((UPPER_LID, upper_way, (1.0, 0.4)), (LOWER_LID, lower_way, (1.0, 0.6))):
        for row, share in zip(rings, follow, strict=True):
            inside = to_side(row[1:-1])
            moved = points[:, inside] + share * way[:, 1:-1]
            points[:, inside] = _outside(moved, eye, 1.02 if share == 1 else 1.05)


def _outside(points: Float64[np.ndarray, "*n 3"], eye: Eyeball, radii: float) -> Float64[np.ndarray, "*n 3"]:
    """Points pushed out of the eyeball to at least `radii` times its radius."""
    arm = points - eye.centre
    length = np.linalg.norm(arm, axis=-1, keepdims=True)
    return eye.centre + arm * np.maximum(1, radii * eye.radius / length)


# ---- Blendshape scores -------------------------------------------------------------------------------------------------------

# fmt: off
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)
# fmt: on
"""MediaPipe's blendshapes in its order; here "left" and "right" are the person's sides."""

_LOOK = 0.45  # radians of gaze at which a look score is 1


def blendshape_scores(controls: Controls) -> Float32[np.ndarray, "t 52"]:
    """The scores that the controls amount to, in [0, 1]."""
    c = controls
    right, down = c.gaze_x / _LOOK, c.gaze_y / _LOOK
    # The person's left eye is the right one in the picture.
    values = {
        "browDown": (0.6 * c.brow_down,) * 2,
        "browOuterUp": (c.brow_up, c.brow_up),
        "cheekSquint": (0.4 * c.smile + 0.5 * c.squint,) * 2,
        "eyeBlink": (c.blink_right, c.blink_left),
        "eyeLookDown": (down, down),
        "eyeLookIn": (-right, right),
        "eyeLookOut": (right, -right),
        "eyeLookUp": (-down, -down),
        "eyeSquint": (c.squint, c.squint),
        "eyeWide": (-2 * c.blink_right, -2 * c.blink_left),
        "mouthDimple": (0.3 * c.wide, 0.3 * c.wide),
        "mouthFrown": (-c.smile, -c.smile),
        "mouthLowerDown": (0.4 * (c.lower_down + 0.3 * c.jaw * (1 - c.close)),) * 2,
        "mouthPress": (c.press, c.press),
        "mouthSmile": (c.smile, c.smile),
        "mouthStretch": (0.6 * c.wide, 0.6 * c.wide),
        "mouthUpperUp": (c.upper_up, c.upper_up),
    }
    scores = {
        f"{name}{side}": value
        for name, pair in values.items()
        for side, value in zip(("Left", "Right"), pair, strict=True)
    }
    scores |= {
        "browInnerUp": np.maximum(c.brow_inner, 0.8 * c.brow_up),
        "jawOpen": c.jaw * 0.8,
        "mouthClose": c.close * c.jaw,
        "mouthFunnel": c.funnel,
        "mouthLeft": c.skew,
        "mouthPucker": c.pucker + np.maximum(-0.4 * c.wide, 0),
        "mouthRight": -c.skew,
        "mouthRollLower": np.maximum(c.tuck, 0.6 * c.press),
        "mouthRollUpper": 0.4 * c.press,
    }
    table = np.stack([scores.get(name, np.zeros(len(c))) for name in BLENDSHAPES], axis=1)
    return np.clip(table, 0, 1).astype(np.float32)
