"""Files that are either whole or absent, and errors of the file system in one sentence."""

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from src.errors import MediaError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """A temporary path beside `path`, of the same suffix: renamed to `path` on success, removed on failure.

    Missing parent folders are created. Readers see the old file or the new one, never half of it; a killed process leaves `path` as
    it was, and beside it a hidden file `.<name>.*.tmp<suffix>`.

    Raises:
        MediaError: the folder cannot be written, or the disk, the quota or the file size limit is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        _claim(path, temporary)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise MediaError(f"Cannot finish {path}: {describe(error)}; free some space or write elsewhere.") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _claim(path: Path, temporary: Path) -> None:
    """Create the empty temporary file, so that a folder which cannot be written is found before any work is done."""
    if path.is_dir():
        raise MediaError(f"Cannot write {path}: it is a folder; give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise MediaError(f"Cannot write {path}: {describe(error)}; choose another folder.") from error


def check_readable(path: str | os.PathLike[str], kind: str) -> Path:
    """`path` as a Path, if it is a file with something in it.

    Args:
        path: the file to read.
        kind: what the file should be, for the message: "video", "sound" or "picture".

    Raises:
        MediaError: it is missing, a folder or empty.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; give the {kind} file itself.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MediaError(f"Cannot read the {kind} {path}: {describe(error)}; check the path.") from error
    if size == 0:
        raise MediaError(f"{path} is empty (0 bytes); copy or download the {kind} again.")
    return path


def describe(error: Exception) -> str:
    """The reason of an error of the system or of FFmpeg, in lower case and without a full stop."""
    code = getattr(error, "errno", None)
    known = isinstance(code, int) and code in errno.errorcode
    text = os.strerror(code) if known else getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
