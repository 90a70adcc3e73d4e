"""The sound of a video being written: encoded as far as the frames have come."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import Float, Float32

from src.media.audio import aligned_sound, channels_of, open_sound_file, resample

AAC_FRAME = 1024  # samples
CHUNK = 16 * AAC_FRAME


@dataclass(frozen=True)
class Sound:
    """Sound that is yet to be encoded.

    Attributes:
        chunks: float32 (channels, samples) in [-1, 1], in order.
        channels: one or two.
        rate: samples per second, one that AAC knows.
    """

    chunks: Iterator[Float32[np.ndarray, "c s"]]
    channels: int
    rate: int


@contextmanager
def open_sound(audio: Float[np.ndarray, " s"] | str | os.PathLike[str], rate: int) -> Generator[Sound]:
    """The sound of an array of mono samples, or of a file: at its own rate, in stereo where it is, from its time zero on.

    Raises:
        MediaError: the file cannot be read or has no sound.
    """
    if isinstance(audio, np.ndarray):
        yield Sound(resample(_frames(audio, rate), 1, _aac_rate(rate)), 1, _aac_rate(rate))
        return
    with open_sound_file(audio) as container:
        stream = container.streams.audio[0]
        rate = _aac_rate(stream.rate)
        yield Sound(aligned_sound(container, rate), channels_of(stream), rate)


def _frames(samples: Float[np.ndarray, " s"], rate: int) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), CHUNK):
        chunk = np.clip(samples[None, start : start + CHUNK], -1.0, 1.0)
        yield _frame(chunk.astype(np.float32), rate)


def _frame(samples: Float32[np.ndarray, "c s"], rate: int) -> av.AudioFrame:
    layout = "mono" if len(samples) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame


def _aac_rate(rate: int) -> int:
    """The rate itself where AAC knows it, else the lowest one above it, else the highest."""
    rates = sorted(av.Codec("aac", "w").audio_rates or [rate])
    return next((known for known in rates if known >= rate), rates[-1])


class SoundTrack:
    """An AAC stream in step with the video beside it, so that neither waits for the other in memory.

    Args:
        container: the file being written.
        sound: what to encode.
    """

    def __init__(self, container: Any, sound: Sound) -> None:
        self._container = container
        self._sound = sound
        self._stream = container.add_stream("aac", rate=sound.rate, layout="mono" if sound.channels == 1 else "stereo")
        self._stream.bit_rate = sound.channels * min(96_000, 6 * sound.rate)  # transparent; AAC allows 6 bits a sample
        self._waiting = av.AudioFifo()
        self._encoded = 0

    def encode_until(self, seconds: Fraction) -> None:
        """Encode whole AAC frames as long as they end before `seconds`."""
        while self._encoded + AAC_FRAME <= seconds * self._sound.rate and self._fetch(AAC_FRAME) >= AAC_FRAME:
            self._encode(AAC_FRAME)

    def finish(self, seconds: Fraction) -> None:
        """Encode what is left of the sound up to `seconds`, the end of the video."""
        self.encode_until(seconds)
        left = round(seconds * self._sound.rate) - self._encoded
        if left := min(left, self._fetch(left)):
            self._encode(left)
        self._container.mux(self._stream.encode(None))

    def _fetch(self, samples: int) -> int:
        """Take sound until that many samples wait, or it ends; returns how many wait."""
        while self._waiting.samples < samples:
            chunk = next(self._sound.chunks, None)
            if chunk is None:
                break
            self._waiting.write(_frame(chunk, self._sound.rate))
        return self._waiting.samples

    def _encode(self, samples: int) -> None:
        frame = self._waiting.read(samples)
        assert frame is not None, "fewer samples wait than were counted"
        frame.pts, frame.time_base = self._encoded, Fraction(1, self._sound.rate)
        self._encoded += samples
        self._container.mux(self._stream.encode(frame))
