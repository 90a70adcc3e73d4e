"""The patch discriminator of the first stage (pix2pix, arXiv:1611.07004, section 3.2.2)."""

from jaxtyping import Float
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Says of every patch of a frame whether it looks real: 70x70 pixels by default, 2 765 633 parameters.

    Args:
        in_channels: of the frames.
        channels: width of the first layer; it doubles per layer, up to eight times as much.
        n_layers: layers with stride 2; one without and the logits follow.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, n_layers + 1):
            before, width = width, channels * min(2**i, 8)
            stride = 2 if i < n_layers else 1
            # The normalisation has a shift of its own.
            layers += [nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """Logits of the patches, positive for real ones."""
        return self.main(frames)


def _initialise(layer: nn.Module) -> None:
    """Normal weights of deviation 0.02, as in pix2pix (section 6.2); biases of convolutions stay as the framework draws them."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
