"""Tables, arrays and settings that survive a killed process and a full disk: rows and files arrive whole or not at all."""

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import StoreError
from src.media import atomic_path


def append_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Append rows to a CSV file (with its header if new) in one write that reaches the disk before this returns.

    Raises:
        StoreError: the disk is full; what was written of the rows is taken back.
    """
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        payload = _to_csv(columns, rows, header=end == 0)
        try:
            if file.write(payload) != len(payload):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # how a disk that is nearly full answers
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            raise StoreError(f"{path} cannot grow ({error.strerror}): free some space and start again.") from error


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV file as a whole, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_to_csv(columns, rows, header=True))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file atomically.

    Raises:
        MediaError: the folder cannot be written, or the disk is full.
    """
    contents = io.BytesIO()  # written to the file itself, NumPy would not say why it failed
    np.save(contents, array, allow_pickle=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(contents.getbuffer())


def cut_unfinished_line(path: Path) -> None:
    """Drop what follows the last line break of a file that a stopped machine left behind."""
    contents = path.read_bytes()
    if contents and not contents.endswith(b"\n"):
        os.truncate(path, contents.rfind(b"\n") + 1)


def _to_csv(columns: Sequence[str], rows: Sequence[Mapping[str, str]], header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file, by column name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file."""
    return json.loads(json.dumps(settings, default=str))


def require_settings(folder: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Note in `folder/settings.json` how the folder's contents are made, or compare with how they were made.

    Raises:
        StoreError: they were made with other settings; names the first difference, and the remedy behind it.
    """
    path, wanted = folder / "settings.json", plain(settings)
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n")
        return
    made_with = json.loads(path.read_text())
    if made_with != wanted:
        key, old, new = next(differences(made_with, wanted))
        raise StoreError(f"{folder} was made with {key}={old}, this run has {key}={new}: {remedy}.")


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings in which two nested mappings differ: dotted name, value in `old`, value in `new`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield prefix.rstrip("."), old, new
        return
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield from differences(old.get(key), new.get(key), f"{prefix}{key}.")
