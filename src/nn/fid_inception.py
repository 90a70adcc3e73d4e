"""The Inception-v3 of FID and KID (arXiv:1706.08500): the network of 2015 that all published values were made with.

It differs from torchvision's: padding does not count in averages, the last block pools by maximum, there are 1008 classes. Names of weights
are those of torch-fidelity's file (`weights-inception-2015-12-05-6726825d.pth`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

SIDE = 299
DIM = 2048


class _PooledByAverage(nn.Module):
    """Mixin: the pooling branch of a block leaves the padding out of its averages."""

    branch_pool: nn.Module

    def pooled(self, x: Tensor) -> Tensor:
        return self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))


class _BlockA(_PooledByAverage, InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.pooled(x)]


class _BlockC(_PooledByAverage, InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.pooled(x)]


class _BlockE(_PooledByAverage, InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.pooled(x)]


class _LastBlockE(InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


class FIDInception(nn.Module):
    """RGB pictures -> the 2048 features after the last pooling.

    Args:
        antialias: reduce pictures with antialiasing, torchmetrics' default; False repeats TensorFlow 1, whose corners are aligned
            differently, as pytorch-fid and older papers have it.
    """

    num_features = DIM

    def __init__(self, antialias: bool = True) -> None:
        super().__init__()
        self.antialias = antialias
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = _BlockA(192, pool_features=32)
        self.Mixed_5c = _BlockA(256, pool_features=64)
        self.Mixed_5d = _BlockA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = _BlockC(768, channels_7x7=128)
        self.Mixed_6c = _BlockC(768, channels_7x7=160)
        self.Mixed_6d = _BlockC(768, channels_7x7=160)
        self.Mixed_6e = _BlockC(768, channels_7x7=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = _BlockE(1280)
        self.Mixed_7c = _LastBlockE(2048)
        self.fc = nn.Linear(DIM, 1008)  # of the published file; the features are taken before it
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FIDInception":
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, pictures: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        """Features of pictures of any size."""
        x = (self._resized(pictures.to(self.fc.weight.dtype)) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c):
            x = block(x)
        for block in (self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            x = block(x)
        return x.mean(dim=(2, 3))

    def _resized(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 299 299"]:
        if self.antialias:
            return F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        return tensorflow1_resize(x, SIDE)


def tensorflow1_resize(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Bilinear without antialiasing, output pixel i at i times the ratio of sizes: TensorFlow 1 without `align_corners`."""
    for dim in (-2, -1):
        size = x.shape[dim]
        position = torch.arange(side, device=x.device, dtype=x.dtype) * (size / side)
        low = position.long()
        high = (low + 1).clamp(max=size - 1)
        weight = (position - low).unflatten(0, (-1, 1)) if dim == -2 else position - low
        x = x.index_select(dim, low) * (1 - weight) + x.index_select(dim, high) * weight
    return x
