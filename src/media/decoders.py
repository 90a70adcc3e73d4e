"""The libraries that decode frames, behind one small interface."""

import importlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import av
import numpy as np
from jaxtyping import UInt8

from src.errors import MediaError
from src.media.containers import open_container, video_streams
from src.media.probing import VideoIndex

log = logging.getLogger(__name__)

# Containers with a table of their frames. In others (AVI, MPEG-TS) decord and torchcodec miss frames or return wrong ones.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class UnsuitableError(Exception):
    """A library cannot read a file in the way that the index describes it."""


class DecodingError(Exception):
    """A library could not decode the frames asked for; the reader finds out which one it was and tells the user."""


@runtime_checkable
class Decoder(Protocol):
    """Frames of one file by their index in the order of display, upright (rotation applied)."""

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB; raises DecodingError for a frame that cannot be decoded."""
        ...


class DecordDecoder:
    """decord: brings its own FFmpeg, so that nothing has to be installed besides it.

    A packet that cannot be decoded is an error at once. decord polls for the last frames of a file and gives up after
    DECORD_EOF_RETRY_MAX empty answers; its default ends within a second and is not reached on a busy machine, smaller values are.
    """

    def __init__(self, index: VideoIndex, threads: int) -> None:
        decord = importlib.import_module("decord")
        decord.logging.set_level(decord.logging.QUIET)
        self._error = decord.DECORDError
        try:
            self._reader = decord.VideoReader(str(index.info.path), num_threads=threads)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise UnsuitableError("it does not know the format") from error
        if len(self._reader) != index.info.n_frames:
            # It also counts the frames that a cut without re-encoding hides, though it never returns them: its indices are off.
            raise UnsuitableError("it miscounts the frames of an edited file")

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._reader.get_batch(indices).asnumpy()
        except (self._error, IndexError) as error:
            raise DecodingError from error


class TorchCodecDecoder:
    """torchcodec: faster at random access; uses the FFmpeg libraries of the system."""

    def __init__(self, index: VideoIndex, threads: int) -> None:
        decoders = importlib.import_module("torchcodec.decoders")
        try:
            self._decoder = decoders.VideoDecoder(
                str(index.info.path), dimension_order="NHWC", num_ffmpeg_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise UnsuitableError("it does not know the format") from error
        if len(self._decoder) != index.info.n_frames:
            raise UnsuitableError("it counts other frames than FFmpeg shows")

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._decoder.get_frames_at(indices).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise DecodingError from error


class _Timed(NamedTuple):
    """A decoded frame and when it is shown."""

    time: int
    frame: Any


class PyAVDecoder:
    """PyAV: goes by the time stamps of the decoded frames, and so takes what the two others cannot.

    Random access is slower, and slow in containers without a table of their frames, which are decoded from the beginning. Where a
    file shows a frame longer instead of storing the next one, that frame is returned again.
    """

    def __init__(self, index: VideoIndex, threads: int) -> None:
        self._path = index.info.path
        self._threads = threads
        self._turns = index.info.rotation // 90
        self._seekable = index.container in INDEXED and index.stamped
        if self._seekable:
            self._times, self._keys = index.pts, np.flatnonzero(index.keyframe)
        else:  # a seek may land anywhere, and time stamps after it are guesses: count from the beginning
            self._times, self._keys = np.arange(index.info.n_frames), np.zeros(1, dtype=np.int64)
        self._shown: _Timed | None = None  # the last frame that was returned
        self._ahead: _Timed | None = None  # the one after it, if it is decoded already
        self._open()

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            pictures = {i: self._picture(i) for i in sorted(set(indices))}
        except (av.FFmpegError, OSError) as error:
            self._shown = None  # the next call has to seek
            raise DecodingError from error
        return np.stack([pictures[i] for i in indices])

    def _picture(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        shown = self._advance(self._start(i), int(self._times[i]))
        return np.ascontiguousarray(np.rot90(shown.frame.to_ndarray(format="rgb24"), self._turns))

    def _start(self, i: int) -> _Timed:
        """A decoded frame from which to go on to frame `i`: the current one, or after a seek the key frame before `i`."""
        if self._shown is not None:
            here = np.searchsorted(self._times, self._shown.time)
            key = self._keys[self._keys <= i].max(initial=0)
            if here <= i and key <= here + 1:
                return self._shown
        time = int(self._times[i])
        first = self._seek(time) if self._seekable else None
        if first is None or first.time > time:
            self._open()
            first = next(self._frames, None)
        if first is None:
            raise DecodingError
        return first

    def _advance(self, shown: _Timed, time: int) -> _Timed:
        """The last frame that does not come after `time`."""
        while shown.time < time:
            self._ahead = self._ahead or next(self._frames, None)
            if self._ahead is None or self._ahead.time > time:
                break
            shown, self._ahead = self._ahead, None
        self._shown = shown
        return shown

    def _open(self) -> None:
        self._container = open_container(self._path, "video")
        self._stream = video_streams(self._container)[0]
        self._stream.thread_count = self._threads
        self._frames, self._ahead = self._decode(), None

    def _seek(self, time: int) -> _Timed | None:
        self._container.seek(time, stream=self._stream)
        self._frames, self._ahead = self._decode(), None
        return next(self._frames, None)

    def _decode(self) -> Iterator[_Timed]:
        for number, frame in enumerate(self._container.decode(self._stream)):
            yield _Timed(frame.pts if self._seekable else number, frame)


BACKENDS = {"decord": DecordDecoder, "torchcodec": TorchCodecDecoder, "pyav": PyAVDecoder}


def open_decoder(index: VideoIndex, backend: str, threads: int) -> Decoder:
    """A decoder of the video by the library of that name, or by PyAV where that one would err.

    decord has no wheel for some machines, and is replaced there too.

    Raises:
        MediaError: the library is unknown, or it is torchcodec and cannot be loaded.
    """
    if backend not in BACKENDS:
        raise MediaError(f"There is no video back end {backend!r}; choose one of {', '.join(BACKENDS)}.")
    if index.container not in INDEXED:
        return PyAVDecoder(index, threads)
    try:
        return BACKENDS[backend](index, threads)
    except UnsuitableError as error:
        log.info("%s: PyAV instead of %s, because %s", index.info.path, backend, error)
    except (ImportError, RuntimeError, OSError) as error:
        if backend != "decord":
            raise MediaError(
                f"The video back end {backend} cannot be loaded; run `pip install {backend}` and install the FFmpeg libraries "
                "(Debian: `apt install ffmpeg`), or choose backend=decord."
            ) from error
        log.info("PyAV instead of decord, which is not installed")
    return PyAVDecoder(index, threads)
