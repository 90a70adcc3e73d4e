"""`val/lpips` of every method: AlexNet's features of generated beside real frames, where its weights are there."""

import logging

import pytorch_lightning as pl
import torch

from src.metrics import weights
from src.metrics.images import ImageMean, Images
from src.metrics.perceptual import BACKBONES, LPIPS

log = logging.getLogger(__name__)

BACKBONE = "alex"  # what tables report; the training losses use VGG16, whose values are other ones
FRAMES = 16  # that go through the network at a time


class ValidationLPIPS(ImageMean):
    """Mean LPIPS over the frames of a validation; without its weights it is not logged, and the log says why, once.

    The network belongs to no module: it is neither averaged, nor trained, nor written into checkpoints.
    """

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self._networks: tuple[LPIPS, ...] | None = None

    def log_from(self, module: pl.LightningModule, size: tuple[int, ...]) -> None:
        """Log `val/lpips` of this metric, an attribute of the module, where it can be computed.

        All processes call it as often, those without frames, too: at the first call they agree.

        Args:
            module: the running one.
            size: height and width of the frames.
        """
        if self._networks is None:
            self._networks = self._load(module, size)
        if self._networks:
            module.log("val/lpips", self)

    def _load(self, module: pl.LightningModule, size: tuple[int, ...]) -> tuple[LPIPS, ...]:
        backbone = BACKBONES[BACKBONE]
        reason = weights.missing(backbone.file)
        if min(size) < backbone.smallest:
            reason = f"frames of {min(size)} pixels are too small for {backbone.title}, which needs {backbone.smallest}"
        # A process that cannot measure would wait for ever for the others, or they for it.
        if not module.trainer.strategy.reduce_boolean_decision(not reason):
            if module.trainer.is_global_zero:
                log.warning("val/lpips is not computed: %s", reason or "another process lacks its weights")
            return ()
        return (LPIPS(weights.lpips(BACKBONE)),)

    def update(self, generated: Images, reference: Images) -> None:
        """Add a batch of image pairs, uint8 or float in [0, 1]; nothing happens where the weights are missing."""
        for network in self._networks or ():
            network.to(generated.device)
            with torch.autocast(generated.device.type, enabled=False):
                for some, real in zip(generated.split(FRAMES), reference.split(FRAMES), strict=True):
                    self._add(network.values(some, real.to(generated.device)))
