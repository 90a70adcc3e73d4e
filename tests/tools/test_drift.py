"""tools/drift.py as its user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest

from src.media import write_video
from tests.commands import Done, run_command


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    write_video(folder / "long.mp4", frames, 25.0)
    write_video(folder / "short.mp4", frames[:5], 25.0)
    return folder


def run(folder: Path, *overrides: str) -> Done:
    return run_command(folder, "tools/drift.py", *overrides)


def test_a_plot_and_its_numbers(videos, tmp_path):
    result = run(videos, "videos={plain:long.mp4,other:long.mp4}", f"out={tmp_path}/drift.png")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"drift.png", "drift.json"}
    curves = json.loads((tmp_path / "drift.json").read_text())["curves"]
    assert curves["plain"] == curves["other"]
    assert len(curves["plain"][0]["difference"]) == 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "give labels"),
        (["videos=long.mp4"], "give labels"),
        (["videos={plain:nowhere}"], "videos.plain=nowhere"),
        (["videos={plain:short.mp4}"], "shorter than half a second"),
        (["videos={plain:long.mp4}", "out=drift.json"], "end the name with it"),
    ],
)
def test_mistakes_end_in_one_sentence_and_leave_nothing(videos, overrides, says):
    before = set(videos.rglob("*"))
    result = run(videos, *overrides)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert says in result.stderr.strip().splitlines()[-1]
    assert set(videos.rglob("*")) == before
