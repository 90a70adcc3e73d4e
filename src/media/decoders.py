"""The two libraries that decode frames, behind one small interface."""

import importlib
import importlib.util
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from src.errors import MediaError
from src.media.probing import VideoIndex


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
        if importlib.util.find_spec("decord") is None:
            raise MediaError("The video back end decord is not installed; choose backend=torchcodec or install decord.")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._error = decord.DECORDError
        try:
            self._reader = decord.VideoReader(str(index.info.path), num_threads=threads)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise MediaError(
                f"decord cannot open {index.info.path}, a {index.info.codec} video of an unusual form; convert it to an mp4 with H.264."
            ) from error
        self._position = self._match(index)

    def _match(self, index: VideoIndex) -> np.ndarray:
        """decord's index of each frame: it counts frames that the container hides too, those before the start of a cut."""
        n_packets = len(self._reader)
        if n_packets == index.info.n_frames:
            return np.arange(n_packets)
        starts = self._reader.get_frame_timestamp(range(n_packets))[:, 0]
        wanted = index.start + index.timestamps
        after = np.clip(np.searchsorted(starts, wanted), 1, n_packets - 1)
        return after - (wanted - starts[after - 1] < starts[after] - wanted)

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._reader.get_batch(self._position[indices]).asnumpy()
        except (self._error, IndexError) as error:
            raise DecodingError from error


class TorchCodecDecoder:
    """torchcodec: faster at random access; uses the FFmpeg libraries of the system."""

    def __init__(self, index: VideoIndex, threads: int) -> None:
        try:
            decoders = importlib.import_module("torchcodec.decoders")
        except (ImportError, RuntimeError, OSError) as error:
            raise MediaError(
                "The video back end torchcodec cannot be loaded; run `pip install torchcodec` and install the FFmpeg libraries (Debian: "
                "`apt install ffmpeg`), or choose backend=decord."
            ) from error
        path = str(index.info.path)
        try:
            self._decoder = decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=threads)
        except (RuntimeError, ValueError) as error:
            raise MediaError(
                f"torchcodec cannot open {path}; choose backend=decord or convert it to an mp4 with H.264."
            ) from error

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._decoder.get_frames_at(indices).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise DecodingError from error


BACKENDS = {"decord": DecordDecoder, "torchcodec": TorchCodecDecoder}


def open_decoder(index: VideoIndex, backend: str, threads: int) -> Decoder:
    """A decoder of the video by the library of that name.

    Raises:
        MediaError: the library is unknown, missing, or cannot open the file.
    """
    if backend not in BACKENDS:
        raise MediaError(f"There is no video back end {backend!r}; choose one of {', '.join(BACKENDS)}.")
    return BACKENDS[backend](index, threads)
