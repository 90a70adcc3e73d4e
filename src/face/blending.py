"""Generated faces brought into the colours of the picture that they are pasted into."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

_ENOUGH = 1e-4  # share of a cell that has to be known for its mean to count whole


def colour_matched(
    made: UInt8[np.ndarray, "t h w 3"], known: UInt8[np.ndarray, "t h w 3"], weights: UInt8[np.ndarray, "t h w 1"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """`made` without its slow difference of colour from `known` at the border of the region that is pasted.

    Where the weights rise from 0 to 255 both pictures show the same skin: their difference there is continued smoothly over the whole
    region and added. Details of `made` stay, and its middle is not compared with what `known` shows there.

    Args:
        made: generated frames.
        known: the frames that they are pasted into.
        weights: of `made`, as `src.face.masks.feathered` gives them; frames without a rising border stay as they are.
    """
    border = torch.from_numpy(((weights > 0) & (weights < 255)).astype(np.float32)).permute(0, 3, 1, 2)
    difference = torch.from_numpy(known.astype(np.float32) - made).permute(0, 3, 1, 2)
    shift = continued(difference, border).permute(0, 2, 3, 1).numpy()
    return np.rint(np.clip(made + shift, 0, 255)).astype(np.uint8)


def continued(values: Float[Tensor, "t c h w"], weights: Float[Tensor, "t 1 h w"]) -> Float[Tensor, "t c h w"]:
    """Values that are known where the weights are positive, continued smoothly over the whole picture: push and pull over a pyramid of
    means (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4). Zero where a picture has no weights at all.
    """
    height, width = values.shape[-2:]
    if height == width == 1:
        return torch.where(weights > 0, values, 0.0)
    pooled = F.avg_pool2d(weights, 2, ceil_mode=True, count_include_pad=False)
    sums = F.avg_pool2d(values * weights, 2, ceil_mode=True, count_include_pad=False)
    means = sums / pooled.clamp(min=1e-12)
    coarse = continued(means, (pooled / _ENOUGH).clamp(max=1.0))
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.lerp(smooth, values, weights)
