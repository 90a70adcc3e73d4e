"""Sound: any file to mono float32 at one rate, and PCM16 WAV files."""

import os
import wave
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float, Float32

from src.errors import MediaError
from src.media.containers import ffmpeg_errors, open_container, video_streams
from src.media.files import atomic_path

PREROLL = 0.5  # seconds decoded before a cut: the first frames after a seek are wrong in most codecs


def read_audio(
    path: str | os.PathLike[str],
    sample_rate: int = 16000,
    start: float | int = 0.0,
    duration: float | int | None = None,
) -> Float32[np.ndarray, " s"]:
    """The first sound stream of a video or sound file: mono (the mean of the channels), in [-1, 1], resampled.

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
    wanted = None if duration is None else round(duration * sample_rate)
    pieces: list[np.ndarray] = []
    have = 0
    with open_sound_file(path) as container:
        for samples in aligned_sound(container, sample_rate, start):
            pieces.append(samples.mean(axis=0))
            have += samples.shape[1]
            if wanted is not None and have >= wanted:
                break
    sound = np.concatenate(pieces)[:wanted] if pieces else np.zeros(0, dtype=np.float32)
    return np.clip(sound, -1.0, 1.0)


def open_sound_file(path: str | os.PathLike[str]) -> InputContainer:
    """Open a file that has sound; the caller closes it.

    Raises:
        MediaError: the file cannot be read or has no sound stream.
    """
    container = open_container(path, "sound")
    if not container.streams.audio:
        container.close()
        raise MediaError(f"{path} has no sound; give a file with an audio stream.")
    return container


def aligned_sound(
    container: InputContainer, rate: int, start: float | int = 0.0
) -> Iterator[Float32[np.ndarray, "c s"]]:
    """Chunks of one or two channels, resampled; the first sample is the one at `start` seconds after the file's time zero.

    Raises:
        MediaError: the sound cannot be decoded.
    """
    path = Path(container.name)
    stream: Any = container.streams.audio[0]
    with ffmpeg_errors(path, "sound"):
        origin = _time_zero(container)
        if start > PREROLL:
            container.seek(int((origin + start - PREROLL) / stream.time_base), stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            return
        lead = round(
            (float(first.time or 0.0) - origin - start) * rate
        )  # samples between `start` and the first decoded one
        if lead > 0:
            yield np.zeros((channels_of(stream), lead), dtype=np.float32)
        for samples in resample(chain([first], frames), channels_of(stream), rate):
            if lead + samples.shape[1] > 0:
                yield samples[:, max(0, -lead) :]
            lead += samples.shape[1]


def channels_of(stream: av.AudioStream) -> int:
    """Channels that we keep: two of any number above one."""
    return min(stream.channels, 2)


def resample(frames: Iterable[av.AudioFrame], channels: int, rate: int) -> Iterator[Float32[np.ndarray, "c s"]]:
    """The samples of PyAV's frames at another rate, as one channel or two."""
    # One channel is asked for only where there is one: FFmpeg adds channels at 0.7 each, which overflows.
    resampler = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=rate)
    for frame in chain(frames, [None]):  # None flushes
        for out in resampler.resample(frame):
            yield out.to_ndarray()


def _time_zero(container: InputContainer) -> float:
    """Seconds, on the container's clock, of the first video frame, or of the first sample where there is no video."""
    stream: Any = (video_streams(container) or container.streams.audio)[0]
    return float((stream.start_time or 0) * stream.time_base)


def write_wav(path: str | os.PathLike[str], samples: Float[np.ndarray, " s"], sample_rate: int = 16000) -> None:
    """Write mono samples in [-1, 1] as PCM16, rounded and clipped, atomically.

    Raises:
        MediaError: the folder cannot be written, or the disk is full.
    """
    pcm = np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.tobytes())
