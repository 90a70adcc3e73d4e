"""What an evaluation leaves behind: a table for the screen and one for papers, `metrics.json`, `metrics.csv` and plots."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from src.media import atomic_path
from src.metrics.pairing import Pairing
from src.metrics.quantities import QUANTITIES
from src.metrics.results import Aggregate, ClipScores, FailedClip, Result

ARROWS = {"higher": "↑", "lower": "↓", "real": "→"}
MAX_CURVES = 6  # clips in the plot of the mouths
BLUE, ORANGE, GREY = "#1f6fb4", "#d9660f", "#9a9a9a"


def summary_table(aggregates: Mapping[str, Aggregate], title: str) -> Table:
    """One row per computed quantity: mean ± standard deviation over clips, the real videos' value, the still mouth's, n of all clips."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("metric", "mean ± std", "real", "still", "n", "unit"):
        table.add_column(column, justify="left" if column in ("metric", "unit") else "right", no_wrap=True)
    for name, value in aggregates.items():
        if value.n:
            spread = f"{number(value.mean)} ± {number(value.std)}" if value.n > 1 else number(value.mean)
            count = str(value.n) if value.n == value.clips else f"{value.n}/{value.clips}"
            label = f"{name} {ARROWS[QUANTITIES[name].better]}"
            table.add_row(label, spread, number(value.real), number(value.still), count, QUANTITIES[name].unit)
    return table


def not_computed(aggregates: Mapping[str, Aggregate]) -> list[str]:
    """One line per reason: the quantities that it keeps from being computed."""
    by_reason: dict[str, list[str]] = {}
    for name, value in aggregates.items():
        if not value.n:
            by_reason.setdefault(value.reason or "every clip failed", []).append(name)
    return [f"not computed: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def number(value: float) -> str:
    """With three digits or so; empty where undefined."""
    if not math.isfinite(value):
        return ""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def warnings_of(aggregates: Mapping[str, Aggregate]) -> list[str]:
    """What to mind about computed quantities."""
    return [f"{name}: {value.warning}" for name, value in aggregates.items() if value.n and value.warning]


def markdown_table(aggregates: Mapping[str, Aggregate], title: str) -> str:
    """A table for a paper or a pull request: value, 95 % confidence interval, the real videos' value, clips that count."""
    lines = [f"**{title}**", "", "| metric | value | 95 % | real | n |", "|---|---|---|---|---|"]
    for name, value in aggregates.items():
        if value.n:
            interval = f"{number(value.low)} to {number(value.high)}" if math.isfinite(value.low) else ""
            unit = f" ({QUANTITIES[name].unit})" if QUANTITIES[name].unit else ""
            count = value.samples if value.samples else value.n
            cells = (
                f"{name}{unit} {ARROWS[QUANTITIES[name].better]}",
                number(value.mean),
                interval,
                number(value.real),
                count,
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    notes = [*warnings_of(aggregates), *not_computed(aggregates)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def write_markdown(path: Path, aggregates: Mapping[str, Aggregate], title: str) -> None:
    """Write `markdown_table`."""
    with atomic_path(path) as temporary:
        temporary.write_text(markdown_table(aggregates, title), encoding="utf-8")


def write_json(
    path: Path,
    aggregates: Mapping[str, Aggregate],
    results: Sequence[Result],
    pairing: Pairing,
    settings: Mapping[str, Any],
) -> None:
    """Everything in one file: settings, aggregates, clips, failures, names without a partner. Undefined numbers are null."""
    document = {
        "settings": dict(settings),
        "metrics": {name: _aggregate_entry(name, value) for name, value in aggregates.items()},
        "clips": [_clip_entry(r) for r in results if isinstance(r, ClipScores)],
        "failed": [{"name": r.name, "reason": r.reason} for r in results if isinstance(r, FailedClip)],
        "without_partner": {"generated": pairing.only_generated, "reference": pairing.only_reference},
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _aggregate_entry(name: str, value: Aggregate) -> dict[str, Any]:
    quantity = QUANTITIES[name]
    about = {"unit": quantity.unit, "better": quantity.better, "meaning": quantity.meaning}
    if not value.n:
        return {**about, "n": 0, "left_out": value.failed, "not_computed": value.reason or "every clip failed"}
    numbers = {key: _finite(getattr(value, key)) for key in ("mean", "std", "low", "high", "real", "still")}
    of_set = {"samples": value.samples, "warning": value.warning} if quantity.of_set else {}
    return {**about, **numbers, **of_set, "n": value.n, "left_out": value.failed}


def _clip_entry(scores: ClipScores) -> dict[str, Any]:
    values = scores.values
    return {
        "name": scores.name,
        "frames": scores.n_frames,
        "fps": scores.fps,
        "height": scores.size[0],
        "width": scores.size[1],
        "values": values.generated,
        "weights": values.weights,
        "real": {name: _finite(value) for name, value in values.real.items()},
        "still": {name: _finite(value) for name, value in values.still.items()},
        "not_computed": values.absent,
        "notes": scores.notes,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """One row per pair: its numbers, empty where undefined; the reason of a failure in the last column."""
    names = [name for name, quantity in QUANTITIES.items() if not quantity.of_set]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("name", "frames", "fps", *names, "failure"), restval="")
        writer.writeheader()
        for result in results:
            if isinstance(result, FailedClip):
                writer.writerow({"name": result.name, "failure": result.reason})
            else:
                row = {"name": result.name, "frames": result.n_frames, "fps": result.fps, **result.values.generated}
                writer.writerow(row)


def plot_distributions(path: Path, aggregates: Mapping[str, Aggregate], results: Sequence[Result]) -> None:
    """One panel per computed quantity: every clip as a point, their mean, and the real videos' value where there is one."""
    scores = [r for r in results if isinstance(r, ClipScores)]
    names = [name for name, value in aggregates.items() if value.n and not QUANTITIES[name].of_set]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 1.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        _plot_distribution(
            axis, name, aggregates[name], [s.values.generated[name] for s in scores if name in s.values.generated]
        )
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    _save(figure, path)


def _plot_distribution(axis: Axes, name: str, value: Aggregate, values: Sequence[float]) -> None:
    height = np.random.default_rng(0).uniform(-0.3, 0.3, len(values)) if len(values) > 1 else np.zeros(1)
    axis.scatter(values, height, s=14, alpha=0.6, color=BLUE, linewidths=0)
    axis.axvline(value.mean, color=BLUE, linewidth=1.5, label=f"mean {number(value.mean)}")
    for level, colour, label in ((value.real, ORANGE, "real"), (value.still, GREY, "still mouth")):
        if math.isfinite(level):
            axis.axvline(level, color=colour, linewidth=1.5, linestyle="--", label=f"{label} {number(level)}")
    axis.set_ylim(-1, 1)
    axis.set_yticks([])
    axis.margins(x=0.1)
    if np.ptp([*values, value.mean]) < 1e-9:  # matplotlib would zoom into the rounding errors
        axis.set_xlim(value.mean - 0.5, value.mean + 0.5)
    axis.spines[["left", "top", "right"]].set_visible(False)
    unit = f", {QUANTITIES[name].unit}" if QUANTITIES[name].unit else ""
    axis.set_title(f"{name}{unit} {ARROWS[QUANTITIES[name].better]}", fontsize=8, loc="left")
    axis.tick_params(labelsize=7)
    axis.legend(
        fontsize=6, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=3, borderaxespad=0.2, handlelength=1
    )


def plot_mouths(path: Path, results: Sequence[Result]) -> bool:
    """Mouth opening over time, generated and real, above the loudness of the sound, for clips spread over all; False if none has curves."""
    scores = [r for r in results if isinstance(r, ClipScores) and r.values.curves]
    if not scores:
        return False
    chosen = [scores[i] for i in np.unique(np.linspace(0, len(scores) - 1, MAX_CURVES).round().astype(int))]
    figure = Figure(figsize=(9, 1.9 * len(chosen) + 0.5), layout="constrained")
    for axis, clip in zip(figure.subplots(len(chosen), 1, squeeze=False).ravel(), chosen, strict=True):
        _plot_mouth(axis, clip)
    figure.supxlabel("seconds", fontsize=8)
    _save(figure, path)
    return True


def _plot_mouth(axis: Axes, clip: ClipScores) -> None:
    seconds = np.arange(clip.n_frames) / clip.fps
    if clip.loudness is not None:
        loudness = np.nan_to_num(clip.loudness)
        highest = max(np.nanmax(curve, initial=0.0) for curve in clip.values.curves.values())
        scaled = loudness * highest / max(loudness.max(), 1e-9)
        axis.fill_between(seconds, scaled, color=GREY, alpha=0.35, linewidth=0, label="loudness of the sound, scaled")
    colours = {"real": ORANGE}
    for name, curve in clip.values.curves.items():
        axis.plot(
            seconds,
            curve,
            color=colours.get(name, BLUE),
            linewidth=1.3,
            linestyle=":" if "pixels" in name else "-",
            label=name,
        )
    axis.set_title(clip.name, fontsize=8, loc="left")
    axis.set_ylabel("mouth opening", fontsize=7)
    axis.tick_params(labelsize=7)
    axis.set_xlim(0, max(clip.n_frames - 1, 1) / clip.fps)
    axis.legend(fontsize=6, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, borderaxespad=0.2)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
