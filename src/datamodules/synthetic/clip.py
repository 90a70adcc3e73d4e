"""One synthetic clip: pictures, exact landmarks, blendshape scores and sound."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from src.datamodules.synthetic.expression import Controls, blendshape_scores, deform, mouth_gap
from src.datamodules.synthetic.head import SyntheticHead
from src.datamodules.synthetic.motion import facial_motion, head_motion
from src.datamodules.synthetic.pose import Pose
from src.datamodules.synthetic.speech import Utterance, spoken
from src.datamodules.synthetic.voice import CONTROL_RATE, SAMPLE_RATE, speak

Motion = TypeVar("Motion", Controls, Pose)


class SyntheticClip(NamedTuple):
    """What `synthesise_clip` makes; landmarks are pixels with z in the same unit, sound is 16 kHz mono in [-1, 1]."""

    frames: UInt8[np.ndarray, "t h w 3"]
    landmarks: Float32[np.ndarray, "t 478 3"]
    blendshapes: Float32[np.ndarray, "t 52"]
    audio: Float32[np.ndarray, " s"]


def synthesise_clip(seed: int, identity_seed: int, n_frames: int, size: int, fps: float = 25.0) -> SyntheticClip:
    """A person speaking; the same arguments give the same bytes.

    Args:
        seed: what is said, and how head and face move.
        identity_seed: who says it.
        size: side of the frames in pixels.
    """
    performance = perform(SyntheticHead(identity_seed, size), seed, n_frames, fps)
    return SyntheticClip(
        frames=np.concatenate(list(performance.frames())),
        landmarks=performance.landmarks,
        blendshapes=performance.blendshapes,
        audio=performance.audio,
    )


@dataclass(frozen=True)
class Performance:
    """What a head does and says in a clip; its pictures are drawn when they are asked for."""

    head: SyntheticHead
    utterance: Utterance
    controls: Controls
    pose: Pose
    audio: Float32[np.ndarray, " s"]

    def frames(self) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """The pictures, in runs of bounded length."""
        return self.head.stream(self.controls, self.pose)

    @property
    def landmarks(self) -> Float32[np.ndarray, "t 478 3"]:
        """MediaPipe's points, exactly."""
        return self.head.landmarks(self.controls, self.pose)

    @property
    def blendshapes(self) -> Float32[np.ndarray, "t 52"]:
        """MediaPipe's scores in [0, 1]."""
        return blendshape_scores(self.controls)


def perform(head: SyntheticHead, seed: int, n_frames: int, fps: float = 25.0) -> Performance:
    """Let a head speak for `n_frames` frames; what and how follows from `seed` and the identity."""
    who = head.identity
    duration = n_frames / fps
    utterance, rng = spoken(who, seed, duration)
    # Everything moves on the clock of the sound, 200 times a second; a frame shows the middle of its interval.
    clock = (np.arange(int(np.ceil(duration * CONTROL_RATE)) + 1) + 0.5) / CONTROL_RATE
    pose = head_motion(rng, who, utterance, clock)
    controls = facial_motion(rng, who, utterance, clock, pose)
    audio = speak(utterance, who, _gap(head, controls), rng)
    middles = (np.arange(n_frames) + 0.5) / fps
    return Performance(
        head,
        utterance,
        _at(controls, clock, middles),
        _at(pose, clock, middles),
        audio[: round(duration * SAMPLE_RATE)],
    )


def _gap(head: SyntheticHead, controls: Controls, chunk: int = 500) -> Float64[np.ndarray, " m"]:
    """Opening of the lips over time, in distances between the pupils."""
    parts = [controls[start : start + chunk] for start in range(0, len(controls), chunk)]
    return np.concatenate([mouth_gap(deform(head.face, head.eyeballs, part)) for part in parts])


def _at(motion: Motion, clock: Float64[np.ndarray, " m"], times: Float64[np.ndarray, " t"]) -> Motion:
    """The motion at other times."""

    def at(track: Float[np.ndarray, "m ..."]) -> Float[np.ndarray, "t ..."]:
        columns = [np.interp(times, clock, column) for column in track.reshape(len(clock), -1).T]
        return np.stack(columns, axis=1).reshape(len(times), *track.shape[1:])

    return type(motion)(**{field.name: at(getattr(motion, field.name)) for field in fields(motion)})
