"""Sound: any file to mono float32 at one rate, and PCM16 WAV files."""

import os
import wave
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float32, Shaped

from src.errors import MediaError
from src.media.files import atomic_path, check_readable, describe
from src.media.probing import video_streams

PREROLL = 0.5  # seconds decoded before a cut, for codecs whose first frames after a seek are wrong


def read_audio(
    path: str | os.PathLike[str], sample_rate: int = 16000, start: float = 0.0, duration: float | None = None
) -> Float32[np.ndarray, " s"]:
    """The first sound stream of a video or sound file: mono, in [-1, 1], resampled.

    Time zero is the first frame of the video (of the sound, where there is no video), so that sample `t * sample_rate` belongs to
    the frame shown at `t`: a sound that begins later is preceded by silence, one that begins earlier is cut.

    Args:
        path: a video or sound file.
        sample_rate: samples per second to resample to.
        start: seconds after time zero.
        duration: seconds; None reads to the end. The result is shorter where the file ends earlier.

    Raises:
        MediaError: the file cannot be read or has no sound stream.
    """
    path = check_readable(path, "sound")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise MediaError(f"{path} has no sound; give a file with an audio stream.")
            samples = _decode(container, sample_rate, start, duration)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} is no sound that FFmpeg can read ({describe(error)}); it may be truncated or of another type."
        ) from error
    return np.clip(samples, -1.0, 1.0)


def _decode(container: Any, rate: int, start: float, duration: float | None) -> Float32[np.ndarray, " s"]:
    first = round(start * rate)
    stop = np.inf if duration is None else first + round(duration * rate)
    pieces = []
    have = first  # the next sample that is wanted, counted from time zero
    for position, samples in _positioned(container, rate, start):
        if position > have:
            pieces.append(np.zeros(int(min(position, stop)) - have, dtype=np.float32))
            have = position
        kept = samples[have - position :]
        pieces.append(kept)
        have += len(kept)
        if have >= stop:
            break
    sound = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
    return sound if duration is None else sound[: round(duration * rate)]


def _positioned(container: Any, rate: int, start: float) -> Iterator[tuple[int, Float32[np.ndarray, " s"]]]:
    """Chunks of mono samples, each with the position of its first sample, counted from time zero."""
    stream = container.streams.audio[0]
    origin = _time_zero(container)
    if start > PREROLL:
        container.seek(int((origin + start - PREROLL) / stream.time_base), stream=stream)
    # swresample adds the channels at 0.7 each, which overflows; the mean is what "mono" means to everybody else.
    layout = "mono" if stream.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    frames = container.decode(stream)
    first = next(frames, None)
    if first is None:
        return
    position = round((float(first.time or 0.0) - origin) * rate)
    for frame in chain([first], frames, [None]):  # None flushes the resampler
        for out in resampler.resample(frame):
            samples = out.to_ndarray().mean(axis=0)
            yield position, samples
            position += len(samples)


def _time_zero(container: Any) -> float:
    """Seconds, on the container's clock, of the first video frame, or of the first sample where there is no video."""
    stream = (video_streams(container) or container.streams.audio)[0]
    return float((stream.start_time or 0) * stream.time_base)


def write_wav(path: str | os.PathLike[str], samples: Shaped[np.ndarray, " s"], sample_rate: int = 16000) -> None:
    """Write mono samples in [-1, 1] as PCM16, rounded and clipped, atomically.

    Raises:
        MediaError: the folder cannot be written, or the disk is full.
    """
    pcm = np.clip(np.rint(np.asarray(samples, dtype=np.float64) * 32768), -32768, 32767).astype("<i2")
    with atomic_path(Path(path)) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.tobytes())
