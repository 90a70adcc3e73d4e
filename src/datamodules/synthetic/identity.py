"""Who a synthetic head is: everything that differs between people, drawn from one seed.

`Identity` holds plain numbers; `Shape.bend` carries the average face, and what was built around it, into the person's shape.
Colours are linear RGB reflectances in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64

from src.datamodules.synthetic.mesh import smoothstep

Colour = tuple[float, float, float]

HAIR_STYLES = (
    "bald",
    "receding",
    "buzz",
    "crop",
    "side_part",
    "quiff",
    "curls",
    "afro",
    "bob",
    "long",
    "long_wavy",
    "tied_back",
    "headscarf",
)
COLLARS = ("crew", "shirt", "turtleneck", "wide", "hood")


@dataclass(frozen=True)
class Shape:
    """Signed deviations from the average face; about one standard deviation at 1."""

    face_width: float
    jaw_width: float
    cheekbones: float
    cheek_fullness: float
    forehead_height: float
    nose_length: float
    lower_face: float
    chin_length: float
    chin_width: float
    chin_forward: float
    brow_ridge: float
    brow_height: float
    eye_size: float
    eye_opening: float
    eye_spacing: float
    eye_tilt: float
    eye_depth: float
    nose_width: float
    nose_forward: float
    nose_bridge: float
    nose_tip: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    mouth_forward: float
    crooked_nose: float
    crooked_jaw: float
    uneven_eyes: float

    def bend(self, points: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """Points around the average face carried into this shape: a sum of smooth displacements."""
        x, y, z = points[..., 0].copy(), points[..., 1].copy(), points[..., 2].copy()
        x0, y0, z0 = points[..., 0], points[..., 1], points[..., 2]
        side = np.tanh(x0 / 0.05)

        def near(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> Float64[np.ndarray, "*n"]:
            """1 at a point and at its mirror image, falling off like a bell."""
            across = (np.abs(x0) - cx) / rx if cx else x0 / rx
            return np.exp(-0.5 * (across**2 + ((y0 - cy) / ry) ** 2 + ((z0 - cz) / rz) ** 2))

        # Proportions of the whole.
        x += 0.035 * self.face_width * x0
        x += 0.055 * self.jaw_width * x0 * np.exp(-0.5 * ((y0 - 1.2) / 0.35) ** 2) * smoothstep(np.abs(x0), 0.15, 0.6)
        x += 0.03 * self.cheekbones * side * near(0.85, 0.45, 0.4, 0.35, 0.3, 0.6)
        bulge = 0.035 * self.cheek_fullness * near(0.68, 0.95, 0.4, 0.28, 0.35, 0.6)
        x += 1.2 * side * bulge
        z -= 0.6 * bulge
        y -= 0.07 * self.forehead_height * smoothstep(-y0, 0.35, 1.0)
        y += 0.035 * self.nose_length * smoothstep(y0, 0.1, 0.65)
        y += 0.03 * self.lower_face * smoothstep(y0, 0.75, 1.1)
        y += 0.045 * self.chin_length * smoothstep(y0, 1.3, 1.75)
        x += 0.12 * self.chin_width * x0 * near(0.0, 1.65, 0.2, 0.45, 0.22, 0.4)
        z -= 0.035 * self.chin_forward * near(0.0, 1.6, 0.1, 0.35, 0.25, 0.5)
        # Brows and eyes.
        z -= 0.03 * self.brow_ridge * near(0.4, -0.26, -0.15, 0.4, 0.13, 0.4)
        y -= 0.03 * self.brow_height * near(0.5, -0.3, -0.1, 0.5, 0.14, 0.6)
        around = near(0.485, 0.01, 0.03, 0.22, 0.14, 0.4)
        x += 0.06 * self.eye_size * around * (np.abs(x0) - 0.485) * side
        y += around * (0.06 * self.eye_size + 0.12 * self.eye_opening) * (y0 - 0.02)
        x += 0.018 * self.eye_spacing * side * near(0.485, 0.0, 0.0, 0.3, 0.3, 0.5)
        y -= 0.045 * self.eye_tilt * around * (np.abs(x0) - 0.485) / 0.22
        z += 0.02 * self.eye_depth * around
        y += 0.008 * self.uneven_eyes * side * near(0.485, -0.05, 0.0, 0.35, 0.25, 0.6)
        # Nose.
        x += 0.11 * self.nose_width * x0 * near(0.0, 0.58, -0.25, 0.26, 0.16, 0.35)
        z -= 0.045 * self.nose_forward * near(0.0, 0.55, -0.5, 0.2, 0.2, 0.25)
        z -= 0.035 * self.nose_bridge * near(0.0, 0.15, -0.3, 0.15, 0.25, 0.3)
        y -= 0.035 * self.nose_tip * near(0.0, 0.6, -0.5, 0.16, 0.14, 0.2)
        x += 0.012 * self.crooked_nose * near(0.0, 0.5, -0.45, 0.2, 0.22, 0.3)
        # Mouth: lips grow away from the line between them.
        mouth = near(0.0, 1.13, -0.1, 0.42, 0.2, 0.35)
        x += 0.08 * self.mouth_width * x0 * mouth
        above = smoothstep(y0, 1.13, 1.05)
        y += (
            (0.16 * self.upper_lip * above + 0.16 * self.lower_lip * (1 - above))
            * (y0 - 1.13)
            * near(0.0, 1.13, -0.1, 0.3, 0.13, 0.3)
        )
        z -= 0.02 * (self.upper_lip * above + self.lower_lip * (1 - above)) * near(0.0, 1.13, -0.15, 0.22, 0.12, 0.3)
        z -= 0.03 * self.mouth_forward * near(0.0, 1.1, -0.15, 0.35, 0.22, 0.35)
        x += 0.02 * self.crooked_jaw * smoothstep(y0, 0.9, 1.7)
        return np.stack([x, y, z], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A person, their voice, and the room that they sit in."""

    seed: int
    masculinity: float  # 0..1: jaw, brows, beard, voice lean one way or the other
    age: float  # 0 young adult .. 1 old
    shape: Shape
    # Skin
    skin: Colour
    blush: float  # 0..1
    freckles: float  # 0..1
    stubble: float  # 0..1
    beard: str  # "none", "moustache", "goatee", "full"
    lip_tint: float  # 0 natural .. 1 lipstick
    lip_colour: Colour
    eye_shadow: float
    # Hair
    hair_style: str
    hair: Colour
    grey: float  # share of white hairs
    hair_volume: float
    part: float  # -1..1: side of the parting
    hairline: float  # degrees above the ordinary one
    widows_peak: float  # degrees by which the temples recede beside it
    fringe: float  # 0 none .. 1 to the brows
    brow_thickness: float
    brow_arch: float
    brow_density: float
    lashes: float
    # Eyes
    iris: Colour
    lid_rest: float  # how far the lids droop at rest
    # Things
    glasses: bool
    glasses_colour: Colour
    glasses_squareness: float
    glasses_size: float
    collar: str
    cloth: Colour
    cloth_second: Colour
    cloth_pattern: str  # "plain", "stripes", "checks", "knit"
    neck_width: float
    shoulders: float
    ear_size: float
    ear_stand: float
    # Room
    background: str  # "wall", "studio", "window", "shelf", "outdoors"
    background_colours: tuple[Colour, Colour, Colour]
    key_azimuth: float  # radians, positive: from the right of the picture
    key_elevation: float
    key_strength: float
    key_warmth: float  # -1 cool .. 1 warm
    rim_strength: float
    # Voice
    pitch: float  # hertz
    tract: float  # length of the vocal tract over the average: formants are divided by it
    breathiness: float
    speech_rate: float
    liveliness: float  # how much the head and the brows move


# Reflectances of skin from light to dark, and of hair.
_SKIN: tuple[Colour, ...] = (
    (0.78, 0.56, 0.47),
    (0.72, 0.50, 0.40),
    (0.66, 0.44, 0.33),
    (0.60, 0.39, 0.27),
    (0.50, 0.31, 0.205),
    (0.40, 0.235, 0.15),
    (0.30, 0.165, 0.10),
    (0.20, 0.105, 0.063),
    (0.13, 0.066, 0.040),
)
_HAIR: tuple[Colour, ...] = (
    (0.010, 0.008, 0.008),
    (0.022, 0.014, 0.010),
    (0.050, 0.027, 0.015),
    (0.095, 0.050, 0.025),
    (0.17, 0.095, 0.045),
    (0.30, 0.195, 0.10),
    (0.46, 0.33, 0.18),
    (0.24, 0.070, 0.025),
)
_IRIS: tuple[Colour, ...] = (
    (0.045, 0.020, 0.010),
    (0.10, 0.045, 0.018),
    (0.17, 0.10, 0.035),
    (0.13, 0.16, 0.07),
    (0.11, 0.19, 0.25),
    (0.20, 0.27, 0.31),
)
_CLOTH: tuple[Colour, ...] = (
    (0.02, 0.022, 0.03),
    (0.03, 0.05, 0.11),
    (0.06, 0.10, 0.20),
    (0.55, 0.55, 0.53),
    (0.75, 0.74, 0.70),
    (0.16, 0.17, 0.18),
    (0.22, 0.03, 0.035),
    (0.03, 0.09, 0.06),
    (0.30, 0.22, 0.13),
    (0.35, 0.12, 0.05),
    (0.18, 0.08, 0.20),
    (0.12, 0.25, 0.30),
    (0.50, 0.30, 0.30),
    (0.40, 0.36, 0.12),
)
_WALLS: tuple[Colour, ...] = (
    (0.45, 0.46, 0.47),
    (0.55, 0.50, 0.43),
    (0.20, 0.26, 0.33),
    (0.30, 0.36, 0.31),
    (0.62, 0.62, 0.60),
    (0.12, 0.13, 0.15),
    (0.36, 0.24, 0.18),
    (0.25, 0.30, 0.42),
    (0.50, 0.40, 0.38),
)


def draw_identity(seed: int) -> Identity:
    """The person with this seed; the same on every machine."""
    rng = np.random.default_rng([seed, 0x1DE57])
    masculinity = float(np.clip(rng.beta(0.5, 0.5), 0, 1))
    age = float(rng.beta(1.3, 2.2))
    tone = rng.uniform(0, len(_SKIN) - 1)
    hair = _hair_colour(rng, tone)
    grey = float(np.clip((age - 0.45) * 2.2 + rng.normal(0, 0.15), 0, 1)) if age > 0.4 else 0.0
    style = _hair_style(rng, masculinity, age, tone)
    beard = (
        str(rng.choice(["none", "moustache", "goatee", "full"], p=[0.58, 0.08, 0.12, 0.22]))
        if masculinity > 0.6
        else "none"
    )
    made_up = masculinity < 0.5 and rng.random() < 0.6
    eye_colour = int(np.clip(np.floor(rng.exponential(0.6 + 2.4 * max(0.0, 1 - tone / 3.5))), 0, len(_IRIS) - 1))
    key_side = rng.choice([-1.0, 1.0])
    return Identity(
        seed=seed,
        masculinity=masculinity,
        age=age,
        shape=_shape(rng, masculinity, age),
        skin=_jitter(rng, _between(_SKIN, tone), 0.05),
        blush=float(rng.uniform(0.2, 1.0)),
        freckles=float(rng.uniform(0.3, 1.0)) if tone < 2.5 and rng.random() < 0.25 else 0.0,
        stubble=float(rng.uniform(0.15, 1.0)) if masculinity > 0.6 else 0.0,
        beard=beard,
        lip_tint=float(rng.uniform(0.35, 1.0)) if made_up else float(rng.uniform(0.0, 0.2)),
        lip_colour=_jitter(
            rng, ((0.42, 0.06, 0.07), (0.34, 0.05, 0.09), (0.50, 0.14, 0.13), (0.25, 0.04, 0.05))[rng.integers(4)], 0.15
        ),
        eye_shadow=float(rng.uniform(0.2, 0.9)) if made_up else 0.0,
        hair_style=style,
        hair=hair,
        grey=grey,
        hair_volume=float(rng.uniform(0.6, 1.3)),
        part=float(rng.choice([-1, 1]) * rng.uniform(0.1, 1.0)),
        hairline=float(rng.normal(1.0 + 2 * masculinity * age, 2.0)),
        widows_peak=float(rng.uniform(0, 3 + 5 * masculinity)),
        fringe=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.3 else 0.0,
        brow_thickness=float(np.clip(rng.normal(0.75 + 0.5 * masculinity, 0.15), 0.45, 1.5)),
        brow_arch=float(rng.normal(0.35 - 0.5 * masculinity, 0.35)),
        brow_density=float(rng.uniform(0.65, 1.0)),
        lashes=float(np.clip(rng.normal(0.95 - 0.5 * masculinity + 0.3 * made_up, 0.12), 0.3, 1.3)),
        iris=_jitter(rng, _IRIS[eye_colour], 0.2),
        lid_rest=float(np.clip(rng.normal(0.03 + 0.08 * age, 0.05), -0.05, 0.2)),
        glasses=bool(rng.random() < 0.16),
        glasses_colour=_jitter(
            rng,
            ((0.012, 0.012, 0.014), (0.10, 0.05, 0.025), (0.25, 0.22, 0.18), (0.03, 0.04, 0.09))[rng.integers(4)],
            0.2,
        ),
        glasses_squareness=float(rng.uniform(2.0, 4.0)),
        glasses_size=float(rng.uniform(0.88, 1.08)),
        collar=str(rng.choice(COLLARS, p=[0.34, 0.26, 0.12, 0.16, 0.12])),
        cloth=_jitter(rng, _CLOTH[rng.integers(len(_CLOTH))], 0.25),
        cloth_second=_jitter(rng, _CLOTH[rng.integers(len(_CLOTH))], 0.25),
        cloth_pattern=str(rng.choice(["plain", "stripes", "checks", "knit"], p=[0.45, 0.15, 0.15, 0.25])),
        neck_width=float(np.clip(rng.normal(0.82 + 0.22 * masculinity, 0.04), 0.74, 1.12)),
        shoulders=float(np.clip(rng.normal(0.9 + 0.16 * masculinity, 0.05), 0.8, 1.2)),
        ear_size=float(np.clip(rng.normal(0.95 + 0.08 * masculinity + 0.06 * age, 0.06), 0.82, 1.18)),
        ear_stand=float(rng.uniform(0.3, 0.75)),
        background=str(rng.choice(["wall", "studio", "window", "shelf", "outdoors"])),
        background_colours=_three_colours(rng),
        key_azimuth=float(key_side * rng.uniform(0.1, 0.95)),
        key_elevation=float(rng.uniform(0.2, 0.85)),
        key_strength=float(rng.uniform(0.5, 1.0)),
        key_warmth=float(rng.normal(0.1, 0.45)),
        rim_strength=float(rng.uniform(0.0, 0.9)),
        pitch=float(np.clip(rng.normal(205 - 92 * masculinity, 16), 80, 270)),
        tract=float(np.clip(rng.normal(0.9 + 0.14 * masculinity, 0.025), 0.82, 1.12)),
        breathiness=float(rng.uniform(0.02, 0.12)),
        speech_rate=float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.25)),
        liveliness=float(rng.uniform(0.6, 1.3)),
    )


def _between(table: Sequence[Colour], position: float) -> Colour:
    """Linear interpolation in a table of colours."""
    colours = np.asarray(table)
    low = int(np.clip(np.floor(position), 0, len(colours) - 2))
    return _colour(colours[low] + (position - low) * (colours[low + 1] - colours[low]))


def _colour(values: Float64[np.ndarray, " 3"]) -> Colour:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """The colour, a little brighter or darker and of another hue."""
    return _colour(
        np.clip(np.asarray(colour) * np.exp(rng.normal(0, amount) + rng.normal(0, amount / 3, 3)), 0.004, 0.95)
    )


def _three_colours(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    first, second, third = (_jitter(rng, _WALLS[rng.integers(len(_WALLS))], 0.25) for _ in range(3))
    return first, second, third


def _hair_colour(rng: np.random.Generator, tone: float) -> Colour:
    """Dark hair with dark skin; everything with light skin."""
    if tone < 2.5:
        return _jitter(rng, _HAIR[rng.integers(len(_HAIR))], 0.15)
    return _jitter(rng, _HAIR[rng.integers(0, 3 if tone > 4 else 4)], 0.15)


def _hair_style(rng: np.random.Generator, masculinity: float, age: float, tone: float) -> str:
    short = {
        "bald": 0.05 + 0.12 * age,
        "receding": 0.03 + 0.3 * age,
        "buzz": 0.13,
        "crop": 0.25,
        "side_part": 0.2,
        "quiff": 0.16 * (1 - age),
    }
    long = {
        "bob": 0.24,
        "long": 0.26 * (1.2 - age),
        "long_wavy": 0.24 * (1.2 - age),
        "tied_back": 0.2,
        "crop": 0.05 + 0.1 * age,
        "headscarf": 0.07,
    }
    either = {"curls": 0.12, "afro": 0.16 if tone > 5 else 0.015}
    weights = dict.fromkeys(HAIR_STYLES, 0.0)
    for table, share in (
        (short, smoothstep(np.array(masculinity), 0.3, 0.7)),
        (long, smoothstep(np.array(masculinity), 0.7, 0.3)),
        (either, 1.0),
    ):
        for style, weight in table.items():
            weights[style] += float(weight * share)
    p = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=p / p.sum()))


# How shapes lean with masculinity, from one end to the other.
_LEANING = {
    "jaw_width": 1.6,
    "brow_ridge": 1.8,
    "chin_width": 1.2,
    "eye_size": -0.8,
    "eye_opening": -0.6,
    "brow_height": -1.2,
    "nose_width": 0.8,
    "nose_forward": 0.5,
    "upper_lip": -0.7,
    "lower_lip": -0.4,
    "chin_length": 0.6,
    "cheekbones": -0.4,
}


def _shape(rng: np.random.Generator, masculinity: float, age: float) -> Shape:
    drawn = {field.name: float(np.clip(rng.normal(0, 0.9), -2, 2)) for field in fields(Shape)}
    lean = masculinity - 0.5
    for name, amount in _LEANING.items():
        drawn[name] += lean * amount
    drawn["upper_lip"] -= 0.8 * age
    drawn["lower_lip"] -= 0.6 * age
    drawn["eye_opening"] -= 0.6 * age
    drawn["nose_tip"] -= 0.6 * age
    return Shape(**drawn)
