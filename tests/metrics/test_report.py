import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from src.media import read_image
from src.metrics import report
from src.metrics.measures import Values
from src.metrics.pairing import Pairing
from src.metrics.quantities import QUANTITIES
from src.metrics.results import ClipScores, FailedClip, aggregate

PAIRING = Pairing((), ("extra",), ("gap1", "gap2"))


def scored(name, curves=True, **numbers):
    opening = np.abs(np.sin(np.arange(50) / 4 + len(name)))
    values = Values(
        numbers,
        real={"audio_correlation": 0.4, "audio_lag": float("nan")},
        still={"pixel_motion_correlation": 0.1},
        absent={"lmd_face": "needs a detector"},
        curves={"generated": 0.9 * opening, "real": opening, "generated, read from pixels": opening} if curves else {},
    )
    return ClipScores(name, 50, 25.0, (64, 48), values, opening if curves else None, ("cut",))


@pytest.fixture
def results():
    return [
        scored("a", psnr=30.0, ssim=0.9, audio_correlation=0.3, pixel_motion_correlation=0.8),
        scored("b", psnr=20.0, ssim=0.8),
        FailedClip("c", "c.mp4 is damaged"),
    ]


def text(table):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_table_shows_mean_spread_real_still_and_how_many_clips(results):
    lines = text(report.summary_table(aggregate(results), "title")).splitlines()
    (psnr,) = [line.split() for line in lines if "psnr" in line]
    assert psnr == ["psnr", "↑", "25.00", "±", "7.07", "2/3", "dB"]
    (audio,) = [line.split() for line in lines if "audio_correlation" in line]
    assert audio == ["audio_correlation", "↑", "0.300", "0.400", "1/3"]
    (motion,) = [line.split() for line in lines if "pixel_motion" in line]
    assert motion == ["pixel_motion_correlation", "↑", "0.800", "0.100", "1/3"]


def test_table_of_all_quantities_fits_eighty_columns():
    numbers = dict.fromkeys(QUANTITIES, -0.123)
    shown = text(report.summary_table(aggregate([scored("a", **numbers), scored("b", **numbers)]), "title"))
    assert "…" not in shown
    assert all(name in shown for name, quantity in QUANTITIES.items() if not quantity.of_set)


def test_what_is_not_computed_is_listed_with_its_reason(results):
    lines = report.not_computed(aggregate(results))
    assert "not computed: lmd_face: needs a detector" in lines
    assert sum("ssim" in line for line in lines) == 0


def test_json_holds_everything_and_no_nan(results, tmp_path):
    report.write_json(tmp_path / "metrics.json", aggregate(results), results, PAIRING, {"split": "test"})
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["metrics"]["psnr"]["mean"] == 25
    assert document["metrics"]["psnr"]["left_out"] == 1
    assert document["metrics"]["lmd_face"]["not_computed"] == "needs a detector"
    assert document["clips"][0]["values"]["psnr"] == 30
    assert document["clips"][0]["real"]["audio_lag"] is None
    assert document["clips"][0]["notes"] == ["cut"]
    assert document["failed"] == [{"name": "c", "reason": "c.mp4 is damaged"}]
    assert document["without_partner"] == {"generated": ["extra"], "reference": ["gap1", "gap2"]}
    assert document["settings"] == {"split": "test"}


def test_csv_has_one_row_per_pair(results, tmp_path):
    report.write_csv(tmp_path / "metrics.csv", results)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert (rows[0]["psnr"], rows[1]["audio_correlation"], rows[2]["psnr"]) == ("30.0", "", "")
    assert rows[2]["failure"] == "c.mp4 is damaged"


def test_plots_are_pictures(results, tmp_path):
    report.plot_distributions(tmp_path / "distributions.png", aggregate(results), results)
    assert report.plot_mouths(tmp_path / "mouths.png", results)
    for name in ("distributions.png", "mouths.png"):
        assert read_image(tmp_path / name).std() > 5


def test_mouths_are_not_plotted_without_curves(tmp_path):
    assert not report.plot_mouths(tmp_path / "mouths.png", [scored("a", curves=False, psnr=30.0)])
    assert not (tmp_path / "mouths.png").exists()
