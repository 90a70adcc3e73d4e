"""Layers that LivePortrait's networks share."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvNormReLU(nn.Module):
    """Convolution of 3 pixels, batch norm, (leaky) ReLU, then the mean over 2 x 2 pixels where `pool`.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        pool: halve height and width.
        negative_slope: of the activation below zero.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = False, negative_slope: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.pool = pool
        self.negative_slope = negative_slope

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The feature map, at half the size where it is pooled."""
        x = F.leaky_relu(self.norm(self.conv(x)), self.negative_slope)
        return F.avg_pool2d(x, 2) if self.pool else x


class ConvNormReLU3d(nn.Module):
    """Convolution of 3 cells, batch norm, ReLU over a volume."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b e d h w"]:
        """The volume of features."""
        return F.relu(self.norm(self.conv(x)))


class ResidualBlock3d(nn.Module):
    """Batch norm, ReLU and convolution, twice, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """The volume of features."""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


def feature_channels(max_features: int, block_expansion: int, num_down_blocks: int) -> int:
    """Channels behind so many blocks that each double them, `max_features` at most."""
    return min(max_features, block_expansion * 2**num_down_blocks)


def widened(x: Tensor) -> Tensor:
    """The values in float32 where they are in half precision: sums and norms of them lose too much there."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def not_bfloat16(device: torch.device) -> torch.autocast:
    """Context in which bfloat16 is not used: float32 takes its place, other precisions stay.

    Its 8 bits move the flow and the coarse layers too far, see docs/liveportrait.md; float16 has 11.
    """
    dtype = torch.get_autocast_dtype(device.type)
    used = torch.is_autocast_enabled(device.type) and dtype is not torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=used)
