"""The sound as SadTalker's networks hear it: Wav2Lip's mel spectrogram (Prajwal et al., arXiv:2008.10010), one window per frame.

Sound is 16 kHz mono, neither rescaled nor normalised. The arithmetic is float64, as in the original.
"""

from functools import cache

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.signal import get_window, lfilter

from src.audio.features import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from src.errors import FeatureError

N_MELS, STEPS = 80, 16  # bands, and steps of a window (0.2 s)
N_FFT, HOP = 800, 200
STEPS_PER_SECOND = SAMPLE_RATE // HOP

_LOWEST, _HIGHEST = 55.0, 7600.0  # Hz
_PRE_EMPHASIS = 0.97
_FLOOR = 1e-5  # amplitude; quieter is silence
_REFERENCE, _RANGE, _LIMIT = (
    20.0,
    100.0,
    4.0,
)  # decibels of full scale, below it, and what the range becomes, on both sides of 0
_BLOCK = 4096  # transforms at a time: memory, not the result


def n_video_frames(n_samples: int) -> int:
    """Whole video frames of a sound; what is left over is cut off."""
    return n_samples // SAMPLES_PER_FRAME


def mel_windows(samples: Float32[np.ndarray, " s"]) -> Float32[np.ndarray, "t 80 16"]:
    """Windows of the mel spectrogram, bands by steps, one per whole video frame; the steps at the ends are repeated beyond them.

    Raises:
        FeatureError: the sound is shorter than a frame.
    """
    n_frames = n_video_frames(len(samples))
    if n_frames == 0:
        raise FeatureError(f"The sound has {len(samples)} samples: give at least {SAMPLES_PER_FRAME}, one video frame.")
    mel = mel_spectrogram(samples[: n_frames * SAMPLES_PER_FRAME])
    steps = window_starts(n_frames)[:, None] + np.arange(STEPS)  # t 16
    return np.ascontiguousarray(mel[steps.clip(0, len(mel) - 1)].transpose(0, 2, 1))


def window_starts(n_frames: int) -> Int64[np.ndarray, " t"]:
    """The first step of every frame's window: two frames before it, cut towards zero, so that it is negative for the first two."""
    return np.trunc(STEPS_PER_SECOND * (np.arange(n_frames) - 2) / FPS).astype(np.int64)


def mel_spectrogram(samples: Float32[np.ndarray, " s"]) -> Float32[np.ndarray, "n 80"]:
    """Loudness in mel bands every 12.5 ms, centred on multiples of 200 samples, silence beyond the ends; -4 (silent) to 4."""
    emphasised = lfilter([1.0, -_PRE_EMPHASIS], [1.0], samples.astype(np.float64))
    padded = np.pad(np.asarray(emphasised), N_FFT // 2)
    views = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    blocks = [_loudness(views[i : i + _BLOCK]) for i in range(0, len(views), _BLOCK)]
    return np.concatenate(blocks)


def _loudness(windows: Float64[np.ndarray, "n w"]) -> Float32[np.ndarray, "n 80"]:
    amplitudes = np.abs(np.fft.rfft(windows * get_window("hann", N_FFT), axis=1))
    mel = amplitudes @ mel_filters().T.astype(np.float64)
    decibels = 20 * np.log10(np.maximum(_FLOOR, mel)) - _REFERENCE
    return np.clip(2 * _LIMIT * (decibels + _RANGE) / _RANGE - _LIMIT, -_LIMIT, _LIMIT).astype(np.float32)


@cache
def mel_filters() -> Float32[np.ndarray, "80 401"]:
    """Triangular filters of equal area (Slaney) over the frequencies of the transform."""
    from transformers.audio_utils import mel_filter_bank  # here: the library takes seconds to import

    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=N_MELS,
        min_frequency=_LOWEST,
        max_frequency=_HIGHEST,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters.T.astype(np.float32)
