"""Opening files with FFmpeg, with its errors in one sentence."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from src.errors import MediaError
from src.media.files import check_readable, describe


@contextmanager
def ffmpeg_errors(path: Path, kind: str) -> Generator[None]:
    """Turns FFmpeg's errors while reading `path` into a MediaError; `kind` is what the file should be, "video" or "sound"."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} is no {kind} that FFmpeg can read ({describe(error)}); it may be truncated or of another type."
        ) from error


def open_container(path: str | os.PathLike[str], kind: str) -> InputContainer:
    """Open a file for reading; the caller closes it.

    Raises:
        MediaError: the file is missing, empty, or of a type that FFmpeg does not know.
    """
    path = check_readable(path, kind)
    with ffmpeg_errors(path, kind):
        return av.open(str(path), metadata_errors="ignore")


def video_streams(container: InputContainer) -> list[Any]:
    """The moving pictures of an opened file: not the cover of a song."""
    return [stream for stream in container.streams.video if Disposition.attached_pic not in stream.disposition]
