"""Writing a clip store, clip by clip, so that nothing half-written is ever visible."""

import dataclasses
import fcntl
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from src.datamodules.selection import SELECTIONS
from src.datamodules.store.reading import (
    CLIP_FOLDERS,
    COLUMNS,
    SAMPLE_RATE,
    SPLITS,
    Clip,
    forget_open_files,
    read_clips,
    samples_of,
)
from src.datamodules.tables import append_rows, cut_unfinished_line, require_settings, save_array, write_rows
from src.errors import StoreError
from src.media import Provenance, VideoWriter, write_wav

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")  # a file name everywhere, and never "<id>.valid"


def write_clip(
    root: Path,
    id: str,
    identity: str,
    frames: Iterable[UInt8[np.ndarray, "..."]],
    landmarks: Float[np.ndarray, "t 478 3"],
    blendshapes: Float[np.ndarray, "t 52"],
    *,
    audio: Float32[np.ndarray, "s"] | None = None,
    valid: Bool[np.ndarray, "t"] | None = None,
    transforms: Float64[np.ndarray, "t 3 3"] | None = None,
    fps: float = 25.0,
    split: str = "",
    source: str = "",
    start: float = 0.0,
    crf: int = 18,
    provenance: Provenance | None = None,
    **measures: Any,
) -> Clip:
    """Write the files of one clip, but not its row: any process may do this, one process appends the rows.

    Args:
        frames: RGB frames (h, w, 3) or runs of frames (t, h, w, 3), in all as many as landmarks; consumed once.
        audio: 16 kHz mono; cut, or padded with silence, to exactly the length of the video. None: a clip without sound.
        valid: True where the landmarks were detected, not interpolated. Default: everywhere.
        measures: the optional fields of `Clip`, for example `yaw`.

    Raises:
        StoreError: an id that is no safe file name, an unknown split, or lengths that do not agree.
    """
    if not SAFE_ID.fullmatch(id):
        raise StoreError(f"{id!r} cannot be the id of a clip: use letters, digits, '_' and '-' only.")
    if split and split not in SPLITS:
        raise StoreError(f"There is no split {split!r} (clip {id}): choose one of {', '.join(SPLITS)}.")
    n_frames = len(landmarks)
    valid = np.ones(n_frames, bool) if valid is None else np.asarray(valid, bool)
    arrays = {
        "": np.asarray(landmarks, np.float32),
        "blendshapes": np.asarray(blendshapes, np.float16),
        "valid": valid,
        "transforms": None if transforms is None else np.asarray(transforms, np.float64),
    }
    if n_frames == 0 or any(array is not None and len(array) != n_frames for array in arrays.values()):
        lengths = {kind or "landmarks": len(array) for kind, array in arrays.items() if array is not None}
        raise StoreError(f"The arrays of clip {id} differ in length or are empty: {lengths}.")

    clip = Clip(
        root=root,
        id=id,
        identity=identity,
        split=split,
        n_frames=n_frames,
        fps=float(fps),
        height=0,
        width=0,
        has_audio=audio is not None,
        source=source,
        start=float(start),
        n_valid=int(valid.sum()),
        **measures,
    )
    height, width = _write_frames(clip, frames, crf, provenance)
    for kind, array in arrays.items():
        if array is not None:
            save_array(clip.array_path(kind), array)
    if audio is not None:
        write_wav(clip.audio_path, _fit(audio, samples_of(n_frames, fps)), SAMPLE_RATE)
    forget_open_files()  # the same id may have been open from an earlier run in this process
    return dataclasses.replace(clip, height=height, width=width)


class StoreWriter:
    """Writes a clip store; resumes one that was interrupted.

        with StoreWriter(root, settings={"size": 128, "seed": 0}) as writer:
            for id in ids:
                if id not in writer:
                    writer.add(id, identity, frames, landmarks, blendshapes, audio=audio, split="train")
            writer.finish()

    Only one writer at a time holds a store; several processes may `write_clip` into it and hand the clips to that one.

    Args:
        root: created where missing.
        size: edge, or (height, width), of the crops in pixels; other frames are refused. None: any size.
        settings: plain values that determine the contents; a store that was made with others is refused.
        provenance: stamped into the videos' containers (rendered clips).

    Raises:
        StoreError: `root` cannot be written, is in use, or was made with other settings.
    """

    def __init__(
        self,
        root: Path | str,
        size: int | tuple[int, int] | None = None,
        *,
        fps: float = 25.0,
        settings: Mapping[str, Any] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.root = Path(root)
        self.size = (size, size) if isinstance(size, int) else size
        self.fps = fps
        self.provenance = provenance
        self._lock = _lock(self.root)
        try:
            require_settings(self.root, settings or {}, "choose another root= or the old settings")
            self._clips = {clip.id: clip for clip in self._recover()}
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the store free for other writers."""
        self._lock.close()

    def __contains__(self, id: str) -> bool:
        return id in self._clips

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def clips(self) -> list[Clip]:
        """The clips whose rows are written, in order of arrival."""
        return list(self._clips.values())

    def add(
        self,
        id: str,
        identity: str,
        frames: Iterable[UInt8[np.ndarray, "..."]],
        landmarks: Float[np.ndarray, "t 478 3"],
        blendshapes: Float[np.ndarray, "t 52"],
        **options: Any,
    ) -> Clip:
        """Write a clip's files, then its row; arguments as for `write_clip`."""
        options = {"fps": self.fps, "provenance": self.provenance, **options}
        clip = write_clip(self.root, id, identity, frames, landmarks, blendshapes, **options)
        self.append([clip])
        return clip

    def append(self, clips: Sequence[Clip]) -> None:
        """Append the rows of clips whose files are written; all of them or, if the machine stops, none."""
        for clip in clips:
            if clip.id in self._clips:
                raise StoreError(f"{self.root} already has a clip {clip.id}: ids are unique.")
            if self.size and clip.size != self.size:
                raise StoreError(
                    f"Clip {clip.id} is {clip.height}x{clip.width}, the store {self.size[0]}x{self.size[1]}."
                )
        append_rows(self.root / "clips.csv", tuple(COLUMNS), [clip.row() for clip in clips])
        self._clips.update((clip.id, clip) for clip in clips)

    def replace(self, clips: Iterable[Clip]) -> None:
        """Rewrite clips.csv with exactly these rows, sorted by id."""
        self._clips = {clip.id: clip for clip in sorted(clips, key=lambda clip: clip.id)}
        write_rows(self.root / "clips.csv", tuple(COLUMNS), [clip.row() for clip in self._clips.values()])

    def finish(self) -> None:
        """Sort clips.csv by id, write the selection indexes, and remove what killed runs left behind."""
        self.replace(self._clips.values())
        for name, rule in SELECTIONS.items():
            rows = [
                {"id": clip.id, "frames": " ".join(map(str, rule(clip.n_frames, clip.split)))} for clip in self.clips
            ]
            write_rows(self.root / "selection" / f"{name}.csv", ("id", "frames"), rows)
        forget_open_files()
        for path in _leftovers(self.root, self._clips):
            path.unlink()

    def _recover(self) -> list[Clip]:
        """Clips of an earlier run; an unfinished last line (the machine stopped while writing) is cut off first."""
        path = self.root / "clips.csv"
        if not path.is_file():
            return []
        cut_unfinished_line(path)
        return read_clips(self.root)


def _write_frames(clip: Clip, frames: Iterable[np.ndarray], crf: int, provenance: Provenance | None) -> tuple[int, int]:
    """Write the video and return its (height, width); StoreError unless there are exactly `clip.n_frames` frames."""
    n_written, shape = 0, (0, 0)
    # One thread: stores are written by as many processes as there are cores, and threads cost a quarter more in all.
    with VideoWriter(clip.video_path, clip.fps, all_keyframes=True, threads=1, crf=crf, provenance=provenance) as video:
        for run in frames:
            video.write(run)
            n_written += 1 if run.ndim == 3 else len(run)
            shape = run.shape[-3:-1]
        if n_written != clip.n_frames:
            raise StoreError(f"Clip {clip.id} has {n_written} frames but landmarks of {clip.n_frames}.")
    return shape[0], shape[1]


def _fit(audio: Float32[np.ndarray, "s"], n_samples: int) -> Float32[np.ndarray, "n"]:
    """Sound cut, or padded with silence, to `n_samples`."""
    return np.pad(audio[:n_samples], (0, max(0, n_samples - len(audio))))


def _leftovers(root: Path, ids: Container[str]) -> list[Path]:
    """Temporary files, and the files of clips that have no row."""
    return [
        path
        for folder, suffixes in CLIP_FOLDERS.items()
        for path in (root / folder).glob("*")
        if path.name.startswith(".") or (path.suffix in suffixes and path.name.split(".")[0] not in ids)
    ] + [path for folder in (root, root / "selection") for path in folder.glob(".*.tmp*")]


def _lock(root: Path) -> IO[bytes]:
    """Hold `root` for one writer until the file is closed or the process ends, however it ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("ab")
    except OSError as error:
        raise StoreError(f"{root} cannot be written ({error.strerror}): choose another root=.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StoreError(f"Another run is writing {root}: wait for it or choose another root=.") from error
    except OSError:  # some network file systems have no locks; better to work there than to refuse
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
    return lock
