"""Speech features of a clip store: `features/<name>/<clip>.npy`, float32 (n_frames, dim), one row per video frame.

Beside the arrays lie `settings.json`, what the rows were made with, and `failures.csv`, the clips that have none, and why.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.audio.features import FPS, TOLERANCE, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.datamodules.store import SAFE_ID, Clip, ClipStore
from src.datamodules.synthetic.articulation import ArticulationFeatures
from src.datamodules.tables import plain, read_rows, require_settings, save_array, write_rows
from src.errors import ConfigError, StoreError, VisemeError

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURE_COLUMNS = ("id", "reason")
OTHER_SETTINGS = "give these features another name (features.name=...), or delete the folder"  # what to do then

Features = SpeechFeatures | ImportedFeatures | ArticulationFeatures


@dataclass
class Extraction:
    """What one run did: clips that had features already, clips that got them, and reasons by the id of those that did not."""

    present: int = 0
    written: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds_of_sound: float = 0.0  # of the clips that got features


def ensure_features(root: Path | str, features: Features) -> None:
    """See to it that the clips of a store have these features; returns quickly where nothing is missing.

    Raises:
        StoreError: there is no store, its features of that name were made with other settings, or not one clip can have features.
        VisemeError: the encoder cannot be loaded.
    """
    write_features(Path(root), features)


def write_features(root: Path, features: Features, *, progress: bool = True) -> Extraction:
    """Compute the features that a store lacks and write them, clip by clip; a run that was interrupted goes on where it stopped.

    Features that are older than their clip's sound, or of another length than the clip, are made again. A clip that has no sound, or
    whose features cannot be made, gets a line in `failures.csv`; the rest goes on.

    Args:
        root: of the store.
        features: an extractor, or files of another program.
        progress: show a bar.

    Raises:
        ConfigError: the features' name cannot be a folder's.
        StoreError: there is no store, its frame rate is not 25 fps, its features of that name were made with other settings, or not one
            clip can have features.
        VisemeError: the encoder cannot be loaded.
    """
    if not SAFE_ID.fullmatch(features.name):
        raise ConfigError(
            f"features.name={features.name}: give the name of one folder, of letters, digits, '_' and '-'."
        )
    clips = ClipStore(root).clips
    _require_frame_rate(root, clips)
    folder = root / "features" / features.name
    missing = [clip for clip in clips if not _is_made(folder, clip)]
    mute = _without_sound(missing, features)
    pending = [clip for clip in missing if clip.id not in mute]
    if pending:
        _ = features.dim  # loads the encoder: if that fails it is no clip's fault
    require_settings(folder, features.settings, OTHER_SETTINGS)
    result = Extraction(present=len(clips) - len(missing), failures=mute)
    began = time.perf_counter()
    for clip in shown(pending, features.name, progress):
        _extract(folder, clip, features, result)
    write_failures(folder, result.failures)
    _summarise(root, features.name, result, time.perf_counter() - began)
    return result


def stored_features(clip: Clip, features: Features) -> Float32[np.ndarray, "t d"] | None:
    """The clip's rows, where its store has some that were made with these very settings."""
    folder = clip.root / "features" / features.name
    settings = folder / "settings.json"
    if not settings.is_file() or not _is_made(folder, clip):
        return None
    if json.loads(settings.read_text()) != plain(features.settings):
        return None
    return clip.features(features.name)


def _without_sound(clips: Iterable[Clip], features: Features) -> dict[str, str]:
    """The clips that no encoder can do anything for, by id with the reason; files of another program may know their sound."""
    if not isinstance(features, SpeechFeatures):
        return {}
    return {clip.id: f"Clip {clip.id} has no sound." for clip in clips if not clip.has_audio}


def _extract(folder: Path, clip: Clip, features: Features, result: Extraction) -> None:
    """Write the rows of one clip, or note why it has none."""
    try:
        rows = _rows(clip, features)
        assert rows.shape == (clip.n_frames, features.dim), f"{rows.shape}: {features.dim} for {clip.n_frames} frames"
    except VisemeError as error:
        result.failures[clip.id] = str(error)
        return
    save_array(folder / f"{clip.id}.npy", rows)
    result.written += 1
    result.seconds_of_sound += clip.duration


def _rows(clip: Clip, features: Features) -> Float32[np.ndarray, "t d"]:
    if isinstance(features, SpeechFeatures):
        return features(clip.audio(), clip.n_frames)
    return features.read(clip.id, clip.n_frames, clip.source, clip.start)


def _is_made(folder: Path, clip: Clip) -> bool:
    """Whether the clip has features of its length that are no older than its sound."""
    path = folder / f"{clip.id}.npy"
    if not path.is_file():
        return False
    if clip.audio_path.is_file() and clip.audio_path.stat().st_mtime > path.stat().st_mtime:
        return False
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False)) == clip.n_frames
    except (ValueError, OSError, EOFError):
        log.warning("%s is damaged and is made again", path)
        return False


def _require_frame_rate(root: Path, clips: list[Clip]) -> None:
    other = next((clip for clip in clips if clip.fps != FPS), None)
    if other is not None:
        raise StoreError(
            f"{root} has clips of {other.fps:g} frames per second; speech features are made for {FPS}: prepare it with clips.fps={FPS}."
        )


def shown(clips: Sequence[T], name: str, progress: bool) -> Iterator[T]:
    """The clips, or their names, with a bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not (progress and clips)) as bar:
        yield from bar.track(clips, description=f"{name} features")


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """The table of clips without features; none where all have them. A store that cannot be written is left alone where nothing changes."""
    path = folder / "failures.csv"
    rows = [{"id": id, "reason": reason} for id, reason in failures.items()]
    if not rows:
        path.unlink(missing_ok=True)
    elif not path.is_file() or read_rows(path) != rows:
        write_rows(path, FAILURE_COLUMNS, rows)


def _summarise(root: Path, name: str, result: Extraction, seconds: float) -> None:
    failures = result.failures
    if failures and not (result.written or result.present):
        id, reason = next(iter(failures.items()))
        raise StoreError(f"Not one of the {len(failures)} clips of {root} got {name} features (clip {id}: {reason})")
    without = f"; {len(failures)} without: {root / 'features' / name / 'failures.csv'}" if failures else ""
    if not result.written:
        log.info("%s: %d clips have %s features: nothing was made%s", root, result.present, name, without)
        return
    log.info(
        "%s features: %d clips written (%.1f minutes of sound, %.0f times real time), %d had them%s",
        name,
        result.written,
        result.seconds_of_sound / 60,
        result.seconds_of_sound / max(seconds, 1e-6),
        result.present,
        without,
    )


def clips_with_features(clips: Sequence[Clip], features: Features | str) -> list[Clip]:
    """Those clips of a store that have the features, or the rows of that name; StoreError where none has.

    Clips without sound have none, nor have those that the extraction listed in its `failures.csv`.
    """
    name = features if isinstance(features, str) else features.name
    folder = clips[0].root / "features" / name
    present = {path.stem for path in folder.glob("*.npy")}
    found = [clip for clip in clips if clip.id in present]
    if not found:
        raise StoreError(
            f"None of the {len(clips)} {clips[0].split} clips of {clips[0].root} has {name} features: "
            f"look at {folder / 'failures.csv'}, or extract them with tools/preprocess.py."
        )
    if len(found) < len(clips):
        log.info("%d of %d clips have no %s features and are left out", len(clips) - len(found), len(clips), name)
    return found


def check_features(clips: Sequence[Clip], features: Features) -> None:
    """StoreError that counts the clips whose features are as wide as no network expects or not as long as the video."""
    wrong = [problem for clip in clips if (problem := _feature_problem(clip, features))]
    if wrong:
        raise StoreError(
            f"{features.name} features do not fit {len(wrong)} of {len(clips)} clips (first: {wrong[0]}): "
            "delete these files and extract them again, or choose other features=."
        )


def _feature_problem(clip: Clip, features: Features) -> str | None:
    array = clip.features(features.name)
    if array.ndim != 2 or array.shape[1] != features.dim or array.dtype != np.float32:
        shape = " x ".join(map(str, array.shape))
        return f"clip {clip.id} has {array.dtype} {shape}, not float32 rows of {features.dim}"
    if abs(len(array) - clip.n_frames) > TOLERANCE:
        return f"clip {clip.id} has {len(array)} rows but {clip.n_frames} frames"
    return None
