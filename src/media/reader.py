"""Reading frames: by index or as a stream, upright, at any rate and size."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from src.errors import MediaError
from src.media.decoders import Decoder, open_decoder
from src.media.images import resize
from src.media.probing import index_video


class VideoReader:
    """Frames of a video, RGB uint8, rotated as the container says.

    The decoder is opened at the first access and in each process anew, so that a reader may travel to the workers of a DataLoader.

    Args:
        path: the video.
        backend: `decord`, or `torchcodec` where it is installed.
        fps: resample to this rate: frame k is the one whose time stamp is nearest to k / fps (the earlier of two equally near), and
            there are round(duration * fps) of them. Works from time stamps, hence for variable rates too. None keeps the frames.
        size: (height, width) to resize to; None keeps the size.
        threads: threads of the decoder.

    Attributes:
        info: what `probe` says about the file.
        fps: frames per second of what this reader returns.
        timestamps: seconds since the first frame, of each frame that this reader returns.

    Raises:
        MediaError: the file cannot be read, or a frame of it cannot be decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str = "decord",
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> None:
        index = index_video(path)
        self.info = index.info
        self.fps = self.info.fps if fps is None else float(fps)
        self._source, self.timestamps = _resample(index.timestamps, self.info.duration, fps)
        self._backend = backend
        self._size = size
        self._threads = threads
        self._decoder: Decoder | None = None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.read([i])[0]

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices` (negative ones count from the end), in that order."""
        frames = self._open().read(self._source[np.asarray(indices, dtype=np.int64)].tolist())
        return frames if self._size is None else resize(frames, self._size)

    def stream(self, chunk: int = 32) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """All frames in order, at most `chunk` at a time: the memory does not grow with the length of the video."""
        for start in range(0, len(self), chunk):
            yield self.read(range(start, min(start + chunk, len(self))))

    def _open(self) -> Decoder:
        if self._decoder is None:
            self._decoder = open_decoder(self.info.path, self._backend, self._threads)
        return self._decoder

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decoder": None}


def _resample(
    timestamps: Float64[np.ndarray, " n"], duration: float, fps: float | None
) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Indices of the frames nearest to k / fps, and these times."""
    if fps is None:
        return np.arange(len(timestamps)), timestamps
    if fps <= 0:
        raise MediaError(f"fps={fps}: a frame rate must be above zero.")
    wanted = np.arange(max(1, round(duration * fps))) / fps
    middles = (timestamps[1:] + timestamps[:-1]) / 2
    # A tie belongs to the earlier frame, whatever the last bit of a time stamp says.
    return np.searchsorted(middles, wanted - 1e-6), wanted
