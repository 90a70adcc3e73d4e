"""Which files of a raw folder are recordings, who is in them, and what a data set says about its splits."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from src.datamodules.store import SPLITS, Failure
from src.errors import ConfigError

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".mts", ".3gp")
# Matched at the end of the path below the raw folder, without its suffix.
IDENTITY_RULES = {"stem": r"(?:^|/)(?P<identity>[^/]+)$", "parent": r"(?:^|/)(?P<identity>[^/]+)/[^/]+$"}
LONGEST_ID = 180  # leaves room for the clip's number and the suffixes in a file name of 255 bytes


@dataclass(frozen=True)
class Recording:
    """A raw video file.

    Attributes:
        path: the file.
        source: its path below the raw folder, with "/".
        id: a file name that is unique among the recordings and stays the same when others come or go.
        identity: the person.
        split: the data set's own, or "" where it gives none.
        size: bytes.
        audio: a file of its sound, which begins with its first frame; None: the video's own.
    """

    path: Path
    source: str
    id: str
    identity: str
    split: str
    size: int
    audio: Path | None = None


class RecordingSource(Protocol):
    """What knows the recordings of a data set."""

    given_splits: set[str]  # that the data set decides itself

    def scan(self, raw: Path, exclude: Path | None = None) -> tuple[list[Recording], list[Failure]]:
        """All recordings below `raw`, and the files that cannot be one."""
        ...


@runtime_checkable
class WritesStore(Protocol):
    """A data set without videos, which writes its clips by itself."""

    def write_store(self, raw: Path, root: Path) -> int:
        """Write what the store `root` lacks; returns the number of clips written."""
        ...


class Dataset:
    """How a data set names its files, and its own splits.

    Args:
        name: for messages.
        identity: "stem" (every file its own person), "parent" (the folder is the person), or a regular expression with a
            group `identity` that is searched in the path below the raw folder, without its suffix.
        example: a path that follows `identity`, for messages.
        suffixes: of the files that are recordings, lower case.
        skip: file stem -> why it is left out; such files are listed in failures.csv.
        split_identities: split -> identities, the data set's own.
        split_folders: split -> name of a folder on the path of its files.
        split_lists: split -> text file with one identity, file stem or path below the raw folder per line.

    A recording that none of the three names goes by its identity into one of the splits that they leave open.
    """

    def __init__(
        self,
        name: str,
        identity: str = "stem",
        example: str = "",
        suffixes: Sequence[str] = SUFFIXES,
        skip: Mapping[str, str] | None = None,
        split_identities: Mapping[str, Sequence[str]] | None = None,
        split_folders: Mapping[str, str] | None = None,
        split_lists: Mapping[str, str | None] | None = None,
    ) -> None:
        self.name = name
        self.example = example
        self.suffixes = tuple(suffixes)
        self.skip = dict(skip or {})
        try:
            self._identity = re.compile(IDENTITY_RULES.get(identity, identity))
        except re.error as error:
            raise ConfigError(f"dataset.identity={identity!r} is no regular expression: {error}.") from error
        if "identity" not in self._identity.groupindex:
            raise ConfigError(
                f"dataset.identity={identity!r} lacks a group (?P<identity>...): give stem, parent or one."
            )
        self._folders = {folder: split for split, folder in (split_folders or {}).items() if folder}
        self._listed = {
            str(entry): split for split, entries in (split_identities or {}).items() for entry in entries or ()
        }
        for split, path in (split_lists or {}).items():
            self._listed |= dict.fromkeys(_read_list(path, f"dataset.split_lists.{split}"), split) if path else {}
        self.given_splits = set(self._listed.values()) | set(self._folders.values())
        if unknown := sorted(self.given_splits - set(SPLITS)):
            raise ConfigError(f"dataset: there is no split {unknown[0]!r}, choose from {', '.join(SPLITS)}.")

    def scan(self, raw: Path, exclude: Path | None = None) -> tuple[list[Recording], list[Failure]]:
        """All recordings below `raw` in the order of their paths, and the files that cannot be one.

        Args:
            raw: folder of raw videos; links are followed.
            exclude: a folder that is left out (the store, where it lies below `raw`).

        Raises:
            ConfigError: `raw` is no folder or holds no video.
        """
        if not raw.is_dir():
            raise ConfigError(f"raw={raw} is no folder: give the folder that holds the videos.")
        paths = [path for path in _files(raw, exclude) if path.suffix.lower() in self.suffixes]
        if not paths:
            raise ConfigError(f"raw={raw} holds no video: files that end in {', '.join(self.suffixes)} are looked for.")
        recordings: dict[str, Recording] = {}
        failures: list[Failure] = []
        for path in paths:
            found = self.recording(path, PurePosixPath(path.relative_to(raw)), path.stat().st_size)
            if isinstance(found, Recording) and found.id in recordings:
                twin = recordings[found.id].source
                found = Failure(found.source, f"differs from {twin} in its suffix only: rename or remove one of them.")
            if isinstance(found, Failure):
                failures.append(found)
            else:
                recordings[found.id] = found
        if unused := self._listed.keys() - self._names(recordings.values()):
            log.info("%d of %d entries of the split lists are not below %s", len(unused), len(self._listed), raw)
        return list(recordings.values()), failures

    def recording(self, path: Path, relative: PurePosixPath, size: int) -> Recording | Failure:
        """What a file is, or why it is none.

        Args:
            path: the file.
            relative: its path below the raw folder, which says who is in it and to which split it belongs.
            size: bytes.
        """
        source, bare = str(relative), str(relative.with_suffix(""))
        if reason := self.skip.get(relative.stem):
            return Failure(source, f"left out by dataset={self.name}: {reason}.")
        match = self._identity.search(bare)
        if match is None:
            like = f" (such as {self.example})" if self.example else ""
            return Failure(
                source, f"is not named as {self.name} names its files{like}: rename it or use dataset=folder."
            )
        identity = match["identity"]
        return Recording(path, source, safe_id(bare), identity, self._split(relative, identity), size)

    def _split(self, relative: PurePosixPath, identity: str) -> str:
        for name in (str(relative), str(relative.with_suffix("")), relative.stem, identity):
            if name in self._listed:
                return self._listed[name]
        return next((self._folders[part] for part in relative.parts[:-1] if part in self._folders), "")

    @staticmethod
    def _names(recordings: Iterable[Recording]) -> set[str]:
        return {
            name
            for r in recordings
            for name in (
                r.source,
                str(PurePosixPath(r.source).with_suffix("")),
                PurePosixPath(r.source).stem,
                r.identity,
            )
        }


def safe_id(name: str) -> str:
    """A file name for the path `name`; paths that differ get names that differ.

    A path of letters, digits, "_" and "-" keeps its look, with "/" written as "--"; where that would not tell two paths apart, a
    digest of the path is added.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("/", "--")).lstrip("_-")
    if safe.replace("--", "/") == name and "--" not in name and len(safe) <= LONGEST_ID:
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{safe[:LONGEST_ID]}-{digest}".lstrip("-")


def _files(root: Path, exclude: Path | None) -> list[Path]:
    """Visible files below `root`, sorted; links are followed, but no folder is entered twice."""
    seen = {root.resolve()} | ({exclude.resolve()} if exclude else set())
    found: list[Path] = []
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = [n for n in sorted(names) if not n.startswith(".") and (Path(folder) / n).resolve() not in seen]
        seen.update((Path(folder) / n).resolve() for n in names)
        found.extend(Path(folder) / file for file in files if not file.startswith("."))
    return sorted(found)


def _read_list(path: str, key: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"{key}={path} cannot be read ({reason}): give a text file with one name per line."
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
