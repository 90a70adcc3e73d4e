"""tools/sanity.py: metrics move as their definitions say, in order."""

import sys

import numpy as np
import pytest

from src.metrics.measures import Values
from src.metrics.results import ClipScores
from src.metrics.sanity import lag_table
from tests.talking import talking
from tools import sanity


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("sanity")
    (root / "clips").mkdir()
    for seed in range(2):
        talking(seed, n_frames=16).write(root / "clips" / f"{seed}.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        arguments = [f"clips={root}/clips", "size=64", "n_frames=16", "metrics=[image,lpips,fid,fvd,frame_mse]"]
        patch.setattr(sys, "argv", ["sanity.py", *arguments, "out=out"])
        sanity.main()
    lines = [line.strip("| ").split(" | ") for line in (root / "out/table.md").read_text().splitlines() if line]
    header = [name.split()[0] for name in lines[0][1:]]
    return {line[0]: dict(zip(header, map(float, line[1:]), strict=True)) for line in lines[2:] if line[0] != "(real)"}


@pytest.mark.parametrize("levels", [("noise 5", "noise 15", "noise 40"), ("blur 1", "blur 2", "blur 4")])
def test_more_is_worse(rows, levels):
    for metric, sign in (("psnr", -1), ("ssim", -1), ("lpips", 1)):
        values = [sign * rows[level][metric] for level in ("itself", *levels)]
        assert values == sorted(values), (metric, values)
    assert rows["itself"]["fid"] < rows[levels[-1]]["fid"]


def test_each_metric_sees_what_it_is_for(rows):
    assert rows["frozen"]["frame_mse"] < 0.2 * rows["itself"]["frame_mse"]
    assert rows["shuffled"]["frame_mse"] > rows["itself"]["frame_mse"]
    assert rows["shuffled"]["fid"] < 0.1 * rows["blur 4"]["fid"]  # time is nothing to it
    assert rows["picture 1 late"]["psnr"] > rows["picture 10 late"]["psnr"] > 0
    assert rows["another person"]["psnr"] < rows["picture 10 late"]["psnr"]


def test_the_best_lag_is_where_the_sound_lies():
    opening = np.random.default_rng(0).random(60)
    clip = ClipScores("a", 60, 25.0, (8, 8), Values(curves={"generated": opening}), np.roll(opening, 3), ())
    table = lag_table([clip])
    assert max(table, key=lambda lag: table[lag]) == 3
    assert table[3] == pytest.approx(1)
    assert np.isnan(lag_table([])[0])


def test_one_video_is_too_few(tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    talking(0, n_frames=5).write(tmp_path / "clips" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sanity.py", f"clips={tmp_path}/clips"])
    with pytest.raises(SystemExit) as left:
        sanity.main()
    assert left.value.code == 2
    assert "give two or more videos" in capsys.readouterr().err
