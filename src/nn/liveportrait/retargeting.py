"""S and R: small networks that correct the driving key points, for stitching and for how far eyes and lips are open."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class KeypointMLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        input_size: numbers in.
        hidden_sizes: widths of the layers between.
        output_size: numbers out.
    """

    def __init__(self, input_size: int, hidden_sizes: Sequence[int], output_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in pairwise([input_size, *hidden_sizes, output_size]):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """The corrections."""
        return self.mlp(x)
