"""The two libraries that decode frames, behind one small interface."""

import importlib.util
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from src.errors import MediaError

# decord answers a damaged packet by trying again, ten thousand times by default: for a user that is a program that hangs.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")


class Decoder(Protocol):
    """Frames of one file by their index in the order of display, upright (rotation applied)."""

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB; raises MediaError for a frame that cannot be decoded."""
        ...


class DecordDecoder:
    """decord: brings its own FFmpeg, so that nothing has to be installed besides it."""

    def __init__(self, path: Path, threads: int) -> None:
        if importlib.util.find_spec("decord") is None:
            raise MediaError(
                "The video back end decord is not installed; run `pip install decord` or choose backend=torchcodec."
            )
        import decord

        self._path = path
        try:
            self._reader = decord.VideoReader(str(path), num_threads=threads)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise MediaError(f"decord cannot open {path}; the file is damaged or of an unusual format.") from error
        self._error = decord.DECORDError

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._reader.get_batch(indices).asnumpy()
        except (self._error, IndexError) as error:
            raise MediaError(f"{self._path} is damaged at frame {indices[0]}") from error


class TorchCodecDecoder:
    """torchcodec: faster at random access; uses the FFmpeg libraries of the system."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise MediaError(
                "The video back end torchcodec cannot be loaded; run `pip install torchcodec` and install FFmpeg (Debian: "
                "`apt install ffmpeg`), or choose backend=decord."
            ) from error
        self._path = path
        try:
            self._decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads)
        except (RuntimeError, ValueError) as error:
            raise MediaError(f"torchcodec cannot open {path}; the file is damaged or of an unusual format.") from error

    def read(self, indices: list[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames at `indices`, RGB."""
        try:
            return self._decoder.get_frames_at(indices).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise MediaError(f"{self._path} is damaged at frame {indices[0]}") from error


BACKENDS = {"decord": DecordDecoder, "torchcodec": TorchCodecDecoder}


def open_decoder(path: Path, backend: str, threads: int) -> Decoder:
    """A decoder of `path` by the library of that name."""
    if backend not in BACKENDS:
        raise MediaError(f"There is no video back end {backend!r}; choose one of {', '.join(BACKENDS)}.")
    return BACKENDS[backend](path, threads)
