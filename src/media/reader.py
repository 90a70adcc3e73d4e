"""Reading frames: by index or as a stream, upright, at any rate and size."""

import gc
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float64, Int, Int64, UInt8

from src.errors import MediaError
from src.media.decoders import Decoder, DecodingError, PyAVDecoder, open_decoder
from src.media.images import resize
from src.media.probing import index_video

log = logging.getLogger(__name__)


class VideoReader:
    """Frames of a video, RGB uint8, rotated as the container says.

    The decoder is opened at the first access and in each process anew, so that a reader may travel to the workers of a DataLoader,
    by fork or by pickle. One reader serves one thread at a time.

    Args:
        path: the video.
        backend: `decord`; `torchcodec` where it is installed; or `pyav`, which also takes the files that the chosen one cannot read.
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
        fps: float | int | None = None,
        size: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> None:
        self._index = index_video(path)
        self.info = self._index.info
        self.fps = self.info.fps if fps is None else float(fps)
        self._source, self.timestamps = _resample(self._index.timestamps, self.info.duration, fps)
        self._backend = backend
        self._size = size
        self._threads = threads
        self._decoder: Decoder | None = None
        _readers.add(self)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: SupportsIndex) -> UInt8[np.ndarray, "h w 3"]:
        return self.read([i])[0]

    def read(self, indices: Sequence[SupportsIndex] | Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, in that order; negative indices count from the end."""
        frames = self._decode(self._source[np.asarray(indices, dtype=np.int64)].tolist())
        return frames if self._size is None else resize(frames, self._size)

    def stream(self, chunk: int = 32) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """All frames in order, at most `chunk` at a time: the memory does not grow with the length of the video."""
        for start in range(0, len(self), chunk):
            yield self.read(range(start, min(start + chunk, len(self))))

    def _decode(self, source: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        if not source:
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        try:
            return self._open().read(source)
        except DecodingError as error:
            log.warning("%s: the back end failed, PyAV takes over", self.info.path)
            log.debug("The back end's error", exc_info=error)
        # decord and torchcodec do not say which frame it was; decord decodes ahead and then fails at all of them.
        self._decoder = PyAVDecoder(self._index, self._threads)
        frames = {i: self._decode_one(i) for i in sorted(set(source))}
        return np.stack([frames[i] for i in source])

    def _decode_one(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return self._open().read([i])[0]
        except DecodingError as error:
            raise MediaError(
                f"{self.info.path} is damaged: frame {i} of {self.info.n_frames} ({self._index.timestamps[i]:.2f} s) cannot be "
                "decoded; copy or download it again, or cut the damaged part out."
            ) from error

    def _open(self) -> Decoder:
        if self._decoder is None:
            self._decoder = open_decoder(self._index, self._backend, self._threads)
        return self._decoder

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decoder": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        _readers.add(self)


_readers: weakref.WeakSet[VideoReader] = weakref.WeakSet()
_inherited: list[Decoder | None] = []


def _forget_decoders() -> None:
    """A forked child has the parent's decoders without their threads: it opens its own, and never frees the inherited ones.

    Nor any other object of FFmpeg that was garbage in the parent and not yet collected: freeing one would wait for its threads for ever.
    """
    gc.freeze()
    for reader in _readers:
        _inherited.append(reader._decoder)
        reader._decoder = None


os.register_at_fork(after_in_child=_forget_decoders)


def _resample(
    timestamps: Float64[np.ndarray, " n"], duration: float, fps: float | int | None
) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Indices of the frames nearest to k / fps, and these times."""
    if fps is None:
        return np.arange(len(timestamps)), timestamps
    if not fps > 0:
        raise MediaError(f"fps={fps}: a frame rate must be above zero.")
    wanted = np.arange(max(1, round(duration * fps))) / fps
    middles = (timestamps[1:] + timestamps[:-1]) / 2
    # A tie belongs to the earlier frame, whatever the last bit of a time stamp says.
    return np.searchsorted(middles, wanted - 1e-6), wanted
