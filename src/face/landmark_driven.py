"""landmark_driven's own preprocessing of a clip, step by step, for agreement with models trained on its data.

https://github.com/kesimeg/Landmark-Driven-Talking-Head-using-Diffusion. New clip stores are made with `TemplateAlignment`, smooth rounding
and a tracked face instead; this is the path to use with a checkpoint of the original. Its peculiarities, kept here: one alignment per clip
from the first face; the template and the first frame shown to the detector with red and blue swapped; coordinates and grey levels
truncated; landmarks that nothing smooths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from src.errors import FaceError
from src.face.alignment import feature_means, similarity_transform, template_points_of, warp_exact
from src.face.detector import FaceDetector
from src.face.drawing import draw_landmarks
from src.face.landmarks import fill_missing, simplified, smooth
from src.media.fixed_point import resize_fixed_point

SIZE = 128
_SIGMA = 0.1  # frames: the kernel's radius is 0, so that the filter changes nothing

Detect = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "478 d"] | None]
"""A picture -> the landmarks of its face in pixels, or None."""


@dataclass(frozen=True)
class OriginalClip:
    """A preprocessed clip: `video`, `landmarks` and `landmark_figure` are what the original's data set files hold."""

    video: UInt8[np.ndarray, "t 128 128 3"]
    landmarks: Float[np.ndarray, "t 135 2"]
    """Whole pixels of the crop, NaN where the detector found no face."""
    filled_landmarks: Float[np.ndarray, "t 135 2"]
    """Without gaps: what is drawn."""
    landmark_figure: UInt8[np.ndarray, "t 128 128 3"]
    frame_points: Float[np.ndarray, "3 2"]
    """Left eye, right eye and nose of the first frame, in its pixels."""
    crop_to_frame: Float[np.ndarray, "3 3"]
    """Crop pixels -> frame pixels, for all frames."""


def truncated_points(landmarks: Float[np.ndarray, "*t 478 d"]) -> Float[np.ndarray, "*t 135 2"]:
    """The 135 points in whole pixels, fractions dropped towards zero."""
    return np.trunc(simplified(landmarks)[..., :2].astype(np.float64))


def largest_face(detector: FaceDetector) -> Detect:
    """A detector as a function from a picture to the landmarks of its largest face."""

    def detect(picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "478 3"] | None:
        faces = detector.detect(picture)
        return faces[0].landmarks if faces else None

    return detect


def original_template_points(
    portrait: UInt8[np.ndarray, "h w 3"], detect: Detect, *, swap_red_blue: bool = True
) -> Float[np.ndarray, "3 2"]:
    """The template's left eye, right eye and nose, from a portrait squeezed to 128 x 128, in pixels of the crop.

    Raises:
        FaceError: the portrait shows no face.
    """
    # A grey level more or less would move the detector's points by a fraction of a pixel, and with them every frame of the data set.
    small = resize_fixed_point(portrait, (SIZE, SIZE))
    landmarks = detect(_swapped(small) if swap_red_blue else small)
    if landmarks is None:
        raise FaceError(
            "No face was found in the template portrait: give a frontal portrait, or the three template points."
        )
    return template_points_of(truncated_points(landmarks))


def preprocess_original(
    frames: UInt8[np.ndarray, "t h w 3"],
    detect: Detect,
    template_points: Float[np.ndarray, "3 2"],
    *,
    swap_red_blue: bool = True,
) -> OriginalClip:
    """A whole clip as the original prepares it.

    Args:
        frames: RGB, the complete clip.
        detect: called with the first frame, then with every warped frame in order.
        template_points: where left eye, right eye and nose belong in the 128 x 128 crop.
        swap_red_blue: show the first frame to the detector as the original does; False shows it as it is.

    Raises:
        FaceError: no face in the first frame, or none in the first or last warped frame: the original drops such clips.
    """
    first = detect(_swapped(frames[0]) if swap_red_blue else frames[0])
    if first is None:
        raise FaceError(
            "No face was found in the first frame, which places the crop: cut the clip to begin with a face."
        )
    frame_points = feature_means(truncated_points(first))
    crop_to_frame = similarity_transform(template_points, frame_points)
    video = warp_exact(frames, np.repeat(crop_to_frame[None], len(frames), axis=0), SIZE)
    landmarks = np.stack([_points_or_nan(detect(frame)) for frame in video])
    filled = smooth(fill_missing(landmarks, extrapolate=False)[0], _SIGMA)
    return OriginalClip(video, landmarks, filled, draw_landmarks(filled, SIZE), frame_points, crop_to_frame)


def _points_or_nan(landmarks: Float[np.ndarray, "478 d"] | None) -> Float[np.ndarray, "135 2"]:
    return np.full((135, 2), np.nan) if landmarks is None else truncated_points(landmarks)


def _swapped(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Red and blue exchanged."""
    return np.ascontiguousarray(picture[..., ::-1])
