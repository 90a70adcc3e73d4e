"""The averages of weights, without a training around them."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from src.lightning_modules.ema import ExponentialMovingAverage, LatentDiffusionAverage


class Number(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(1.0))


def averages(callback: ExponentialMovingAverage, values: list[float]) -> list[float]:
    module, found = Number(), []
    callback.setup(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), module, "fit")
    average = callback._average_model
    assert average is not None
    for value in values:
        nn.init.constant_(module.value, value)
        average.update_parameters(module)
        found.append(average.module.value.item())
    return found


def test_latent_diffusion_starts_from_the_initial_weights():
    first = 1 + (1 - 2 / 11) * (4 - 1)
    second = first + (1 - 3 / 12) * (5 - first)
    assert averages(LatentDiffusionAverage(), [4.0, 5.0]) == pytest.approx([first, second])


def test_the_default_starts_from_the_first_step():
    assert averages(ExponentialMovingAverage(), [4.0])[0] == 4


def test_the_decay_grows_to_its_limit():
    average = LatentDiffusionAverage(max_decay=0.999)
    assert [average.decay(n) for n in (2, 3, 100_000)] == pytest.approx([2 / 11, 3 / 12, 0.999])
