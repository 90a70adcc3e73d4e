"""Alignment: which part of every frame becomes the face crop, as a matrix per frame.

Three choices, one interface (configuration group `alignment`): `.size` is the crop's (height, width), `.fit(landmarks, frame_size)` the
(t, 3, 3) matrices from frame pixels to crop pixels. `warp` cuts the crops; the inverse matrices paste a result back.

| choice | geometry | source |
|---|---|---|
| `TemplateAlignment` | one similarity per clip, from its first face; head motion stays | landmark_driven |
| `MeanFaceAlignment` | a similarity per frame onto a mean face, smoothed over a window | face-processor, Diffused Heads |
| `SquareCropAlignment` | an unrotated square that follows the head slowly | ours |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from src.errors import FaceError
from src.face.geometry import invert, scale_and_shift, similarity_transform, transform_landmarks, transform_points
from src.face.landmarks import bounding_boxes, fill_missing, simplified, smooth
from src.face.mean_face import box_size, crop_size, load_mean_face, shift_mean_face
from src.face.topology import NUM_LANDMARKS, RIGID, SIMPLIFIED_GROUPS, STABLE, STABLE_IBUG68
from src.face.warp import warp, warp_exact

__all__ = [
    "Alignment",
    "MeanFaceAlignment",
    "SquareCropAlignment",
    "TemplateAlignment",
    "feature_means",
    "invert",
    "similarity_transform",
    "template_points_of",
    "transform_landmarks",
    "transform_points",
    "warp",
    "warp_exact",
]

# Side of landmark_driven's crops, and the box that a template face fills in it.
_TEMPLATE_SIDE, _TEMPLATE_BOX_START, _TEMPLATE_BOX_SIDE = 128, 25, 80

# Means of left eye, right eye and nose ridge of MediaPipe's canonical face, brought into that box: a symmetric template.
DEFAULT_TEMPLATE_POINTS = ((48.675, 50.445), (81.325, 50.445), (65.0, 57.687))


@runtime_checkable
class Alignment(Protocol):
    """What the three alignments share."""

    size: tuple[int, int]

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels for every frame; undetected frames (NaN) are bridged.

        Args:
            landmarks: pixels of the frame.
            frame_size: height and width of the frames in pixels.

        Raises:
            FaceError: no frame has a face, or the clip is too short.
        """
        ...


def feature_means(points: Float[np.ndarray, "*t 135 2"]) -> Float[np.ndarray, "*t 3 2"]:
    """Means of the left eye, the right eye and the nose ridge of the 135 simplified points."""
    parts = [SIMPLIFIED_GROUPS[name] for name in ("left_eye", "right_eye", "nose_ridge")]
    return np.stack([points[..., part, :].mean(axis=-2) for part in parts], axis=-2)


def template_points_of(points: Float[np.ndarray, "135 2"]) -> Float[np.ndarray, "3 2"]:
    """The three template points of a template portrait's simplified landmarks, in pixels of the 128 x 128 crop.

    The face's bounding box is stretched to the box [25, 105] x [25, 105]: the portrait's proportions are lost, as in the original.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    return feature_means((points - low) / (high - low) * _TEMPLATE_BOX_SIDE + _TEMPLATE_BOX_START)


class TemplateAlignment:
    """landmark_driven's alignment: one similarity per clip, from the clip's first face to a template.

    Args:
        size: side of the crop; the template, made for 128, is scaled with it.
        template_points: left eye, right eye and nose in pixels of the 128 x 128 crop (`template_points_of` takes them from a portrait).
        truncate: drop the fractions of the first face's coordinates before averaging, as the original does.
    """

    def __init__(
        self,
        size: int = _TEMPLATE_SIDE,
        *,
        template_points: Sequence[Sequence[float]] | Float[np.ndarray, "3 2"] = DEFAULT_TEMPLATE_POINTS,
        truncate: bool = False,
    ) -> None:
        points = np.asarray(template_points, dtype=np.float64)
        if points.shape != (3, 2):
            raise FaceError(
                f"template_points has shape {points.shape}: give left eye, right eye and nose, x and y each."
            )
        self.size = (size, size)
        self.truncate = truncate
        # Pixel centres lie at integers, so the picture's upper left edge, -0.5, is what scaling keeps.
        self.template_points = (points + 0.5) * (size / _TEMPLATE_SIDE) - 0.5

    def fit(self, landmarks: Float[np.ndarray, "t 478 d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels, the same matrix for every frame; see `Alignment.fit`."""
        del frame_size  # the template alone decides
        first = fill_missing(landmarks)[0][0, :, :2]
        points = simplified(np.trunc(first) if self.truncate else first)
        crop_to_frame = similarity_transform(self.template_points, feature_means(points))
        return np.repeat(invert(crop_to_frame)[None], len(landmarks), axis=0)


class MeanFaceAlignment:
    """face-processor's alignment: every frame's five stable points onto those of a mean face.

    Args:
        size: (height, width) or side of the crop; None takes the mean face's box plus the margins.
        mean_face: "large", "packaged", a .npy file of 68 points, or the points.
        scale: multiplies the mean face.
        offset: margins (side, top, bottom) in fractions of the mean face's box; None leaves the mean face where it is.
        window: frames over which the stable points are averaged; an even number is raised by one.
        look_ahead: average frames n ... n + window - 1 and repeat the last transform at the end, as the original does, so that the crop
            leads the head by half a window; otherwise the window is centred and shrinks towards the ends.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        *,
        mean_face: str | Path | Float[np.ndarray, "68 2"] | Sequence[Sequence[float]] = "large",
        scale: float = 1.0,
        offset: Sequence[float] | None = None,
        window: int = 7,
        look_ahead: bool = False,
    ) -> None:
        if window < 1:
            raise FaceError(f"The smoothing window is {window} frames: give 1 or more.")
        self.mean_face = load_mean_face(mean_face) * scale
        if offset is not None:
            side, top, bottom = offset
            self.mean_face = shift_mean_face(self.mean_face, side, top)
            size = crop_size(self.mean_face, side, top, bottom) if size is None else size
        if size is None:
            raise FaceError("A mean-face alignment needs a crop: give size, or offset (side, top, bottom).")
        height, width = (size, size) if isinstance(size, int) else size
        self.size = (height, width)
        self.window = window | 1
        self.look_ahead = look_ahead

    @classmethod
    def square(
        cls,
        size: int = 128,
        *,
        mean_face: str = "large",
        top: float = 0.336,
        bottom: float = 0.155,
        window: int = 7,
        look_ahead: bool = False,
    ) -> "MeanFaceAlignment":
        """A square crop of any side: the mean face is scaled to it, with these margins above and below, centred sideways."""
        width, height = box_size(load_mean_face(mean_face))
        tall = height * (1 + top + bottom)
        offset = ((tall / width - 1) / 2, top, bottom)
        return cls(size, mean_face=mean_face, scale=size / tall, offset=offset, window=window, look_ahead=look_ahead)

    @property
    def target_points(self) -> Float[np.ndarray, "5 2"]:
        """Where the stable points belong, in crop pixels."""
        return self.mean_face[STABLE_IBUG68]

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels, from 478 or 68 landmarks; see `Alignment.fit`."""
        del frame_size  # the mean face alone decides
        stable = landmarks[:, STABLE if landmarks.shape[1] == NUM_LANDMARKS else STABLE_IBUG68, :2]
        stable, _ = fill_missing(stable.astype(np.float64))
        average = self._averages_ahead(stable) if self.look_ahead else self._centred_averages(stable)
        return similarity_transform(average, self.target_points)

    def _averages_ahead(self, stable: Float[np.ndarray, "t 5 2"]) -> Float[np.ndarray, "t 5 2"]:
        """Means over frames n ... n + window - 1; the last complete window serves the remaining frames."""
        if len(stable) < self.window:
            raise FaceError(f"The clip has {len(stable)} frames, the smoothing window {self.window}: lower the window.")
        windows = np.lib.stride_tricks.sliding_window_view(stable, self.window, axis=0)
        means = windows.mean(axis=-1)
        return np.concatenate([means, np.repeat(means[-1:], self.window - 1, axis=0)])

    def _centred_averages(self, stable: Float[np.ndarray, "t 5 2"]) -> Float[np.ndarray, "t 5 2"]:
        """Means over the frames within half a window, fewer at the ends, but always as many before as after."""
        n = len(stable)
        frames = np.arange(n)
        reach = np.minimum(np.minimum(frames, n - 1 - frames), self.window // 2)
        sums = np.concatenate([np.zeros((1, 5, 2)), np.cumsum(stable, axis=0)])
        return (sums[frames + reach + 1] - sums[frames - reach]) / (2 * reach + 1)[:, None, None]


class ResizedAlignment:
    """Another alignment's crop at another size.

    Args:
        alignment: decides what the crop shows.
        size: side, or (height, width), of the resized crop.
    """

    def __init__(self, alignment: Alignment, size: int | Sequence[int]) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        self.alignment = alignment
        self.size = (height, width)

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> pixels of the resized crop; see `Alignment.fit`."""
        height, width = self.alignment.size
        scale = np.array([self.size[1] / width, self.size[0] / height])
        resize = np.diag([*scale, 1.0])
        resize[:2, 2] = (scale - 1) / 2  # pixel centres lie at integers
        return resize @ self.alignment.fit(landmarks, frame_size)


class SquareCropAlignment:
    """An unrotated square around the face that follows the head slowly and never trembles.

    Position and scale come from points that neither speech nor expression moves, smoothed over time; the square is then large enough for
    all landmarks of all frames, plus a margin.

    Args:
        size: side of the crop in pixels.
        margin: free space around the landmarks on every side, in fractions of the face's larger extent.
        sigma: smoothing of the path in frames (Gaussian).
        constant_scale: one side length for the whole clip; otherwise the square grows and shrinks as the face comes and goes.
        keep_inside: move the square, and shrink it where it must be, so that it stays within the frame.
    """

    def __init__(
        self,
        size: int = 256,
        *,
        margin: float = 0.25,
        sigma: float = 12.0,
        constant_scale: bool = True,
        keep_inside: bool = True,
    ) -> None:
        if margin < 0:
            raise FaceError(f"The margin is {margin}: give 0 or more, in fractions of the face.")
        self.size = (size, size)
        self.margin = margin
        self.sigma = sigma
        self.constant_scale = constant_scale
        self.keep_inside = keep_inside

    def fit(self, landmarks: Float[np.ndarray, "t 478 d"], frame_size: tuple[int, int]) -> Float[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels; see `Alignment.fit`."""
        filled, _ = fill_missing(landmarks[..., :2].astype(np.float64))
        centre, side = self._squares(filled)
        if self.keep_inside:
            centre, side = _moved_inside(centre, side, frame_size)
        return scale_and_shift(self.size[0] / side, centre - side[:, None] / 2)

    def _squares(
        self, landmarks: Float[np.ndarray, "t 478 2"]
    ) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, " t"]]:
        """Centre and side of the square of every frame."""
        anchor, radius = self._smoothed_track(landmarks)
        boxes = (bounding_boxes(landmarks).reshape(-1, 2, 2) - anchor[:, None]) / radius[:, None, None]
        centre = anchor + radius[:, None] * np.median(boxes.mean(axis=1), axis=0)
        reach = np.abs(bounding_boxes(landmarks).reshape(-1, 2, 2) - centre[:, None]).max(axis=(1, 2)) / radius
        extent = np.median((boxes[:, 1] - boxes[:, 0]).max(axis=1))
        return centre, radius * 2 * (reach.max() + self.margin * extent)

    def _smoothed_track(
        self, landmarks: Float[np.ndarray, "t 478 2"]
    ) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, " t"]]:
        """Mean of the rigid points and their root mean square distance from it, over time."""
        rigid = landmarks[:, RIGID]
        anchor = rigid.mean(axis=1)
        radius = np.sqrt(((rigid - anchor[:, None]) ** 2).sum(axis=-1).mean(axis=-1))
        radius = np.full_like(radius, np.median(radius)) if self.constant_scale else smooth(radius, self.sigma)
        return smooth(anchor, self.sigma), radius


def _moved_inside(
    centre: Float[np.ndarray, "t 2"], side: Float[np.ndarray, " t"], frame_size: tuple[int, int]
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, " t"]]:
    """The squares moved, and where larger than the frame shrunk, into the frame (whose edges lie half a pixel beyond its pixels)."""
    height, width = frame_size
    side = np.minimum(side, min(height, width))
    half = side[:, None] / 2
    return np.clip(centre, half - 0.5, np.array([width, height]) - 0.5 - half), side
