"""Whether the mouth moves as the real one does, and with the sound: correlations of curves that have one value per frame.

They need a mouth-opening curve (`src.face.landmarks.mouth_opening`) and no network. They say whether movements coincide, not whether
the right sounds are articulated: two mouths that open on every syllable correlate. NaN in a curve means that the value is unknown.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from src.media.curves import MIN_FRAMES, STILL, Curve, best_lag, pearson
from src.metrics.clip_mean import ClipMean


def correlation(generated: Curve, reference: Curve) -> float:
    """Pearson's correlation of a generated with a real curve: 0 where the generated one stands still, NaN where the real one does.

    A mouth that never moves has not followed anything; leaving such clips out would reward frozen faces.
    """
    known = np.isfinite(generated) & np.isfinite(reference)
    if known.sum() < MIN_FRAMES or reference[known].std() < STILL:
        return float("nan")
    return 0.0 if generated[known].std() < STILL else pearson(generated, reference)


class CurveCorrelation(ClipMean):
    """Correlation over time of a curve of the generated with that of the real clip, mean over clips: -1..1, higher is better.

    Clips whose real curve stands still or is unknown are `undefined`.
    """

    higher_is_better = True

    def update(self, generated: Float[Tensor, " t"], reference: Float[Tensor, " t"]) -> None:
        """Add one whole clip: two curves over the same frames, NaN where unknown."""
        self.add(correlation(generated.numpy(force=True), reference.numpy(force=True)))


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
