"""What a checkpoint says about itself: the method and the plain configuration that rebuilds model, pipeline and data."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from src.checkpoint import RECORD_KEY, record
from src.datamodules.stored_alignment import stored_alignment


def recorded_groups(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration groups that rebuild model, pipeline and data.

    A pipeline that cuts faces and was not told how (`alignment: null`) gets the alignment of the training data, so that pictures are cut
    like them.

    Args:
        settings: of the run, resolved, as plain values.
    """
    groups: dict[str, Any] = {group: settings.get(group) for group in ("model", "pipeline", "datamodule")}
    pipeline, datamodule = groups["pipeline"], groups["datamodule"]
    if pipeline and "alignment" in pipeline and pipeline["alignment"] is None:
        alignment = stored_alignment(datamodule["root"], datamodule["resolution"])
        groups["pipeline"] = {**pipeline, "alignment": alignment}
    return groups


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
