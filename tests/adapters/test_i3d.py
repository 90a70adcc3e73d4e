"""I3D out of a TorchScript archive: the same tensors, and nothing of the archive runs."""

import sys

import pytest
import torch
from torch import nn

from src.adapters.i3d import read_i3d
from src.errors import CheckpointError
from src.metrics import weights
from src.nn.i3d import I3D
from tools import convert_checkpoint


class Detector(nn.Module):
    """What a public archive may look like: the network inside another module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.model(2 * clips / 255 - 1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return I3D()


@pytest.fixture(scope="module")
def archive(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    traced = torch.jit.trace(Detector(network), torch.zeros(1, 3, 9, 224, 224), check_trace=False)
    torch.jit.save(traced, path)
    return path


@pytest.fixture
def no_torchscript(monkeypatch):
    """Loading an archive as a program is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an archive of unknown origin was run")

    monkeypatch.setattr(torch.jit, "load", refuse)


@pytest.mark.usefixtures("no_torchscript")
def test_a_torchscript_archive_becomes_the_file_that_fvd_reads(network, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["convert_checkpoint.py", "method=i3d", f"ckpt={archive}", f"out={tmp_path}/{weights.I3D_FILE}"]
    )
    monkeypatch.chdir(tmp_path)
    convert_checkpoint.main()
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    read = weights.i3d().state_dict()
    assert read.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in read.items())


def test_counters_may_be_missing_other_tensors_may_not(network, tmp_path):
    kept = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": kept}, tmp_path / "plain.pt")
    assert read_i3d(tmp_path / "plain.pt").keys() == network.state_dict().keys()
    del kept["logits.conv3d.bias"]
    torch.save(kept, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"first logits\.conv3d\.bias"):
        read_i3d(tmp_path / "short.pt")
    torch.save(kept | {"logits.conv3d.bias": torch.zeros(400), "more": torch.zeros(1)}, tmp_path / "long.pt")
    with pytest.raises(CheckpointError, match="first more"):
        read_i3d(tmp_path / "long.pt")


def test_another_network_is_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no Conv3d_1a_7x7"):
        read_i3d(tmp_path / "other.pt")
