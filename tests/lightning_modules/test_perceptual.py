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


def validate(model, side=32):
    frames = torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    loader = torch.utils.data.DataLoader(frames, batch_size=4)
    return pl.Trainer(accelerator="cpu", **quiet).validate(model, loader, verbose=False)[0], frames


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
