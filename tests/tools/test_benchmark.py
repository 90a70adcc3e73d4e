"""tools/benchmark.py: the arithmetic of its numbers, and a run of the smallest size."""

import json
import sys

import pytest

from tests.talking import write_talking_store
from tools import benchmark

TINY = [
    "net=landmark_driven_small",
    "net.block_out_channels=[8,8]",
    "net.down_block_types=[DownBlock2D,AttnDownBlock2D]",
    "net.up_block_types=[AttnUpBlock2D,UpBlock2D]",
    "net.norm_num_groups=4",
    "net.attention_head_dim=8",
    "datamodule.resolution=16",
    "datamodule.batch_size=2",
    "datamodule.selection=all",
    "datamodule.train_split=test",
    "datamodule.val_split=test",
    "benchmark.device=cpu",
    "benchmark.workers=[0]",
    "benchmark.batches=2",
    "benchmark.steps=2",
    "benchmark.repeats=3",
    "benchmark.sample_batch=2",
    "benchmark.samplers=[ddim:2]",
]


def test_tasks_take_turns_after_a_warm_up():
    calls = []
    times = benchmark.seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_rate_is_the_amount_per_median_duration():
    row = benchmark.rate("x", "y", [2.0, 1.0, 4.0], 10, "frames/s")
    assert row.value == 5


def test_ratio_is_taken_turn_by_turn():
    assert benchmark.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == "50 %"


def test_spread_is_relative_to_the_median():
    assert benchmark.spread([1.0, 2.0, 3.0]) == pytest.approx(0.5)
    assert benchmark.spread([1.0, 2.0]) is None


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def call(*overrides):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *TINY, *overrides])
        try:
            benchmark.main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_small_run_measures_loader_training_sampling_and_evaluation(run, tmp_path):
    write_talking_store(tmp_path / "store", n_clips=2, n_frames=8)
    status, out, _ = run(f"benchmark.root={tmp_path}/store", "benchmark.which=[loader,training,sampling,evaluation]")
    assert status == 0
    assert "of bare decoding" in out
    document = json.loads((tmp_path / "out/benchmark.json").read_text())
    measured = {(row["benchmark"], row["what"]): row["value"] for row in document["rows"]}
    assert all(value > 0 for value in measured.values())
    for name in ("data", "forward", "backward", "optimiser"):
        assert ("training", name) in measured
    assert ("sampling", "ddim, 2 steps, batches of 2") in measured
    assert document["machine"]["cores"] >= 1


def test_without_a_detector_preprocessing_is_reported_as_not_measured(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path / "nothing"))
    status, out, _ = run("benchmark.which=[preprocessing]", "benchmark.frames=2", "benchmark.size=32")
    assert status == 0
    assert "preprocessing: not measured: The face landmark model" in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.which=[speed]", "there is no 'speed'; choose of render,"),
        ("benchmark.device=tpu", "benchmark.device=tpu: choose auto, cpu or cuda"),
        ("benchmark.samplers=[]", "benchmark.samplers=[]: give one or more"),
        ("benchmark.repeat=3", "did you mean 'benchmark.repeats'"),
    ],
)
def test_mistakes_end_in_one_sentence(run, override, message):
    status, _, err = run(override)
    assert status == 2
    assert message in err
