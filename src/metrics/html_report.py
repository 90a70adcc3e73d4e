"""report.html: what an evaluation found, in one file to send to a colleague."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from src.errors import MediaError
from src.media import atomic_path, resize
from src.media.pages import inline_picture, page, tiles
from src.metrics.clips import Rules, open_clip
from src.metrics.pairing import Pair, Pairing
from src.metrics.quantities import QUANTITIES
from src.metrics.report import ARROWS, not_computed, number, warnings_of
from src.metrics.results import Aggregate, ClipScores, FailedClip, Result

WORST = 4  # clips shown as filmstrips
WORST_BY = ("lpips", "lmd_mouth", "ssim", "psnr")  # the first of these that was computed
MOMENTS = 8  # frames of a filmstrip
STRIP_HEIGHT = 112  # pixels of one of its rows
MAX_CURVES = 8  # clips whose mouths are drawn
WIDTH, HEIGHT = 560, 110  # of a drawing, in its own units

CSS = """
.dots circle { fill: var(--accent); opacity: .55; } .dots .mean { stroke: var(--accent); stroke-width: 2; }
.dots .band { fill: var(--accent); opacity: .15; } .dots .real { stroke: #d9660f; stroke-width: 1.5; stroke-dasharray: 4 3; }
.dots .still { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 1 3; }
.mouth path { fill: none; stroke-width: 1.5; } .mouth .sound { fill: var(--soft); opacity: .22; stroke: none; }
.mouth .generated { stroke: var(--accent); } .mouth .real { stroke: #d9660f; }
.mouth .pixels { stroke: var(--accent); stroke-dasharray: 3 2; }
.key { font-size: 12.5px; } .key b { font-weight: 600; } .key .a { color: var(--accent); } .key .r { color: #d9660f; }
.film img { display: block; width: 100%; border-radius: 6px; margin: 8px 0 4px; } .film h3 { font-size: 14px; margin: 0; }
ul { margin: 0; padding-left: 18px; } li { margin: 0 0 4px; }
"""


def write_report(
    path: Path,
    aggregates: Mapping[str, Aggregate],
    results: Sequence[Result],
    pairing: Pairing,
    rules: Rules,
    settings: Mapping[str, Any],
) -> None:
    """Write the page: table, distributions, worst clips, mouths against the sound, what failed and what was not computed."""
    scores = [result for result in results if isinstance(result, ClipScores)]
    failed = [result for result in results if isinstance(result, FailedClip)]
    body = "\n".join(
        [
            f'<h1>Evaluation</h1><p class="soft">{escape(str(settings.get("generated", "")))} against '
            f"{escape(str(settings.get('reference', '')))}</p>",
            _tiles(scores, failed, aggregates),
            _table(aggregates),
            _notes(aggregates),
            _distributions(aggregates, scores),
            _worst(aggregates, scores, {pair.name: pair for pair in pairing.pairs}, rules),
            _mouths(scores),
            _clips(scores, failed, pairing),
            _settings(settings),
        ]
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page("Evaluation", body, CSS), encoding="utf-8")


def _tiles(scores: list[ClipScores], failed: list[FailedClip], aggregates: Mapping[str, Aggregate]) -> str:
    frames = sum(s.n_frames for s in scores)
    seconds = sum(s.n_frames / s.fps for s in scores)
    sizes = sorted({f"{s.size[1]}x{s.size[0]}" for s in scores})
    rates = sorted({f"{s.fps:g}" for s in scores})
    return tiles(
        [
            (len(scores), "clips compared"),
            (len(failed), "clips failed"),
            (f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min", f"{frames} frames"),
            (sizes[0] if len(sizes) == 1 else len(sizes), "pixels" if len(sizes) == 1 else "sizes"),
            (rates[0] if len(rates) == 1 else " / ".join(rates), "frames per second"),
            (sum(value.n > 0 for value in aggregates.values()), f"of {len(aggregates)} metrics computed"),
        ]
    )


def _table(aggregates: Mapping[str, Aggregate]) -> str:
    rows = []
    for name, value in aggregates.items():
        if value.n:
            quantity = QUANTITIES[name]
            interval = f"{number(value.low)} … {number(value.high)}" if math.isfinite(value.low) else ""
            count = f"{value.n} of {value.clips}" if value.n < value.clips else str(value.n)
            rows.append(
                f"<tr><td><b>{name}</b> {ARROWS[quantity.better]}</td>"
                f'<td class="n"><b>{number(value.mean)}</b></td><td class="n">{interval}</td>'
                f'<td class="n">{number(value.std)}</td><td class="n">{number(value.real)}</td>'
                f'<td class="n">{number(value.still)}</td><td class="n">{count}</td>'
                f'<td>{escape(quantity.unit)}</td><td class="soft">{escape(quantity.meaning)}</td></tr>'
            )
    return (
        '<h2>Metrics</h2><p class="soft">↑ higher is better, ↓ lower, → the closer to the real videos\' value. <i>real</i>: the '
        "same on the real videos; <i>still</i>: the real clip's first frame repeated.</p>"
        '<div class="card table"><table><tr><th>metric</th><th class="n">value</th><th class="n">95 %</th><th class="n">std</th>'
        '<th class="n">real</th><th class="n">still</th><th class="n">clips</th><th>unit</th><th>what it is</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _notes(aggregates: Mapping[str, Aggregate]) -> str:
    warned, absent = warnings_of(aggregates), not_computed(aggregates)
    lines = [f'<li class="warn">{escape(line)}</li>' for line in warned] + [
        f"<li>{escape(line)}</li>" for line in absent
    ]
    return f'<h2>Notes</h2><div class="card"><ul>{"".join(lines)}</ul></div>' if lines else ""


def _distributions(aggregates: Mapping[str, Aggregate], scores: list[ClipScores]) -> str:
    cards = []
    for name, value in aggregates.items():
        values = np.array([s.values.generated[name] for s in scores if name in s.values.generated])
        if len(values):
            cards.append(
                f'<div class="card plot dots"><h3>{name} {ARROWS[QUANTITIES[name].better]}<span class="soft">'
                f"{number(value.mean)} {escape(QUANTITIES[name].unit)}</span></h3>{_dots(values, value)}</div>"
            )
    return (
        '<h2>Distributions</h2><p class="soft key">One dot per clip, <b class="a">line and band: mean and its 95 % interval</b>, '
        '<b class="r">dashed: real videos</b>, dotted: still mouth.</p>'
        f'<div class="grid" style="--wide: 280px">{"".join(cards)}</div>'
    )


def _dots(values: Float[np.ndarray, " n"], value: Aggregate) -> str:
    """Values along a line, scattered a little up and down so that equal ones can be told apart."""
    width, height, floor = 280, 84, 62
    marks = [v for v in (*values, value.mean, value.real, value.still) if math.isfinite(v)]
    low, high = min(marks), max(marks)
    margin = 0.06 * (high - low) or max(0.5 * abs(high), 0.5)
    low, high = low - margin, high + margin

    def x(v: float) -> float:
        return (v - low) / (high - low) * width

    scatter = np.random.default_rng(0).uniform(14, floor - 8, len(values))
    dots = "".join(f'<circle cx="{x(v):.1f}" cy="{y:.1f}" r="3.2"/>' for v, y in zip(values, scatter, strict=True))
    lines = "".join(
        f'<line class="{kind}" x1="{x(v):.1f}" x2="{x(v):.1f}" y1="6" y2="{floor}"/>'
        for kind, v in (("still", value.still), ("real", value.real), ("mean", value.mean))
        if math.isfinite(v)
    )
    band = ""
    if math.isfinite(value.low):
        band = f'<rect class="band" x="{x(value.low):.1f}" y="6" width="{x(value.high) - x(value.low):.1f}" height="{floor - 6}"/>'
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{height - 8}" text-anchor="{anchor}">{v:.4g}</text>'
        for v, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end"))
    )
    axis = f'<line x1="0" x2="{width}" y1="{floor}" y2="{floor}"/>'
    return f'<svg viewBox="0 0 {width} {height}">{band}{axis}{dots}{lines}{ticks}</svg>'


def worst_clips(aggregates: Mapping[str, Aggregate], scores: Sequence[ClipScores]) -> tuple[str, list[ClipScores]]:
    """By which metric, and the worst clips first; empty where none of them was computed."""
    for name in WORST_BY:
        if name in aggregates and aggregates[name].n:
            known = [s for s in scores if name in s.values.generated]
            higher = QUANTITIES[name].better == "higher"
            return name, sorted(known, key=lambda s: s.values.generated[name], reverse=not higher)[:WORST]
    return "", []


def _worst(
    aggregates: Mapping[str, Aggregate], scores: list[ClipScores], pairs: Mapping[str, Pair], rules: Rules
) -> str:
    metric, chosen = worst_clips(aggregates, scores)
    cards = []
    for clip in chosen:
        try:
            strip = filmstrip(pairs[clip.name], rules)
        except MediaError as error:
            picture = f'<p class="warn">{escape(str(error))}</p>'
        else:
            picture = inline_picture(strip, strip.shape[1], f"{clip.name}: generated above real")
        value = f"{metric} {number(clip.values.generated[metric])}"
        cards.append(
            f'<div class="card film"><h3>{escape(clip.name)} <span class="soft">{value}</span></h3>{picture}</div>'
        )
    if not cards:
        return ""
    return (
        f'<h2>Worst clips by {metric}</h2><p class="soft">Generated above, real below, evenly spread in time.</p>'
        f'<div class="grid" style="--wide: 560px">{"".join(cards)}</div>'
    )


def filmstrip(pair: Pair, rules: Rules) -> UInt8[np.ndarray, "h w 3"]:
    """Frames of both videos side by side, the generated ones above the real ones."""
    clip = open_clip(pair, rules)
    size = (STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * clip.size[1] / clip.size[0])))
    return np.concatenate([np.concatenate(list(resize(frames, size)), axis=1) for frames in clip.moments(MOMENTS)])


def _mouths(scores: list[ClipScores]) -> str:
    drawn = [s for s in scores if s.values.curves]
    if not drawn:
        return ""
    chosen = [drawn[i] for i in np.unique(np.linspace(0, len(drawn) - 1, MAX_CURVES).round().astype(int))]
    cards = "".join(
        f'<div class="card plot mouth"><h3>{escape(clip.name)}<span class="soft">{clip.n_frames / clip.fps:.1f} s</span></h3>'
        f"{_curves(clip)}</div>"
        for clip in chosen
    )
    return (
        '<h2>Mouth opening and sound</h2><p class="soft key"><b class="a">generated</b> (dashed where read from pixels), '
        f'<b class="r">real</b>, grey: loudness of the sound, scaled. {len(chosen)} of {len(drawn)} clips.</p>'
        f'<div class="grid" style="--wide: 560px">{cards}</div>'
    )


def _curves(clip: ClipScores) -> str:
    """Curves of a clip over time, and the sound as an area behind them."""
    highest = max((np.nanmax(c) for c in clip.values.curves.values() if np.isfinite(c).any()), default=1.0) or 1.0
    parts = []
    if clip.loudness is not None and np.isfinite(clip.loudness).any():
        loud = np.nan_to_num(clip.loudness) / max(np.nanmax(clip.loudness), 1e-9)
        parts.append(f'<path class="sound" d="{_path(loud)} L{WIDTH} {HEIGHT - 4} L0 {HEIGHT - 4} Z"/>')
    for name, curve in clip.values.curves.items():
        kind = "pixels" if "pixels" in name else name
        parts.append(f'<path class="{kind}" d="{_path(curve / highest)}"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}<line x1="0" x2="{WIDTH}" y1="{HEIGHT - 4}" y2="{HEIGHT - 4}"/></svg>'


def _path(curve: Float[np.ndarray, " t"]) -> str:
    """A line through the known values of 0 to 1."""
    x = np.arange(len(curve)) / max(1, len(curve) - 1) * WIDTH
    y = HEIGHT - 4 - curve * (HEIGHT - 12)
    points, command = [], "M"
    for left, top in zip(x, y, strict=True):
        if math.isfinite(top):
            points.append(f"{command}{left:.1f} {top:.1f}")
        command = "L" if math.isfinite(top) else "M"
    return "".join(points)


def _clips(scores: list[ClipScores], failed: list[FailedClip], pairing: Pairing) -> str:
    noted = [(s.name, "; ".join(s.notes)) for s in scores if s.notes]
    lone = [(name, "no real video of this name") for name in pairing.only_generated]
    lone += [(name, "no generated video of this name") for name in pairing.only_reference]
    rows = [(clip.name, clip.reason, "warn") for clip in failed] + [(name, text, "soft") for name, text in lone + noted]
    if not rows:
        return ""
    inner = "".join(
        f'<tr><td>{escape(name)}</td><td class="{kind}">{escape(text)}</td></tr>' for name, text, kind in rows
    )
    return f'<h2>Clips with a remark</h2><div class="card table"><table>{inner}</table></div>'


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in settings.items())
    return f'<h2>Settings</h2><div class="card table"><table>{rows}</table></div>'
