"""Clips that landmark_driven's original preprocessing stored: `<clip>.pt`, read without running what is pickled in them.

Such a file is a dictionary of arrays written by `torch.save`: `video`, uint8 RGB (T, 128, 128, 3), already aligned, and mostly
`landmark`, 135 points, and `landmark_figure`, their picture. They hold neither sound nor a frame rate (it is 25 by convention),
and 135 points are not the 478 of a store: only the frames are taken, and the face is detected in them again.
"""

import codecs
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from src.datamodules.preprocessing.image_sequences import SUFFIX as PICTURES
from src.datamodules.preprocessing.image_sequences import ImageSequence
from src.errors import FaceError, MediaError
from src.media import VideoInfo, VideoReader

SUFFIX = ".pt"
FPS = 25.0


class ArchivedClip:
    """The frames of a `.pt` file, with the interface of a `VideoReader`.

    Raises:
        MediaError: the file is no such clip, or holds anything but arrays and plain values.
    """

    def __init__(self, path: Path, fps: float = FPS) -> None:
        frames = _load(path).get("video")
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise MediaError(f"{path} holds no array `video` of uint8 (T, height, width, 3): leave it out.")
        if len(frames) == 0 or fps != FPS:
            raise MediaError(
                f"{path} has no frame, or clips.fps is not {FPS:g}: clips of this form cannot be resampled."
            )
        self._frames = frames
        self.fps = FPS
        self.info = VideoInfo(
            path=path,
            width=frames.shape[2],
            height=frames.shape[1],
            fps=FPS,
            n_frames=len(frames),
            duration=len(frames) / FPS,
            rotation=0,
            variable_rate=False,
            has_audio=False,
            audio_rate=0,
            codec="numpy",
        )

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, in that order."""
        return self._frames[list(indices)]


class AsStored:
    """The alignment of clips that are aligned already: the whole frame is the crop.

    Args:
        size: side of the frames; others are refused.
    """

    def __init__(self, size: int = 128) -> None:
        self.size = (size, size)

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float64[np.ndarray, "t 3 3"]:
        """The identity for every frame."""
        if frame_size != self.size:
            raise FaceError(
                f"its frames are {frame_size[1]}x{frame_size[0]} pixels: give their side as alignment.size."
            )
        return np.repeat(np.eye(3)[None], len(landmarks), axis=0)


Frames = VideoReader | ArchivedClip | ImageSequence


def open_frames(path: Path, fps: float) -> Frames:
    """The frames of a recording, by its suffix; MediaError where it cannot be read."""
    if path.suffix.lower() == SUFFIX:
        return ArchivedClip(path, fps)
    return ImageSequence(path, fps) if path.suffix.lower() == PICTURES else VideoReader(path, fps=fps)


def _load(path: Path) -> dict[str, Any]:
    import torch  # not for recordings that are videos: it triples the time in which a worker starts

    try:
        with torch.serialization.safe_globals(list(_array_globals())):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise MediaError(
            f"{path} is no clip of landmark_driven's original, or holds more than arrays: leave it out."
        ) from error
    if not isinstance(contents, dict):
        raise MediaError(f"{path} holds no dictionary of arrays: leave it out.")
    return contents


def _array_globals() -> Iterator[Any]:
    """What a pickled NumPy array refers to, under the names of NumPy 1 and 2; none of it runs anything else."""
    reconstruct = np.zeros(0).__reduce__()[0]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):
        yield reconstruct, f"{module}._reconstruct"
    yield from (np.ndarray, np.dtype, type(np.dtype(np.uint8)), type(np.dtype(np.float64)), codecs.encode)
