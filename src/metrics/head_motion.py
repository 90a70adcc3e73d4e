"""How the head moves: its rotation, how varied it is, and whether it keeps the beat of the sound."""

import importlib

import numpy as np
from jaxtyping import Float, Int64
from scipy.ndimage import gaussian_filter1d
from scipy.signal import argrelmin
from torch import Tensor

from src.errors import ConfigError
from src.metrics.clip_mean import ClipMean

SPEED_SIGMA = 5  # frames: of the filter on the speed
BEAT_SIGMA = 3  # frames: how far beats may lie apart
MIN_FRAMES = 3


def head_angles(points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t 3"]:
    """Yaw, pitch and roll in degrees, against the clip's own mean pose; NaN where there is no face.

    The rotation that brings the mean shape onto each frame's (Kabsch's least squares).

    Args:
        points: landmarks that speech does not move (`src.face.topology.RIGID`), x right, y down, z in the same unit.
    """
    points = points.astype(np.float64)
    points -= points.mean(axis=1, keepdims=True)
    known = np.isfinite(points).all(axis=(1, 2))
    angles = np.full((len(points), 3), np.nan)
    if known.any():
        mean = points[known].mean(axis=0)
        angles[known] = _euler_degrees(_rotations(mean, points[known]))
    return angles


def _rotations(shape: Float[np.ndarray, "n 3"], points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "t 3 3"]:
    """The rotation of `shape` closest to each frame's points."""
    u, _, vt = np.linalg.svd(points.transpose(0, 2, 1) @ shape)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[:, None]  # no mirror images
    return u @ vt


def _euler_degrees(rotations: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, "t 3"]:
    """Yaw about the vertical axis, then pitch, then roll in the picture plane."""
    yaw = np.arctan2(rotations[:, 0, 2], rotations[:, 2, 2])
    pitch = np.arcsin(np.clip(-rotations[:, 1, 2], -1, 1))
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def pose_diversity(angles: Float[np.ndarray, "t 3"]) -> float:
    """Standard deviation over time of yaw, pitch and roll in degrees, mean of the three; NaN for fewer than three known frames.

    Our definition: the papers that report head-motion diversity use features of a pose network and never published their code.
    """
    known = angles[np.isfinite(angles).all(axis=1)]
    return float(known.std(axis=0).mean()) if len(known) >= MIN_FRAMES else float("nan")


def motion_beats(joints: Float[np.ndarray, "t n d"]) -> Int64[np.ndarray, " k"]:
    """Frames at which the mean speed of the points, smoothed over 5 frames, is strictly least."""
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(axis=-1)
    return argrelmin(gaussian_filter1d(speed, SPEED_SIGMA))[0].astype(np.int64)


def beat_alignment(moved: Int64[np.ndarray, " k"], heard: Int64[np.ndarray, " b"]) -> float:
    """How close a motion beat lies to each beat of the sound: mean of exp(-d^2 / (2 3^2)), d in frames; NaN without beats (Bailando)."""
    if not len(moved) or not len(heard):
        return float("nan")
    distance = np.abs(heard[:, None] - moved).min(axis=1)
    return float(np.exp(-(distance**2) / (2 * BEAT_SIGMA**2)).mean())


def sound_beats(samples: Float[np.ndarray, " s"], fps: float, sample_rate: int = 16000) -> Int64[np.ndarray, " b"]:
    """Frames of the video at which librosa hears a beat.

    Raises:
        ConfigError: librosa is not installed.
    """
    try:
        beat = importlib.import_module("librosa.beat")  # optional: nothing else needs it
    except ImportError as error:
        raise ConfigError("needs librosa, get it with: pip install librosa") from error
    _, seconds = beat.beat_track(y=samples, sr=sample_rate, units="time")
    return np.rint(np.asarray(seconds) * fps).astype(np.int64)


class PoseDiversity(ClipMean):
    """Mean over clips of `pose_diversity`, in degrees; the closer to the real videos' value, the better."""

    def update(self, angles: Float[Tensor, "t 3"]) -> None:
        """Add one whole clip: yaw, pitch and roll in degrees, NaN where there is no face."""
        self.add(pose_diversity(angles.numpy(force=True)))


class BeatAlignment(ClipMean):
    """Mean over clips of `beat_alignment`, 0 to 1, higher is closer to the beat; clips without beats are left out."""

    higher_is_better = True

    def update(self, moved: Int64[Tensor, " k"], heard: Int64[Tensor, " b"]) -> None:
        """Add one clip: frames of the beats of the motion and of the sound."""
        self.add(beat_alignment(moved.numpy(force=True), heard.numpy(force=True)))
