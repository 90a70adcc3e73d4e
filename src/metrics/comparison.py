"""Methods side by side: the evaluations of several runs in one table, with paired tests over the clips that all of them have."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from src.errors import ConfigError
from src.metrics.quantities import QUANTITIES
from src.metrics.report import ARROWS, number
from src.metrics.results import bootstrap

SIGNIFICANT = 0.05
MIN_PAIRS = 6  # fewer differences cannot reach significance in a two-sided signed-rank test
SAME_SETTINGS = (
    "size",
    "fps",
    "max_frames",
    "skip_frames",
    "fid_antialias",
    "fvd",
    "lpips",
    "arcface",
    "sync",
    "split",
)


@dataclass(frozen=True)
class Run:
    """An evaluation as metrics.json holds it.

    Attributes:
        label: the method's name in the table.
        metrics: entries of whole quantities.
        clips: values of each clip by quantity.
        weights: how much each clip counts, where that is not the same for all.
        settings: of the evaluation.
    """

    label: str
    metrics: Mapping[str, Mapping[str, Any]]
    clips: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, Mapping[str, float]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A method against the first one in one quantity, over the clips that both have.

    Attributes:
        mean: this method's value less the first one's.
        low, high: 95 % bounds of that, by drawing clips.
        p: of Wilcoxon's signed-rank test, corrected for all comparisons of the table (Holm); NaN for too few clips.
        n: number of clips.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def read_run(path: Path, label: str | None = None) -> Run:
    """The evaluation in a folder, or in its metrics.json.

    Raises:
        ConfigError: there is none.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text())
        clips = {clip["name"]: clip["values"] for clip in document["clips"]}
        weights = {clip["name"]: clip.get("weights", {}) for clip in document["clips"]}
        metrics, settings = document["metrics"], document["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no evaluation: give the folder that evaluate.py wrote (out=...).") from error
    return Run(label or path.resolve().name, metrics, clips, weights, settings)


def check_comparable(runs: Sequence[Run]) -> list[str]:
    """What speaks against a comparison, in words: other settings, other clips.

    Raises:
        ConfigError: labels are the same, or no clip is in all runs.
    """
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        raise ConfigError(
            f"Two runs are called {', '.join(sorted({x for x in labels if labels.count(x) > 1}))}: name them, label=folder."
        )
    common = common_clips(runs)
    if not common:
        raise ConfigError("No clip is in all of these evaluations: evaluate the same clips with each method.")
    remarks = []
    for name in SAME_SETTINGS:
        values = {run.label: run.settings.get(name) for run in runs}
        if len({str(value) for value in values.values()}) > 1:
            remarks.append(f"{name} differs: " + ", ".join(f"{label} {value}" for label, value in values.items()))
    for run in runs:
        if len(run.clips) > len(common):
            remarks.append(
                f"{run.label} has {len(run.clips)} clips, {len(common)} of which are in all runs and count here"
            )
    return remarks


def common_clips(runs: Sequence[Run]) -> list[str]:
    """Names of the clips that every run has, sorted."""
    return sorted(set.intersection(*(set(run.clips) for run in runs)))


def values_of(run: Run, name: str, clips: Sequence[str]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """A quantity of each clip, NaN where it is undefined, and the clips' weights."""
    values = np.array([run.clips[clip].get(name, np.nan) for clip in clips], dtype=np.float64)
    weights = np.array([run.weights[clip].get(name, 1.0) for clip in clips], dtype=np.float64)
    return values, weights


def mean_of(run: Run, name: str, clips: Sequence[str]) -> float:
    """A quantity over the clips that all runs have; numbers of whole sets as the run gives them."""
    if QUANTITIES[name].of_set:
        value = run.metrics.get(name, {}).get("mean")
        return math.nan if value is None else float(value)
    values, weights = values_of(run, name, clips)
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else math.nan


def differences(runs: Sequence[Run], names: Sequence[str]) -> dict[tuple[str, str], Difference]:
    """By (label, quantity): every run but the first against the first."""
    clips = common_clips(runs)
    found: dict[tuple[str, str], Difference] = {}
    for run in runs[1:]:
        for name in names:
            if not QUANTITIES[name].of_set:
                (first, weights), (other, _) = values_of(runs[0], name, clips), values_of(run, name, clips)
                known = np.isfinite(first) & np.isfinite(other)
                if known.any():
                    found[run.label, name] = _difference((other - first)[known], weights[known])
    corrected = holm([d.p for d in found.values()])
    return {
        key: Difference(d.mean, d.low, d.high, p, d.n) for (key, d), p in zip(found.items(), corrected, strict=True)
    }


def _difference(deltas: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> Difference:
    low, high = bootstrap(deltas, weights)
    enough = np.count_nonzero(deltas) >= MIN_PAIRS
    p = (
        float(wilcoxon(deltas).pvalue)
        if enough
        else (1.0 if len(deltas) >= MIN_PAIRS and not deltas.any() else math.nan)
    )
    return Difference(float(np.average(deltas, weights=weights)), low, high, p, len(deltas))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979); NaN stays."""
    known = sorted((p, i) for i, p in enumerate(p_values) if math.isfinite(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def computed_names(runs: Sequence[Run]) -> list[str]:
    """Quantities that at least one run has a value of."""
    clips = common_clips(runs)
    return [name for name in QUANTITIES if any(math.isfinite(mean_of(run, name, clips)) for run in runs)]


def comparison_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Markdown: a row per metric, a column per method; the best value bold, * where it differs from the first method's significantly."""
    clips, deltas = common_clips(runs), differences(runs, names)
    lines = [f"| metric | {' | '.join(run.label for run in runs)} |", "|---" * (len(runs) + 1) + "|"]
    for name in names:
        means = [mean_of(run, name, clips) for run in runs]
        best = best_of(name, means, _real_of(runs, name))
        cells = []
        for i, (run, mean) in enumerate(zip(runs, means, strict=True)):
            delta = deltas.get((run.label, name))
            star = "*" if delta is not None and delta.p < SIGNIFICANT else ""
            cells.append(f"**{number(mean)}**{star}" if i == best else f"{number(mean)}{star}")
        lines.append(f"| {name} {ARROWS[QUANTITIES[name].better]} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{len(clips)} clips in all runs; * differs from {runs[0].label} (Wilcoxon's signed-rank test, p < 0.05 after Holm).",
    ]
    return "\n".join(lines) + "\n"


def _real_of(runs: Sequence[Run], name: str) -> float:
    """The real videos' value, where a run gives it."""
    known = [run.metrics.get(name, {}).get("real") for run in runs]
    return next((float(value) for value in known if value is not None), math.nan)


def best_of(name: str, means: Sequence[float], real: float) -> int | None:
    """Which value is best; None where none is known, all are the same, or nothing says which is better."""
    better = QUANTITIES[name].better
    badness = {"real": lambda mean: abs(mean - real), "higher": lambda mean: -mean, "lower": lambda mean: mean}[better]
    distance = [badness(mean) for mean in means]
    known = [d for d in distance if math.isfinite(d)]
    if not known or (len(known) > 1 and max(known) == min(known)):
        return None
    return distance.index(min(known))
