"""The latent of a clip: three planes, side by side as one sequence of positions.

xy   (h, w)   what stays: a picture of the whole clip
yt   (t, w)   what moves, seen from above: time by image column. The names are those of PVDM's code (arXiv:2302.07685)
xt   (t, h)   what moves, seen from the side: time by image row
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

PLANES = ("xy", "yt", "xt")  # in the order of the sequence


@dataclass(frozen=True)
class PlaneShape:
    """Frames, rows and columns of the cells that a clip is divided into."""

    frames: int
    height: int
    width: int

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of each plane."""
        return {
            "xy": (self.height, self.width),
            "yt": (self.frames, self.width),
            "xt": (self.frames, self.height),
        }

    @property
    def picture(self) -> int:
        """Positions of the first plane."""
        return self.height * self.width

    @property
    def length(self) -> int:
        """Positions of all planes."""
        return sum(rows * columns for rows, columns in self.sizes.values())

    def split(self, latent: Float[Tensor, "b c n"]) -> list[Float[Tensor, "b c rows columns"]]:
        """The planes as maps, in their order.

        Raises:
            ValueError: a sequence of another length.
        """
        if latent.shape[-1] != self.length:
            raise ValueError(
                f"a latent of {latent.shape[-1]} positions: {self.frames} frames of {self.height}x{self.width} cells have {self.length}"
            )
        parts = latent.split([rows * columns for rows, columns in self.sizes.values()], dim=-1)
        return [part.unflatten(-1, size) for part, size in zip(parts, self.sizes.values(), strict=True)]

    def seen_in(self, boxes: Int64[Tensor, "b t 4"], patch: int) -> Bool[Tensor, "b n"]:
        """Positions that see something of a box: cells, columns and rows that it touches in any or in that frame.

        Args:
            boxes: (row0, row1, column0, column1) of each frame in pixels, half-open; an empty one is seen nowhere.
            patch: height and width of a cell in pixels.
        """
        row0, row1, column0, column1 = boxes[..., None].unbind(dim=-2)  # b t 1
        filled = (row1 > row0) & (column1 > column0)
        row, column = (torch.arange(n, device=boxes.device) * patch for n in (self.height, self.width))
        rows = (row < row1) & (row + patch > row0) & filled  # b t h
        columns = (column < column1) & (column + patch > column0) & filled  # b t w
        cells = (rows[..., None] & columns[..., None, :]).any(dim=1)
        return torch.cat([cells.flatten(1), columns.flatten(1), rows.flatten(1)], dim=1)


def join(planes: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "b c n"]:
    """The planes as one sequence."""
    return torch.cat([plane.flatten(2) for plane in planes], dim=-1)
