"""Where a training may go on: checkpoints of another method or network are told in one sentence."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from src.checkpoint import record
from src.errors import CheckpointError
from src.lightning_modules.checkpointing import check_resumable


class Linear(pl.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Linear(width, 1)


def write(path: Path, model: pl.LightningModule, method: str = "here") -> Path:
    torch.save({"state_dict": model.state_dict(), "viseme": record(method, {})}, path)
    return path


def test_weights_of_the_same_network_go_on(tmp_path):
    check_resumable(write(tmp_path / "x.ckpt", Linear(2)), "here", Linear(2))


def test_what_cannot_go_on_is_told(tmp_path):
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    write(tmp_path / "method.ckpt", Linear(2), "elsewhere")
    write(tmp_path / "wider.ckpt", Linear(3))
    for name, says in [
        ("text.ckpt", "damaged"),
        ("foreign.ckpt", "not written by train.py"),
        ("method.ckpt", "is of elsewhere, this experiment trains here"),
        ("wider.ckpt", r"1 weights differ, first net.weight: \(1, 3\) there, \(1, 2\) here"),
    ]:
        with pytest.raises(CheckpointError, match=says) as error:
            check_resumable(tmp_path / name, "here", Linear(2))
        assert "\n" not in str(error.value)
