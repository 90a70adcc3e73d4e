"""A detected face, and what can be measured on its landmarks.

Landmarks are pixels, (x, y) or (x, y, z), pixel centres at integer coordinates; z is depth in the same unit, smaller towards the camera.
Over time, an undetected face is a row of NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.ndimage import gaussian_filter1d

from src.errors import FaceError
from src.face.topology import IBUG68, IBUG68_GROUPS, LEFT_EYE, NUM_LANDMARKS, RIGHT_EYE, SIMPLIFIED

NUM_BLENDSHAPES = 52

_EYE_CONTOURS = np.stack([LEFT_EYE, RIGHT_EYE])
_IBUG68_EYES = np.array([[36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]])
# Three pairs (upper, lower) around the middle of the inner lips.
_INNER_LIP_PAIRS = np.array([[82, 13, 312], [87, 14, 317]])
_INNER_LIP_PAIRS_IBUG68 = np.array([[61, 62, 63], [67, 66, 65]])


@dataclass(frozen=True)
class Face:
    """One face in one frame.

    `landmarks` are pixels of the frame, `blendshapes` MediaPipe's 52 coefficients in [0, 1] (person's sides), `pose` the transform from
    the canonical face (centimetres, y up) to the camera.
    """

    landmarks: Float32[np.ndarray, "478 3"]
    blendshapes: Float32[np.ndarray, " 52"]
    pose: Float32[np.ndarray, "4 4"]

    @property
    def box(self) -> Float32[np.ndarray, " 4"]:
        """Bounding box (left, top, right, bottom) of the landmarks in pixels."""
        return np.concatenate([self.landmarks[:, :2].min(axis=0), self.landmarks[:, :2].max(axis=0)])

    @property
    def area(self) -> float:
        """Area of the bounding box in square pixels."""
        left, top, right, bottom = self.box.tolist()
        return (right - left) * (bottom - top)


def stack_faces(
    faces: Sequence[Face | None],
) -> tuple[Float32[np.ndarray, "t 478 3"], Float32[np.ndarray, "t 52"]]:
    """Landmarks and blendshapes over time, NaN where there is no face."""
    landmarks = np.full((len(faces), NUM_LANDMARKS, 3), np.nan, dtype=np.float32)
    blendshapes = np.full((len(faces), NUM_BLENDSHAPES), np.nan, dtype=np.float32)
    for i, face in enumerate(faces):
        if face is not None:
            landmarks[i], blendshapes[i] = face.landmarks, face.blendshapes
    return landmarks, blendshapes


def simplified(landmarks: Float[np.ndarray, "*t 478 d"]) -> Float[np.ndarray, "*t 135 d"]:
    """The 135 points that landmark_driven draws."""
    return landmarks[..., SIMPLIFIED, :]


def to_ibug68(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 68 d"]:
    """The 68-point equivalent of 478 MediaPipe points; 68 points pass unchanged."""
    return landmarks if _layout(landmarks) == 68 else landmarks[..., IBUG68, :]


def _layout(landmarks: Float[np.ndarray, "*t n d"]) -> int:
    """Number of points, 478 (MediaPipe) or 68 (iBUG)."""
    n_points = landmarks.shape[-2]
    if n_points not in (NUM_LANDMARKS, 68):
        raise FaceError(f"Landmarks have {n_points} points per face: give 478 (MediaPipe) or 68 (iBUG).")
    return n_points


def inter_ocular_distance(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, " *t"]:
    """Distance between the outer eye corners, in pixels, of 478 or 68 points."""
    left, right = (33, 263) if _layout(landmarks) == NUM_LANDMARKS else (36, 45)
    return np.linalg.norm(landmarks[..., right, :] - landmarks[..., left, :], axis=-1)


def mouth_opening(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, " *t"]:
    """Gap between the inner lips over the inter-ocular distance: 0 closed, about 0.3 wide open.

    The mean of three vertical pairs of points. With z the distances are spatial, so that turning or nodding changes the value less.
    """
    upper, lower = _INNER_LIP_PAIRS if _layout(landmarks) == NUM_LANDMARKS else _INNER_LIP_PAIRS_IBUG68
    gap = np.linalg.norm(landmarks[..., lower, :] - landmarks[..., upper, :], axis=-1).mean(axis=-1)
    return gap / inter_ocular_distance(landmarks)


def eye_aspect_ratios(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 2"]:
    """Height over width of the opening of the left and of the right eye (sides of the picture): about 0.3 open, below 0.15 closed.

    (|p1 - p5| + |p2 - p4|) / (2 |p0 - p3|) of the six iBUG points of an eye (Soukupova and Cech, 2016).
    """
    eyes = to_ibug68(landmarks)[..., _IBUG68_EYES, :]  # *t eye point d
    heights = np.linalg.norm(eyes[..., [1, 2], :] - eyes[..., [5, 4], :], axis=-1).sum(axis=-1)
    widths = np.linalg.norm(eyes[..., 0, :] - eyes[..., 3, :], axis=-1)
    return heights / (2 * widths)


def eye_aspect_ratio(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, " *t"]:
    """Mean of `eye_aspect_ratios` over both eyes."""
    return eye_aspect_ratios(landmarks).mean(axis=-1)


def eye_centres(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 2 d"]:
    """Means of the left and the right eye's contour (sides of the picture)."""
    contours = _EYE_CONTOURS if _layout(landmarks) == NUM_LANDMARKS else _IBUG68_EYES
    return landmarks[..., contours, :].mean(axis=-2)


def mouth_points(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 20 d"]:
    """The twenty mouth points of the 68-point layout: outer lip (12), inner lip (8)."""
    first, last = IBUG68_GROUPS["outer_lip"].start, IBUG68_GROUPS["inner_lip"].stop
    return to_ibug68(landmarks)[..., first:last, :]


def rescaled(
    points: Float[np.ndarray, "*t n 2"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float[np.ndarray, "*t n 2"]:
    """Points of a picture in pixels of the resized picture; pixel centres lie at integers, sizes are (height, width)."""
    scale = np.array([new_size[1] / size[1], new_size[0] / size[0]])
    return (points.astype(np.float64) + 0.5) * scale - 0.5


def bounding_boxes(landmarks: Float[np.ndarray, "*t n d"]) -> Float[np.ndarray, "*t 4"]:
    """Boxes (left, top, right, bottom) of the points, in pixels."""
    xy = landmarks[..., :2]
    return np.concatenate([xy.min(axis=-2), xy.max(axis=-2)], axis=-1)


def detected(landmarks: Float[np.ndarray, "t n d"]) -> Bool[np.ndarray, " t"]:
    """True for the frames whose landmarks are all finite."""
    return np.asarray(np.isfinite(landmarks).all(axis=(1, 2)))


def fill_missing(
    landmarks: Float[np.ndarray, "t n d"], *, extrapolate: bool = True
) -> tuple[Float[np.ndarray, "t n d"], Bool[np.ndarray, " t"]]:
    """Landmarks with the undetected frames interpolated, and the mask of the detected ones.

    Linear in time between detections; before the first and after the last one the nearest is held.

    Args:
        landmarks: pixels; a frame with any non-finite coordinate counts as undetected.
        extrapolate: with False, a missing first or last frame is an error, as in landmark_driven's original preprocessing.

    Raises:
        FaceError: no frame has a face, or an end is missing and `extrapolate` is False.
    """
    valid = detected(landmarks)
    if not valid.any():
        raise FaceError(f"No face was found in any of the {len(landmarks)} frames: give a recording that shows one.")
    if not extrapolate and not (valid[0] and valid[-1]):
        raise FaceError("No face was found in the first or the last frame: allow extrapolation or cut the clip.")
    if valid.all():
        return landmarks.copy(), valid
    return _interpolate(landmarks, np.flatnonzero(valid)), valid


def bridged(valid: Bool[np.ndarray, " t"], max_gap: int) -> Bool[np.ndarray, " t"]:
    """Frames with a face, and those of gaps of at most `max_gap` frames, between detections or at either end: so far it moves little."""
    starts_and_ends = np.flatnonzero(np.diff(np.concatenate([[True], valid, [True]]).astype(np.int8)))
    shown = valid.copy()
    for start, end in starts_and_ends.reshape(-1, 2):
        shown[start:end] = end - start <= max_gap
    return shown


def _interpolate(landmarks: Float[np.ndarray, "t n d"], known: Int[np.ndarray, " k"]) -> Float[np.ndarray, "t n d"]:
    """Linear interpolation in time between the frames `known`, the nearest beyond them."""
    frames = np.arange(len(landmarks))
    after = np.minimum(np.searchsorted(known, frames), len(known) - 1)
    before = np.maximum(after - (known[after] > frames), 0)
    start, end = landmarks[known[before]], landmarks[known[after]]
    span = np.maximum(known[after] - known[before], 1)
    elapsed = np.clip(frames - known[before], 0, span)
    # Slope first, as numpy.interp does: coordinates are truncated to pixels later, so the last bit counts.
    slope = (end - start) / span[:, None, None].astype(landmarks.dtype)
    return start + slope * elapsed[:, None, None].astype(landmarks.dtype)


def smooth(landmarks: Float[np.ndarray, "t *n"], sigma: float) -> Float[np.ndarray, "t *n"]:
    """Gaussian filter along time, `sigma` in frames, of a series without gaps.

    The kernel reaches 4 sigma: below sigma 0.125 its radius is 0 and nothing changes (landmark_driven's original uses 0.1).
    """
    if sigma < 0:
        raise FaceError(f"The smoothing sigma is {sigma} frames: give 0 or more.")
    if int(4 * sigma + 0.5) == 0:
        return landmarks.copy()
    return gaussian_filter1d(landmarks, sigma, axis=0, mode="nearest")


def smooth_one_euro(
    landmarks: Float[np.ndarray, "t *n"],
    fps: float,
    *,
    min_cutoff: float = 1.0,
    beta: float = 0.05,
    derivative_cutoff: float = 1.0,
) -> Float[np.ndarray, "t *n"]:
    """One-Euro filter along time: causal, strong on a still face, weak on a moving one (Casiez, Roussel, Vogel, CHI 2012).

    Args:
        landmarks: pixels, without gaps.
        fps: frames per second.
        min_cutoff: cut-off frequency at rest, in Hz; lower is smoother.
        beta: how much the cut-off rises with speed, in Hz per pixel/s; higher lags less.
        derivative_cutoff: cut-off frequency of the speed estimate, in Hz.
    """
    smoothed = np.empty_like(landmarks)
    smoothed[0] = landmarks[0]
    speed = np.zeros_like(landmarks[0])
    speed_gain = _one_euro_gain(derivative_cutoff, fps)
    for i in range(1, len(landmarks)):
        speed = speed + speed_gain * ((landmarks[i] - landmarks[i - 1]) * fps - speed)
        gain = _one_euro_gain(min_cutoff + beta * np.abs(speed), fps)
        smoothed[i] = smoothed[i - 1] + gain * (landmarks[i] - smoothed[i - 1])
    return smoothed


def _one_euro_gain(cutoff, fps: float):
    """Gain of a first-order low-pass: 1 / (1 + fps / (2 pi cutoff))."""
    return 1.0 / (1.0 + fps / (2 * np.pi * cutoff))
