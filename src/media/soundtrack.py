"""The sound of a video being written: encoded as far as the frames have come."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from jaxtyping import Float

from src.errors import MediaError
from src.media.files import check_readable, describe

AAC_FRAME = 1024  # samples
CHUNK = 16 * AAC_FRAME


@dataclass(frozen=True)
class Sound:
    """Decoded sound that is yet to be encoded.

    Attributes:
        frames: PyAV's frames in order.
        rate: samples per second.
        layout: `mono` or `stereo`.
    """

    frames: Iterator[av.AudioFrame]
    rate: int
    layout: str


@contextmanager
def open_sound(audio: Float[np.ndarray, " s"] | str | os.PathLike[str], rate: int) -> Generator[Sound]:
    """The sound of a file, at its own rate and in stereo where it is, or of an array of mono samples.

    Raises:
        MediaError: the file cannot be read or has no sound.
    """
    if isinstance(audio, np.ndarray):
        yield Sound(_array_frames(audio, rate), rate, "mono")
        return
    path = check_readable(audio, "sound")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} is no sound that FFmpeg can read ({describe(error)}); give another file.") from error
    with container:
        if not container.streams.audio:
            raise MediaError(f"{path} has no sound; give a file with an audio stream.")
        stream = container.streams.audio[0]
        yield Sound(container.decode(stream), stream.rate, "mono" if stream.channels == 1 else "stereo")


def _array_frames(samples: Float[np.ndarray, " s"], rate: int) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), CHUNK):
        chunk = np.clip(samples[None, start : start + CHUNK].astype(np.float32), -1.0, 1.0)
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
        frame.sample_rate = rate
        yield frame


class SoundTrack:
    """An AAC stream in step with the video beside it, so that neither waits for the other in memory.

    Args:
        container: the file being written.
        sound: what to encode.
    """

    def __init__(self, container: Any, sound: Sound) -> None:
        channels = 1 if sound.layout == "mono" else 2
        self._container = container
        self._frames = chain(sound.frames, [None])  # None flushes the resampler
        self._rate = _aac_rate(sound.rate)
        self._stream = container.add_stream("aac", rate=self._rate, layout=sound.layout)
        self._stream.bit_rate = min(
            96_000 * channels, 6 * self._rate * channels
        )  # transparent; AAC allows 6 bits a sample
        self._resampler = av.AudioResampler(format="fltp", layout=sound.layout, rate=self._rate)
        self._waiting = av.AudioFifo()
        self._encoded = 0

    def encode_until(self, seconds: Fraction) -> None:
        """Encode whole AAC frames as long as they end before `seconds`."""
        while self._encoded + AAC_FRAME <= seconds * self._rate and self._decode(AAC_FRAME) >= AAC_FRAME:
            self._encode(AAC_FRAME)

    def finish(self, seconds: Fraction) -> None:
        """Encode what is left of the sound up to `seconds`, the end of the video."""
        self.encode_until(seconds)
        left = round(seconds * self._rate) - self._encoded
        if left := min(left, self._decode(left)):
            self._encode(left)
        self._container.mux(self._stream.encode(None))

    def _decode(self, samples: int) -> int:
        """Decode until that many samples wait, or the sound ends; returns how many wait."""
        while self._waiting.samples < samples and (frame := next(self._frames, False)) is not False:
            for out in self._resampler.resample(frame):
                out.pts = None  # the sound starts with the video, whatever its own clock says
                self._waiting.write(out)
        return self._waiting.samples

    def _encode(self, samples: int) -> None:
        frame = self._waiting.read(samples)
        assert frame is not None, "fewer samples wait than were counted"
        frame.pts, frame.time_base = self._encoded, Fraction(1, self._rate)
        self._encoded += samples
        self._container.mux(self._stream.encode(frame))


def _aac_rate(rate: int) -> int:
    """The rate itself where AAC knows it, else the lowest one above it, else the highest."""
    rates = sorted(av.Codec("aac", "w").audio_rates or [rate])
    return next((known for known in rates if known >= rate), rates[-1])
