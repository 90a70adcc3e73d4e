"""M, the motion extractor: ConvNeXt V2 (arXiv:2301.00808) with heads for key points, head pose, expression, scale and shift."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait.keypoints import Motion

EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a feature map."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The normalised map."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Channels weighted by their share of the response over the whole picture (equation 3 of arXiv:2301.00808)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """The weighted responses, beside the identity."""
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)  # half would overflow
        share = (response / (response.mean(dim=-1, keepdim=True) + EPS)).to(x.dtype)
        return self.gamma * (x * share) + self.beta + x


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution of 7 pixels, then two linear layers over the channels, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The feature map."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # b h w c
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        return x + y.permute(0, 3, 1, 2)


class MotionExtractor(nn.Module):
    """Key points and motion of a face.

    The defaults are the published sizes, ConvNeXtV2-Tiny with 28.1 million parameters.

    Args:
        num_kp: key points.
        num_bins: classes of each head angle, 3 degrees wide.
        in_chans: of the picture.
        depths: blocks per stage.
        dims: channels per stage.
    """

    def __init__(
        self,
        num_kp: int = 21,
        num_bins: int = 66,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
    ) -> None:
        super().__init__()
        self.num_kp = num_kp
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, stride=4), ChannelNorm(dims[0], eps=EPS))]
        )
        for narrow, wide in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(ChannelNorm(narrow, eps=EPS), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)
        self.fc_kp = nn.Linear(dims[-1], 3 * num_kp)
        self.fc_scale = nn.Linear(dims[-1], 1)
        self.fc_pitch = nn.Linear(dims[-1], num_bins)
        self.fc_yaw = nn.Linear(dims[-1], num_bins)
        self.fc_roll = nn.Linear(dims[-1], num_bins)
        self.fc_t = nn.Linear(dims[-1], 3)
        self.fc_exp = nn.Linear(dims[-1], 3 * num_kp)

    def forward(self, image: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b _"]]:
        """What the heads say: logits of `pitch`, `yaw`, `roll`; `t`, `scale`; `exp` and `kp`, key point after key point.

        Args:
            image: RGB in [0, 1]; 256 x 256 as published, sides that 32 divides.
        """
        x = image
        for shrink, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(shrink(x))
        x = self.norm(x.mean(dim=(2, 3)))
        return {name: getattr(self, f"fc_{name}")(x) for name in ("pitch", "yaw", "roll", "t", "exp", "scale", "kp")}

    def motion(self, image: Float[Tensor, "b c h w"]) -> Motion:
        """Key points and motion, float32; arguments as of a call."""
        return Motion.of_heads(self(image))
