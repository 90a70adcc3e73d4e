"""Between stored pictures (uint8) and the range in which diffusion models work ([-1, 1])."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_signed(image: UInt8[Tensor, "*shape"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """0..255 -> [-1, 1]; black is -1.

    (v/255 - 0.5) / 0.5 in float64. In float32 that formula would be less exact around 0: (2v - 255) / 255 rounds once and gives what
    the float64 result rounds to.
    """
    if dtype == torch.float64:
        return (image.to(dtype) / 255 - 0.5) / 0.5
    return ((2 * image.float() - 255) / 255).to(dtype)


def to_unit(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[-1, 1] -> [0, 1], clipped."""
    return (image / 2 + 0.5).clamp(0, 1)


def to_uint8(
    image: Float[Tensor, "*shape"], rounding: Literal["nearest", "down"] = "nearest"
) -> UInt8[Tensor, "*shape"]:
    """[0, 1] -> 0..255.

    `rounding="down"` truncates, which darkens by half a grey level on average and moves exact levels by rounding errors of the input's
    dtype: what many original implementations do, kept for comparison with them.
    """
    levels = image * 255
    return (levels.round() if rounding == "nearest" else levels).to(torch.uint8)
