"""Checkpoints while training: what is written last is always where training stopped."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class TrainingCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint that also writes `last.ckpt` when training ends.

    Lightning writes at the chosen interval only, so the steps after the last interval would be lost.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last step, if the interval did not."""
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # ty: ignore[missing-attribute]
            assert self.dirpath is not None, "set up by Lightning before training"
            path = Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            trainer.save_checkpoint(path, weights_only=False)  # with optimiser and loops, so that it resumes
