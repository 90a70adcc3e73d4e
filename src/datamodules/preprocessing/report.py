"""report.html: what is in a clip store, at a glance and in one file that needs nothing else."""

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from src.datamodules.preprocessing.ledger import read_failures
from src.datamodules.store import SPLITS, Clip, Failure, read_clips
from src.face.topology import (
    FACE_OVAL,
    LEFT_EYE,
    LEFT_EYEBROW,
    LIPS_INNER,
    LIPS_OUTER,
    NOSE_RIDGE,
    RIGHT_EYE,
    RIGHT_EYEBROW,
)
from src.media import atomic_path
from src.media.pages import inline_picture, page, tiles

MAX_CARDS = 48  # clips on the contact sheet
MAX_FAILURES = 500  # rows; all are in failures.csv
MOMENTS = (0.15, 0.5, 0.85)  # of a clip, shown on its card
THUMBNAIL = 128  # pixels of a card's picture
OPEN_CONTOURS = (LEFT_EYEBROW[:5], RIGHT_EYEBROW[:5], NOSE_RIDGE)
CLOSED_CONTOURS = (FACE_OVAL, LEFT_EYE, RIGHT_EYE, LIPS_OUTER, LIPS_INNER)

# Title, unit, the value of a clip, and a sentence on how to read it.
DISTRIBUTIONS: tuple[tuple[str, str, Callable[[Clip], float | None], str], ...] = (
    ("Duration", "s", lambda clip: clip.duration, "Length of the clips."),
    (
        "Face size",
        "px",
        lambda clip: clip.face_size,
        "In the recording. Below the size of the crop, faces are enlarged.",
    ),
    ("Mouth range", "", lambda clip: clip.mouth_range, "Opening over eye distance. Near 0: the person does not speak."),
    ("Yaw", "°", lambda clip: clip.yaw, "Median of the clip. Positive: turned to the right of the picture."),
    ("Pitch", "°", lambda clip: clip.pitch, "Median of the clip. Positive: looking down."),
    ("Roll", "°", lambda clip: clip.roll, "Median of the clip. Positive: tilted clockwise."),
    (
        "Sound after picture",
        "frames",
        lambda clip: clip.av_offset,
        "Where sound and mouth correlate best; rough for one clip. A peak away from 0 means that the sound is shifted.",
    ),
    (
        "Sound-mouth correlation",
        "",
        lambda clip: clip.av_correlation,
        "At that offset. Low: another speaker, music, noise.",
    ),
)

CSS = """
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 2px; margin: -14px -14px 10px; }
.face { position: relative; } .face img, .face svg { display: block; width: 100%; }
.face svg { position: absolute; inset: 0; height: 100%; fill: none; stroke: #35e0a1; stroke-width: .9; stroke-linejoin: round; }
#marks:not(:checked) ~ .grid .face svg { display: none; }
.id { font-weight: 600; font-size: 13px; overflow-wrap: anywhere; } .facts { font-size: 12.5px; color: var(--soft); }
.split { display: inline-block; border-radius: 9px; padding: 0 8px; font-size: 12px; border: 1px solid currentColor; }
.train { color: var(--accent); } .validation { color: #b06a00; } .test { color: #15803d; }
"""


def write_report(root: Path) -> None:
    """Write `root`/report.html from the tables of the store: counts, distributions, a contact sheet, what was rejected."""
    html = _page(root, read_clips(root), read_failures(root))
    with atomic_path(root / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")


def _page(root: Path, clips: list[Clip], failures: list[Failure]) -> str:
    name = escape(root.resolve().name)
    body = f"""<h1>Clip store {name}</h1>
<p class="soft">What the recordings became. Look at the faces below before you train.</p>
{_tiles(clips, failures)}
{_splits(clips)}
<h2>Distributions</h2>
<p class="soft">One value per clip; beside each title the median.</p>
<div class="grid" style="--wide: 280px">{"".join(_plot(clips, *args) for args in DISTRIBUTIONS)}</div>
{_contact_sheet(clips)}
{_rejected(failures)}"""
    return page(f"Clip store {root.resolve().name}", body, CSS)


def _tiles(clips: list[Clip], failures: list[Failure]) -> str:
    minutes = sum(clip.duration for clip in clips) / 60
    silent = sum(not clip.has_audio for clip in clips)
    interpolated = 1 - sum(clip.n_valid for clip in clips) / max(1, sum(clip.n_frames for clip in clips))
    return tiles(
        [
            (len(clips), "clips"),
            (f"{minutes:.1f}" if minutes < 600 else f"{minutes / 60:.1f} h", "minutes" if minutes < 600 else "in all"),
            (len({clip.identity for clip in clips}), "people"),
            (len({clip.source for clip in clips}), "recordings used"),
            (silent, "clips without sound"),
            (f"{100 * interpolated:.2f}%", "frames interpolated"),
            (len(failures), "rejections"),
        ]
    )


def _splits(clips: list[Clip]) -> str:
    rows = []
    for split in SPLITS:
        chosen = [clip for clip in clips if clip.split == split]
        minutes = sum(clip.duration for clip in chosen) / 60
        people = sorted({clip.identity for clip in chosen})
        named = ", ".join(people[:12]) + (f" and {len(people) - 12} more" if len(people) > 12 else "")
        rows.append(
            f'<tr><td><span class="split {split}">{split}</span></td><td class="n">{len(people)}</td>'
            f'<td class="n">{len(chosen)}</td><td class="n">{minutes:.1f}</td><td class="soft">{escape(named)}</td></tr>'
        )
    return (
        '<h2>Splits</h2><div class="card table"><table><tr><th></th><th class="n">people</th><th class="n">clips</th>'
        f'<th class="n">minutes</th><th>who</th></tr>{"".join(rows)}</table></div>'
    )


def _plot(clips: list[Clip], title: str, unit: str, value: Callable[[Clip], float | None], hint: str) -> str:
    values = np.array([v for clip in clips if (v := value(clip)) is not None], dtype=np.float64)
    if not len(values):
        body, middle = '<p class="soft">No clip has this value.</p>', ""
    else:
        body, middle = _histogram(values, whole=unit == "frames"), f"{np.median(values):.3g} {unit}".strip()
    return (
        f'<div class="card plot"><h3>{escape(title)}<span class="soft">{middle}</span></h3>{body}'
        f'<p class="soft">{escape(hint)}</p></div>'
    )


def _histogram(values: Float[np.ndarray, " n"], whole: bool) -> str:
    """Bars as SVG; one bar per whole number where `whole`."""
    width, height, floor = 280, 96, 82
    edges = _edges(values, whole)
    counts, _ = np.histogram(values, edges)
    step = width / len(counts)
    bars = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{floor - 76 * n / counts.max():.1f}" width="{step - 1:.1f}" '
        f'height="{76 * n / counts.max():.1f}" rx="1"><title>{edges[i]:.4g} to {edges[i + 1]:.4g}: {n}</title></rect>'
        for i, n in enumerate(counts)
        if n
    )
    # A label under the middle of a bar where a bar is one number, else under the edge between two.
    labels = [(i + 0.5 * whole, edges[i] + 0.5 * whole) for i in range(0, len(edges) - whole, max(1, len(counts) // 4))]
    ticks = "".join(
        f'<text x="{i * step:.1f}" y="{height - 2}" text-anchor="{_anchor(i, len(counts))}">{label:.4g}</text>'
        for i, label in labels
    )
    return (
        f'<svg viewBox="0 0 {width} {height}">{bars}<line x1="0" x2="{width}" y1="{floor}" y2="{floor}"/>{ticks}</svg>'
    )


def _edges(values: Float[np.ndarray, " n"], whole: bool) -> Float[np.ndarray, " m"]:
    """Edges of about twenty bins at round numbers."""
    low, high = float(values.min()), float(values.max())
    if whole:
        return np.arange(np.floor(min(low, -6)) - 0.5, np.ceil(max(high, 6)) + 1)
    rough = max(high - low, 0.05 * abs(high), 1e-3) / 20
    magnitude = 10 ** np.floor(np.log10(rough))
    step = magnitude * next(m for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough)
    return step * np.arange(np.floor(low / step), np.floor(high / step) + 2)


def _anchor(i: float, n: int) -> str:
    if i == 0:
        return "start"
    return "end" if i == n else "middle"


def _contact_sheet(clips: list[Clip]) -> str:
    chosen = _spread(sorted(clips, key=lambda clip: (clip.identity, clip.id)), MAX_CARDS)
    shown = (
        f"{len(chosen)} of {len(clips)} clips, spread over all people." if len(chosen) < len(clips) else "All clips."
    )
    return (
        f'<h2>Contact sheet</h2><p class="soft">{shown}</p><input type="checkbox" id="marks" checked>'
        '<label for="marks"> landmarks</label>'
        f'<div class="grid" style="--wide: 280px; margin-top: 10px">{"".join(map(_card, chosen))}</div>'
    )


def _spread(clips: list[Clip], n: int) -> list[Clip]:
    """`n` clips at even distances."""
    return clips if len(clips) <= n else [clips[i] for i in np.linspace(0, len(clips) - 1, n).round().astype(int)]


def _card(clip: Clip) -> str:
    moments = [round(share * (clip.n_frames - 1)) for share in MOMENTS]
    pictures = "".join(
        f'<div class="face">{inline_picture(frame, THUMBNAIL)}{_contours(clip.landmarks[i], clip.size)}</div>'
        for i, frame in zip(moments, clip.frames(moments), strict=True)
    )
    facts = [f"{clip.duration:.1f} s", f"{clip.height}x{clip.width}", f"from {clip.start:.1f} s"]
    warnings = [] if clip.has_audio else ["no sound"]
    if clip.n_valid < 0.95 * clip.n_frames:
        warnings.append(f"{100 * (1 - clip.n_valid / clip.n_frames):.0f}% interpolated")
    marks = "".join(f' · <span class="warn">{warning}</span>' for warning in warnings)
    return (
        f'<div class="card"><div class="strip">{pictures}</div><div class="id">{escape(clip.id)}</div>'
        f'<div class="facts">{escape(clip.identity)} <span class="split {clip.split}">{clip.split}</span></div>'
        f'<div class="facts">{" · ".join(facts)}{marks}</div></div>'
    )


def _contours(landmarks: Float32[np.ndarray, "478 3"], size: tuple[int, int]) -> str:
    scale = THUMBNAIL / max(size)
    points = (landmarks[:, :2] + 0.5) * scale  # from pixel centres to the picture's edge
    paths = "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[contour]) + end
        for contours, end in ((OPEN_CONTOURS, ""), (CLOSED_CONTOURS, "Z"))
        for contour in contours
    )
    return f'<svg viewBox="0 0 {size[1] * scale:g} {size[0] * scale:g}"><path d="{paths}"/></svg>'


def _rejected(failures: list[Failure]) -> str:
    if not failures:
        return '<h2>Rejected</h2><p class="soft">Nothing: every recording gave its clips.</p>'
    more = len(failures) - MAX_FAILURES
    note = f'<p class="soft">The first {MAX_FAILURES}; {more} more are in failures.csv.</p>' if more > 0 else ""
    return (
        f'<h2>Rejected</h2>{note}<div class="card table"><table><tr><th>recording</th><th class="n">from</th>'
        f'<th class="n">to</th><th>why</th></tr>{"".join(_failure_rows(failures[:MAX_FAILURES]))}</table></div>'
    )


def _failure_rows(failures: Iterable[Failure]) -> Iterable[str]:
    for failure in failures:
        start, end = ("" if value is None else f"{value:.2f} s" for value in (failure.start, failure.end))
        yield (
            f'<tr><td>{escape(failure.source)}</td><td class="n">{start}</td><td class="n">{end}</td>'
            f"<td>{escape(failure.reason)}</td></tr>"
        )
