"""Looking at a model while it trains."""

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import UInt8
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # ty: ignore[missing-module-member] (made at run time)
from torch import Tensor

from src.diffusion.pixels import to_uint8, to_unit
from src.lightning_modules.validation import epoch_is_due
from src.media import atomic_path, write_image

log = logging.getLogger(__name__)


@runtime_checkable
class Previewable(Protocol):
    """A DataModule that has fixed conditions to look at."""

    def preview(self, n_samples: int) -> Mapping[str, Tensor]:
        """A few validation samples that never change."""
        ...

    def preview_video(self, n_frames: int) -> Mapping[str, Tensor]:
        """Consecutive frames of a validation clip."""
        ...


class LogSamples(Callback):
    """Samples fixed conditions during validation and shows them beside the real pictures in TensorBoard, W&B and a folder.

    A grid (`val/samples`: a row per sample, the batch's pictures in their order, then the generated one) and a short moving picture
    (`val/video`, the same columns). Sampling happens inside the validation loop, where the EMA callback has put the averaged weights in
    place, on the first process only: no process waits for another before the end of the validation.

    Args:
        every_n_epochs: between two looks, starting with the first epoch; the last epoch is always shown.
        n_samples: rows of the grid.
        n_frames: of the moving picture; 0: none.
        fps: of the moving picture.
        seed: of the noise: the same in every epoch.
        folder: where the pictures are also written, `samples-<step>.png` and `video-<step>.gif`; None: nowhere.
        options: of the module's `sample` and `sample_video`, e.g. steps.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
        n_samples: int = 8,
        n_frames: int = 25,
        *,
        fps: float = 25.0,
        seed: int = 0,
        folder: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.n_samples = n_samples
        self.n_frames = n_frames
        self.fps = fps
        self.seed = seed
        self.folder = Path(folder) if folder else None
        self.options = dict(options or {})

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sample and log, before the first validation batch."""
        if batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero and self._is_due(trainer):
            datamodule: object = getattr(trainer, "datamodule", None)
            assert isinstance(datamodule, Previewable), (
                "LogSamples needs a DataModule with preview() and preview_video()"
            )
            module: Any = pl_module
            self._show_grid(trainer, self._columns(trainer, module.sample, datamodule.preview(self.n_samples)))
            if self.n_frames:
                conditions = datamodule.preview_video(self.n_frames)
                self._show_video(trainer, self._columns(trainer, module.sample_video, conditions))

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        return last or epoch_is_due(trainer, self.every_n_epochs)

    def _columns(
        self, trainer: pl.Trainer, sample: Callable[..., Tensor], conditions: Mapping[str, Tensor]
    ) -> UInt8[np.ndarray, "b h columns_w 3"]:
        """The pictures among the conditions side by side, the generated one last."""
        device = trainer.strategy.root_device
        conditions = {key: value.to(device) for key, value in conditions.items()}
        generator = torch.Generator().manual_seed(self.seed)
        with trainer.precision_plugin.forward_context():
            generated = to_uint8(to_unit(sample(conditions, generator, **self.options)))
        known = [
            value for value in conditions.values() if value.dtype == torch.uint8 and value.shape == generated.shape
        ]
        return torch.cat([*known, generated], dim=3).permute(0, 2, 3, 1).cpu().numpy()

    def _show_grid(self, trainer: pl.Trainer, rows: UInt8[np.ndarray, "b h w 3"]) -> None:
        grid = rows.reshape(-1, *rows.shape[2:])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/samples", grid, trainer.global_step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/samples", [grid], step=trainer.global_step)
        if self.folder:
            write_image(self.folder / f"samples-{trainer.global_step:07d}.png", grid)

    def _show_video(self, trainer: pl.Trainer, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        gif = encode_gif(frames, self.fps)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # TensorBoard plays GIFs that it gets as encoded pictures; its own `add_video` needs one more package.
                height, width = frames.shape[1:3]
                image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
                summary = Summary(value=[Summary.Value(tag="val/video", image=image)])
                logger.experiment._get_file_writer().add_summary(summary, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_video("val/video", [io.BytesIO(gif)], step=trainer.global_step, format=["gif"])
        if self.folder:
            with atomic_path(self.folder / f"video-{trainer.global_step:07d}.gif") as temporary:
                temporary.write_bytes(gif)


def encode_gif(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> bytes:
    """The frames as a GIF that repeats for ever."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()
