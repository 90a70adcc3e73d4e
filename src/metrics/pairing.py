"""Which generated video is compared with which real one: by name, or by a list."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from src.errors import ConfigError

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


@dataclass(frozen=True)
class Reference:
    """A real video, and what is known about it beside its frames.

    Attributes:
        video: the file.
        landmarks: float32 (t, 478, 3) in pixels of the video, as a .npy file of a clip store.
        valid: bool (t,), false where the landmarks are interpolated; beside the landmarks.
        audio: the sound, where it is a file of its own; else the sound of the video is used.
    """

    video: Path
    landmarks: Path | None = None
    valid: Path | None = None
    audio: Path | None = None


@dataclass(frozen=True)
class Pair:
    """A generated video and the real one of the same name."""

    name: str
    generated: Path
    reference: Reference


@dataclass(frozen=True)
class Pairing:
    """The pairs, sorted by name, and the names that only one side has."""

    pairs: tuple[Pair, ...]
    only_generated: tuple[str, ...]
    only_reference: tuple[str, ...]


def find_videos(path: Path, setting: str) -> dict[str, Path]:
    """Videos by name: a folder's files, at any depth, by their path below it without suffix; a single file by its stem.

    Args:
        path: a file or a folder.
        setting: name of the setting that gave `path`, for the error.

    Raises:
        ConfigError: nothing is there, the folder holds no video, or two files have the same name but for the suffix.
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise ConfigError(f"{setting}={path}: there is no such file or folder.")
    videos: dict[str, Path] = {}
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".")):
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in videos:
            raise ConfigError(
                f"{setting}={path}: {videos[name].name} and {file.name} have the same name; keep one of them."
            )
        videos[name] = file
    if not videos:
        raise ConfigError(f"{setting}={path}: the folder holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return videos


def find_pairs(generated: Mapping[str, Path], references: Mapping[str, Reference]) -> Pairing:
    """Pair by name; one generated and one real video are a pair whatever their names.

    Raises:
        ConfigError: no name occurs on both sides.
    """
    if len(generated) == len(references) == 1:
        (name, path), reference = next(iter(generated.items())), next(iter(references.values()))
        return Pairing((Pair(name, path, reference),), (), ())
    common = sorted(generated.keys() & references.keys())
    if not common:
        raise ConfigError(
            f"No generated video has the name of a real one (generated: {_some(generated)}; real: {_some(references)}): "
            "name each generated video like the video or clip that it is compared with."
        )
    return Pairing(
        tuple(Pair(name, generated[name], references[name]) for name in common),
        tuple(sorted(generated.keys() - references.keys())),
        tuple(sorted(references.keys() - generated.keys())),
    )


def _some(names: Mapping[str, object]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def require_complete(pairing: Pairing) -> None:
    """ConfigError that lists every name that only one side has."""
    sides = [("no real video for", pairing.only_generated), ("no generated video for", pairing.only_reference)]
    gaps = "; ".join(f"{what} {len(names)}: {', '.join(names)}" for what, names in sides if names)
    if gaps:
        raise ConfigError(
            f"The two sides differ ({gaps}): complete them, or set missing=skip to compare the {len(pairing.pairs)} pairs."
        )


def listed_pairs(path: Path, generated: Mapping[str, Path], references: Mapping[str, Reference]) -> Pairing:
    """The pairs that a table lists: a CSV file with the columns `generated` and `reference`, names without suffix; one real video may serve
    several generated ones, as for other voices of the same person.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or lists names that are not there: all of them.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"pairs={path} cannot be read ({error.strerror}): give a CSV file.") from error
    if not rows or not {"generated", "reference"} <= rows[0].keys():
        raise ConfigError(
            f"pairs={path}: give a CSV file with the columns generated and reference, and a row per pair."
        )
    sides = (("generated video", generated, "generated"), ("real one", references, "reference"))
    gaps = [f"no {what} named {row[side]}" for what, known, side in sides for row in rows if row[side] not in known]
    if gaps:
        raise ConfigError(
            f"pairs={path}: there is {', '.join(dict.fromkeys(gaps))}; complete the videos or correct the list."
        )
    return Pairing(
        tuple(Pair(row["generated"], generated[row["generated"]], references[row["reference"]]) for row in rows), (), ()
    )
