"""Numbers that describe a clip: size and pose of the face, movement of the mouth, delay between picture and sound."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from src.face.landmarks import bounding_boxes, mouth_opening
from src.media.curves import audio_envelope, best_lag

MAX_LAG = 12  # frames: half a second at 25 fps


def face_size(landmarks: Float32[np.ndarray, "t 478 3"]) -> float:
    """Median over frames of the longer side of the face's box, in pixels."""
    boxes = bounding_boxes(landmarks)
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)))


def head_angles(poses: Float[np.ndarray, "t 4 4"]) -> Float[np.ndarray, "t 3"]:
    """Yaw, pitch and roll in degrees of MediaPipe's pose matrices (x right, y up, z towards the camera).

    Yaw is positive where the head turns to the right of the image, pitch where it looks down, roll where it tilts clockwise.
    From R = Ry(yaw) Rx(pitch) Rz(-roll) of the rotation without its scale.
    """
    rotation = poses[:, :3, :3] / np.linalg.norm(poses[:, :3, :3], axis=1, keepdims=True)
    yaw = np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2])
    pitch = np.arcsin(np.clip(-rotation[:, 1, 2], -1, 1))
    roll = -np.arctan2(rotation[:, 1, 0], rotation[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def mouth_range(opening: Float[np.ndarray, "t"]) -> float:
    """95th minus 5th percentile over the frames of the mouth's opening, in inter-ocular distances."""
    low, high = np.percentile(opening, (5, 95))
    return float(high - low)


def audio_visual_offset(
    opening: Float[np.ndarray, "t"], envelope: Float[np.ndarray, "t"], max_lag: int = MAX_LAG
) -> tuple[int, float] | None:
    """Frames by which the sound lags the mouth where the two correlate best, and that correlation.

    A rough estimate: the mouth also opens in silence and closes in speech. It shows a data set whose sound is shifted, not the
    error of one clip. None where one of the two does not vary or the clip is shorter than four times `max_lag`.
    """
    if len(opening) < 4 * max_lag:
        return None
    return best_lag(opening, envelope, max_lag)


def measure(
    landmarks: Float32[np.ndarray, "t 478 3"],
    poses: Float[np.ndarray, "t 4 4"],
    audio: Float32[np.ndarray, "s"] | None,
    fps: float = 25.0,
) -> dict[str, Any]:
    """The optional fields of a `Clip` that follow from the landmarks and poses in the source frames, and the sound."""
    opening = mouth_opening(landmarks)
    yaw, pitch, roll = np.median(head_angles(poses), axis=0).tolist()
    numbers: dict[str, Any] = {
        "face_size": face_size(landmarks),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "mouth_range": mouth_range(opening),
    }
    offset = None if audio is None else audio_visual_offset(opening, audio_envelope(audio, len(landmarks), fps))
    if offset is not None:
        numbers["av_offset"], numbers["av_correlation"] = offset
    return numbers
