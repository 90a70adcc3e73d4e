"""LivePortrait's crops: a square around the face, upright by eyes and mouth, and how far eyes and lips are open.

The original places its crops by 106 or 203 landmarks of other detectors. Here MediaPipe's 478 serve: those points of them that lie where
the original's lie, from the brows to the chin and from cheek to cheek, so that crops are as large as the original's (all 478 reach the
hairline). The original's sets are known, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from src.errors import FaceError
from src.face.landmarks import fill_missing, smooth
from src.face.topology import LEFT_EYE, LEFT_EYEBROW, LIPS_OUTER, NOSE_RIDGE, RIGHT_EYE, RIGHT_EYEBROW

EPS = 1e-6
MIN_LENGTH = 1e-3  # pixels between eyes and mouth, below which a face counts as upright
MASK_MARGIN = 16  # pixels over which the original's crops fade
MANY_POINTS = 101  # sets with more points, and unknown ones, are read as the first so many

Pair = tuple[int, int]


@dataclass(frozen=True)
class PointSet:
    """Which landmarks of a set are which; left and right are sides of the picture.

    Attributes:
        left_eye, right_eye: points whose mean is the eye's centre.
        mouth: its corners.
        eye_ratios: of the left and the right eye, the two points of the height and the two of the width.
        lip_ratio: the same of the lips.
        extent: points that the crop has to hold; None: all.
        closed_eyes: what those points give for closed eyes; less counts as closed.
        eye_scale: factor of what is more, so that eyes are as open as by the 203 points that the networks were trained with.
    """

    left_eye: Sequence[int]
    right_eye: Sequence[int]
    mouth: Sequence[int] = ()
    eye_ratios: tuple[tuple[Pair, Pair], ...] = ()
    lip_ratio: tuple[Pair, Pair] | None = None
    extent: Int64[np.ndarray, " n"] | None = None
    closed_eyes: float = 0.0
    eye_scale: float = 1.0


POINTS_5 = PointSet((0,), (1,), (3, 4))
POINTS_68 = PointSet((36, 39), (42, 45), (48, 54))
POINTS_98 = PointSet(
    (60, 62, 64, 66), (68, 70, 72, 74), (76, 82), eye_ratios=(((62, 66), (60, 64)), ((70, 74), (68, 72)))
)
POINTS_101 = PointSet((39, 42, 45, 48), (51, 54, 57, 60), (75, 81))
POINTS_106 = PointSet((33, 35, 40, 39), (87, 89, 94, 93), (52, 61))
POINTS_203 = PointSet(
    (0, 6, 12, 18),
    (24, 30, 36, 42),
    (48, 66),
    eye_ratios=(((6, 18), (0, 12)), ((30, 42), (24, 36))),
    lip_ratio=((90, 102), (48, 66)),
)
# Measured on 1416 frames of seven talking people: MediaPipe's closed eyes (1 %) give 0.02, its median is 0.338; by the 203 points they are
# 0.004 and 0.28 in the motion that was published with the code. Lips agree without: 0.0015 (1 %) and 0.001.
CLOSED_EYES, EYE_SCALE = 0.02, 0.88

# fmt: off
_CONTOUR = [
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454,
]
# fmt: on
POINTS_478 = PointSet(
    (33, 159, 133, 145),
    (362, 386, 263, 374),
    (61, 291),
    eye_ratios=(((159, 145), (33, 133)), ((386, 374), (362, 263))),
    lip_ratio=((13, 14), (61, 291)),
    extent=np.concatenate(
        [
            np.array(_CONTOUR),
            LEFT_EYEBROW,
            RIGHT_EYEBROW,
            LEFT_EYE,
            RIGHT_EYE,
            NOSE_RIDGE,
            LIPS_OUTER,
        ]
    ),
    closed_eyes=CLOSED_EYES,
    eye_scale=EYE_SCALE,
)  # fmt: skip
_SETS = {5: POINTS_5, 68: POINTS_68, 98: POINTS_98, 101: POINTS_101, 106: POINTS_106, 203: POINTS_203, 478: POINTS_478}


def point_set(n: int) -> PointSet:
    """The set that has so many points; FaceError for a number that none has."""
    if n in _SETS:
        return _SETS[n]
    if n > MANY_POINTS:
        return POINTS_101
    raise FaceError(f"There are {n} landmarks: give a set of {', '.join(map(str, _SETS))} or more than {MANY_POINTS}.")


def reference_points(
    landmarks: Float[np.ndarray, "t n 2"], *, use_lip: bool = True, points: PointSet | None = None
) -> Float[np.ndarray, "t 2 2"]:
    """Middle of the eyes and middle of the mouth; without lips the left eye, and what lies as far below it as the right one beside it."""
    points = points or point_set(landmarks.shape[1])
    landmarks = landmarks.astype(np.float64)
    left, right = (landmarks[:, list(eye)].mean(axis=1) for eye in (points.left_eye, points.right_eye))
    if use_lip:
        return np.stack([(left + right) / 2, landmarks[:, list(points.mouth)].mean(axis=1)], axis=1)
    across = right - left
    return np.stack([left, left + np.stack([-across[:, 1], across[:, 0]], axis=1)], axis=1)


@dataclass(frozen=True)
class Boxes:
    """Squares in a picture.

    Attributes:
        centre: pixels.
        size: sides in pixels.
        angle: radians by which they are turned, clockwise on the screen.
    """

    centre: Float[np.ndarray, "t 2"]
    size: Float[np.ndarray, " t"]
    angle: Float[np.ndarray, " t"]

    def matrices(self, side: int) -> Float[np.ndarray, "t 3 3"]:
        """Picture pixels -> pixels of crops of that side."""
        scale = side / self.size
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        x, y = self.centre.T
        matrices = np.zeros((len(scale), 3, 3))
        matrices[:, 0] = np.stack([cos, sin, side / 2 - (cos * x + sin * y)], axis=1)
        matrices[:, 1] = np.stack([-sin, cos, side / 2 - (-sin * x + cos * y)], axis=1)
        matrices[:, 2, 2] = 1
        return matrices

    def upright(self) -> "Boxes":
        """The same squares, not turned."""
        return Boxes(self.centre, self.size, np.zeros_like(self.angle))

    def mean(self) -> "Boxes":
        """One square for all frames."""
        means = (part.mean(axis=0, keepdims=True) for part in (self.centre, self.size, self.angle))
        return Boxes(*means)

    def smoothed(self, sigma: float | int) -> "Boxes":
        """Squares that follow the face slowly; `sigma` is the standard deviation of a Gaussian in frames."""
        angle = np.unwrap(self.angle)
        return Boxes(*(smooth(part, float(sigma)) for part in (self.centre, self.size, angle)))

    def edges(self) -> Float[np.ndarray, "t 4"]:
        """Left, top, right and bottom of the squares, not turned."""
        half = self.size[:, None] / 2
        return np.concatenate([self.centre - half, self.centre + half], axis=1)


def face_boxes(
    landmarks: Float[np.ndarray, "t n 2"],
    *,
    scale: float | int = 2.3,
    vx: float | int = 0.0,
    vy: float | int = -0.125,
    use_lip: bool = True,
    points: PointSet | None = None,
) -> Boxes:
    """Squares around faces, turned so that eyes and mouth stand upright.

    Args:
        landmarks: pixels.
        scale: side in face sizes; larger shows the face smaller.
        vx: shift to the right, in sides.
        vy: shift down, in sides; negative shows more of the forehead.
        use_lip: see `reference_points`.
        points: which landmarks are which; None: by their number.
    """
    points = points or point_set(landmarks.shape[1])
    eyes, mouth = np.moveaxis(reference_points(landmarks, use_lip=use_lip, points=points), 1, 0)
    length = np.linalg.norm(mouth - eyes, axis=1, keepdims=True)
    down = np.where(length > MIN_LENGTH, (mouth - eyes) / np.maximum(length, MIN_LENGTH), [0.0, 1.0])
    right = np.stack([down[:, 1], -down[:, 0]], axis=1)
    axes = np.stack([right, down], axis=2)  # columns
    cloud = landmarks if points.extent is None else landmarks[:, points.extent]
    origin = cloud.mean(axis=1, dtype=np.float64)
    turned = (cloud - origin[:, None]) @ axes
    low, high = turned.min(axis=1), turned.max(axis=1)
    size = (high - low).max(axis=1) * scale
    middle = (low + high) / 2 + np.array([vx, vy]) * size[:, None]
    centre = origin + (axes @ middle[..., None])[..., 0]
    return Boxes(centre, size, np.arctan2(right[:, 1], right[:, 0]))


def ratios(
    landmarks: Float[np.ndarray, "t n 2"], points: PointSet | None = None
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, "t 1"]]:
    """Heights over widths of the left and the right eye, and of the opening of the lips, as the networks know them.

    Open eyes have about 0.28, closed lips less than 0.005; NaN where the set has no such points.
    """
    points = points or point_set(landmarks.shape[1])

    def ratio(pairs: tuple[Pair, Pair]) -> Float[np.ndarray, " t"]:
        height, width = (np.linalg.norm(landmarks[:, a] - landmarks[:, b], axis=-1) for a, b in pairs)
        return height / (width + EPS)

    unknown = np.full(len(landmarks), np.nan)
    eyes = [ratio(pairs) for pairs in points.eye_ratios] or [unknown, unknown]
    lip = unknown if points.lip_ratio is None else ratio(points.lip_ratio)
    opened = points.eye_scale * np.maximum(np.stack(eyes, axis=1) - points.closed_eyes, 0)
    return opened, lip[:, None]


def rectangle_mask(side: int = 512, margin: float | int = MASK_MARGIN) -> UInt8[np.ndarray, "side side"]:
    """The original's mask: 255, falling to 0 over `margin` pixels at the border; one pixel more at the top and on the left."""
    i = np.arange(side)
    outside = np.maximum(np.maximum(margin - i, i - (side - margin)), 0)
    distance = np.hypot(outside[:, None], outside)
    return (255 * np.clip(1 - distance / margin, 0, 1)).astype(np.uint8) if margin > 0 else _full(side)


def _full(side: int) -> UInt8[np.ndarray, "side side"]:
    return np.full((side, side), 255, np.uint8)


def feathered_mask(side: int = 512, width: float | int = 0.12) -> UInt8[np.ndarray, "side side"]:
    """255 in a rounded square, falling smoothly to 0 at the border over `width` sides."""
    i = (np.arange(side) + 0.5) / side
    inside = np.minimum(i, 1 - i) / max(width, 1 / side)
    depth = 1 - np.hypot(*np.meshgrid(*[np.clip(1 - inside, 0, None)] * 2))
    ramp = np.clip(depth, 0, 1)
    return np.rint(255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8)


def limited_size(height: int, width: int, max_dim: int = 1280, division: int = 2) -> tuple[tuple[int, int], Pair]:
    """Size that a picture is resized to so that no side is longer than `max_dim`, and the one that it is then cut to: multiples of
    `division`, where that leaves something."""
    if max_dim > 0 and max(height, width) > max_dim:
        if height > width:
            height, width = max_dim, int(width * (max_dim / height))
        else:
            height, width = int(height * (max_dim / width)), max_dim
    cut = (height - height % division, width - width % division) if division > 0 else (height, width)
    return (height, width), cut if min(cut) > 0 else (height, width)


class LivePortraitAlignment:
    """LivePortrait's crop of a source, or of a driving video, by MediaPipe's landmarks.

    Args:
        size: side of the crop.
        scale: side of the square in face sizes.
        vx: shift to the right, in sides.
        vy: shift down, in sides.
        rotate: turn the crop so that the face stands upright.
        smoothing: of the square along time, standard deviation in frames; the original's squares tremble.
        fixed: one square for the whole clip, the mean of all, so that the head's movement stays visible.
    """

    def __init__(
        self,
        size: int = 512,
        *,
        scale: float | int = 2.3,
        vx: float | int = 0.0,
        vy: float | int = -0.125,
        rotate: bool = True,
        smoothing: float | int = 6.0,
        fixed: bool = False,
    ) -> None:
        self.size = (size, size)
        self.scale, self.vx, self.vy = scale, vx, vy
        self.rotate = rotate
        self.smoothing = smoothing
        self.fixed = fixed

    def boxes(self, landmarks: Float[np.ndarray, "t n d"]) -> Boxes:
        """The square of every frame; undetected frames (NaN) are bridged."""
        filled, _ = fill_missing(landmarks[..., :2].astype(np.float64))
        boxes = face_boxes(filled, scale=self.scale, vx=self.vx, vy=self.vy)
        boxes = boxes if self.rotate else boxes.upright()
        if self.fixed:
            return Boxes(*(part.repeat(len(filled), axis=0) for part in vars(boxes.mean()).values()))
        return boxes.smoothed(self.smoothing) if self.smoothing > 0 and len(filled) > 1 else boxes

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels; see `Alignment.fit`."""
        del frame_size  # squares may reach beyond the frame
        return self.boxes(landmarks).matrices(self.size[0])


class WholeFrame:
    """The whole frame squeezed to a square, wherever the face is.

    Args:
        size: side of the square.
    """

    def __init__(self, size: int = 512) -> None:
        self.size = (size, size)

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> pixels of the square; see `Alignment.fit`."""
        scale = np.array([self.size[1] / frame_size[1], self.size[0] / frame_size[0]])
        matrix = np.diag([*scale, 1.0])
        matrix[:2, 2] = 0.5 * scale - 0.5  # pixel centres lie at integers
        return np.repeat(matrix[None], len(landmarks), axis=0)
