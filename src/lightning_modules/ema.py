"""Exponential moving average of the weights, with a decay that grows while the model changes fast."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from src.errors import require_least


class ExponentialMovingAverage(WeightAveraging):
    """Averages the weights after every optimiser step; validation, checkpoints' `state_dict` and samples use the average.

    decay(n) = 0 at the first step, then min(1 - (1 + (n - 1) / inv_gamma)^-power, max_decay)
    average <- average + (1 - decay(n)) (weights - average)     (the warm-up of diffusers' `EMAModel`)

    Args:
        max_decay: approached from below; 0.9999 averages over about the last ten thousand steps.
        inv_gamma: larger values slow the warm-up.
        power: exponent of the warm-up; 3/4 reaches 0.999 after 10 000 steps and 0.9999 after 215 444.
        device: where the average is kept, e.g. "cpu" to save GPU memory; None: beside the weights.
    """

    def __init__(
        self,
        max_decay: float = 0.9999,
        inv_gamma: float = 1.0,
        power: float = 0.75,
        device: str | None = None,
    ) -> None:
        super().__init__(device=device, use_buffers=False, multi_avg_fn=self._update)
        self.max_decay = max_decay
        self.inv_gamma = inv_gamma
        self.power = power

    def decay(self, step: int) -> float:
        """Decay of optimiser step `step` = 1, 2, ...; the first step copies the weights."""
        if step <= 1:
            return 0.0
        return min(1 - (1 + (step - 1) / self.inv_gamma) ** -self.power, self.max_decay)

    @torch.no_grad()
    def _update(self, averages: tuple[Tensor, ...], weights: tuple[Tensor, ...], n_averaged: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(weights), 1 - self.decay(int(n_averaged) + 1))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new training's average begins at what the module begins with, which may have been loaded since it was set up."""
        super().on_train_start(trainer, pl_module)
        average = self._average_model
        if average is not None and trainer.global_step == 0:
            average.module.load_state_dict(pl_module.state_dict())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the module's last weights in place: a checkpoint written after this holds both and resumes exactly."""


class LatentDiffusionAverage(ExponentialMovingAverage):
    """The average of latent-diffusion, and so of DiffTalk and MToV, which starts from the initial weights.

        decay(n) = min((1 + n) / (10 + n), max_decay)   at the n-th update

    Args:
        max_decay: approached from below; 0.9999 is reached after 90 000 updates.
        device: where the average is kept, e.g. "cpu" to save GPU memory; None: beside the weights.
        every_n_steps: optimiser steps between two updates; MToV has 25.
    """

    def __init__(self, max_decay: float = 0.9999, device: str | None = None, every_n_steps: int = 1) -> None:
        super().__init__(max_decay=max_decay, device=device)
        require_least("callbacks.ema.every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every n-th optimiser step; `step_idx` counts from 0."""
        return step_idx is not None and (step_idx + 1) % self.every_n_steps == 0

    def decay(self, step: int) -> float:
        """Decay of the update that makes the average one of `step` models, the initial one included."""
        return min(step / (9 + step), self.max_decay)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The initial weights count as the first model: the library would replace them in the first step."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged.fill_(1)


class ConstantAverage(LatentDiffusionAverage):
    """The average of EDGE, and so of AToM: the same decay at every step, from the initial weights on.

    Args:
        max_decay: the decay; with 0.9999 the initial weights, which are random, still have a third of the weight after 11 000 steps.
        device: where the average is kept, e.g. "cpu" to save GPU memory; None: beside the weights.
    """

    def decay(self, step: int) -> float:
        """Always the same."""
        return self.max_decay
