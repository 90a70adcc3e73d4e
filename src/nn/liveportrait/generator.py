"""G, the decoder: warped features become a picture, through spatially-adaptive normalisation (SPADE, arXiv:1903.07291)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from src.nn.liveportrait.layers import feature_channels, not_bfloat16, widened

HIDDEN = 128  # of every SPADE layer
SLOPE = 0.2
N_MIDDLE = 6


class SPADE(nn.Module):
    """Instance norm whose scale and shift are computed from the segmentation map at each pixel.

    Args:
        channels: of what is normalised.
        label_channels: of the segmentation map.
    """

    def __init__(self, channels: int, label_channels: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(label_channels, HIDDEN, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"], seg: Float[Tensor, "b l h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The normalised features; `seg` may be smaller than `x`."""
        hidden = self.mlp_shared(F.interpolate(seg, size=x.shape[2:]))
        scale, shift = widened(self.mlp_gamma(hidden)), widened(self.mlp_beta(hidden))
        return F.instance_norm(widened(x)) * (1 + scale) + shift


class SPADEResBlock(nn.Module):
    """Two spectrally normalised convolutions behind SPADE layers, beside a shortcut, which is normalised where widths differ."""

    def __init__(self, in_channels: int, out_channels: int, label_channels: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.conv_0 = spectral_norm(nn.Conv2d(in_channels, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, out_channels, 3, padding=1))
        self.norm_0 = SPADE(in_channels, label_channels)
        self.norm_1 = SPADE(middle, label_channels)
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.norm_s = SPADE(in_channels, label_channels)

    def forward(self, x: Float[Tensor, "b c h w"], seg: Float[Tensor, "b l h2 w2"]) -> Float[Tensor, "b d h w"]:
        """The features."""
        shortcut = self.conv_s(self.norm_s(x, seg)) if self.learned_shortcut else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, seg), SLOPE))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, seg), SLOPE))
        return widened(shortcut) + widened(y)


class SPADEDecoder(nn.Module):
    """Warped features -> RGB, whose own input is the segmentation map of all its layers.

    The defaults are the published sizes: 64 x 64 features become 512 x 512 pixels, 55.4 million parameters.

    Args:
        upscale: of the last step; 1: none.
        max_features: see `WarpingModule`.
        block_expansion: see `WarpingModule`.
        out_channels: before the last convolution.
        num_down_blocks: see `WarpingModule`.
    """

    def __init__(
        self,
        upscale: int = 2,
        max_features: int = 512,
        block_expansion: int = 64,
        out_channels: int = 64,
        num_down_blocks: int = 2,
    ) -> None:
        super().__init__()
        label = feature_channels(max_features, block_expansion, num_down_blocks)
        self.upscale = max(upscale, 1)
        self.fc = nn.Conv2d(label, 2 * label, 3, padding=1)
        for i in range(N_MIDDLE):
            self.add_module(f"G_middle_{i}", SPADEResBlock(2 * label, 2 * label, label))
        self.up_0 = SPADEResBlock(2 * label, label, label)
        self.up_1 = SPADEResBlock(label, out_channels, label)
        last = nn.Conv2d(out_channels, 3 * self.upscale**2, 3, padding=1)
        self.conv_img = nn.Sequential(last, nn.PixelShuffle(self.upscale)) if self.upscale > 1 else last

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """RGB in [0, 1], `4 * upscale` times as large as the features."""
        features = widened(features)
        with not_bfloat16(features.device):
            x = self.fc(features)
            for i in range(N_MIDDLE):
                x = self.get_submodule(f"G_middle_{i}")(x, features)
        for block in (self.up_0, self.up_1):
            x = block(F.interpolate(x, scale_factor=2), features)
        return torch.sigmoid(widened(self.conv_img(F.leaky_relu(x, SLOPE))))

    def fold_spectral_norm(self) -> None:
        """Divide each weight by its norm once and for all: faster, same frames, not to be trained or saved in the original's form."""
        training = self.training
        self.eval()  # else the norms would be estimated anew
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        self.train(training)
