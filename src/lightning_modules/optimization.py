"""The optimiser of a LightningModule and the schedule of its learning rate."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler

from src.errors import ConfigError

OptimizerFactory = Callable[..., torch.optim.Optimizer]
SchedulerFactory = Callable[..., torch.optim.lr_scheduler.LRScheduler]


def optimize(
    module: pl.LightningModule,
    optimizer: OptimizerFactory | None,
    lr_scheduler: SchedulerFactory | None = None,
    interval: Literal["step", "epoch"] = "step",
) -> OptimizerLRScheduler:
    """What `configure_optimizers` returns.

    Args:
        module: its parameters that require gradients are optimised.
        optimizer: partial, called with them; ConfigError if there is none, since only training needs it.
        lr_scheduler: partial, called with `optimizer`, and with `num_training_steps` (optimiser steps of the run) where it takes that.
        interval: when the schedule advances.
    """
    if optimizer is None:
        raise ConfigError("model.optimizer has no value: training needs an optimiser, e.g. torch.optim.AdamW.")
    made: Any = optimizer([p for p in module.parameters() if p.requires_grad])
    # Fused optimisers undo the loss scaling of half precision inside their step, too late for clipping, and Lightning refuses them even
    # where nothing is scaled (bfloat16). Without this mark it is undone before, as for any other optimiser.
    made._step_supports_amp_scaling = False
    if lr_scheduler is None:
        return made
    options: dict[str, Any] = {"optimizer": made}
    function = lr_scheduler.func if isinstance(lr_scheduler, partial) else lr_scheduler
    if "num_training_steps" in inspect.signature(function).parameters:
        options["num_training_steps"] = module.trainer.estimated_stepping_batches
    return {"optimizer": made, "lr_scheduler": {"scheduler": lr_scheduler(**options), "interval": interval}}
