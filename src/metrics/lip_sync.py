"""Whether the mouth moves as the real one does, and with the sound: correlations of curves that have one value per frame.

They need a mouth-opening curve (`src.face.landmarks.mouth_opening`) and no network. They say whether movements coincide, not whether
the right sounds are articulated: two mouths that open on every syllable correlate. NaN in a curve means that the value is unknown.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torchmetrics import Metric

MIN_FRAMES = 3  # a correlation over fewer says nothing
STILL = 1e-6  # standard deviation below which a curve counts as constant

Curve = Float[np.ndarray, " t"]


def audio_envelope(
    audio: Float32[np.ndarray, " s"], n_frames: int, fps: float, sample_rate: int = 16000
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


def correlation(generated: Curve, reference: Curve) -> float:
    """Pearson's correlation of a generated with a real curve: 0 where the generated one stands still, NaN where the real one does.

    A mouth that never moves has not followed anything; leaving such clips out would reward frozen faces.
    """
    known = np.isfinite(generated) & np.isfinite(reference)
    if known.sum() < MIN_FRAMES or reference[known].std() < STILL:
        return float("nan")
    return 0.0 if generated[known].std() < STILL else pearson(generated, reference)


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


class CurveCorrelation(Metric):
    """Correlation over time of a curve of the generated with that of the real clip, mean over clips: -1..1, higher is better.

    Attributes:
        clips: number of clips that count.
        undefined: number of clips whose real curve stands still or is unknown.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    clips: Tensor
    undefined: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Float[Tensor, " t"], reference: Float[Tensor, " t"]) -> None:
        """Add one whole clip: two curves over the same frames, NaN where unknown."""
        value = correlation(generated.numpy(force=True), reference.numpy(force=True))
        if np.isfinite(value):
            self.total += value
            self.clips += 1
        else:
            self.undefined += 1

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the clips; NaN when there is none."""
        return (self.total / self.clips).float()


class MouthAudioCorrelation(Metric):
    """Correlation over time of a mouth's opening with the loudness of the sound, mean over clips.

    `compute` returns `correlation` (no shift, -1..1, higher is better), `best_correlation` (at the best shift) and `lag` (the frames by
    which the sound lags the mouth there; closer to 0, or to the real videos' value, is better). A mouth that stands still counts as
    0 correlation and has no lag; clips with constant or missing sound are left out and counted in `undefined`.

    Args:
        max_lag: largest shift that is tried in both directions, in frames.
    """

    full_state_update = False
    totals: Tensor
    counts: Tensor
    undefined: Tensor

    def __init__(self, max_lag: int = 5) -> None:
        super().__init__()
        self.max_lag = max_lag
        self.add_state("totals", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mouth: Float[Tensor, " t"], sound: Float[Tensor, " t"]) -> None:
        """Add one whole clip: mouth opening and loudness (`audio_envelope`) over the same frames, NaN where unknown."""
        mouth_curve, sound_curve = mouth.numpy(force=True), sound.numpy(force=True)
        at_zero = correlation(mouth_curve, sound_curve)
        if not np.isfinite(at_zero):
            self.undefined += 1
            return
        best = best_lag(mouth_curve, sound_curve, self.max_lag)
        lag, score = (np.nan, 0.0) if best is None else best
        values = torch.tensor([at_zero, score, lag], dtype=torch.float64, device=self.totals.device)
        self.totals += values.nan_to_num()
        self.counts += values.isfinite()

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Means over the clips; NaN where there is none."""
        means = (self.totals / self.counts).float()
        return dict(zip(("correlation", "best_correlation", "lag"), means.unbind(), strict=True))
