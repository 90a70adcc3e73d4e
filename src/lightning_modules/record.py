"""What a checkpoint says about itself: the method and the plain configuration that rebuilds model, pipeline and data."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from src.checkpoint import RECORD_KEY, record


class RecordConfig(Callback):
    """Writes method and configuration into every checkpoint, as plain values, so that `sample.py` needs nothing but the file.

    Args:
        method: slug of the method, e.g. `landmark_driven`.
        config: resolved configuration groups (`model`, `pipeline`, `datamodule`).
    """

    def __init__(self, method: str, config: dict[str, Any]) -> None:
        self.content = record(method, config)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record beside Lightning's own keys."""
        checkpoint[RECORD_KEY] = self.content
