"""Mel cepstra as SyncNet hears them: the defaults of python_speech_features 0.6 for 16-kHz sound.

Not interchangeable with other libraries' cepstra: windows are rectangular, filters not normalised, and amplitudes those of 16-bit samples;
scaled to [-1, 1] they would shift the first coefficient by -20.8, which ruins the scores.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64, Int16
from scipy.fft import dct

SAMPLE_RATE = 16000
WINDOW, STEP, FFT = 400, 160, 512  # samples
FILTERS, COEFFICIENTS = 26, 13
PREEMPHASIS = 0.97
LIFTER = 22
WINDOW_CEPSTRA = 20  # of SyncNet: 0.2 s
_EPSILON = np.finfo(np.float64).eps  # stands for silence below the logarithm

Samples = Int16[np.ndarray, " s"]


def to_int16(samples: Float32[np.ndarray, " s"]) -> Samples:
    """Sound in [-1, 1] as 16-bit samples."""
    return np.rint(samples * 32768.0).clip(-32768, 32767).astype(np.int16)


def mfcc(samples: Samples) -> Float64[np.ndarray, "n 13"]:
    """Cepstra of 100 windows per second; the first coefficient is the logarithm of the energy."""
    power = power_spectra(samples)
    energies = np.maximum(power @ filterbank().T, _EPSILON)
    cepstra = dct(np.log(energies), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    order = np.arange(COEFFICIENTS)
    cepstra *= 1 + (LIFTER / 2) * np.sin(np.pi * order / LIFTER)
    cepstra[:, 0] = np.log(np.maximum(power.sum(axis=1), _EPSILON))
    return cepstra


def power_spectra(samples: Samples) -> Float64[np.ndarray, "n 257"]:
    """Squared magnitudes over 512 of each window, after pre-emphasis; the last window is filled with zeros."""
    sound = samples.astype(np.float64)
    sound = np.append(sound[:1], sound[1:] - PREEMPHASIS * sound[:-1])
    n_windows = 1 + max(0, -(-(len(sound) - WINDOW) // STEP))
    sound = np.pad(sound, (0, max(0, (n_windows - 1) * STEP + WINDOW - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP][:n_windows]
    return np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT


def filterbank() -> Float64[np.ndarray, "26 257"]:
    """Triangles between bins that lie evenly on the mel scale."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(FFT // 2 + 1)
    low, centre, high = (corners[i : i + FILTERS, None] for i in range(3))
    rising = (bins - low) / np.maximum(centre - low, 1)
    falling = (high - bins) / np.maximum(high - centre, 1)
    inside_rising, inside_falling = (bins >= low) & (bins < centre), (bins >= centre) & (bins < high)
    return np.where(inside_rising, rising, 0) + np.where(inside_falling, falling, 0)


def sound_windows(cepstra: Float[np.ndarray, "n 13"], n_windows: int, first: int = 0) -> Float32[np.ndarray, "w 13 20"]:
    """Windows of 20 cepstra, four further on for every video frame, as SyncNet takes them: coefficients down, time across."""
    if len(cepstra) < WINDOW_CEPSTRA or n_windows < 1:
        return np.empty((0, COEFFICIENTS, WINDOW_CEPSTRA), np.float32)
    views = np.lib.stride_tricks.sliding_window_view(cepstra, WINDOW_CEPSTRA, axis=0)[4 * first :: 4][:n_windows]
    return np.ascontiguousarray(views, dtype=np.float32)
