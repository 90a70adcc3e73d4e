"""Where a training goes on: with the very next sample; checkpoints of another method or network are told in one sentence."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from src.checkpoint import record
from src.datamodules.resumable import ResumableDataModule
from src.errors import CheckpointError
from src.lightning_modules.checkpointing import TrainingCheckpoint, check_resumable


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


class Rows(Dataset):
    """Each item is the draw that it was asked for."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index)


class RowsModule(ResumableDataModule[Rows]):
    def setup(self, stage: str | None = None) -> None:
        self.train_dataset = Rows()


class Counting(Linear):
    """Notes epoch, batch and draws of every step."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seen: list[tuple[int, int, list[int]]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch.tolist()))
        return self.net(batch[:, None].float()).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def steps_of(folder: Path, max_steps: int, ckpt: Path | None = None) -> list[tuple[int, int, list[int]]]:
    model = Counting()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[TrainingCheckpoint(folder, save_last=True, every_n_train_steps=1000)],
    )
    trainer.fit(model, RowsModule(4), ckpt_path=ckpt, weights_only=True)
    return model.seen


@pytest.mark.parametrize("stops", [(3, 4, 8), (5, 8), (2, 7, 8)])  # 5 steps are an epoch
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_ended_goes_on_with_the_next_sample(tmp_path, stops):
    whole = steps_of(tmp_path / "whole", 8)
    parts = steps_of(tmp_path / "parts", stops[0])
    for stop in stops[1:]:
        parts += steps_of(tmp_path / "parts", stop, tmp_path / "parts" / "last.ckpt")
    assert parts == whole
