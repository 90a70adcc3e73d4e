"""Methods side by side: means over the clips that all have, the best in bold, significance that survives many tests."""

import json
import sys

import numpy as np
import pytest

from src.errors import ConfigError
from src.metrics.comparison import (
    best_of,
    check_comparable,
    common_clips,
    comparison_table,
    computed_names,
    differences,
    holm,
    read_run,
)
from tools import compare


def write_run(folder, shift=0.0, n=12, settings=None, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(7).normal(30, 3, 40)
    clips = [
        {
            "name": f"c{i}",
            "values": {"psnr": float(base[i] + shift + noise * rng.normal()), "blinks_per_second": 0.3},
            "weights": {},
        }
        for i in range(n)
    ]
    metrics = {
        "psnr": {"mean": 30.0, "real": None},
        "blinks_per_second": {"mean": 0.3, "real": 0.5},
        "fvd": {"mean": 100.0 - shift},
    }
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"settings": settings or {}, "metrics": metrics, "clips": clips}))
    return folder


def test_a_steady_difference_is_significant_and_noise_is_not(tmp_path):
    runs = [
        read_run(write_run(tmp_path / name, shift, seed=i))
        for i, (name, shift) in enumerate({"a": 0.0, "b": 1.0, "c": 0.0}.items())
    ]
    found = differences(runs, ["psnr"])
    assert found["b", "psnr"].mean == pytest.approx(1, abs=0.1)
    assert found["b", "psnr"].p < 0.05
    assert found["b", "psnr"].low < 1 < found["b", "psnr"].high + 0.1
    assert found["c", "psnr"].p > 0.05


def test_the_table_has_a_column_per_method_and_marks_the_best(tmp_path):
    runs = [read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", 1.0, seed=1), "ours")]
    names = computed_names(runs)
    assert names == ["psnr", "fvd", "blinks_per_second"]
    lines = comparison_table(runs, names).splitlines()
    assert lines[0] == "| metric | a | ours |"
    assert lines[2].startswith("| psnr ↑ | ")
    assert lines[2].split("|")[3].strip().startswith("**")
    assert lines[2].rstrip(" |").endswith("*")
    assert lines[3] == "| fvd ↓ | 100.00 | **99.00** |"
    assert lines[4] == "| blinks_per_second → | 0.300 | 0.300 |"  # nobody is better


def test_only_clips_that_all_have_count(tmp_path):
    runs = [read_run(write_run(tmp_path / "a", n=12)), read_run(write_run(tmp_path / "b", n=8))]
    assert len(common_clips(runs)) == 8
    assert check_comparable(runs) == ["a has 12 clips, 8 of which are in all runs and count here"]


def test_other_settings_are_told_and_mistakes_end_in_a_sentence(tmp_path):
    a, b = (read_run(write_run(tmp_path / name, settings={"size": size})) for name, size in (("a", 128), ("b", 256)))
    assert check_comparable([a, b]) == ["size differs: a 128, b 256"]
    with pytest.raises(ConfigError, match="Two runs are called a"):
        check_comparable([a, a])
    with pytest.raises(ConfigError, match="is no evaluation"):
        read_run(tmp_path)


def test_best_is_closest_to_the_real_value_where_that_is_what_counts():
    assert best_of("blink_duration", [0.1, 0.3, 0.6], 0.28) == 1
    assert best_of("psnr", [1.0, 3.0], np.nan) == 1
    assert best_of("lmd_mouth", [1.0, 3.0], np.nan) == 0
    assert best_of("psnr", [np.nan, 3.0], np.nan) == 1
    assert best_of("psnr", [3.0, 3.0], np.nan) is None
    assert best_of("blink_duration", [0.1, 0.2], np.nan) is None


def test_holm_corrects_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, np.nan])[0] == 0.02
    assert np.isnan(holm([0.02, np.nan])[1])


def test_the_command_takes_folders_and_labels(tmp_path, monkeypatch, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", 1.0, seed=1)
    arguments = compare.folders_first([str(a), f"ours:{b}", f"out={tmp_path}/table.md"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    compare.main()
    assert "| metric | a | ours |" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().startswith("| metric |")
    rows = json.loads((tmp_path / "table.json").read_text())
    assert rows[0]["run"] == "ours"
    assert rows[0]["p"] < 0.05


def test_one_folder_is_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare.py", *compare.folders_first([str(write_run(tmp_path / "a"))])])
    with pytest.raises(SystemExit) as left:
        compare.main()
    assert left.value.code == 2
    assert "give the folders of two or more" in capsys.readouterr().err
