"""Checkpoints while training: what is written last is always where training stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from src.checkpoint import RECORD_KEY, load_pickled
from src.errors import CheckpointError, ConfigError


def check_resumable(path: Path, method: str, model: pl.LightningModule) -> None:
    """Raise CheckpointError where `model` cannot go on from `path`: it is damaged, of another method, or has other weights.

    Args:
        path: a `.ckpt`.
        method: slug of the method that is to be trained.
        model: what is to be trained.
    """
    content = load_pickled(path)
    record = content.get(RECORD_KEY) if isinstance(content, dict) else None
    if not isinstance(record, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"ckpt_path={path} was not written by train.py: give one of its .ckpt files.")
    if record.get("method") != method:
        raise CheckpointError(f"ckpt_path={path} is of {record.get('method')}, this experiment trains {method}.")
    there = {name: tuple(value.shape) for name, value in content["state_dict"].items()}
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if other := sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name)):
        name = other[0]
        raise CheckpointError(
            f"ckpt_path={path} is of another network ({len(other)} weights differ, first {name}: {there.get(name, 'none')} there, "
            f"{here.get(name, 'none')} here): give the settings that it was trained with."
        )


class TrainingCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint that also writes `last.ckpt` when training ends.

    Lightning writes at the chosen interval only, so the steps after the last interval would be lost. Where `max_steps` ends the training
    within an epoch, it is written after the last step: a moment later Lightning counts the epoch as done, and a run that goes on from
    there would leave out the rest of its samples.
    """

    _ended_at: int | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write at the interval, and after the last step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            self._write_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last step, if nothing else did."""
        self._write_last(trainer)

    def _write_last(self, trainer: pl.Trainer) -> None:
        if trainer.global_step in (self._last_global_step_saved, self._ended_at) or trainer.fast_dev_run:  # ty: ignore[missing-attribute]
            return
        assert self.dirpath is not None, "set up by Lightning before training"
        path = Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
        trainer.save_checkpoint(path, weights_only=False)  # with optimiser and loops, so that it resumes
        self._ended_at = trainer.global_step


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint that keeps what was best by the first of several measures that the validation logs.

    A measure whose network is not loaded is not logged; then the next one decides.

    Args:
        monitors: names of measures, the most telling one first; all have the same `mode`.
        options: of ModelCheckpoint.
    """

    def __init__(self, monitors: Sequence[str], **options: Any) -> None:
        super().__init__(monitor=monitors[0], **options)
        self.monitors = tuple(monitors)

    @property
    def state_key(self) -> str:
        """The same whichever measure decides, so that a resumed run finds its state."""
        return f"{type(self).__qualname__}{self.monitors}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write where the measure is better than ever.

        Raises:
            ConfigError: none of the measures is logged.
        """
        logged = [name for name in self.monitors if name in trainer.callback_metrics]
        if not logged and not trainer.sanity_checking:
            raise ConfigError(
                f"callbacks.best.monitors={list(self.monitors)}: the validation logs none of them; choose of "
                f"{', '.join(sorted(name for name in trainer.callback_metrics if name.startswith('val/')))}."
            )
        self.monitor = next(iter(logged), self.monitor)
        super().on_validation_end(trainer, pl_module)
