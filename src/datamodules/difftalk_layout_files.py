"""Files of DiffTalk's original layout, as `src.datamodules.difftalk_layout` describes them: lists, counts, landmarks, windows of logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from src.audio.deepspeech import N_LOGITS, WINDOW_ROWS, WINDOW_SIZE
from src.errors import ConfigError, FaceError, FeatureError

FOLDERS = {"images": ".jpg", "landmarks": ".lms", "audio_smooth": ".npy"}


@dataclass(frozen=True, order=True)
class FrameId:
    """A frame of the layout: clip and number, both decimal."""

    clip: int
    frame: int

    def __str__(self) -> str:
        return f"{self.clip}_{self.frame}"


def read_frame_list(path: Path) -> list[FrameId]:
    """The frames that a list names.

    Raises:
        ConfigError: the list cannot be read, is empty, or has lines that name no frame.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: give a list with one CLIP_FRAME per line.") from error
    names = [line for line in lines if line]
    wrong = [name for name in names if parse_frame_id(name) is None]
    if wrong or not names:
        found = f"has {len(wrong)} lines that name no frame (first: {wrong[0]})" if wrong else "is empty"
        raise ConfigError(f"{path} {found}: write one CLIP_FRAME per line, two numbers, for example 12_345.")
    return [frame for name in names if (frame := parse_frame_id(name))]


def find_list(root: Path, name: str) -> Path:
    """Where a list lies: beside the folder of pictures and landmarks, or in it."""
    beside, within = root.parent / name, root / name
    return within if within.is_file() and not beside.is_file() else beside


def parse_frame_id(name: str) -> FrameId | None:
    """`12_345` -> clip 12, frame 345; None where the name is of another form."""
    clip, _, frame = name.partition("_")
    return FrameId(int(clip), int(frame)) if clip.isdecimal() and frame.isdecimal() else None


def missing_files(root: Path, frames: Sequence[FrameId]) -> list[str]:
    """Files of these frames that the layout lacks, as paths below `root`; three listings instead of a look-up per file."""
    present = {
        folder: {path.name for path in (root / folder).iterdir()} if (root / folder).is_dir() else set()
        for folder in FOLDERS
    }
    return [
        f"{folder}/{frame}{suffix}"
        for folder, suffix in FOLDERS.items()
        for frame in frames
        if f"{frame}{suffix}" not in present[folder]
    ]


def frames_by_clip(root: Path) -> dict[int, list[int]]:
    """Numbers of the frames of every clip that have a picture, in order."""
    found = [frame for path in (root / "images").glob("*.jpg") if (frame := parse_frame_id(path.stem))]
    clips: dict[int, list[int]] = {}
    for frame in sorted(found):
        clips.setdefault(frame.clip, []).append(frame.frame)
    return clips


def read_counts(path: Path) -> dict[int, int]:
    """Counts by clip of a `data.txt`; empty where there is none. ConfigError where a line is of another form."""
    if not path.is_file():
        return {}
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) < 2 or not row[1].isdecimal() for row in rows):
        raise ConfigError(f"{path} must hold lines CLIP COUNT, or leave it out: frames are then counted.")
    return {number: int(row[1]) for number, row in enumerate(rows, start=1)}  # by line, as the original reads it


def read_lms(path: Path) -> Float32[np.ndarray, "68 2"]:
    """The 68 landmarks of a `.lms` file; FaceError where it is none."""
    try:
        points = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise FaceError(f"{path} cannot be read as 68 rows of x and y: write it again.") from error
    if points.shape != (68, 2):
        raise FaceError(f"{path} holds {points.shape[0]} rows of {points.shape[1]}, not 68 of x and y: write it again.")
    if not np.isfinite(points).all():
        raise FaceError(f"{path} holds numbers that are not finite: write it again, or take the frame off the list.")
    return points


def read_audio_smooth(path: Path) -> Float32[np.ndarray, "n 464"]:
    """The windows of one frame, one row each; FeatureError where the file holds no windows of 16 x 29 logits."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(f"{path} is damaged or no array of numbers: make it again.") from error
    if values.size == 0 or values.size % WINDOW_SIZE:
        raise FeatureError(
            f"{path} holds an array of shape {values.shape}, not windows of {WINDOW_ROWS} x {N_LOGITS} logits: make it again."
        )
    return values.reshape(-1, WINDOW_SIZE).astype(np.float32)
