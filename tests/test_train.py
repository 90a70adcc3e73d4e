"""train.py as its user runs it: composes, learns, survives kill -9, and gives the same result on two processes as on one."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
import torch

from src.checkpoint import check_targets
from src.cli import CONF_DIR
from tests.commands import run_command
from tests.stores import write_pattern_store

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(p.stem for p in (CONF_DIR / "experiment").glob("*.yaml"))

TINY = [
    "experiment=landmark_driven_synthetic",
    "net.block_out_channels=[8,8]",
    "net.down_block_types=[DownBlock2D,AttnDownBlock2D]",
    "net.up_block_types=[AttnUpBlock2D,UpBlock2D]",
    "net.norm_num_groups=4",
    "net.layers_per_block=1",
    "net.attention_head_dim=8",
    "datamodule.resolution=16",
    "datamodule.num_workers=0",
    "datamodule.selection=all",
    "model.eval_every_n_epochs=0",
    "callbacks.samples=null",
    "callbacks.progress=null",
    "trainer.accelerator=cpu",
    "trainer.deterministic=true",
    "trainer.enable_progress_bar=false",
    "trainer.max_epochs=-1",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=1000",
    "trainer.log_every_n_steps=1",
    "logger=csv",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store")


def start(folder: Path, store: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, f"datamodule.root={store}", *overrides],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(folder: Path, store: Path, *overrides: str) -> Path:
    """Run to the end; the folder of the run."""
    process = start(folder, store, *overrides)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return newest_run(folder)


def newest_run(folder: Path) -> Path:
    return max(folder.glob("logs/*/*"), key=lambda p: p.stat().st_mtime)


def content(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_describes_itself(name):
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", [f"experiment={name}", "trainer.devices=8"])
    assert cfg.name == name
    assert set(cfg.method.split("_")) <= set(name.split("_"))
    assert cfg.trainer.devices == 8
    text = (CONF_DIR / "experiment" / f"{name}.yaml").read_text()
    for line in ("# Run:", "# Expect:", "# Needs:"):
        assert line in text


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_two_steps_in_debug_mode(name, store, tmp_path):
    own = {  # smaller networks than the official ones, which take minutes on a CPU
        "landmark_driven": ["datamodule.selection=all", "net.layers_per_block=1"],
        "diffused_heads": ["features=log_mel", "features.hops=2", "features.n_mels=32", "net.audio_dim=64"]
        + ["features.name=debug", "net.model_channels=32", "net.num_head_channels=32"],
        "difftalk_autoencoder": ["model.perceptual_weight=0", "net.channels=32", "model.disc_start=1"],
        "difftalk": ["features=log_mel", "features.hops=2", "features.n_mels=32", "net.audio_dim=64"]
        + ["features.name=debug", "net.model_channels=32", "model.first_stage.channels=32"]
        + ["datamodule.resolution=64", f"net.image_size={32 if name == 'difftalk_synthetic' else 16}"],
        "moditalker_mtov_autoencoder": [
            "model.perceptual_weight=0",
            "net.dim=32",
            "net.depth=1",
            "datamodule.frames=8",
        ],
        "moditalker_mtov": [
            "net.model_channels=32",
            "net.size=4",
            "net.channel_mult=[1,2]",
            "datamodule.frames=8",
            "datamodule.latents=null",
        ]
        + [
            f"model.{part}.{size}"
            for part in ("autoencoder", "landmark_autoencoder")
            for size in ("dim=32", "depth=1", "patch=8")
        ],
        "moditalker_atom": (["~features.model"] if name == "moditalker_atom_hdtf" else [])
        + ["features=log_mel", "features.hops=2", "features.n_mels=32", "net.audio_dim=64"]
        + ["features.name=debug", "net.dim=32", "net.ff_dim=32", "net.n_layers=1", "datamodule.motion=null"],
        "liveportrait_talker": ["features=log_mel", "features.hops=2", "features.n_mels=32", "features.name=debug"]
        + ["datamodule.features=${features}", "net.n_coefficients=64", "net.width=32", "datamodule.lips=landmarks"],
    }
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", [f"experiment={name}"])
    method = cfg.method
    if method == "landmark_driven":
        own[method].append(f"net.block_out_channels={[64] * len(cfg.net.block_out_channels)}")
    settings = [
        f"experiment={name}",
        "debug=true",
        f"datamodule.root={store}",
        *(["datamodule.resolution=32"] if "resolution" in cfg.datamodule else []),
        *own[method],
    ]
    result = run_command(tmp_path, "train.py", *settings)
    assert result.returncode == 0, result.stderr
    checkpoint = content(newest_run(tmp_path))
    assert checkpoint["global_step"] == 2
    check_targets(checkpoint["viseme"]["config"])  # sample.py will not refuse it


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(store, tmp_path):
    """kill -9 in the middle of an epoch, wherever that happens to be; weights, averages and optimiser state agree to the last bit."""
    options = ["trainer.max_steps=40", "datamodule.batch_size=5", "callbacks.checkpoint.every_n_train_steps=3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = content(train(whole, store, *options))

    process = start(killed, store, *options)
    saved = lambda: list(killed.glob("logs/*/*/checkpoints/last.ckpt"))  # noqa: E731
    while not saved():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    interrupted = torch.load(saved()[0], weights_only=True)
    assert 0 < interrupted["global_step"] < 40
    resumed = content(train(killed, store, *options, "ckpt_path=last"))

    assert resumed["global_step"] == expected["global_step"] == 40
    for part in ("state_dict", "current_model_state"):
        assert resumed[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            assert torch.equal(resumed[part][name], value), f"{part}: {name}"
    for index, state in expected["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(resumed["optimizer_states"][0]["state"][index][name], value)


@pytest.mark.slow
def test_two_processes_learn_like_one_with_the_same_global_batch(store, tmp_path):
    """DDP over gloo: the same samples and the same noise in every global batch, so the curves differ by the order of sums only."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    options = ["trainer.max_steps=12"]
    single = train(one, store, *options, "datamodule.batch_size=8")
    double = train(two, store, *options, "datamodule.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")
    expected, found = losses(single), losses(double)
    assert len(expected) == 12
    assert found == pytest.approx(expected, rel=1e-4)
    for name, value in content(single)["state_dict"].items():
        torch.testing.assert_close(content(double)["state_dict"][name], value, atol=1e-4, rtol=1e-3)
    assert len(list(two.glob("logs/*/*/checkpoints/last.ckpt"))) == 1  # only the first process writes


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["experiment=landmark_driven_sintetic"], "did you mean 'landmark_driven_synthetic'?"),
        (["experiment=landmark_driven_synthetic", "model.optimizer.lrr=1"], "did you mean 'model.optimizer.lr'?"),
        ([], "give experiment=NAME"),
        (["experiment=landmark_driven_synthetic", "datamodule.root=nowhere"], "nowhere"),
        (
            ["experiment=landmark_driven_synthetic", "datamodule.root=.", "ckpt_path=last"],
            "has written a checkpoint yet",
        ),
        (["experiment=landmark_driven_synthetic", "datamodule.root=.", "ckpt_path=no.ckpt"], "there is no such file"),
        (["experiment=landmark_driven_synthetic", "datamodule.root=.", "trainer.precision=foo"], "'foo' is invalid"),
        (["experiment=landmark_driven_synthetic", "datamodule.root=.", "datamodule.batch_size=0"], "give 1 or more"),
    ],
)
def test_mistakes_end_in_one_sentence(overrides, says, tmp_path):
    result = run_command(tmp_path, "train.py", *overrides)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert says in result.stderr.strip().splitlines()[-1]
