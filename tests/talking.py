"""Drawn faces whose mouth opens with the loudness of a sound: frames, exact landmarks and sound, without any model file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.datamodules.store import StoreWriter, samples_of
from src.media import write_video

# Positions in units of the frame size.
EYES = np.array([[0.35, 0.4], [0.65, 0.4]])
MOUTH = np.array([0.5, 0.72])
UPPER_LIP, LOWER_LIP = (82, 13, 312), (87, 14, 317)
FIXED = {
    33: [0.29, 0.4],
    133: [0.41, 0.4],
    362: [0.59, 0.4],
    263: [0.71, 0.4],
    2: [0.5, 0.58],
    61: [0.38, 0.72],
    291: [0.62, 0.72],
}


@dataclass(frozen=True)
class Talking:
    """`frames` (t, h, w, 3) uint8, `landmarks` (t, 478, 3) float32 in pixels, `opening` (t,), `audio` (s,) at 16 kHz."""

    frames: np.ndarray
    landmarks: np.ndarray
    opening: np.ndarray
    audio: np.ndarray
    fps: float

    def write(self, path: Path, frames: np.ndarray | None = None, sound: bool = True) -> Path:
        """Write a video of these frames (default: its own) with its sound."""
        write_video(path, self.frames if frames is None else frames, self.fps, audio=self.audio if sound else None)
        return path


def talking(seed: int = 0, n_frames: int = 40, size: int = 64, fps: float = 25.0, sway: float = 0.02) -> Talking:
    """A face that moves by `sway` frame sizes and talks."""
    rng = np.random.default_rng(seed)
    opening = np.convolve(rng.random(n_frames + 4), np.ones(5) / 5, mode="valid")
    opening = (opening - opening.min()) / np.ptp(opening)
    time = np.arange(n_frames) / fps
    shift = sway * np.stack([np.sin(2 * time + seed), np.cos(3 * time)], axis=1)  # t xy
    loudness = np.repeat(0.05 + 0.6 * opening, samples_of(n_frames, fps) // n_frames + 1)[: samples_of(n_frames, fps)]
    audio = (loudness * rng.uniform(-1, 1, len(loudness))).astype(np.float32)
    return Talking(
        _frames(opening, shift, size, rng.uniform(120, 200, 3)), _landmarks(opening, shift, size), opening, audio, fps
    )


def _frames(opening: np.ndarray, shift: np.ndarray, size: int, skin: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    x, y = x - shift[:, 0, None, None], y - shift[:, 1, None, None]  # t h w
    shade = 1 - 0.4 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    frames = shade[..., None] * skin
    frames[((x - 0.5) / 0.45) ** 2 + ((y - 0.5) / 0.48) ** 2 > 1] = 60
    for eye in EYES:
        frames[((x - eye[0]) / 0.06) ** 2 + ((y - eye[1]) / 0.03) ** 2 < 1] = 30
    half = 0.012 + 0.07 * opening[:, None, None]
    frames[((x - MOUTH[0]) / 0.12) ** 2 + ((y - MOUTH[1] - half) / half) ** 2 < 1] = 40
    return frames.round().clip(0, 255).astype(np.uint8)


def _landmarks(opening: np.ndarray, shift: np.ndarray, size: int) -> np.ndarray:
    base = np.random.default_rng(7).uniform(0.2, 0.8, (478, 2))
    base[list(FIXED)] = list(FIXED.values())
    points = np.repeat(base[None], len(opening), axis=0)
    points[:, UPPER_LIP] = MOUTH
    points[:, LOWER_LIP] = MOUTH
    points[:, LOWER_LIP, 1] += 0.14 * opening[:, None]
    points = (points + shift[:, None]) * size - 0.5
    return np.concatenate([points, np.zeros((*points.shape[:2], 1))], axis=2).astype(np.float32)


def write_talking_store(root: Path, n_clips: int = 3, **options) -> dict[str, Talking]:
    """A store of talking faces, all of split "test"; the clips by id."""
    clips = {f"clip{number}": talking(number, **options) for number in range(n_clips)}
    with StoreWriter(root) as writer:
        for name, clip in clips.items():
            blendshapes = np.zeros((len(clip.frames), 52), np.float32)
            writer.add(
                name, name, [clip.frames], clip.landmarks, blendshapes, audio=clip.audio, split="test", fps=clip.fps
            )
        writer.finish()
    return clips
