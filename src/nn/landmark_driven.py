"""The network of landmark_driven: a pixel-space U-Net that sees the noisy frame beside its three condition pictures.

The layers are diffusers' `UNet2DModel`, so the published checkpoint form fits key by key (`src/adapters/landmark_driven.py`); attention
runs through PyTorch's scaled-dot-product kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class LandmarkDrivenUNet(nn.Module):
    """Predicts noise, clean frame or velocity of a frame from its noisy version and the condition.

    The defaults are the original's configuration: 113 683 587 parameters, 124.5 GFLOP per 128x128 frame.

    Args:
        sample_size: height and width of the frames that the network is trained on; what samplers and pipelines make by default.
        in_channels: 3 of the noisy frame and 9 of the condition.
        out_channels: 3 of the prediction.
        layers_per_block: residual blocks per resolution on the way down (one more on the way up).
        block_out_channels: channels per resolution, finest first.
        down_block_types: diffusers' block classes, finest resolution first; `Attn...` adds self-attention.
        up_block_types: idem, coarsest resolution first.
        attention_head_dim: width of an attention head; the number of heads follows from the channels.
        norm_num_groups: groups of the group normalisations; divides every entry of `block_out_channels`.
        norm_eps: epsilon of the normalisations.
        patch_size: fold squares of this many pixels into channels before the network and back behind it: a quarter of the work at 2.
            The official layout has 1.
        channels_last: keep activations channel by channel in memory; faster on tensor cores and with oneDNN, same result.
        unet_options: further arguments of `diffusers.UNet2DModel`.
    """

    def __init__(
        self,
        sample_size: int = 128,
        in_channels: int = 12,
        out_channels: int = 3,
        layers_per_block: int = 2,
        block_out_channels: Sequence[int] = (128, 128, 256, 256, 512, 512),
        down_block_types: Sequence[str] = (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        up_block_types: Sequence[str] = ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
        attention_head_dim: int = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        patch_size: int = 1,
        channels_last: bool = False,
        **unet_options: Any,
    ) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=sample_size // patch_size,
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            layers_per_block=layers_per_block,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            **unet_options,
        )
        self.sample_size = sample_size
        self.patch_size = patch_size
        self.stride = patch_size * 2 ** (
            len(block_out_channels) - 1
        )  # frames are divided into cells of this many pixels
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.unet.to(memory_format=self.memory_format)

    def forward(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        condition: Float[Tensor, "b 9 h w"],
        timestep: Shaped[Tensor, "b"] | Int[Tensor, ""],
    ) -> Float[Tensor, "b 3 h w"]:
        """Prediction for each noisy frame.

        Args:
            noisy: frames at their noise levels, x_t.
            condition: reference frame, target landmark picture, reference landmark picture, each RGB in [-1, 1].
            timestep: 0..999, one per frame or one for all (fractional ones interpolate).

        Raises:
            ValueError: height or width is no multiple of `stride`.
        """
        height, width = noisy.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"frames of {height}x{width} pixels: both sides must be multiples of {self.stride}")
        x = pixel_unshuffle(torch.cat([noisy, condition], dim=1), self.patch_size)
        x = self.unet(x.contiguous(memory_format=self.memory_format), timestep, return_dict=False)[0]
        return pixel_shuffle(x, self.patch_size)
