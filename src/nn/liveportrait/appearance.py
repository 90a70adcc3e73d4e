"""F, the appearance feature extractor: a portrait becomes a volume of features (section 3.1 of arXiv:2407.03168)."""

from jaxtyping import Float
from torch import Tensor, nn

from src.errors import ConfigError
from src.nn.liveportrait.layers import ConvNormReLU, ResidualBlock3d, feature_channels


class AppearanceFeatureExtractor(nn.Module):
    """The portrait as a volume, `reshape_channel` features in `reshape_depth` layers, at a quarter of its size.

    The defaults are the published sizes, 0.8 million parameters.

    Args:
        image_channel: of the portrait.
        block_expansion: channels of the first convolution; each block doubles them.
        num_down_blocks: blocks that halve height and width.
        max_features: most channels; the product of the next two.
        reshape_channel: channels of the volume.
        reshape_depth: layers of the volume.
        num_resblocks: residual blocks over the volume.

    Raises:
        ConfigError: `max_features` is not `reshape_channel * reshape_depth`.
    """

    def __init__(
        self,
        image_channel: int = 3,
        block_expansion: int = 64,
        num_down_blocks: int = 2,
        max_features: int = 512,
        reshape_channel: int = 32,
        reshape_depth: int = 16,
        num_resblocks: int = 6,
    ) -> None:
        super().__init__()
        if max_features != reshape_channel * reshape_depth:
            raise ConfigError(
                f"max_features={max_features}: give the product of reshape_channel={reshape_channel} and "
                f"reshape_depth={reshape_depth}."
            )
        self.reshape_depth = reshape_depth
        widths = [feature_channels(max_features, block_expansion, i) for i in range(num_down_blocks + 1)]
        self.first = ConvNormReLU(image_channel, block_expansion)
        self.down_blocks = nn.ModuleList(
            ConvNormReLU(widths[i], widths[i + 1], pool=True) for i in range(num_down_blocks)
        )
        self.second = nn.Conv2d(widths[-1], max_features, 1)
        self.resblocks_3d = nn.Sequential()
        for i in range(num_resblocks):
            self.resblocks_3d.add_module(f"3dr{i}", ResidualBlock3d(reshape_channel))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e d h2 w2"]:
        """The volume of features.

        Args:
            image: RGB in [0, 1], 256 x 256 as published; sides that `2 ** num_down_blocks` divides.
        """
        x = self.first(image)
        for block in self.down_blocks:
            x = block(x)
        x = self.second(x)
        volume = x.reshape(len(x), -1, self.reshape_depth, *x.shape[2:])  # b e d h w
        return self.resblocks_3d(volume)
