"""SadTalker's encoder of mel windows (Zhang et al., CVPR 2023, arXiv:2211.12194; the encoder is Wav2Lip's, arXiv:2008.10010)."""

from jaxtyping import Float
from torch import Tensor, nn

EMBEDDING = 512  # numbers of an embedding

# Channels, kernel, stride (bands, steps), padding; a layer that keeps channels and size adds its input.
_LAYERS: tuple[tuple[int, int, tuple[int, int], int], ...] = (
    (32, 3, (1, 1), 1), (32, 3, (1, 1), 1), (32, 3, (1, 1), 1),
    (64, 3, (3, 1), 1), (64, 3, (1, 1), 1), (64, 3, (1, 1), 1),
    (128, 3, (3, 3), 1), (128, 3, (1, 1), 1), (128, 3, (1, 1), 1),
    (256, 3, (3, 2), 1), (256, 3, (1, 1), 1),
    (512, 3, (1, 1), 0), (EMBEDDING, 1, (1, 1), 0),
)  # fmt: skip


class ConvLayer(nn.Module):
    """Convolution, batch norm, the input where `residual`, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int], padding: int, residual: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The layer's features."""
        y = self.norm(self.conv(x))
        return (y + x if self.residual else y).relu()


class SpeechEncoder(nn.Module):
    """Windows of 80 mel bands by 16 steps (0.2 s) -> one embedding of 512 numbers each, independently of one another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels = 1
        for outputs, kernel, stride, padding in _LAYERS:
            residual = outputs == channels and kernel == 3 and stride == (1, 1)
            self.layers.append(ConvLayer(channels, outputs, kernel, stride, padding, residual))
            channels = outputs

    def forward(self, mels: Float[Tensor, "*b 80 16"]) -> Float[Tensor, "*b 512"]:
        """Embeddings of windows as `src.audio.sadtalker_mel` makes them."""
        x = mels.reshape(-1, 1, *mels.shape[-2:])  # n 1 80 16
        for layer in self.layers:
            x = layer(x)
        return x.reshape(*mels.shape[:-2], EMBEDDING)
