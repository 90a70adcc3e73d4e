"""DeepSpeech features as DiffTalk and AD-NeRF have them: what goes into DeepSpeech, and what is made of the logits that come out.

    sound, int16 at 16 kHz
      -> stacked MFCCs (r, 494), 50 rows per second                                    deepspeech_input
      -> DeepSpeech 0.1.0, a frozen graph of another library                           (r, 29) logits: 28 characters and the blank
      -> rows at exactly 50 per second                                                 resample_rows
      -> a window of 16 rows around every video frame, (t, 16, 29)                     logit_windows: the features of a clip store
      -> the windows of 8 neighbouring frames, (t, 8, 16, 29)                          src.audio.windows.audio_windows

The graph itself is not run here: its logits or windows are imported (`src.audio.imported`), a window as a row of 464 numbers.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64, Int16
from scipy.fft import dct

from src.audio.features import FPS, SAMPLE_RATE
from src.errors import FeatureError

LOGIT_RATE = 50  # rows per second
WINDOW_ROWS, N_LOGITS = 16, 29
WINDOW_SIZE = WINDOW_ROWS * N_LOGITS  # 464 numbers of a video frame

N_CEPSTRA = 26
CONTEXT = 9  # rows on either side that DeepSpeech sees
_WINDOW, _HOP, _FFT, _PRE_EMPHASIS, _LIFTER = SAMPLE_RATE // 40, SAMPLE_RATE // 100, 512, 0.97, 22
_LEAST = np.finfo(np.float64).eps  # in place of zero, whose logarithm is not finite


def deepspeech_input(samples: Int16[np.ndarray, " s"]) -> Float32[np.ndarray, "r 494"]:
    """DeepSpeech's input vectors: every second row of MFCCs with 9 rows before and after, normalised by one mean and one deviation.

    Args:
        samples: 16 kHz mono.

    Raises:
        FeatureError: there is no sound.
    """
    if len(samples) == 0:
        raise FeatureError("There is no sound to compute DeepSpeech's input of: give a longer one.")
    rows = mfcc(samples.astype(np.float64))[::2]
    padded = np.pad(rows, ((CONTEXT, CONTEXT), (0, 0)))
    stacked = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, axis=0)  # r 26 19
    vectors = np.swapaxes(stacked, 1, 2).reshape(len(rows), -1)
    return ((vectors - vectors.mean()) / vectors.std()).astype(np.float32)


def mfcc(samples: Float64[np.ndarray, " s"]) -> Float64[np.ndarray, "r 26"]:
    """26 mel-frequency cepstral coefficients every 10 ms, over 25 ms, of 26 triangular filters up to half the sampling rate.

    Pre-emphasis 0.97, rectangular windows, power spectra of 512 points, orthonormal DCT, lifter 22, log energy in place of the first
    coefficient: the defaults of python_speech_features, which the published features were made with.
    """
    emphasised = np.append(samples[0], samples[1:] - _PRE_EMPHASIS * samples[:-1])
    n_rows = 1 + max(0, -(-(len(samples) - _WINDOW) // _HOP))
    padded = np.pad(emphasised, (0, max(0, (n_rows - 1) * _HOP + _WINDOW - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:n_rows]
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / _FFT
    energy = power.sum(axis=1)
    bands = power @ _mel_filters().T
    cepstra = dct(np.log(np.where(bands == 0, _LEAST, bands)), norm="ortho", axis=1)[:, :N_CEPSTRA]
    cepstra *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(N_CEPSTRA) / _LIFTER)
    cepstra[:, 0] = np.log(np.where(energy == 0, _LEAST, energy))
    return cepstra


def _mel_filters() -> Float64[np.ndarray, "26 257"]:
    """Triangles on whole bins of the spectrum, equally wide in mel: 2595 log10(1 + f / 700)."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), N_CEPSTRA + 2)
    corners = np.floor((_FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(_FFT // 2 + 1)
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return np.where((bins >= low) & (bins < peak), rising, np.where((bins >= peak) & (bins < high), falling, 0.0))


def resample_rows(
    rows: Float[np.ndarray, "r d"], rate: float | int, new_rate: float | int, n_rows: int
) -> Float64[np.ndarray, "n d"]:
    """Rows at another rate, interpolated linearly: row i of either lies at i over its rate; beyond the last one it is repeated."""
    position = np.clip(np.arange(n_rows) / new_rate * rate, 0, len(rows) - 1)
    left = np.minimum(position.astype(np.int64), max(len(rows) - 2, 0))
    right = np.minimum(left + 1, len(rows) - 1)
    weight = (position - left)[:, None]
    return (1 - weight) * rows[left].astype(np.float64) + weight * rows[right]


def logit_windows(logits: Float[np.ndarray, "r 29"]) -> Float32[np.ndarray, "t 16 29"]:
    """The window of every video frame: rows 2i - 8 ... 2i + 7 of logits at 50 per second, zeros beyond the ends."""
    per_frame = LOGIT_RATE // FPS
    n_frames = -(-len(logits) // per_frame)
    half = WINDOW_ROWS // 2
    padded = np.pad(logits, ((half, half + per_frame), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_ROWS, axis=0)[::per_frame][:n_frames]
    return np.swapaxes(windows, 1, 2).astype(np.float32)


def rows_of_windows(windows: Float[np.ndarray, "t *m 16 29"]) -> Float32[np.ndarray, "t 464"]:
    """Windows as rows of a clip store, the 16 x 29 logits one after the other.

    Of frames with several windows, (t, 8, 16, 29), the frame's own is taken, the fifth of eight; a store has those of its neighbours as
    rows of their own.
    """
    own = windows if windows.ndim == 3 else windows[:, windows.shape[1] // 2]
    return own.reshape(len(own), WINDOW_SIZE).astype(np.float32)
