"""One synthetic clip: pictures, exact landmarks, blendshape scores and sound."""

from dataclasses import fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from src.datamodules.synthetic.expression import Controls, blendshape_scores, deform, mouth_gap
from src.datamodules.synthetic.head import Pose, SyntheticHead
from src.datamodules.synthetic.motion import facial_motion, head_motion
from src.datamodules.synthetic.speech import babble
from src.datamodules.synthetic.voice import CONTROL_RATE, SAMPLE_RATE, speak


class SyntheticClip(NamedTuple):
    """What `synthesise_clip` makes; landmarks are pixels with z in the same unit, sound is 16 kHz mono in [-1, 1]."""

    frames: UInt8[np.ndarray, "t h w 3"]
    landmarks: Float32[np.ndarray, "t 478 3"]
    blendshapes: Float32[np.ndarray, "t 52"]
    audio: Float32[np.ndarray, " s"]


def synthesise_clip(
    seed: int, identity_seed: int, n_frames: int, size: int, fps: float = 25.0, *, head: SyntheticHead | None = None
) -> SyntheticClip:
    """A person speaking; the same arguments give the same bytes.

    Args:
        seed: what is said, and how head and face move.
        identity_seed: who says it.
        size: side of the frames in pixels.
        head: the head of `identity_seed` at `size`, if there is one already.
    """
    head = head or SyntheticHead(identity_seed, size)
    rng = np.random.default_rng([seed, identity_seed, 0x5EED])
    duration = n_frames / fps
    utterance = babble(rng, duration, head.identity.speech_rate)
    # Everything is moved on the clock of the sound, 200 times a second; a frame shows the middle of its interval.
    n_steps = int(np.ceil(duration * CONTROL_RATE)) + 1
    clock = (np.arange(n_steps) + 0.5) / CONTROL_RATE
    pose = head_motion(rng, head.identity, utterance, clock)
    controls = facial_motion(rng, head.identity, utterance, clock, pose)
    audio = speak(utterance, head.identity, _mouth_gap(head, controls), rng)
    middles = (np.arange(n_frames) + 0.5) / fps
    shown, placed = _at(controls, clock, middles), _pose_at(pose, clock, middles)
    return SyntheticClip(
        frames=head.render(shown, placed),
        landmarks=head.landmarks(shown, placed),
        blendshapes=blendshape_scores(shown),
        audio=audio[: round(duration * SAMPLE_RATE)],
    )


def _mouth_gap(head: SyntheticHead, controls: Controls) -> Float64[np.ndarray, " m"]:
    """Opening of the lips over time, in distances between the pupils."""
    chunk = 500
    parts = [controls[start : start + chunk] for start in range(0, len(controls), chunk)]
    return np.concatenate([mouth_gap(deform(head.face, head.eyeballs, part)) for part in parts])


def _at(controls: Controls, clock: Float64[np.ndarray, " m"], times: Float64[np.ndarray, " t"]) -> Controls:
    return Controls(
        **{field.name: np.interp(times, clock, getattr(controls, field.name)) for field in fields(controls)}
    )


def _pose_at(pose: Pose, clock: Float64[np.ndarray, " m"], times: Float64[np.ndarray, " t"]) -> Pose:
    def at(track: Float64[np.ndarray, "m ..."]) -> Float64[np.ndarray, "t ..."]:
        if track.ndim == 1:
            return np.interp(times, clock, track)
        return np.stack([np.interp(times, clock, column) for column in track.T], axis=1)

    return Pose(**{field.name: at(getattr(pose, field.name)) for field in fields(pose)})
