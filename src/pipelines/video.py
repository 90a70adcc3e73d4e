"""What a pipeline returns: a video that is made while it is read."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from src.errors import ConfigError
from src.media import Provenance, VideoWriter, write_image

log = logging.getLogger(__name__)

GENERATED = "generated"
CRF = 18  # hardly visible losses; pictures of few pixels lose more, since colours are stored at half the resolution

PICTURES = (".png", ".jpg", ".jpeg", ".webp")

Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class Video:
    """A generated video, its sound, and the pictures beside it.

    Iterating yields the generated frames in chunks, (t, h, w, 3) uint8 RGB each; nothing is kept, and every iteration makes them anew, with
    the same result.

    Attributes:
        render: starts the making: yields chunks, each a dictionary of equally many frames under the names `generated` and those of
            `companions` and `beside`.
        fps: frames per second.
        n_frames: in all.
        size: height and width of a generated frame.
        audio: mono samples in [-1, 1] at `audio_rate`, a file whose sound is taken, or None.
        audio_rate: samples per second.
        companions: streams that `write` puts into files of their own, `<name>.<companion>.mp4`.
        beside: streams shown left of the generated frames, from left to right, where the video is written.
        is_picture: it is one frame, of a picture, and is written as one.
    """

    render: Callable[[], Iterator[Mapping[str, Frames]]]
    fps: float
    n_frames: int
    size: tuple[int, int]
    audio: Float32[np.ndarray, " s"] | Path | None = None
    audio_rate: int = 16000
    companions: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    is_picture: bool = False

    def __iter__(self) -> Iterator[Frames]:
        return (chunk[GENERATED] for chunk in self.render())

    def __len__(self) -> int:
        return self.n_frames

    def frames(self) -> Frames:
        """All generated frames in memory."""
        return np.concatenate(list(self))

    def picture(self, chunk: Mapping[str, Frames]) -> UInt8[np.ndarray, "t h shown_w 3"]:
        """Generated frames of a chunk with those of `beside` on their left."""
        return np.concatenate([chunk[name] for name in (*self.beside, GENERATED)], axis=2)


def write(video: Video, path: Path, provenance: Provenance, *, progress: bool = True, crf: int = CRF) -> list[Path]:
    """Make the video and write it, with its sound and companions; returns the files.

    One frame is written as a picture where `path` is one's, or where it is made of pictures: then .mp4 becomes .png.

    Nothing is left of any file if the making or the writing fails. Companions show nothing generated and carry no provenance.

    Args:
        video: from a pipeline.
        path: of the .mp4, or of the picture.
        provenance: goes into the container of the generated video.
        progress: show a bar.
        crf: quality of the H.264 stream, 1 (best) to 51.
    """
    if path.suffix.lower() in PICTURES or (video.is_picture and path.suffix.lower() == ".mp4"):
        return [_write_picture(video, path, provenance)]
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"out={path}: videos are written as .mp4; end the name with it.")
    files = {name: path.with_name(f"{path.stem}.{name}.mp4") for name in video.companions}
    sound: dict[str, Any] = {"audio": video.audio, "audio_rate": video.audio_rate, "crf": crf}
    with ExitStack() as stack:
        main = stack.enter_context(VideoWriter(path, video.fps, provenance=provenance, **sound))
        writers = {name: stack.enter_context(VideoWriter(file, video.fps, **sound)) for name, file in files.items()}
        for chunk in _tracked(video) if progress else video.render():
            main.write(video.picture(chunk))
            for name, writer in writers.items():
                writer.write(chunk[name])
    return [path, *files.values()]


def _write_picture(video: Video, path: Path, provenance: Provenance) -> Path:
    """The only frame, with what made it in the file."""
    if len(video) != 1:
        raise ConfigError(f"out={path}: the result is a video of {len(video)} frames; end the name with .mp4.")
    path = picture_path(path)
    write_image(path, video.picture(next(iter(video.render())))[0], provenance.describe("picture"))
    return path


def picture_path(path: Path) -> Path:
    """Where a picture is written instead of a video."""
    return path.with_suffix(".png") if path.suffix.lower() == ".mp4" else path


def _tracked(video: Video) -> Iterator[Mapping[str, Frames]]:
    """The chunks, with a progress bar that counts frames and their rate, which stays in the log."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    began = time.perf_counter()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("generating frames", total=video.n_frames, rate="")
        done, rate = 0, 0.0
        for chunk in video.render():
            yield chunk
            done += len(chunk[GENERATED])
            rate = done / (time.perf_counter() - began)
            bar.update(task, completed=done, rate=f"{rate:.2f} frames/s")
    log.info("%d frames, %.2f frames/s", done, rate)
