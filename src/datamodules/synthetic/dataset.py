"""A clip store of synthetic heads: people in the rows, each in one split only, no download."""

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.datamodules.preprocessing.measures import audio_visual_offset, face_size, mouth_range
from src.datamodules.preprocessing.pool import CrashedError, check_stop, map_unordered
from src.datamodules.preprocessing.report import write_report
from src.datamodules.preprocessing.splits import assign_splits
from src.datamodules.store import Clip, StoreWriter, write_clip
from src.datamodules.synthetic.clip import Performance, perform
from src.datamodules.synthetic.head import SyntheticHead
from src.errors import ConfigError, StoreError
from src.face.alignment import Alignment, transform_landmarks, warp
from src.face.landmarks import mouth_opening
from src.media import Provenance
from src.media.curves import audio_envelope

log = logging.getLogger(__name__)

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
MIN_SIZE, MAX_SIZE = 16, 2048
PEOPLE_PER_SEED = 1_000_000  # the people of one seed are numbered from a multiple of this


def make_synthetic(
    root: Path | str,
    n_identities: int,
    clips_per_identity: int,
    seconds: float,
    size: int,
    seed: int = 0,
    workers: int | None = None,
    *,
    fps: float = 25.0,
    fractions: Mapping[str, float] | None = None,
    crf: int = 18,
    alignment: Alignment | None = None,
    alignment_settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a clip store of rendered people who speak; continues a run that was interrupted.

    The clips depend on the settings alone, not on the number of workers or the order in which they finish.

    Args:
        root: folder of the store.
        n_identities: how many people; each is in one split only.
        seconds: length of each clip.
        size: side of the frames in pixels.
        seed: other seeds give other people.
        workers: processes; None for one per core, 0 works in this one.
        fractions: share of the people by split. Default: 0.8, 0.1 and 0.1.
        crf: quality of the videos, 0 (lossless) to 51.
        alignment: how the rendered frames are cut, by their exact landmarks, for methods that need aligned faces; the store then has its
            size, and black pixels where a crop leaves the frame. None: as rendered, of `size`.
        alignment_settings: plain values that describe `alignment`.

    Raises:
        ConfigError: values that cannot be used.
        StoreError: the store cannot be written, or was made with other settings.
    """
    n_frames = _checked(n_identities, clips_per_identity, seconds, size, seed, workers, fps, crf)
    names = [f"head{number:04d}" for number in range(n_identities)]
    splits = assign_splits(names, fractions or FRACTIONS, seed)
    settings = {
        "source": "synthetic heads",
        "identities": n_identities,
        "clips_per_identity": clips_per_identity,
        "seconds": seconds,
        "size": size,
        "seed": seed,
        "fps": fps,
        "fractions": dict(fractions or FRACTIONS),
        "crf": crf,
    }
    if alignment is not None:
        settings["alignment"] = dict(alignment_settings or {"_target_": type(alignment).__qualname__})
    stored_size = size if alignment is None else alignment.size
    with StoreWriter(root, stored_size, fps=fps, settings=settings) as writer:
        jobs = []
        for number, name in enumerate(names):
            ids = {f"{name}_{take:02d}": take for take in range(clips_per_identity)}
            missing = {id: take for id, take in ids.items() if id not in writer}
            if missing:
                jobs.append(Job(name, splits[name], seed * PEOPLE_PER_SEED + number, missing))
        if jobs:
            _work(writer, jobs, functools.partial(render, Path(root), n_frames, size, fps, crf, alignment), workers)
        if jobs or not (Path(root) / "report.html").is_file():
            writer.finish()
            write_report(Path(root))
    log.info(
        "%s: %d clips of %d people, %g s each; see %s",
        root,
        len(writer),
        n_identities,
        seconds,
        Path(root) / "report.html",
    )


@dataclass(frozen=True)
class Job:
    """The clips of one person that are still to be made: id -> number of the take."""

    identity: str
    split: str
    identity_seed: int
    takes: Mapping[str, int]


def render(
    root: Path, n_frames: int, size: int, fps: float, crf: int, alignment: Alignment | None, job: Job
) -> list[Clip]:
    """Make the clips of one person and write their files, but not their rows."""
    head = SyntheticHead(job.identity_seed, size)
    clips = []
    for id, take in job.takes.items():
        check_stop()
        performance = perform(head, take, n_frames, fps)
        frames, landmarks, transforms = performance.frames(), performance.landmarks, None
        if alignment is not None:
            transforms = alignment.fit(landmarks, (size, size))
            frames = _cut(frames, transforms, alignment.size)
            landmarks = transform_landmarks(landmarks, transforms)
        clips.append(
            write_clip(
                root,
                id,
                job.identity,
                frames,
                landmarks,
                performance.blendshapes,
                audio=performance.audio,
                transforms=transforms,
                fps=fps,
                split=job.split,
                source=f"synthetic/{job.identity_seed}/{take}",
                crf=crf,
                provenance=Provenance(method="synthetic heads", checkpoint=f"person {job.identity_seed}"),
                **_measures(performance, landmarks),
            )
        )
    return clips


def _cut(
    runs: Iterable[UInt8[np.ndarray, "_ h w 3"]], matrices: Float64[np.ndarray, "t 3 3"], size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "_ h2 w2 3"]]:
    """The aligned crops, in the same runs."""
    first = 0
    for frames in runs:
        yield warp(frames, matrices[first : first + len(frames)], size)
        first += len(frames)


def _measures(performance: Performance, landmarks: Float32[np.ndarray, "t 478 3"]) -> dict[str, Any]:
    """The optional fields of a clip's row."""
    opening = mouth_opening(landmarks)
    pose = performance.pose
    angles = {name: float(np.degrees(np.median(getattr(pose, name)))) for name in ("yaw", "pitch", "roll")}
    numbers = {"face_size": face_size(landmarks), "mouth_range": mouth_range(opening), **angles}
    offset = audio_visual_offset(opening, audio_envelope(performance.audio, len(landmarks)))
    return numbers if offset is None else {**numbers, "av_offset": offset[0], "av_correlation": offset[1]}


def _work(writer: StoreWriter, jobs: Sequence[Job], task: functools.partial[list[Clip]], workers: int | None) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cores if workers is None else workers, len(jobs))
    if processes:
        _compile()
    log.info("%d people to render in %d processes", len(jobs), processes or 1)
    columns = (
        TextColumn("render"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("people"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("render", total=len(jobs))
        for job, clips in map_unordered(task, jobs, processes):
            if isinstance(clips, CrashedError):
                raise StoreError(
                    f"The process that rendered {job.identity} was killed, perhaps for its memory: "
                    "start the same command again with fewer workers."
                )
            writer.append(clips)
            progress.update(bar, advance=1)


def _compile() -> None:
    """Fill the cache of compiled code once, before all workers want it at the same time."""
    for _ in perform(SyntheticHead(0, MIN_SIZE), 0, 1).frames():
        pass


def _checked(
    n_identities: int,
    clips_per_identity: int,
    seconds: float,
    size: int,
    seed: int,
    workers: int | None,
    fps: float,
    crf: int,
) -> int:
    """Number of frames of a clip; ConfigError where a setting cannot be used."""
    for name, value in {"identities": n_identities, "clips_per_identity": clips_per_identity}.items():
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value}: give a whole number of at least 1.")
    if n_identities > PEOPLE_PER_SEED:
        raise ConfigError(
            f"identities={n_identities}: one seed has {PEOPLE_PER_SEED} people; make several stores with other seeds."
        )
    if not isinstance(size, int) or not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(f"size={size}: give a whole number of pixels from {MIN_SIZE} to {MAX_SIZE}.")
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed={seed}: give a whole number of at least 0.")
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise ConfigError(f"workers={workers}: give a number of processes, or null for one per core.")
    if not 1 <= fps <= 200:
        raise ConfigError(f"fps={fps}: give frames per second from 1 to 200.")
    if not 0 <= crf <= 51:
        raise ConfigError(f"crf={crf}: give a quality from 0 (lossless) to 51.")
    if not 1 <= round(seconds * fps) <= 3600 * fps:
        raise ConfigError(f"seconds={seconds}: give at least one frame and at most an hour.")
    return round(seconds * fps)
