"""Many videos in one run: a clip store, a list or a folder -> a folder of videos; what exists is skipped, what fails is recorded."""

import csv
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.datamodules.store import ClipStore
from src.datamodules.tables import write_rows
from src.errors import ConfigError, VisemeError
from src.media import Provenance, VideoWriter
from src.metrics.pairing import VIDEO_SUFFIXES
from src.pipelines.video import CRF, Video, picture_path, write

log = logging.getLogger(__name__)

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
COLUMNS = ("name", "source", "audio", "driving")


@dataclass(frozen=True)
class Job:
    """One video to make: `<out>/<name>.mp4`; sources as a pipeline takes them."""

    name: str
    source: str
    audio: str | None = None
    driving: str | None = None


@runtime_checkable
class Batching(Protocol):
    """A pipeline that makes several videos at once."""

    batch_size: int

    def prepare(self, source: Any, audio: Any = None, driving: Any = None, *, seed: int = 1) -> Any:
        """Read what the user gives."""
        ...

    def videos(self, requests: Sequence[Any]) -> list[Video]:
        """What is known of the videos: rate, size, sound."""
        ...

    def render(self, requests: Sequence[Any]) -> Iterator[list[UInt8[np.ndarray, "h w 3"] | None]]:
        """The next frame of each; None for those that have ended."""
        ...


@dataclass
class Made:
    """What became of the jobs."""

    written: list[Path] = field(default_factory=list)
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # reason by name
    frames: int = 0


def read_jobs(inputs: str | Path, split: str | None = "test") -> list[Job]:
    """Jobs of a clip store (each clip of a split with its own sound), of a .csv list, or of a folder of pictures and videos.

    Args:
        inputs: a clip store; a table with the columns `source`, and `audio`, `driving`, `name` where needed, paths relative to it; or a
            folder, in which a picture or a silent video goes with the sound file of the same name.
        split: of the store; None: all.

    Raises:
        ConfigError: there is nothing, a line lacks its source, or a name occurs twice.
    """
    path = Path(inputs).expanduser()
    if (path / "clips.csv").is_file():
        jobs = [Job(clip.id, f"{path}@{clip.id}", None, f"{path}@{clip.id}") for clip in ClipStore(path, split)]
    elif path.is_file() and path.suffix.lower() == ".csv":
        jobs = _listed(path)
    elif path.is_dir():
        jobs = list(_in_folder(path))
    else:
        raise ConfigError(f"inputs={path}: give a clip store, a .csv list or a folder of pictures and videos.")
    if not jobs:
        raise ConfigError(f"inputs={path}: nothing to make a video of was found there.")
    names = [job.name for job in jobs]
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ConfigError(f"inputs={path}: the name {outside[0]!r} leads out of the folder; give one without '..'.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"inputs={path}: several inputs are named {', '.join(twice[:5])}; give each its own name.")
    return jobs


def _listed(path: Path) -> list[Job]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no table in UTF-8: save it as CSV with this encoding.") from error
    if rows and (unknown := set(rows[0]) - set(COLUMNS)):
        raise ConfigError(f"{path}: unknown column {min(map(str, unknown))!r}; columns are {', '.join(COLUMNS)}.")
    jobs = []
    for line, row in enumerate(rows, start=2):
        if not row.get("source"):
            raise ConfigError(f"{path}, line {line}: there is no source.")
        found = {key: _beside(path, row[key]) for key in COLUMNS[1:] if row.get(key)}
        jobs.append(Job(row.get("name") or Path(row["source"].rpartition("@")[2] or row["source"]).stem, **found))
    return jobs


def _beside(table: Path, entry: str) -> str:
    """A path of a table, relative to the table's folder; `STORE@CLIP_ID` likewise."""
    return str(table.parent / Path(entry).expanduser())


def _in_folder(path: Path) -> Iterator[Job]:
    for file in sorted(path.iterdir()):
        sound = next((str(s) for suffix in SOUNDS if (s := file.with_suffix(suffix)).is_file()), None)
        if file.suffix.lower() in VIDEO_SUFFIXES:
            yield Job(file.stem, str(file), sound, str(file))
        elif file.suffix.lower() in PICTURES:
            yield Job(file.stem, str(file), sound)


def generate(
    pipeline: Any,
    jobs: Sequence[Job],
    out: Path,
    provenance: Provenance,
    *,
    seed: int = 1,
    n_batches: int | None = None,
    overwrite: bool = False,
    crf: int = CRF,
) -> Made:
    """Make the videos that `out` lacks; those that fail are listed with their reasons in `out/failures.csv`, the rest goes on.

    A video is the same as if it were made alone, whatever is made beside it.

    Args:
        pipeline: of any method; one that can makes `batch_size` videos at a time.
        jobs: what to make.
        out: folder of the videos.
        provenance: goes into each container.
        seed: of the noise of each video.
        n_batches: stop after so many batches of videos; None: all.
        overwrite: make those that exist again.
        crf: quality of the H.264 streams, 1 (best) to 51.

    Raises:
        ConfigError: `out` is a clip store, which has a `failures.csv` of its own.
    """
    if (out / "clips.csv").exists():
        raise ConfigError(f"out={out} is a clip store: give another folder for the videos.")
    made = Made()
    missing = [job for job in jobs if overwrite or not _exists(_file(out, job))]
    made.skipped = len(jobs) - len(missing)
    if made.skipped:
        log.info("%d of %d videos exist in %s", made.skipped, len(jobs), out)
    together = pipeline.batch_size if isinstance(pipeline, Batching) else 1
    groups = [missing[i : i + together] for i in range(0, len(missing), together)][:n_batches]
    began = time.perf_counter()
    with _progress() as bar:
        task = bar.add_task("videos", total=sum(map(len, groups)), rate="")
        for group in groups:
            if isinstance(pipeline, Batching):
                _make_batch(pipeline, group, out, provenance, seed, made, crf)
            else:
                _make_each(pipeline, group, out, provenance, seed, made, crf)
            rate = made.frames / (time.perf_counter() - began)
            bar.update(task, advance=len(group), rate=f"{rate:.2f} frames/s")
    if made.failures:
        write_rows(
            out / "failures.csv",
            ("name", "reason"),
            [{"name": name, "reason": reason} for name, reason in made.failures.items()],
        )
        log.warning("%d of %d videos failed; reasons are in %s", len(made.failures), len(jobs), out / "failures.csv")
    else:
        (out / "failures.csv").unlink(missing_ok=True)
    return made


def _file(out: Path, job: Job) -> Path:
    return out / f"{job.name}.mp4"


def _exists(path: Path) -> bool:
    """The video is there, or the picture that was made instead."""
    return path.is_file() or picture_path(path).is_file()


def _make_each(
    pipeline: Any, jobs: Iterable[Job], out: Path, provenance: Provenance, seed: int, made: Made, crf: int
) -> None:
    for job in jobs:
        try:
            video = pipeline(source=job.source, audio=job.audio, driving=job.driving, seed=seed)
            made.written += write(video, _file(out, job), provenance, progress=False, crf=crf)
            made.frames += len(video)
        except VisemeError as error:
            made.failures[job.name] = str(error)


def _make_batch(
    pipeline: Batching, jobs: Sequence[Job], out: Path, provenance: Provenance, seed: int, made: Made, crf: int
) -> None:
    requests: dict[str, Any] = {}
    for job in jobs:
        try:
            requests[job.name] = pipeline.prepare(job.source, job.audio, job.driving, seed=seed)
        except VisemeError as error:
            made.failures[job.name] = str(error)
    if not requests:
        return
    try:
        made.frames += _write_together(pipeline, requests, out, provenance, crf)
        made.written += [out / f"{name}.mp4" for name in requests]
    except VisemeError as error:
        made.failures |= dict.fromkeys(requests, str(error))


def _write_together(
    pipeline: Batching, requests: Mapping[str, Any], out: Path, provenance: Provenance, crf: int
) -> int:
    """Make and write several videos at once; nothing is left of any if that fails. Returns the number of frames."""
    frames_written = 0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                VideoWriter(
                    out / f"{name}.mp4",
                    video.fps,
                    audio=video.audio,
                    audio_rate=video.audio_rate,
                    provenance=provenance,
                    crf=crf,
                )
            )
            for name, video in zip(requests, pipeline.videos(list(requests.values())), strict=True)
        ]
        for frames in pipeline.render(list(requests.values())):
            for writer, frame in zip(writers, frames, strict=True):
                if frame is not None:
                    writer.write(frame)
                    frames_written += 1
    return frames_written


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeRemainingColumn(), transient=True)
