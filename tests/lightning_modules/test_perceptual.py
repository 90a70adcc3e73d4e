"""`val/lpips`: logged with its weights, left out with one sentence without them, and no part of the model."""

import logging

import pytest
import pytorch_lightning as pl
import torch

from src.lightning_modules.perceptual import ValidationLPIPS
from src.metrics import weights
from src.metrics.perceptual import LPIPS, PerceptualDistance


class Copier(pl.LightningModule):
    """Shows frames that are brighter than the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.val_lpips = ValidationLPIPS()

    def validation_step(self, batch, batch_idx) -> None:
        self.val_lpips.log_from(self, batch.shape[-2:])
        self.val_lpips.update((batch + 0.2).clamp(max=1), batch)


class CopierOfEveryProcess(Copier):
    """Brings a network of its own into new processes, which know nothing of what was replaced in this one."""

    def setup(self, stage) -> None:
        torch.manual_seed(0)
        network = PerceptualDistance.untrained("alex")
        weights.missing, weights.lpips = lambda *_: "", lambda _: network


def validate(model, side=32, processes=1):
    frames = torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    loader = torch.utils.data.DataLoader(frames, batch_size=4)
    several = {"strategy": "ddp_spawn", "devices": processes} if processes > 1 else {}
    return pl.Trainer(accelerator="cpu", **quiet, **several).validate(model, loader, verbose=False)[0], frames


@pytest.fixture
def distance(monkeypatch):
    torch.manual_seed(0)
    network = PerceptualDistance.untrained("alex")
    monkeypatch.setattr(weights, "missing", lambda *_: "")
    monkeypatch.setattr(weights, "lpips", lambda _: network)
    return network


@pytest.mark.filterwarnings("ignore:The 'val_dataloader'")
def test_it_is_lpips_over_all_frames(distance):
    model = Copier()
    logged, frames = validate(model)
    metric = LPIPS(distance)
    metric.update((frames + 0.2).clamp(max=1), frames)
    assert logged["val/lpips"] == pytest.approx(metric.compute().item(), rel=1e-5)
    assert logged["val/lpips"] > 0
    assert not model.state_dict()
    assert not list(model.parameters())


@pytest.mark.slow  # new processes import everything
@pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")
def test_two_processes_log_what_one_logs(distance):
    several, _ = validate(CopierOfEveryProcess(), processes=2)
    alone, _ = validate(CopierOfEveryProcess())
    assert several["val/lpips"] == pytest.approx(alone["val/lpips"], rel=1e-5)


@pytest.mark.filterwarnings("ignore:The 'val_dataloader'")
def test_without_weights_the_log_says_so_once(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    with caplog.at_level(logging.WARNING, "src.lightning_modules.perceptual"):
        logged, _ = validate(Copier())
    assert "val/lpips" not in logged
    (record,) = [r for r in caplog.records if r.name == "src.lightning_modules.perceptual"]
    assert "needs alexnet-owt-7be5be79.pth" in record.getMessage()


@pytest.mark.filterwarnings("ignore:The 'val_dataloader'")
@pytest.mark.usefixtures("distance")
def test_small_frames_are_not_measured(caplog):
    logged, _ = validate(Copier(), side=16)
    assert "val/lpips" not in logged
    assert "too small" in caplog.text
