"""I3D: actions in videos, by Inception-v1 inflated to three dimensions (arXiv:1705.07750); its logits are what FVD compares.

The modules carry the names of the published network's end points, so that `i3d_pretrained_400.pt` loads as it is, with `strict=True`:
12 697 264 parameters for the 400 classes of Kinetics.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

N_CLASSES, N_FEATURES = 400, 1024
INPUT_SIZE = 224  # height and width of the frames
MIN_FRAMES = 9  # shorter clips leave one time step, and the last pool spans two
_FINAL_POOL = (2, 7, 7)

# Channels of a mixed block: b0; b1a, b1b; b2a, b2b; b3b (arXiv:1409.4842, table 1, by the names of the published weights).
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x: Float[Tensor, "b c t h w"], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around the clip as TensorFlow's "SAME" puts them: the odd one of an axis at its end."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (size % s or s), 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad counts axes from the last one
    return F.pad(x, padding) if any(padding) else x


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-5, momentum=0.001)
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Features; each axis is shorter by the stride, rounded up."""
        return self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))).relu()


class MaxPool(nn.Module):
    """Largest value of a window that may reach beyond the clip, where it finds zeros."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Features; each axis is shorter by the stride, rounded up."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side: 1x1x1; 3x3x3; a narrower 3x3x3; a pool."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(inputs, b0)
        self.b1a, self.b1b = Unit(inputs, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inputs, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b)
        self.outputs = b0 + b1b + b2b + b3b

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        """The branches' features in the order of their names."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(nn.Module):
    """Clips -> logits of 400 actions; always in eval mode and without gradients of its own weights."""

    def __init__(self) -> None:
        super().__init__()
        for name, module in _end_points().items():
            self.add_module(name, module)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(N_FEATURES, N_CLASSES, 1)})
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "I3D":
        """Stays in eval mode: the statistics of the batch norms are part of the published weights."""
        return super().train(False)

    def features(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 1024 t2"]:
        """Pooled features of each time step that is left of clips of RGB frames in [-1, 1].

        Raises:
            ValueError: clips of fewer than 9 frames, or frames so small that the last pool does not fit.
        """
        x = clips
        for name, module in self.named_children():
            x = x if name == "logits" else module(x)
        if any(size < needed for size, needed in zip(x.shape[2:], _FINAL_POOL, strict=True)):
            raise ValueError(
                f"I3D takes clips of at least {MIN_FRAMES} frames of {INPUT_SIZE}x{INPUT_SIZE}, found {tuple(clips.shape[2:])}."
            )
        return F.avg_pool3d(x, _FINAL_POOL, stride=1).mean(dim=(3, 4))

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 400"]:
        """Logits before the softmax, mean over the time steps that are left, of clips of RGB frames in [-1, 1]."""
        pooled = self.features(clips)[..., None, None]  # b 1024 t2 1 1
        return self.logits["conv3d"](pooled).mean(dim=(2, 3, 4))


def _end_points() -> "OrderedDict[str, nn.Module]":
    """The layers up to the last mixed block, by their published names."""
    halve_plane = ((1, 3, 3), (1, 2, 2))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        Conv3d_1a_7x7=Unit(3, 64, 7, 2),
        MaxPool3d_2a_3x3=MaxPool(*halve_plane),
        Conv3d_2b_1x1=Unit(64, 64),
        Conv3d_2c_3x3=Unit(64, 192, 3),
        MaxPool3d_3a_3x3=MaxPool(*halve_plane),
    )
    channels = 192
    for name, widths in _MIXED.items():
        if name == "Mixed_4b":
            layers["MaxPool3d_4a_3x3"] = MaxPool((3, 3, 3), (2, 2, 2))
        elif name == "Mixed_5b":
            layers["MaxPool3d_5a_2x2"] = MaxPool((2, 2, 2), (2, 2, 2))
        layers[name] = block = Mixed(channels, widths)
        channels = block.outputs
    return layers
