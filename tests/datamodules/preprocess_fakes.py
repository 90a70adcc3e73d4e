"""Recordings of a disc instead of a face, and a detector that finds discs: preprocessing without MediaPipe."""

from pathlib import Path

import numpy as np

from src.datamodules.preprocessing import run, worker
from src.face.landmarks import Face
from src.media import write_video

HEIGHT, WIDTH, RADIUS = 96, 128, 20
LAYOUT = np.random.default_rng(0).uniform(-1, 1, (478, 3)).astype(np.float32)


def disc_frames(n: int, *, hidden: range = range(0), background: int = 40, speed: float = 0.5, size=(HEIGHT, WIDTH)):
    """`n` frames with a bright disc that moves to the right; none in the frames `hidden`."""
    y, x = np.mgrid[: size[0], : size[1]]
    frames = np.full((n, *size, 3), background, np.uint8)
    for t in range(n):
        if t not in hidden:
            frames[t][(x - 50 - speed * t % 20) ** 2 + (y - 48) ** 2 < RADIUS**2] = 250
    return frames


def record(path: Path, n: int = 50, *, fps: float = 25, sound: float | None = None, **options) -> Path:
    """A recording of the disc, with `sound` seconds of a rising tone (default: as long as the picture; 0: no stream)."""
    seconds = n / fps if sound is None else sound
    t = np.arange(round(seconds * 16000)) / 16000
    tone = (0.5 * np.sin(2 * np.pi * (200 + 50 * t) * t)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, disc_frames(n, **options), fps, audio=tone if len(tone) else None)
    return path


def find_disc(frame: np.ndarray) -> Face | None:
    rows, columns = np.nonzero(frame[..., 0] > 150)
    if len(rows) < 100:
        return None
    radius = np.sqrt(len(rows) / np.pi)
    landmarks = LAYOUT * radius + np.array([columns.mean(), rows.mean(), 0])
    return Face(landmarks.astype(np.float32), np.full(52, 0.5, np.float32), np.eye(4, dtype=np.float32))


class DiscDetector:
    def __init__(self, mode: str = "video", max_faces: int = 4, model: object = None) -> None:
        del mode, max_faces, model

    def detect(self, frame: np.ndarray, timestamp: float | None = None) -> list[Face]:
        del timestamp
        face = find_disc(frame)
        return [] if face is None else [face]

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...


class DiscTracker(DiscDetector):
    lost = 0

    def track(self, frame: np.ndarray) -> Face | None:
        face = find_disc(frame)
        self.lost = 0 if face else self.lost + 1
        return face

    def reset(self) -> None:
        self.lost = 0


def use_discs(monkeypatch) -> None:
    monkeypatch.setattr(worker, "FaceTracker", DiscTracker)
    monkeypatch.setattr(worker, "FaceDetector", DiscDetector)
    monkeypatch.setattr(run, "check_detector", lambda options: None)
