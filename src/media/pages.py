"""Pages in one file that needs nothing else: the frame, the look, and pictures inside."""

import base64
import io
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CSS = """
:root { --ink: #1d2433; --soft: #667085; --line: #e3e7ee; --paper: #f6f7f9; --card: #fff; --accent: #3565d6; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #2b3240; --paper: #12151b; --card: #1a1f28; --accent: #7ea2ff; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 1280px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 12px; }
p { margin: 0 0 8px; } .soft { color: var(--soft); } code { font-size: 13px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(var(--wide), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px; overflow: hidden; }
.tile b { display: block; font-size: 26px; line-height: 1.2; } .tile span { color: var(--soft); }
.plot h3 { font-size: 14px; margin: 0; display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 8px; }
.plot h3 span { font-weight: 400; }
.plot svg { width: 100%; height: auto; display: block; margin: 8px 0 6px; } .plot p { font-size: 12.5px; margin: 0; }
.plot rect { fill: var(--accent); } .plot line { stroke: var(--line); } .plot text { fill: var(--soft); font-size: 10px; }
.warn { color: var(--bad); }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(title: str, body: str, css: str = "") -> str:
    """A whole page: `body` is HTML, `css` is added to the common look."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{CSS}{css}</style>
<main>
{body}
</main>
</html>
"""


def inline_picture(picture: UInt8[np.ndarray, "h w 3"], largest: int, alt: str = "") -> str:
    """An `img` that holds the picture as JPEG, neither side above `largest` pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((largest, largest))
    encoded = io.BytesIO()
    image.save(encoded, "jpeg", quality=80)
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}">'


def tiles(facts: list[tuple[object, str]]) -> str:
    """Large numbers with a word below each."""
    inner = "".join(
        f'<div class="card tile"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in facts
    )
    return f'<div class="grid" style="--wide: 150px; margin-top: 20px">{inner}</div>'
