"""Reading a clip store: its tables, and the files of a clip."""

import dataclasses
import functools
import os
import wave
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int64, UInt8

from src.datamodules.tables import read_rows
from src.errors import StoreError
from src.media import VideoReader

SPLITS = ("train", "validation", "test")
SAMPLE_RATE = 16_000
N_LANDMARKS = 478
N_BLENDSHAPES = 52
CLIP_FOLDERS = {"video": (".mp4",), "audio": (".wav",), "landmarks": (".npy",)}
OPEN_READERS = 32  # per process, of about 3 MB each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of clips.csv, and the way to the clip's files.

    Plain values only, so that a list of clips travels to DataLoader workers cheaply; readers open on first use, in the
    process that uses them. Numbers that a clip does not have (the pose of a rendered head, say) are None.
    """

    root: Path
    id: str
    identity: str
    split: str  # "train", "validation", "test", or "" while a run is not finished
    n_frames: int
    fps: float
    height: int  # of the crop, pixels
    width: int
    has_audio: bool
    source: str  # the recording, relative to the raw folder
    start: float  # seconds into the recording
    n_valid: int  # frames in which the detector found the face
    source_fps: float | None = None
    face_size: float | None = None  # median over frames of the longer side of the face's box, pixels of the source
    yaw: float | None = None  # median head pose, degrees; positive: turned to image right
    pitch: float | None = None  # positive: looking down
    roll: float | None = None  # positive: clockwise in the image
    mouth_range: float | None = None  # 95th minus 5th percentile of the mouth opening, in inter-ocular distances
    av_offset: int | None = None  # frames by which the sound lags the mouth, where they correlate best
    av_correlation: float | None = None  # that correlation

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crop, in pixels."""
        return self.height, self.width

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_frames / self.fps

    @property
    def video_path(self) -> Path:
        """The aligned video, without sound."""
        return self.root / "video" / f"{self.id}.mp4"

    @property
    def audio_path(self) -> Path:
        """The sound; the file exists only where `has_audio` is true."""
        return self.root / "audio" / f"{self.id}.wav"

    def array_path(self, kind: str = "") -> Path:
        """Path of an array beside the landmarks: "blendshapes", "valid", "transforms", or "" for the landmarks."""
        return self.root / "landmarks" / (f"{self.id}.{kind}.npy" if kind else f"{self.id}.npy")

    def frames(self, indices: Sequence[int] | Int64[np.ndarray, "t"] | None = None) -> UInt8[np.ndarray, "t h w 3"]:
        """Frames in RGB at the given indices (default: all of them), in the given order."""
        frames = self._video().read(range(self.n_frames) if indices is None else indices)
        return frames[:, : self.height, : self.width]  # H.264 pads odd sizes by one pixel

    @property
    def landmarks(self) -> Float32[np.ndarray, "t 478 3"]:
        """Face points in pixels of the crop, z in the same unit; memory-mapped, read-only."""
        return self._array("", (N_LANDMARKS, 3))

    @property
    def blendshapes(self) -> Float16[np.ndarray, "t 52"]:
        """MediaPipe's blendshape scores in [0, 1]; memory-mapped, read-only."""
        return self._array("blendshapes", (N_BLENDSHAPES,))

    @property
    def valid(self) -> Bool[np.ndarray, "t"]:
        """True where the detector found the face; elsewhere the landmarks are interpolated."""
        return self._array("valid", ())

    @property
    def transforms(self) -> Float64[np.ndarray, "t 3 3"]:
        """Source frame pixels -> crop pixels; the inverse pastes a result back. StoreError for rendered clips."""
        return self._array("transforms", (3, 3))

    def audio(self, start_frame: int = 0, n_frames: int | None = None) -> Float32[np.ndarray, "s"]:
        """Sound of `n_frames` video frames from `start_frame` on (default: to the end), 16 kHz mono in [-1, 1].

        Raises:
            StoreError: the clip has no sound.
            IndexError: the range leaves the clip.
        """
        if not self.has_audio:
            raise StoreError(f"Clip {self.id} of {self.root} has no sound: leave out clips with has_audio=false.")
        stop_frame = self.n_frames if n_frames is None else start_frame + n_frames
        if not 0 <= start_frame <= stop_frame <= self.n_frames:
            raise IndexError(f"frames {start_frame}..{stop_frame} of clip {self.id}, which has {self.n_frames}")
        start, stop = samples_of(start_frame, self.fps), samples_of(stop_frame, self.fps)
        try:
            with wave.open(str(self.audio_path), "rb") as file:
                file.setpos(start)
                pcm = np.frombuffer(file.readframes(stop - start), np.int16)
        except (OSError, EOFError, wave.Error) as error:
            raise StoreError(f"{self.audio_path} cannot be read ({error}): prepare the store again.") from error
        return pcm.astype(np.float32) / 32768

    def selection(self, name: str) -> Int64[np.ndarray, "n"]:
        """Indices of the frames that the rule `name` keeps (`selection/<name>.csv`)."""
        selections = _read_selection(self.root / "selection" / f"{name}.csv")
        if self.id not in selections:
            raise StoreError(f"{self.root}/selection/{name}.csv lacks clip {self.id}: run tools/preprocess.py again.")
        return selections[self.id]

    def features(self, encoder: str) -> np.ndarray:
        """Speech features of `encoder`, one row or window per video frame; memory-mapped, read-only."""
        path = self.root / "features" / encoder / f"{self.id}.npy"
        if not path.is_file():
            raise StoreError(f"{path} is missing: extract the {encoder} features of this store first.")
        return _open_array(path)

    def row(self) -> dict[str, str]:
        """The clip as a row of clips.csv."""
        return {name: _to_cell(getattr(self, name)) for name in COLUMNS}

    @classmethod
    def from_row(cls, root: Path, row: Mapping[str, str]) -> Self:
        """The clip of a row of `root`/clips.csv; ValueError where a cell does not parse."""
        return cls(root=root, **{name: parse(row[name]) for name, parse in COLUMNS.items()})

    def _video(self) -> VideoReader:
        reader = _open_video(self.video_path, os.getpid())
        if len(reader) != self.n_frames:
            raise StoreError(
                f"{self.video_path} has {len(reader)} frames but {self.root / 'clips.csv'} says {self.n_frames}: "
                "prepare the store again."
            )
        return reader

    def verify(self) -> None:
        """Compare the lengths of all files with the clip's row; StoreError at the first that differs."""
        self._video()
        for array in (self.landmarks, self.blendshapes, self.valid):
            assert len(array) == self.n_frames
        if self.has_audio and len(self.audio()) != samples_of(self.n_frames, self.fps):
            raise StoreError(f"{self.audio_path} is not as long as its video: prepare the store again.")

    def _array(self, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.array_path(kind)
        try:
            array = _open_array(path)
        except FileNotFoundError as error:
            raise StoreError(f"{path} is missing: clip {self.id} has no {kind or 'landmarks'}.") from error
        if array.shape != (self.n_frames, *shape):
            raise StoreError(
                f"{path} has shape {array.shape}, expected {(self.n_frames, *shape)}: prepare the store again."
            )
        return array


def _optional_float(cell: str) -> float | None:
    return float(cell) if cell else None


def _optional_int(cell: str) -> int | None:
    return int(cell) if cell else None


def _bool(cell: str) -> bool:
    return {"true": True, "false": False}[cell]


def _to_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_PARSERS: dict[Any, Any] = {
    str: str,
    int: int,
    float: float,
    bool: _bool,
    float | None: _optional_float,
    int | None: _optional_int,
}
COLUMNS = {field.name: _PARSERS[field.type] for field in dataclasses.fields(Clip) if field.name != "root"}
FAILURE_COLUMNS = ("source", "start", "end", "reason")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A recording, or a part of one, that gave no clip."""

    source: str
    reason: str  # one sentence that a person can act on
    start: float | None = None  # seconds; None: the whole recording
    end: float | None = None


def samples_of(frame: int, fps: float) -> int:
    """Index of the first sound sample of video frame `frame`."""
    return round(frame * SAMPLE_RATE / fps)


def clip_files(root: Path, id: str) -> list[Path]:
    """Where all files of a clip lie, whether they exist or not; features and selections aside."""
    arrays = [root / "landmarks" / f"{id}{kind}.npy" for kind in ("", ".blendshapes", ".valid", ".transforms")]
    return [root / "video" / f"{id}.mp4", root / "audio" / f"{id}.wav", *arrays]


class ClipStore:
    """The clips of a store, or of one of its splits, in the order of clips.csv.

    Args:
        root: folder that tools/preprocess.py or tools/make_synthetic.py wrote.
        split: "train", "validation" or "test"; None for all clips.

    Raises:
        StoreError: no store there, damaged clips.csv, missing files (counted in one message), or no clip in the split.
    """

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        self.root = Path(root)
        if split is not None and split not in SPLITS:
            raise StoreError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
        everything = read_clips(self.root)
        self.split_sizes = Counter(clip.split for clip in everything)
        self.clips = [clip for clip in everything if split is None or clip.split == split]
        if not self.clips:
            counts = (
                ", ".join(f"{name or 'no split'}: {n}" for name, n in sorted(self.split_sizes.items())) or "none at all"
            )
            wanted = f"no clips of split {split!r}" if split else "no clips"
            raise StoreError(
                f"{self.root} has {wanted} (clips per split: {counts}): prepare more data or another split."
            )
        _require_files(self.root, self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    @property
    def identities(self) -> list[str]:
        """The people in these clips, sorted."""
        return sorted({clip.identity for clip in self.clips})

    def verify(self) -> None:
        """Compare the length of every file of every clip with clips.csv; StoreError at the first that differs."""
        for clip in self.clips:
            clip.verify()


def read_clips(root: Path) -> list[Clip]:
    """All clips of `root`/clips.csv, finished or not; StoreError where there is none or it cannot be read."""
    path = root / "clips.csv"
    if not path.is_file():
        raise StoreError(
            f"{root} is no clip store (there is no {path}): "
            "prepare one with tools/preprocess.py or tools/make_synthetic.py."
        )
    rows = read_rows(path)
    if missing := [name for name in COLUMNS if rows and rows[0].get(name) is None]:
        raise StoreError(f"{path} lacks the column {missing[0]!r}: prepare the store again with this version.")
    try:
        return [Clip.from_row(root, row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}): prepare the store again.") from error


def _require_files(root: Path, clips: Sequence[Clip]) -> None:
    """StoreError that counts all missing files and names the first."""
    present = {
        folder: {path.name for path in (root / folder).iterdir()} if (root / folder).is_dir() else set()
        for folder in CLIP_FOLDERS
    }  # three listings instead of five look-ups per clip
    missing = [
        path
        for clip in clips
        for path in (clip.video_path, clip.array_path(), clip.array_path("blendshapes"), clip.array_path("valid"))
        + ((clip.audio_path,) if clip.has_audio else ())
        if path.name not in present[path.parent.name]
    ]
    if missing:
        raise StoreError(
            f"{root} lacks {len(missing)} files of its {len(clips)} clips (first: {missing[0]}): "
            "copy the whole folder, or delete it and prepare it again."
        )


@functools.lru_cache(OPEN_READERS)
def _open_video(path: Path, pid: int) -> VideoReader:
    """A reader of this process: one inherited through fork would share its file position with the parent."""
    if not path.is_file():
        raise StoreError(f"{path} is missing: prepare the store again.")
    return VideoReader(path)


@functools.lru_cache(8 * OPEN_READERS)
def _open_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


@functools.lru_cache(8)
def _read_selection(path: Path) -> dict[str, Int64[np.ndarray, "n"]]:
    if not path.is_file():
        raise StoreError(f"{path} is missing: run tools/preprocess.py again, it writes the selections at its end.")
    return {row["id"]: np.array(row["frames"].split(), np.int64) for row in read_rows(path)}


def forget_open_files() -> None:
    """Let files be opened anew: those of a clip that was written again in this process, say."""
    _open_video.cache_clear()
    _open_array.cache_clear()
    _read_selection.cache_clear()
