"""Recordings that are numbered pictures, `<name>_1.jpg` or `00000.jpg` and so on, one per frame, 25 per second."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from src.errors import MediaError
from src.media import VideoInfo, read_image

SUFFIX = ".jpg"
FPS = 25.0


class ImageSequence:
    """The pictures from a first one on, as far as their numbers go without a gap, with the interface of a `VideoReader`.

    Args:
        path: of the first picture.
        fps: that is asked for; pictures cannot be resampled.

    Raises:
        MediaError: another rate, a name without a number, or a picture that cannot be read or is of another size than the first.
    """

    def __init__(self, path: Path, fps: float = FPS) -> None:
        self._paths = numbered_from(path)
        if fps != FPS:
            raise MediaError(
                f"{path} begins a sequence of pictures, {FPS:g} per second by convention: set clips.fps to it."
            )
        height, width = read_image(path).shape[:2]
        self.fps = FPS
        self.info = VideoInfo(
            path=path,
            width=width,
            height=height,
            fps=FPS,
            n_frames=len(self._paths),
            duration=len(self._paths) / FPS,
            rotation=0,
            variable_rate=False,
            has_audio=False,
            audio_rate=0,
            codec="jpeg",
        )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, in that order."""
        pictures = [read_image(self._paths[i]) for i in indices]
        for i, picture in zip(indices, pictures, strict=True):
            if picture.shape[:2] != (self.info.height, self.info.width):
                raise MediaError(f"{self._paths[i]} is of another size than {self.info.path}: write it again.")
        return np.stack(pictures)


def numbered_from(path: Path) -> list[Path]:
    """`path` and the pictures that follow it in number without a gap; MediaError where it has no number.

    A number that begins with 0 says how many digits the others have at least.
    """
    name = re.fullmatch(r"(?P<stem>|.*_)(?P<number>[0-9]+)", path.stem)
    if name is None:
        raise MediaError(f"{path} has no number: name the pictures of a sequence NAME_1.jpg, NAME_2.jpg, ...")
    width = len(name["number"]) if name["number"].startswith("0") else 1
    found, i = [], int(name["number"])
    while (picture := path.with_name(f"{name['stem']}{i:0{width}d}{path.suffix}")).is_file():
        found.append(picture)
        i += 1
    return found
