"""What validation does alike in every method: when it samples, and with which noise."""

from typing import Protocol

import pytorch_lightning as pl
import torch
from jaxtyping import Int64
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from src.diffusion.noise import generators_from
from src.lightning_modules.randomness import seed_of


class Seeded(Protocol):
    """A LightningModule that has a seed."""

    seed: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...


def epoch_is_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether something that happens every n epochs, starting with the first, happens in the validation that runs now.

    Where validations are rarer than the epochs that it falls on, the next validation makes up for them.
    """
    between = trainer.check_val_every_n_epoch or 1
    return trainer.current_epoch % every_n_epochs < between


def evaluation_is_due(module: pl.LightningModule, every_n_epochs: int) -> bool:
    """Whether this validation is to sample and measure.

    Args:
        module: the running one.
        every_n_epochs: epochs of training between two evaluations, starting with the first; 0: never. Outside of training it is always due.
    """
    trainer = module.trainer
    if trainer.sanity_checking or not every_n_epochs:
        return False
    return trainer.state.fn != TrainerFn.FITTING or epoch_is_due(trainer, every_n_epochs)


def row_generators(module: Seeded, use: str, rows: Int64[Tensor, " b"]) -> list[torch.Generator]:
    """Generators that depend on the data set's row alone: not on the epoch, the batch size or the number of processes.

    Args:
        module: its seed and its device.
        use: what the numbers are for; other uses get others.
        rows: of the data set.
    """
    return generators_from((seed_of(module.seed, use, row) for row in rows.tolist()), module.device)
