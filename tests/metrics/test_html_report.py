"""report.html is whole, holds its pictures, and trusts no name."""

from html.parser import HTMLParser

import numpy as np
import pytest

from src.metrics.clips import Rules
from src.metrics.html_report import filmstrip, worst_clips, write_report
from src.metrics.measures import Values
from src.metrics.pairing import Pair, Pairing, Reference
from src.metrics.results import ClipScores, FailedClip, aggregate
from tests.talking import talking

VOID = {"meta", "img", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Notes text, tags and what is left open."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.sources = [], [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def written(tmp_path):
    clip = talking(0, n_frames=12)
    path = clip.write(tmp_path / "a.mp4")
    pairs = tuple(Pair(name, path, Reference(path)) for name in ("<b>evil</b>", "good"))
    curves = {"generated": clip.opening[:12], "real": np.where(np.arange(12) < 3, np.nan, clip.opening[:12])}
    results = [
        ClipScores(
            pair.name,
            12,
            25.0,
            (64, 64),
            Values({"psnr": value, "ssim": 0.9}, curves=dict(curves)),
            clip.opening,
            ("cut",),
        )
        for pair, value in zip(pairs, (20.0, 30.0), strict=True)
    ]
    results.append(FailedClip("broken", "no video & more"))
    totals = aggregate(results, ["psnr", "ssim", "lpips"])
    write_report(
        tmp_path / "report.html", totals, results, Pairing(pairs, ("lone",), ()), Rules(), {"generated": "out"}
    )
    return (tmp_path / "report.html").read_text(), totals, results, pairs


def test_the_page_is_whole_and_needs_nothing_else(written):
    page = Page(written[0])
    assert page.open == ["html"] or page.open == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert page.tags.count("img") == 2
    assert "script" not in page.tags
    for words in ("Metrics", "Distributions", "Worst clips by ssim", "Mouth opening and sound", "not computed: lpips"):
        assert words in page.text
    for words in ("no video & more", "no real video of this name", "cut", "25.00"):
        assert words in page.text


def test_names_are_text(written):
    assert "<b>evil</b>" not in written[0]
    assert "<b>evil</b>" in Page(written[0]).text


def test_the_worst_come_first(written):
    _, totals, results, _ = written
    totals = {"psnr": totals["psnr"]}
    metric, clips = worst_clips(totals, [r for r in results if isinstance(r, ClipScores)])
    assert metric == "psnr"
    assert [c.values.generated["psnr"] for c in clips] == [20, 30]


def test_a_filmstrip_shows_generated_above_real(written):
    strip = filmstrip(written[3][0], Rules())
    assert strip.shape == (2 * 112, 8 * 112, 3)
    assert np.abs(strip[:112].astype(int) - strip[112:]).max() == 0
