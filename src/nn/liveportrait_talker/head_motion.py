"""Head poses that no network predicts: a synthetic sway that rests where the voice does, and rotations of another video.

LivePortraitTalker's description (synthetic_headpose_generation.md of mkara44/liveportrait_talker) and its code.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.nn.liveportrait.keypoints import kalman_smooth, rotation_matrix

SMOOTHING = 3e-7  # observation variance of the Kalman smoother
SPEECH_WINDOW = 7  # frames over which speaking and resting are averaged
SPEECH_THRESHOLD = 0.02  # of the lips' range, per frame: what moves less is silence

_MOST_DEGREES = 3.0
_LEAST_FREQUENCY, _MOST_FREQUENCY = 0.5, 1.5  # Hz
_JITTER = 0.05  # standard deviation in fractions of the amplitude


@dataclass(frozen=True)
class Sway:
    """The random part of a head's motion; rows are pitch, yaw and roll.

    Attributes:
        amplitude: in degrees.
        frequency: in Hz.
        noise: standard normal.
    """

    amplitude: Float[Tensor, "3"]
    frequency: Float[Tensor, "3"]
    noise: Float[Tensor, "3 t"]

    @classmethod
    def draw(cls, n_frames: int, generator: torch.Generator) -> "Sway":
        """Amplitudes up to 3 degrees, frequencies from 0.5 to 1.5 Hz."""
        uniform = torch.rand(2, 3, generator=generator, dtype=torch.float64)
        return cls(
            amplitude=_MOST_DEGREES * uniform[0],
            frequency=_LEAST_FREQUENCY + (_MOST_FREQUENCY - _LEAST_FREQUENCY) * uniform[1],
            noise=torch.randn(3, n_frames, generator=generator),
        )


def sway_times(n_frames: int, fps: int = 25) -> Float[Tensor, " t"]:
    """Seconds of the frames, spread evenly from 0 to the video's whole seconds: as in the original, up to a second is lost."""
    return torch.linspace(0, n_frames // fps, n_frames)


def swell(times: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """How much of the sway there is: from 0 to 1 and back in two seconds, again and again."""
    return (1 - torch.cos(math.pi * times)) / 2


def speaking(lips: Float[Tensor, "t 2 3"], threshold: float = SPEECH_THRESHOLD) -> Float[Tensor, " t"]:
    """1 where a lip moves to the next frame, 0 where both rest, and on the last frame.

    Args:
        lips: offsets of the lower and the upper lip.
        threshold: in fractions of all values' range; a video whose lips never move counts as speech.
    """
    relative = (lips - lips.min()) / (lips.max() - lips.min())
    resting = (relative.diff(dim=0).abs().mean(dim=2) < threshold).all(dim=1)
    return F.pad((~resting).float(), (0, 1))


def speaking_weights(raw: Float[Tensor, " t"], window: int = SPEECH_WINDOW) -> Float[Tensor, " t"]:
    """`speaking`, averaged over an odd number of frames; beyond both ends counts as speech."""
    padded = F.pad(raw, (window // 2, window // 2), value=1.0)
    return F.avg_pool1d(padded[None], window, stride=1)[0]


def sway_rotations(
    sway: Sway, weights: Float[Tensor, " t"], source_degrees: Float[Tensor, "3"], fps: int = 25
) -> Float[Tensor, "t 3 3"]:
    """Head rotations, frame by frame, for points that are rows.

    Args:
        sway: amplitudes, frequencies, noise.
        weights: of `speaking_weights`.
        source_degrees: pitch, yaw and roll of the source face.
        fps: frames per second.
    """
    times = sway_times(len(weights), fps)
    angles = []
    for amplitude, frequency, noise, source in zip(
        sway.amplitude.tolist(), sway.frequency.tolist(), sway.noise, source_degrees, strict=True
    ):
        wave = amplitude * torch.sin(2 * math.pi * frequency * times) * swell(times)
        angle = (wave + _JITTER * amplitude * noise).clamp(-amplitude, amplitude)
        angles.append((angle * weights + source)[:, None])
    return rotation_matrix(*angles)


def synthetic_rotations(
    lips: Float[Tensor, "t 2 3"], sway: Sway, source_degrees: Float[Tensor, "3"], *, smoothing: float = SMOOTHING
) -> Float[Tensor, "t 3 3"]:
    """The whole synthetic head pose: sways while the lips speak, smoothed entry by entry.

    Args:
        lips: offsets of the lower and the upper lip, rows `LOWER_UPPER_LIP` of MappingNet's output.
        sway: its random part.
        source_degrees: pitch, yaw and roll of the source face.
        smoothing: observation variance of the Kalman smoother.
    """
    rotations = sway_rotations(sway, speaking_weights(speaking(lips)), source_degrees)
    return kalman_smooth(rotations, smoothing)
