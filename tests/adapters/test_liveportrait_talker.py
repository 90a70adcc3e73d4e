"""Published files of the networks between a voice and LivePortrait's lips."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from src.adapters.liveportrait_talker import (
    EXP_NET,
    EXP_NET_TABLE,
    MAPPING_NET_TABLE,
    load_exp_net,
    load_mapping_net,
    read_sadtalker,
    to_official,
)
from src.errors import CheckpointError
from src.nn.liveportrait_talker import ExpNet, MappingNet


def official_mapping_net() -> dict[str, torch.Tensor]:
    return to_official(MappingNet(n_coefficients=4, width=8).state_dict(), MAPPING_NET_TABLE)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "older form"])
@pytest.mark.parametrize("training", [False, True], ids=["published", "training checkpoint"])
def test_mapping_net_is_read_from_both_files_in_both_forms(tmp_path: Path, training: bool, legacy: bool):
    weights, path = official_mapping_net(), tmp_path / "mapping.pt"
    content = {"state_dict": {f"mappingnet.{k}": v for k, v in weights.items()}, "epoch": 3} if training else weights
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    net = load_mapping_net(path)
    back = to_official(net.state_dict(), MAPPING_NET_TABLE)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_files_that_are_no_mapping_net_are_refused(tmp_path: Path):
    path = tmp_path / "mapping.pt"
    torch.save({"layer.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="not of liveportrait_talker's network"):
        load_mapping_net(path)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_mapping_net(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_mapping_net(path)


def test_missing_weights_are_an_error(tmp_path: Path):
    weights = official_mapping_net()
    del weights["encoder1.1.bias"]
    torch.save(weights, tmp_path / "mapping.pt")
    with pytest.raises(CheckpointError, match="does not hold the weights of MappingNet"):
        load_mapping_net(tmp_path / "mapping.pt")


def test_one_network_is_taken_from_sadtalkers_file(tmp_path: Path):
    net, path = ExpNet(), tmp_path / "sadtalker.safetensors"
    weights = {EXP_NET + key: value for key, value in to_official(net.state_dict(), EXP_NET_TABLE).items()}
    save_file(weights | {"generator.first.weight": torch.zeros(1)}, path)
    loaded = load_exp_net(path)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match="no weights below audio2pose"):
        read_sadtalker(path, "audio2pose.")
    with pytest.raises(CheckpointError, match="no such file"):
        read_sadtalker(tmp_path / "other.safetensors", EXP_NET)
