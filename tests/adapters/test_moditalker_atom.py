"""AToM's published file, made small: weights and averages come out, dead parameters and programs do not."""

from typing import Any

import pytest
import torch

from src.adapters.moditalker_atom import from_official, load_face_regressor, load_official, net_arguments, to_official
from src.checkpoint import instantiate, load_published
from src.errors import CheckpointError
from src.nn.moditalker_atom import PublishedMotionDecoder

NET: dict[str, Any] = {"n_frames": 6, "dim": 16, "ff_dim": 24, "n_layers": 2, "audio_dim": 12}
DEAD = ("rotary.freqs", "pos_encoder.0.norm1.weight", "seqTransDecoder.stack.1.linear2.bias", "face_mlp.0.weight")


def official(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    weights = to_official(PublishedMotionDecoder(**NET, n_heads=8).state_dict())
    return weights | {key: torch.zeros(3) for key in DEAD}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "atom.pt"
    module = {f"module.{key}": value for key, value in official(1).items()}
    torch.save({"model_state_dict": official(0), "ema_state_dict": module, "optimizer_state_dict": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(("weights", "seed"), [("last", 0), ("ema", 1)])
def test_weights_and_averages_are_told_apart(file, weights, seed):
    config, state_dict = load_official(file, weights)
    expected = from_official(official(seed))
    assert {key.removeprefix("net.") for key in state_dict} == set(expected)
    assert all(torch.equal(state_dict[f"net.{key}"], value) for key, value in expected.items())
    assert config["model"]["window"] == 6
    assert config["datamodule"]["features"]["_target_"] == "src.audio.hubert_pairs.HubertPairs"


def test_it_rebuilds_the_model(file):
    checkpoint = load_published(file, "moditalker_atom")
    model = instantiate(checkpoint.config["model"])
    model.load_state_dict(checkpoint.state_dict, strict=True)
    assert model.generate(torch.zeros(204), torch.zeros(4, 12), steps=1).shape == (4, 204)
    assert model.diffusion.clip == 1.0  # as published


def test_arguments_are_read_off_the_weights():
    assert {key: net_arguments(official(0))[key] for key in NET} == NET
    with pytest.raises(CheckpointError, match=r"give the original's atom\.pt"):
        net_arguments({"weight": torch.zeros(2)})


def test_other_files_are_told(tmp_path):
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"atom\.pt"):
        load_official(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"epoch_20\.pth"):
        load_face_regressor(tmp_path / "missing.pth")
    torch.save({"net_recon": {"weight": torch.zeros(2)}}, tmp_path / "epoch_20.pth")
    with pytest.raises(CheckpointError):
        load_face_regressor(tmp_path / "epoch_20.pth")
    unknown = official(0) | {"surprise.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"first: surprise\.weight"):
        from_official(unknown)
