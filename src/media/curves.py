"""Curves that have one value per video frame: the loudness of a sound, and how two of them go together.

NaN means that the value is unknown.
"""

import numpy as np
from jaxtyping import Float, Float32

MIN_FRAMES = 3  # a correlation over fewer says nothing
STILL = 1e-6  # standard deviation below which a curve counts as constant

Curve = Float[np.ndarray, " t"]


def audio_envelope(
    audio: Float32[np.ndarray, " s"], n_frames: int, fps: float | int = 25.0, sample_rate: int = 16000
) -> Float[np.ndarray, " n_frames"]:
    """Loudness of the sound at each frame: root mean square over the frame's own 1/fps seconds; NaN after the end of the sound."""
    edges = np.rint(np.arange(n_frames + 1) * sample_rate / fps).astype(np.int64)
    energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    inside = np.minimum(edges, len(audio))
    counts = np.diff(inside)
    power = np.diff(energy[inside]) / np.maximum(counts, 1)
    return np.where(counts > 0, np.sqrt(np.maximum(power, 0)), np.nan)


def pearson(a: Curve, b: Curve) -> float:
    """Pearson's correlation over the frames where both curves are known; NaN where it is undefined (too few frames, a constant curve)."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < MIN_FRAMES:
        return float("nan")
    a, b = a[known].astype(np.float64), b[known].astype(np.float64)
    if a.std() < STILL or b.std() < STILL:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(mouth: Curve, sound: Curve, max_lag: int) -> tuple[int, float] | None:
    """Frames by which the sound lags the mouth where the two correlate best, and that correlation.

    Lag k compares the mouth at frame t with the sound at frame t + k; of equal maxima the smallest shift wins. At most a quarter of
    the clip is shifted out. None where no lag has a defined correlation.
    """
    limit = min(max_lag, len(mouth) // 4)
    scores: dict[int, float] = {}
    for lag in sorted(range(-limit, limit + 1), key=abs):
        score = pearson(mouth[max(0, -lag) : len(mouth) - max(0, lag)], sound[max(0, lag) : len(sound) - max(0, -lag)])
        if np.isfinite(score):
            scores[lag] = score
    if not scores:
        return None
    lag = max(scores, key=lambda key: scores[key])
    return lag, scores[lag]
