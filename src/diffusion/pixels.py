"""Between stored pictures (uint8) and the range in which diffusion models work ([-1, 1])."""

from typing import Literal

import torch
import torch.nn.functional as F
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


Rounding = Literal["nearest", "down"]


def to_unit(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[-1, 1] -> [0, 1], clipped."""
    return (image / 2 + 0.5).clamp(0, 1)


def to_uint8(image: Float[Tensor, "*shape"], rounding: Rounding = "nearest") -> UInt8[Tensor, "*shape"]:
    """[0, 1] -> 0..255.

    `rounding="down"` truncates, which darkens by half a grey level on average and moves exact levels by rounding errors of the input's
    dtype: what many original implementations do, kept for comparison with them.
    """
    levels = image * 255
    return (levels.round() if rounding == "nearest" else levels).to(torch.uint8)


ValueRange = Literal["signed", "unit", "bytes"]


def to_uint8_like_diffused_heads(
    frames: Float[Tensor, "b 3 h w"], scale: int = 2, value_range: ValueRange | None = "signed"
) -> UInt8[Tensor, "b 3 h2 w2"]:
    """Grey levels as the original of Diffused Heads writes them: 127 v + 127, enlarged bilinearly, then truncated; white is 254.

    Args:
        frames: RGB.
        scale: times larger.
        value_range: `signed` [-1, 1]; `unit` [0, 1], 255 v; `bytes` 0..255. None guesses from the values, as the original does: a video
            in [-1, 1] without any negative value would pass for `unit`.
    """
    if value_range is None:
        value_range = "signed" if frames.min() < 0 else "unit" if frames.max() <= 1 else "bytes"
    factor, shift = {"signed": (127, 127), "unit": (255, 0), "bytes": (1, 0)}[value_range]
    levels = factor * frames + shift
    if scale != 1:
        levels = F.interpolate(levels, scale_factor=scale, mode="bilinear")
    return levels.clamp(0, 255).to(torch.uint8)
