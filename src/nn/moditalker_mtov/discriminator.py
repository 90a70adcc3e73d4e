"""The discriminators of the autoencoder's training: of single frames and of whole clips (PVDM, arXiv:2302.07685, appendix B)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONVS = {2: nn.Conv2d, 3: nn.Conv3d}


class ClipDiscriminator(nn.Module):
    """Says of every patch whether it looks real, and what it saw on the way there.

    Args:
        dims: 2 for frames (2 766 529 parameters by default), 3 for clips (11 057 857).
        in_channels: of the pictures.
        channels: width of the first stage; it doubles per stage.
        n_layers: stages behind the first one; all but the last of them halve the size, as the first one does.
    """

    def __init__(self, dims: Literal[2, 3], in_channels: int = 3, channels: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        conv, norm = _CONVS[dims], _NORMS[dims]
        stages = [nn.Sequential(conv(in_channels, channels, 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        width = channels
        for i in range(1, n_layers + 1):
            before, width = width, channels * min(2**i, 8)
            stride = 2 if i < n_layers else 1
            stages.append(
                nn.Sequential(conv(before, width, 4, stride=stride, padding=2), norm(width), nn.LeakyReLU(0.2))
            )
        stages.append(nn.Sequential(conv(width, 1, 4, padding=2)))
        self.stages = nn.ModuleList(stages)
        self.apply(_initialise)

    def forward(self, x: Float[Tensor, "b c *size"]) -> list[Tensor]:
        """Outputs of all stages; the last one, (b, 1, ...), are the logits, positive for real patches."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def _initialise(layer: nn.Module) -> None:
    """Normal weights of deviation 0.02 (pix2pix, arXiv:1611.07004, section 6.2)."""
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
