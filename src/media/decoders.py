"""The libraries that decode frames, behind one small interface."""

import importlib
import logging
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from jaxtyping import UInt8

from src.errors import MediaError
from src.media.containers import open_container, video_streams
from src.media.probing import VideoIndex

log = logging.getLogger(__name__)


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


class PyAVDecoder:
    """PyAV: takes what the two others cannot, by the time stamps of the frames; slower at random access.

    Where a file shows a frame longer instead of storing the next one, that frame is returned again.
    """

    def __init__(self, index: VideoIndex, threads: int) -> None:
        self._pts = index.pts
        self._key_pts = index.pts[index.keyframe]
        self._turns = index.info.rotation // 90
        self._container = open_container(index.info.path, "video")
        self._stream = video_streams(self._container)[0]
        self._stream.thread_count = threads
        self._restart(None)

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            pictures = {i: self._at(int(self._pts[i])) for i in sorted(set(indices))}
        except (av.FFmpegError, OSError, StopIteration) as error:
            raise DecodingError from error
        return np.stack([pictures[i] for i in indices])

    def _at(self, pts: int) -> UInt8[np.ndarray, "h w 3"]:
        if self._shown is not None and (pts < _pts(self._shown) or self._key_between(_pts(self._shown), pts)):
            self._restart(pts)
        while self._shown is None or _pts(self._shown) < pts:
            if self._following is None:
                self._following = next(self._frames, None)
            if self._following is None or (self._shown is not None and _pts(self._following) > pts):
                break
            self._shown, self._following = self._following, None
        if self._shown is None:
            raise StopIteration("no frame was decoded")
        return np.ascontiguousarray(np.rot90(self._shown.to_ndarray(format="rgb24"), self._turns))

    def _key_between(self, after: int, until: int) -> bool:
        return bool(np.searchsorted(self._key_pts, after, "right") < np.searchsorted(self._key_pts, until, "right"))

    def _restart(self, pts: int | None) -> None:
        """Continue at the key frame at or before `pts`; without `pts`, at the beginning."""
        if pts is not None:
            self._container.seek(pts, stream=self._stream)
        self._frames = self._container.decode(self._stream)
        self._shown: Any = None  # the last frame that was returned
        self._following: Any = None  # decoded, but not yet shown


def _pts(frame: Any) -> int:
    return frame.pts if frame.pts is not None else frame.dts


BACKENDS = {"decord": DecordDecoder, "torchcodec": TorchCodecDecoder, "pyav": PyAVDecoder}


def open_decoder(index: VideoIndex, backend: str, threads: int) -> Decoder:
    """A decoder of the video by the library of that name, or by PyAV where that one cannot read the file.

    decord has no wheel for some machines, and is replaced there too.

    Raises:
        MediaError: the library is unknown, or it is torchcodec and cannot be loaded.
    """
    if backend not in BACKENDS:
        raise MediaError(f"There is no video back end {backend!r}; choose one of {', '.join(BACKENDS)}.")
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
