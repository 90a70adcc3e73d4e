"""How a synthetic head moves while it speaks: pose, gaze, lids, brows, and the mouth of an utterance."""

import numpy as np
from jaxtyping import Float64
from scipy.ndimage import gaussian_filter1d

from src.datamodules.synthetic.expression import Controls
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.pose import Pose
from src.datamodules.synthetic.speech import Utterance, articulate

Track = Float64[np.ndarray, " t"]


def wander(rng: np.random.Generator, times: Track, period: float, n_waves: int = 5) -> Track:
    """Smooth aimless motion of unit variance: waves of periods around `period` seconds with random phases."""
    periods = period * np.exp(rng.uniform(-0.7, 0.7, n_waves))
    phases, amplitudes = rng.uniform(0, 2 * np.pi, n_waves), rng.uniform(0.5, 1.0, n_waves)
    waves = amplitudes * np.sin(2 * np.pi * times[:, None] / periods + phases)
    return waves.sum(axis=1) / np.sqrt((amplitudes**2).sum() / 2)


def head_motion(rng: np.random.Generator, identity: Identity, utterance: Utterance, times: Track) -> Pose:
    """A head that never stands still, and nods where the voice is stressed."""
    much = identity.liveliness
    nods = _accents(utterance, times, rng, 0.14)
    fixed = rng.normal(0, 1, 3) * np.radians([4.0, 2.5, 1.5])
    yaw = fixed[0] + np.radians(3.6 * much) * wander(rng, times, 3.2) + np.radians(0.7) * wander(rng, times, 0.9)
    pitch = fixed[1] + np.radians(1.7 * much) * wander(rng, times, 2.4) + np.radians(2.2 * much) * nods
    roll = fixed[2] + np.radians(1.5 * much) * wander(rng, times, 3.6)
    shift = np.stack(
        [
            0.03 * much * wander(rng, times, 4.0),
            0.015 * much * wander(rng, times, 3.0),
            0.05 * much * wander(rng, times, 5.0),
        ],
        axis=1,
    )
    sway = np.stack(
        [
            0.02 * wander(rng, times, 5.0),
            0.012 * np.sin(2 * np.pi * times / 3.7 + rng.uniform(0, 6)),
            np.zeros_like(times),
        ],
        axis=1,
    )
    return Pose(yaw=yaw, pitch=pitch, roll=roll, shift=shift, sway=sway)


def facial_motion(
    rng: np.random.Generator, identity: Identity, utterance: Utterance, times: Track, pose: Pose
) -> Controls:
    """Everything that the face does during an utterance."""
    mouth = articulate(utterance, times, effort=0.85 + 0.15 * identity.liveliness)
    mood = rng.uniform(-0.1, 0.45)
    smile = np.clip(mood * (0.6 + 0.4 * wander(rng, times, 4.0)), -0.25, 0.6)
    gaze_x, gaze_y = _gaze(rng, times, pose)
    blink = _blinks(rng, times)
    lids = identity.lid_rest + 0.55 * np.maximum(gaze_y, 0) + 0.25 * np.minimum(gaze_y, 0)
    brows = _accents(utterance, times, rng, 0.2) * 0.55 * identity.liveliness
    brow_up = np.clip(brows + 0.12 * wander(rng, times, 5.0), 0, 1)
    uneven = rng.normal(0, 0.02)
    closed = blink[:, None] + (1 - blink[:, None]) * np.stack(
        [lids + uneven - 0.12 * brow_up, lids - uneven - 0.12 * brow_up], axis=1
    )
    skew = np.clip(rng.normal(0, 0.12), -0.3, 0.3) * (0.4 + mouth["jaw"])
    return Controls(
        **mouth,
        smile=smile * (1 - 0.7 * np.clip(mouth["pucker"], 0, 1)),
        skew=skew,
        brow_up=brow_up,
        brow_inner=np.clip(0.15 * wander(rng, times, 6.0), 0, 1),
        brow_down=np.clip(0.2 * wander(rng, times, 6.0) - brow_up, 0, 1),
        blink_left=closed[:, 0],
        blink_right=closed[:, 1],
        squint=np.clip(0.5 * smile + 0.15 * blink, 0, 1),
        gaze_x=gaze_x,
        gaze_y=gaze_y,
    )


def _accents(utterance: Utterance, times: Track, rng: np.random.Generator, width: float) -> Track:
    """Bumps on some of the stressed syllables; `width` in seconds."""
    track = np.zeros_like(times)
    for phoneme, start, duration, stress in zip(
        utterance.phonemes, utterance.starts, utterance.durations, utterance.stress, strict=True
    ):
        if phoneme.kind == "vowel" and stress > 0.6 and rng.random() < 0.4:
            height = rng.uniform(0.5, 1.2)
            track += height * np.exp(-0.5 * ((times - start - duration / 2) / width) ** 2)
    return track


def _blinks(rng: np.random.Generator, times: Track) -> Track:
    """Lids: closed for a moment every two to six seconds; they fall faster than they rise."""
    track = np.zeros_like(times)
    t = rng.uniform(0.3, 2.5)
    while t < times[-1] + 0.5:
        depth, fall, rise = rng.uniform(0.9, 1.0), rng.uniform(0.06, 0.09), rng.uniform(0.12, 0.2)
        since = times - t
        shape = np.where(since < 0, 1 + since / fall, 1 - (since - 0.03) / rise)
        shape = np.clip(np.where((since >= 0) & (since < 0.03), 1.0, shape), 0, 1)
        track = np.maximum(track, depth * shape * shape * (3 - 2 * shape))
        t += rng.uniform(0.25, 0.4) if rng.random() < 0.12 else rng.uniform(1.8, 5.5)
    return track


def _gaze(rng: np.random.Generator, times: Track, pose: Pose) -> tuple[Track, Track]:
    """Eyes that hold the camera while the head moves, and now and then look away in quick jumps."""
    moments, targets = [times[0] - 1.0], [(0.0, 0.0)]
    while moments[-1] < times[-1]:
        away = rng.random() < 0.35
        moments.append(moments[-1] + (rng.uniform(0.4, 1.1) if away else rng.uniform(0.9, 2.8)))
        targets.append(
            (rng.normal(0, 0.16), rng.normal(0.02, 0.07)) if away else (rng.normal(0, 0.02), rng.normal(0, 0.015))
        )
    where = np.asarray(targets)[np.searchsorted(moments, times, side="right") - 1]
    smooth = gaussian_filter1d(where, 0.012 / max(times[1] - times[0], 1e-3), axis=0) if len(times) > 1 else where
    return np.clip(smooth[:, 0] - 0.8 * pose.yaw, -0.5, 0.5), np.clip(smooth[:, 1] - 0.8 * pose.pitch, -0.35, 0.4)
