"""W, the warping module: a volume of features is moved from the source's key points to the driving ones.

Symbols of arXiv:2407.03168: f_s volume of features, x_s source and x_d driving key points, (x, y, z) in [-1, 1] along width, height, depth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait.layers import ConvNormReLU, ConvNormReLU3d, feature_channels

HEATMAP_VARIANCE = 0.01


@dataclass(frozen=True)
class Warped:
    """Warped features and how they came about.

    Attributes:
        features: input of the decoder, multiplied by `occlusion`.
        deformation: where each cell of the volume is looked up, (x, y, z).
        occlusion: in [0, 1], 0 where nothing of the source is to be seen.
    """

    features: Float[Tensor, "b e h w"]
    deformation: Float[Tensor, "b d h w 3"]
    occlusion: Float[Tensor, "b 1 h w"] | None


class WarpingModule(nn.Module):
    """f_s, x_s, x_d -> features of the moved face.

    The defaults are the published sizes, 45.5 million parameters.

    Args:
        num_kp: key points.
        block_expansion: see `AppearanceFeatureExtractor`.
        max_features: channels of the volume times its layers.
        num_down_blocks: see `AppearanceFeatureExtractor`.
        reshape_channel: channels of the volume.
        estimate_occlusion_map: estimate where nothing of the source is to be seen.
        dense_motion_params: arguments of `DenseMotionNetwork` beside `feature_channel`, `num_kp` and `estimate_occlusion_map`.
    """

    def __init__(
        self,
        num_kp: int = 21,
        block_expansion: int = 64,
        max_features: int = 512,
        num_down_blocks: int = 2,
        reshape_channel: int = 32,
        estimate_occlusion_map: bool = True,
        dense_motion_params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        channels = feature_channels(max_features, block_expansion, num_down_blocks)
        self.dense_motion_network = DenseMotionNetwork(
            feature_channel=reshape_channel,
            num_kp=num_kp,
            estimate_occlusion_map=estimate_occlusion_map,
            **(dense_motion_params or {}),
        )
        self.third = ConvNormReLU(max_features, channels, negative_slope=0.01)
        self.fourth = nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        volume: Float[Tensor, "b c d h w"],
        kp_source: Float[Tensor, "b k 3"],
        kp_driving: Float[Tensor, "b k 3"],
        use_occlusion: bool = True,
    ) -> Warped:
        """The moved features.

        Args:
            volume: of `AppearanceFeatureExtractor`.
            kp_source: x_s.
            kp_driving: x_d.
            use_occlusion: multiply the features by the occlusion map.
        """
        deformation, occlusion = self.dense_motion_network(volume, kp_source, kp_driving)
        warped = sample_volume(volume, deformation)
        features = self.fourth(self.third(warped.flatten(1, 2)))
        if occlusion is not None and use_occlusion:
            features = features * occlusion
        return Warped(features, deformation, occlusion)


class DenseMotionNetwork(nn.Module):
    """The flow of every cell, as a mixture of the shifts of the key points and of no shift at all.

    Args:
        feature_channel: channels of the volume.
        num_kp: key points.
        block_expansion: width of the hourglass.
        max_features: most channels of the hourglass.
        num_blocks: levels of the hourglass.
        reshape_depth: layers of the volume.
        compress: channels that the volume is compressed to.
        estimate_occlusion_map: estimate where nothing of the source is to be seen.
    """

    def __init__(
        self,
        feature_channel: int = 32,
        num_kp: int = 21,
        block_expansion: int = 32,
        max_features: int = 1024,
        num_blocks: int = 5,
        reshape_depth: int = 16,
        compress: int = 4,
        estimate_occlusion_map: bool = True,
    ) -> None:
        super().__init__()
        self.compress = nn.Conv3d(feature_channel, compress, 1)
        self.norm = nn.BatchNorm3d(compress)
        self.hourglass = Hourglass(block_expansion, (num_kp + 1) * (compress + 1), num_blocks, max_features)
        self.mask = nn.Conv3d(self.hourglass.out_channels, num_kp + 1, 7, padding=3)
        self.occlusion = (
            nn.Conv2d(self.hourglass.out_channels * reshape_depth, 1, 7, padding=3) if estimate_occlusion_map else None
        )

    def forward(
        self,
        volume: Float[Tensor, "b c d h w"],
        kp_source: Float[Tensor, "b k 3"],
        kp_driving: Float[Tensor, "b k 3"],
    ) -> tuple[Float[Tensor, "b d h w 3"], Float[Tensor, "b 1 h w"] | None]:
        """Where each cell is looked up, and the occlusion map."""
        compressed = F.relu(self.norm(self.compress(volume)))
        grid = identity_grid(volume.shape[2:], kp_source)
        shifted = sparse_motion(grid, kp_source, kp_driving)  # b k+1 d h w 3
        deformed = deform(compressed, shifted)
        heatmap = heatmaps(grid, kp_source, kp_driving).to(deformed.dtype)
        x = self.hourglass(torch.cat([heatmap, deformed], dim=2).flatten(1, 2))
        mask = self.mask(x).float().softmax(dim=1)
        deformation = (mask[..., None] * shifted).sum(dim=1)
        occlusion = None if self.occlusion is None else torch.sigmoid(self.occlusion(x.flatten(1, 2)))
        return deformation, occlusion


class Hourglass(nn.Module):
    """A U-Net over a volume whose depth stays; its output ends with its input.

    Args:
        block_expansion: width at the input; doubled per level.
        in_features: channels of the input.
        num_blocks: levels.
        max_features: most channels.
    """

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        self.encoder = HourglassEncoder(block_expansion, in_features, num_blocks, max_features)
        self.decoder = HourglassDecoder(block_expansion, in_features, num_blocks, max_features)
        self.out_channels = block_expansion + in_features

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b e d h w"]:
        """Features of every cell."""
        return self.decoder(self.encoder(x))


class HourglassEncoder(nn.Module):
    """The way down: convolutions, each followed by the mean over 2 x 2 cells of a layer."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        widths = [in_features, *(feature_channels(max_features, block_expansion, i + 1) for i in range(num_blocks))]
        self.down_blocks = nn.ModuleList(ConvNormReLU3d(widths[i], widths[i + 1]) for i in range(num_blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and the volumes of all levels, finest first."""
        levels = [x]
        for block in self.down_blocks:
            levels.append(F.avg_pool3d(block(levels[-1]), (1, 2, 2)))
        return levels


class HourglassDecoder(nn.Module):
    """The way up: each level's cells are repeated, convolved and put beside the way down's."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        self.up_blocks = nn.ModuleList()
        for i in reversed(range(num_blocks)):
            wide = feature_channels(max_features, block_expansion, i + 1)
            joined = 1 if i == num_blocks - 1 else 2
            self.up_blocks.append(ConvNormReLU3d(joined * wide, feature_channels(max_features, block_expansion, i)))
        out_channels = block_expansion + in_features
        self.conv = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The volume at the input's size."""
        *skips, x = levels
        for block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            x = torch.cat([block(F.interpolate(x, scale_factor=(1, 2, 2))), skip], dim=1)
        return F.relu(self.norm(self.conv(x)))


def identity_grid(size: tuple[int, ...], like: Tensor) -> Float[Tensor, "d h w 3"]:
    """Coordinates (x, y, z) of a volume's cells, the first at -1 and the last at 1, float32.

    `sample_volume` counts from the cells' edges instead, so looking up this grid shrinks the volume a little: the published weights are
    trained with that.
    """
    # In the original's arithmetic, to the last bit: what follows makes a hundred times as much of a rounding error.
    axes = [2 * (torch.arange(n, device=like.device, dtype=torch.float32) / max(n - 1, 1)) - 1 for n in size]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def sparse_motion(
    grid: Float[Tensor, "d h w 3"], kp_source: Float[Tensor, "b k 3"], kp_driving: Float[Tensor, "b k 3"]
) -> Float[Tensor, "b n d h w 3"]:
    """Where each cell would be looked up if all moved as one key point does; first, if nothing moved."""
    source, driving = (
        F.pad(points.float(), (0, 0, 1, 0)) for points in (kp_source, kp_driving)
    )  # the background is first
    return grid - driving[:, :, None, None, None] + source[:, :, None, None, None]


def heatmaps(
    grid: Float[Tensor, "d h w 3"], kp_source: Float[Tensor, "b k 3"], kp_driving: Float[Tensor, "b k 3"]
) -> Float[Tensor, "b n 1 d h w"]:
    """Bells around the driving key points less those around the source's; the background's, first, is zero."""

    def bells(points: Tensor) -> Tensor:
        x, y, z = ((axis - points[..., i, None].float()) ** 2 for i, axis in enumerate(axes))  # b k n each
        square = x[:, :, None, None] + y[:, :, None, :, None] + z[..., None, None]
        return torch.exp(-0.5 * square / HEATMAP_VARIANCE)

    axes = (grid[0, 0, :, 0], grid[0, :, 0, 1], grid[:, 0, 0, 2])
    difference = bells(kp_driving) - bells(kp_source)
    return F.pad(difference, (0, 0, 0, 0, 0, 0, 1, 0))[:, :, None]


def deform(volume: Float[Tensor, "b c d h w"], grids: Float[Tensor, "b n d h w 3"]) -> Float[Tensor, "b n c d h w"]:
    """The volume looked up through each of the grids."""
    n = grids.shape[1]
    repeated = volume.repeat_interleave(n, dim=0)
    return rearrange(sample_volume(repeated, grids.flatten(0, 1)), "(b n) c d h w -> b n c d h w", n=n)


def sample_volume(
    volume: Float[Tensor, "b c d h w"], grid: Float[Tensor, "b d2 h2 w2 3"]
) -> Float[Tensor, "b c d2 h2 w2"]:
    """Trilinear values at (x, y, z), zero outside; coordinates stay in float32, whatever the volume's precision."""
    return F.grid_sample(volume.float(), grid.float(), align_corners=False).to(volume.dtype)
