"""Files of unknown origin: their tensors and plain values are read, nothing that they name runs."""

import builtins
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.transforms import Compose, GaussianBlur, Grayscale, InterpolationMode, Resize

from src.adapters.inert import Inert, TorchArchive, module_tensors, plain
from src.errors import CheckpointError


def saved(path: Path, content: object) -> TorchArchive:
    torch.save(content, path)
    return TorchArchive(path)


TENSORS = {
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "part": torch.arange(10)[3:7],
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "half": torch.randn(3).half(),
    "brain": torch.randn(3).bfloat16(),
    "flags": torch.tensor([True, False]),
    "parameter": nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_bit_by_bit(tmp_path, name):
    archive = saved(tmp_path / "x.ckpt", TENSORS)
    value = archive.load_tensors({name: archive.content[name]})[name]
    assert value.dtype == TENSORS[name].dtype
    assert torch.equal(value, TENSORS[name])


def test_hyper_parameters_become_plain_values(tmp_path):
    config = OmegaConf.create(
        {"channel_mult": [1, 2, 3], "nested": {"rate": 1.5, "name": "s", "nothing": None, "many": [[1], []]}}
    )
    content = {"list": config.channel_mult, "all": config, "plain": (1, "two", [3.0]), "ordered": OrderedDict(a=1)}
    values = plain(saved(tmp_path / "x.ckpt", content).content)
    assert values == {
        "list": [1, 2, 3],
        "all": OmegaConf.to_container(config),
        "plain": [1, "two", [3.0]],
        "ordered": {"a": 1},
    }


def test_objects_of_other_libraries_are_stand_ins_that_know_their_origin(tmp_path):
    transforms = Compose([GaussianBlur(5, 2.0), Grayscale(1), Resize(8, InterpolationMode.NEAREST)])
    stand_in = saved(tmp_path / "x.ckpt", transforms).content
    assert isinstance(stand_in, Inert)
    assert stand_in.origin == "torchvision.transforms.transforms.Compose"
    assert [step.origin.rpartition(".")[2] for step in stand_in.state["transforms"]] == [
        "GaussianBlur",
        "Grayscale",
        "Resize",
    ]


class Calls:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (builtins.eval, ("open('{}', 'w')",)),
        (builtins.exec, ("open('{}', 'w')",)),
        (open, ("{}", "w")),
        (Path, ("{}",)),
        (getattr, (os, "system")),
        (__import__, ("antigravity",)),
        (torch.load, ("{}",)),
    ],
)
def test_nothing_that_the_file_names_runs(tmp_path, monkeypatch, function, arguments):
    witness = tmp_path / "ran"
    arguments = tuple(a.format(witness) if isinstance(a, str) else "os" for a in arguments)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    content = saved(tmp_path / "x.ckpt", {"hyper_parameters": Calls(function, *arguments), "w": torch.ones(1)}).content
    assert isinstance(content["hyper_parameters"], Inert)
    assert content["hyper_parameters"].args == arguments
    assert not witness.exists()
    assert "antigravity" not in sys.modules


def test_no_module_that_the_file_names_is_imported(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(zipped(b"csecretly_imported_module\nrun\n(tR."))
    assert TorchArchive(tmp_path / "x.ckpt").content.origin == "secretly_imported_module.run"


def zipped(program: bytes) -> bytes:
    """A PyTorch archive with a pickle written by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", program)
    return buffer.getvalue()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 3), nn.BatchNorm1d(3)])
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_the_state_dict_of_a_torchscript_archive_is_read(tmp_path, how):
    net = Net().eval()
    script = torch.jit.trace(net, torch.ones(1, 2)) if how == "trace" else torch.jit.script(net)
    script.save(tmp_path / "net.pt")
    archive = TorchArchive(tmp_path / "net.pt")
    weights = archive.load_tensors(dict(module_tensors(archive.content)))
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        zipped(b""),
        zipped(b"cos\nsystem\n"),
        zipped(b"\x80\x02}K\x01R."),
        zipped(b"(S'x'\nS'y'\ntQ."),
        zipped(b"0"),
        zipped(b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x."),  # says that it holds a terabyte
        pickle.dumps({"state_dict": {}}),
    ],
)
def test_damaged_files_end_in_one_sentence(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.ckpt is damaged or no PyTorch file"):
        TorchArchive(tmp_path / "x.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.ckpt cannot be read \(No such file"):
        TorchArchive(tmp_path / "x.ckpt")


@pytest.mark.parametrize("shape", [(5,), (10**6, 10**6)])
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, shape):
    """Neither memory of others nor more memory than the file is worth."""
    archive = saved(tmp_path / "x.ckpt", {"w": torch.ones(4)})
    stored = archive.content["w"]
    for stride in ((1,) * len(shape), (0,) * len(shape)):
        wrong = type(stored)(archive, stored.key, stored.dtype, 0, shape, stride)
        with pytest.raises(CheckpointError, match="is damaged"):
            archive.load_tensors({"w": wrong})
