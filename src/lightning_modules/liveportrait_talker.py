"""Training of MappingNet, the one part of LivePortraitTalker that is trained: expression coefficients -> LivePortrait's lips.

Nothing is rendered: the network is told the lip key points that LivePortrait's frozen motion extractor finds in the frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.errors import ConfigError
from src.lightning_modules.optimization import OptimizerFactory, optimize
from src.lightning_modules.optimization import SchedulerFactory as LRSchedulerFactory
from src.metrics.lip_sync import CurveCorrelation
from src.nn.liveportrait_talker import MappingNet, coefficient_windows
from src.nn.liveportrait_talker.mapping_net import LOWER_UPPER_LIP

Batch = Mapping[str, Tensor]

_CHUNK = 256  # windows at a time where a whole clip is looked at: memory, not the result


class LivePortraitTalker(pl.LightningModule):
    """Learns L = mean |MappingNet(window) - lips| (mean absolute error over 6 key points x 3 axes).

    Batches are those of `src.datamodules.liveportrait_talker`. Logged: `train/loss`; over whole validation clips the same error,
    `val/loss`; `val/ratio`, the error of the training's mean lips over it: 1 is as good as a mouth that stands still, larger is better;
    `val/mouth_correlation` of the mouth's opening over time, mean over clips.

    Args:
        net: maps windows to lips.
        optimizer: partial, called with the parameters; only training needs it.
        lr_scheduler: partial; None: the rate stays, as in the original.
        lr_interval: when the schedule advances.
        window: frames before and after a window's own in validation, as in training.
    """

    mean_lips: Tensor

    def __init__(
        self,
        net: MappingNet,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: LRSchedulerFactory | None = None,
        *,
        lr_interval: Literal["step", "epoch"] = "step",
        window: Sequence[int] = (14, 14),
    ) -> None:
        super().__init__()
        before, after = window
        if before + 1 + after < net.least_frames:
            raise ConfigError(
                f"datamodule.window={list(window)}: that are {before + 1 + after} frames, the network needs {net.least_frames} or more."
            )
        self.net: MappingNet = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval: Literal["step", "epoch"] = lr_interval
        self.window = (before, after)
        self.register_buffer("mean_lips", torch.zeros(6, 3), persistent=False)  # of the data, no weights
        self.val_loss = MeanMetric()
        self.val_still = MeanMetric()  # error of the mean lips
        self.val_correlation = CurveCorrelation()

    def forward(self, windows: Float[Tensor, "b c n"]) -> Float[Tensor, "b 6 3"]:
        """Lips of the frames in the middle of windows."""
        return self.net(windows)

    def setup(self, stage: str) -> None:
        """Ask the data for its mean lips.

        Raises:
            ConfigError: the network takes windows of another width than the data has.
        """
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        self.mean_lips.copy_(datamodule.mean_lips())
        given, taken = datamodule.val_dataset[0]["coefficients"].shape[1], self.net.first.in_channels
        if given != taken:
            raise ConfigError(
                f"net.n_coefficients={taken}: the data has {given} coefficients per frame; set datamodule.n_coefficients and it alike."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """L of a batch of windows."""
        loss = F.l1_loss(self(batch["coefficients"]), batch["lips"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["lips"]), sync_dist=True)
        return loss

    # --- validation

    @torch.no_grad()
    def sample(self, coefficients: Float[Tensor, "t c"]) -> Float[Tensor, "t 6 3"]:
        """Lips of all frames of a clip; nothing is random."""
        windows = coefficient_windows(coefficients, self.window)
        return torch.cat([self(chunk) for chunk in windows.split(_CHUNK)])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Errors and movement over a whole clip."""
        names = {"loss": self.val_loss, "mouth_correlation": self.val_correlation}
        for name, metric in names.items():
            self.log(f"val/{name}", metric, prog_bar=True, batch_size=1)
        for coefficients, lips in zip(batch["coefficients"], batch["lips"], strict=True):
            found = self.sample(coefficients)
            self.val_loss.update((found - lips).abs().mean(), weight=len(lips))
            self.val_still.update((self.mean_lips - lips).abs().mean(), weight=len(lips))
            self.val_correlation.update(mouth_opening(found), mouth_opening(lips))

    def on_validation_epoch_end(self) -> None:
        """How much better than a still mouth."""
        self.log("val/ratio", self.val_still.compute() / self.val_loss.compute(), prog_bar=True)
        self.val_still.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the schedule where there is one."""
        return optimize(self, self.optimizer, self.lr_scheduler, self.lr_interval)


def mouth_opening(lips: Float[Tensor, "t 6 3"]) -> Float[Tensor, " t"]:
    """How far the lower lip is below the upper one."""
    lower, upper = LOWER_UPPER_LIP
    return lips[:, lower, 1] - lips[:, upper, 1]
