"""Published weights: missing, damaged or foreign files are told; what is read is exactly the network."""

import pytest
import torch
from torch import nn

from src.errors import CheckpointError
from src.metrics import weights
from src.metrics.weights import load_network, missing, read_weights


def test_missing_files_are_named_with_what_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    both = missing(weights.SYNCNET, weights.ARCFACE[50])
    assert both.startswith("needs syncnet_v2.model and arcface_r50.pth, get it with: python tools/download_models.py")
    assert f"save it as {tmp_path / 'arcface_r50.pth'}" in both
    (tmp_path / "arcface_r50.pth").write_bytes(b"x")
    assert missing(weights.ARCFACE[50]) == ""
    assert weights.present().keys() == {"arcface_r50.pth"}


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_wrappings_of_training_are_taken_off(tmp_path, wrap):
    net = nn.Linear(3, 2)
    torch.save(wrap(net.state_dict()), tmp_path / "net.pth")
    loaded = load_network(nn.Linear(3, 2), tmp_path / "net.pth")
    assert torch.equal(loaded.weight, net.weight)
    assert not loaded.training
    assert not loaded.weight.requires_grad


def test_files_of_another_kind_say_so(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of Conv2d"):
        load_network(nn.Conv2d(3, 2, 1), tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(nn.Linear(1, 1), tmp_path / "object.pth")  # a pickle that would run code
    for name in ("list.pth", "text.pth", "object.pth"):
        with pytest.raises(CheckpointError, match="is no file of plain tensors"):
            read_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_weights(tmp_path / "nowhere.pth")


def test_a_damaged_download_is_told(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / weights.INCEPTION)
    with pytest.raises(CheckpointError, match="is damaged: remove it; get it with"):
        read_weights(tmp_path / weights.INCEPTION)
