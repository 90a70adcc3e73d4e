"""The optimiser of a LightningModule and the schedule of its learning rate."""

import bisect
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler

from src.errors import ConfigError

OptimizerFactory = Callable[..., torch.optim.Optimizer]
SchedulerFactory = Callable[..., torch.optim.lr_scheduler.LRScheduler]


def make_optimizer(
    module: pl.LightningModule,
    parameters: Iterable[torch.nn.Parameter],
    optimizer: OptimizerFactory | None,
    base_lr: float | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of the parameters that require gradients.

    Args:
        module: the running one: knows processes, batch size and accumulation.
        parameters: all of a network.
        optimizer: partial, called with them; ConfigError if there is none, since only training needs it.
        base_lr: learning rate per sample of a step, see `scaled_lr`; None: the optimiser's own learning rate.
    """
    if optimizer is None:
        raise ConfigError("model.optimizer has no value: training needs an optimiser, e.g. torch.optim.AdamW.")
    rate = {} if base_lr is None else {"lr": scaled_lr(module.trainer, base_lr)}
    made: Any = optimizer([p for p in parameters if p.requires_grad], **rate)
    # Fused optimisers undo the loss scaling of half precision inside their step, too late for clipping, and Lightning refuses them even
    # where nothing is scaled (bfloat16). Without this mark it is undone before, as for any other optimiser.
    made._step_supports_amp_scaling = False
    return made


def scaled_lr(trainer: pl.Trainer, base_lr: float) -> float:
    """`base_lr` x processes x batch size x accumulated batches: the rule of latent diffusion (arXiv:2112.10752) and DiffTalk."""
    datamodule: Any = trainer.datamodule  # ty: ignore[missing-attribute]
    return base_lr * trainer.world_size * datamodule.batch_size * trainer.accumulate_grad_batches


def optimize(
    module: pl.LightningModule,
    optimizer: OptimizerFactory | None,
    lr_scheduler: SchedulerFactory | None = None,
    interval: Literal["step", "epoch"] = "step",
    base_lr: float | None = None,
) -> OptimizerLRScheduler:
    """What `configure_optimizers` returns.

    Args:
        module: its parameters that require gradients are optimised.
        optimizer: partial, see `make_optimizer`.
        lr_scheduler: partial, called with `optimizer`, and with `num_training_steps` (optimiser steps of the run) where it takes that.
        interval: when the schedule advances.
        base_lr: see `make_optimizer`.
    """
    return with_schedule(
        module, make_optimizer(module, module.parameters(), optimizer, base_lr), lr_scheduler, interval
    )


def with_schedule(
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: SchedulerFactory | None,
    interval: Literal["step", "epoch"] = "step",
) -> Any:
    """The optimiser, with the schedule of its learning rate where there is one; arguments as of `optimize`."""
    if lr_scheduler is None:
        return optimizer
    options: dict[str, Any] = {"optimizer": optimizer}
    function = lr_scheduler.func if isinstance(lr_scheduler, partial) else lr_scheduler
    if "num_training_steps" in inspect.signature(function).parameters:
        options["num_training_steps"] = module.trainer.estimated_stepping_batches
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler(**options), "interval": interval}}


def run_closure(closure: Callable[[], float] | None) -> float | None:
    """What a training step gives that an optimiser runs within its own step, with gradients; None where there is none to run."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def uncounted(optimizer: LightningOptimizer) -> LightningOptimizer:
    """The optimiser without its steps counting towards `global_step` and `max_steps`: of two that train in turns, one is to count."""
    optimizer._on_before_step = lambda: None
    optimizer._on_after_step = lambda: None
    return optimizer


def linear_cycles(
    warm_up_steps: Sequence[int],
    cycle_lengths: Sequence[int],
    f_start: Sequence[float],
    f_max: Sequence[float],
    f_min: Sequence[float],
) -> Callable[[int], float]:
    """Factor of the learning rate at each step: in every cycle linearly from `f_start` to `f_max`, then linearly towards `f_min`.

    What latent diffusion (arXiv:2112.10752) calls a lambda linear schedule; for `torch.optim.lr_scheduler.LambdaLR`. One entry per cycle.

    Args:
        warm_up_steps: steps of a cycle until `f_max`.
        cycle_lengths: steps of a cycle.
        f_start, f_max, f_min: factors.
    """
    ends = list(itertools.accumulate(cycle_lengths))

    def factor(step: int) -> float:
        cycle = min(bisect.bisect_left(ends, step), len(ends) - 1)
        n = step - (ends[cycle] - cycle_lengths[cycle])
        if n < warm_up_steps[cycle]:
            return f_start[cycle] + (f_max[cycle] - f_start[cycle]) / warm_up_steps[cycle] * n
        return f_min[cycle] + (f_max[cycle] - f_min[cycle]) * (cycle_lengths[cycle] - n) / cycle_lengths[cycle]

    return factor
