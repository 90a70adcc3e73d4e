"""Losses within boxes of the frame."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def mouth_box(points: Float[Tensor, "b n 2"], size: tuple[int, int], margin: int = 5) -> Int64[Tensor, "b 4"]:
    """Box around the lips of each frame: row0, row1, column0, column1, half-open  (section 3.3, arXiv:2301.03396).

    Rows from floor(min y) - margin up to ceil(max y) + margin, columns likewise, within the frame.

    Args:
        points: (x, y) pixels of the frame; NaN where there is no face, which gives an empty box, as lips outside the frame do.
        size: height and width of the frame.
        margin: in pixels.
    """
    known = torch.isfinite(points).all(dim=(1, 2))
    points = torch.where(known[:, None, None], points, torch.zeros_like(points))
    limit = torch.tensor([size[1], size[0]], device=points.device)  # of x, y
    start = (points.amin(dim=1).floor().long() - margin).clamp(min=0).minimum(limit)
    stop = (points.amax(dim=1).ceil().long() + margin).clamp(min=0).minimum(limit)
    stop = torch.where(known[:, None], stop, start)
    return torch.stack([start[:, 1], stop[:, 1], start[:, 0], stop[:, 0]], dim=1)


def box_means(values: Float[Tensor, "b c h w"], boxes: Int64[Tensor, "b 4"]) -> Float[Tensor, " b"]:
    """Mean of each frame's values within its box (row0, row1, column0, column1; half-open); 0 for an empty box."""
    rows = torch.arange(values.shape[2], device=values.device)
    columns = torch.arange(values.shape[3], device=values.device)
    row0, row1, column0, column1 = boxes[:, :, None].unbind(dim=1)
    inside_rows = ((row0 <= rows) & (rows < row1)).to(values.dtype)  # b h
    inside_columns = ((column0 <= columns) & (columns < column1)).to(values.dtype)  # b w
    sums = torch.einsum("bchw,bh,bw->b", values, inside_rows, inside_columns)
    counts = values.shape[1] * inside_rows.sum(dim=1) * inside_columns.sum(dim=1)
    return sums / counts.clamp(min=1)


def boxed_loss(values: Float[Tensor, "b c h w"], boxes: Int64[Tensor, "b 4"]) -> Float[Tensor, ""]:
    """Mean of `box_means` over the frames whose box is not empty; 0 if all are."""
    filled = (boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])
    return box_means(values, boxes).sum() / filled.sum().clamp(min=1)
