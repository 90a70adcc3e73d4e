"""Scores of clips and of all clips together, with confidence intervals."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from src.metrics.frechet import Features, FrechetDistance, KernelDistance
from src.metrics.measures import Values
from src.metrics.quantities import QUANTITIES

RESAMPLES = 2000
CONFIDENCE = 95  # per cent
ENOUGH = {"fid": 2049, "kid": 1000, "fvd": 401}  # samples a side; below, covariances lack rank or subsets size


@dataclass(frozen=True)
class ClipScores:
    """The values of one pair of videos."""

    name: str
    n_frames: int
    fps: float
    size: tuple[int, int]
    values: Values
    loudness: np.ndarray | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FailedClip:
    """A pair that could not be compared, and why."""

    name: str
    reason: str


Result = ClipScores | FailedClip


class SetValue(NamedTuple):
    """A number of all clips together: value, spread over random subsets, samples of the smaller side, distance within the real side."""

    value: float
    spread: float = float("nan")
    samples: int = 0
    floor: float = float("nan")


@dataclass(frozen=True)
class Aggregate:
    """A quantity over all clips: mean and standard deviation (n - 1) over the `n` clips in which it is defined, out of `clips`.

    `real` and `still` are means too, NaN where the quantity has none. `low` and `high` bound the mean with 95 % confidence, by drawing
    clips anew; NaN for one clip and for numbers of whole sets, which drawing clips twice would change. `reason` says why the quantity is
    not computed at all, `warning` what to mind; `samples` are the pictures or short clips that a number of a set rests on.
    """

    mean: float
    std: float
    n: int
    clips: int
    real: float
    still: float
    reason: str = ""
    low: float = float("nan")
    high: float = float("nan")
    warning: str = ""
    samples: int = 0

    @property
    def failed(self) -> int:
        """Clips without a value."""
        return self.clips - self.n


def aggregate(results: Iterable[Result], names: Iterable[str] | None = None) -> dict[str, Aggregate]:
    """Each quantity (or each of `names`) over the clips."""
    results = sorted(results, key=lambda result: result.name)
    scores = [result for result in results if isinstance(result, ClipScores)]
    sets = _set_values(scores)
    return {
        name: _of_set(name, scores, len(results), sets)
        if QUANTITIES[name].of_set
        else _of_clips(name, scores, len(results))
        for name in (QUANTITIES if names is None else names)
    }


def _of_clips(name: str, scores: list[ClipScores], clips: int) -> Aggregate:
    defined = [s.values for s in scores if name in s.values.generated]
    values = np.array([v.generated[name] for v in defined])
    weights = np.array([v.weights.get(name, 1.0) for v in defined])
    low, high = bootstrap(values, weights)
    return Aggregate(
        mean=float(np.average(values, weights=weights)) if len(values) else np.nan,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        n=len(values),
        clips=clips,
        real=_finite_mean(np.array([v.real.get(name, np.nan) for v in defined]), weights),
        still=_finite_mean(np.array([v.still.get(name, np.nan) for v in defined]), weights),
        reason="" if len(values) else _reason(name, scores),
        low=low,
        high=high,
    )


def _reason(name: str, scores: list[ClipScores]) -> str:
    reasons = Counter(s.values.absent[name] for s in scores if name in s.values.absent)
    return reasons.most_common(1)[0][0] if reasons else ""


def _finite_mean(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> float:
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else np.nan


def bootstrap(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | None = None) -> tuple[float, float]:
    """Bounds of the (weighted) mean with 95 % confidence: percentiles over 2000 draws of the clips; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    weights = np.ones(len(values)) if weights is None else weights
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = (values * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.percentile(means, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return float(low), float(high)


def _of_set(name: str, scores: list[ClipScores], clips: int, sets: dict[str, SetValue]) -> Aggregate:
    value, spread, samples, floor = sets.get(name, SetValue(np.nan))
    if not np.isfinite(value):
        reason = _reason(name, scores) or f"needs two {'clips of 16 frames' if name == 'fvd' else 'frames'} a side"
        return Aggregate(np.nan, np.nan, 0, clips, np.nan, np.nan, reason)
    warning = ""
    if samples < ENOUGH[name]:
        what = "subsets are smaller than usual" if name == "kid" else "the bias of few samples is most of the value"
        warning = f"{samples} samples a side, of {ENOUGH[name]} that it takes: {what}; compare only at equal numbers"
        if np.isfinite(floor):
            warning += f" (two halves of the real side lie {floor:.1f} apart)"
    return Aggregate(value, spread, len(scores), clips, np.nan, np.nan, warning=warning, samples=samples)


def _set_values(scores: list[ClipScores]) -> dict[str, SetValue]:
    """Each number of the whole set, from the clips' features."""
    found: dict[str, SetValue] = {}
    if frames := _gathered(scores, "frames"):
        found["fid"] = _frechet("fid", *frames)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that features stay in memory: they are there already
            kernel = KernelDistance(Features(frames[0].shape[1]))
        for features, real in zip(frames, (False, True), strict=True):
            kernel.update(features, real=real)
        mean, std = kernel.compute()
        found["kid"] = SetValue(float(mean), float(std), min(map(len, frames)))
    if clips := _gathered(scores, "clips"):
        found["fvd"] = _frechet("fvd", *clips)
    return found


def _gathered(scores: list[ClipScores], kind: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Features of all clips, of the generated and of the real side."""
    sides = [s.values.features[kind] for s in scores if kind in s.values.features]
    if not sides:
        return None
    generated, real = (torch.from_numpy(np.concatenate(side)) for side in zip(*sides, strict=True))
    return generated, real


def _frechet(name: str, generated: torch.Tensor, real: torch.Tensor) -> SetValue:
    """The distance; where the samples are few, also that of two random halves of the real side, which is bias alone."""
    samples, floor = min(len(generated), len(real)), np.nan
    if samples < ENOUGH[name]:
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(real)))
        floor = _distance(real[order[::2]], real[order[1::2]])
    return SetValue(_distance(generated, real), samples=samples, floor=floor)


def _distance(generated: torch.Tensor, real: torch.Tensor) -> float:
    metric = FrechetDistance(Features(generated.shape[1]))
    metric.update(generated, real=False)
    metric.update(real, real=True)
    return float(metric.compute())
