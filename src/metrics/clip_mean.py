"""The mean of a number per clip, as most metrics of whole clips are."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class ClipMean(Metric):
    """Mean over clips of a value per clip.

    Attributes:
        clips: number of clips that count.
        undefined: number of clips without a value.
    """

    full_state_update = False
    total: Tensor
    clips: Tensor
    undefined: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, value: float) -> None:
        """Count the value of one clip; NaN and infinity as undefined."""
        if math.isfinite(value):
            self.total += value
            self.clips += 1
        else:
            self.undefined += 1

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the clips; NaN when there is none."""
        return (self.total / self.clips).float()
