"""The convolutions of wav2vec 2.0 and its relatives over sound of any length, in blocks that change nothing.

A convolution without padding sees its receptive field alone, so rows made block by block are those of one pass. What spans the whole
sound is the group norm behind the first convolution of the base models: its means and variances are summed up in a pass of their own.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

BLOCK = 500  # rows at a time, 10 s: memory, not the result


class ConvFrontEnd(nn.Module):
    """Sound -> rows of the convolution stack; the same numbers as the model's own front end in one pass.

    Args:
        layers: the stack; its first layer has a `conv` and, where the model normalises over time, a group norm `layer_norm`.
        kernels: of the layers, in samples of their input.
        strides: idem.
    """

    def __init__(self, layers: nn.ModuleList, kernels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.layers = layers
        self.first_kernel, self.first_stride = kernels[0], strides[0]
        self.stride, self.receptive_field = 1, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            self.receptive_field += (kernel - 1) * self.stride
            self.stride *= stride
        self.norm: _SoundNorm | None = None
        first: Any = layers[0]
        self.first_conv: nn.Module = first.conv
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            self.norm = first.layer_norm = _SoundNorm(first.layer_norm)

    def forward(self, sound: Float[Tensor, " s"]) -> Float[Tensor, "n d"]:
        """Rows `stride` samples apart; row j sees the samples from `j * stride` on, `receptive_field` of them."""
        if self.norm is not None:
            self.norm.measure(self._first_outputs(sound))
        n_rows = (len(sound) - self.receptive_field) // self.stride + 1
        blocks = []
        for start in range(0, n_rows, BLOCK):
            stop = min(start + BLOCK, n_rows)
            x = sound[None, None, start * self.stride : (stop - 1) * self.stride + self.receptive_field]  # 1 c s
            for layer in self.layers:
                x = layer(x)
            blocks.append(x[0].T)
        return torch.cat(blocks)

    def _first_outputs(self, sound: Tensor) -> Iterator[Tensor]:
        """(channels, samples) of the first convolution, every sample once."""
        n_outputs = (len(sound) - self.first_kernel) // self.first_stride + 1
        size = BLOCK * self.stride // self.first_stride
        for start in range(0, n_outputs, size):
            stop = min(start + size, n_outputs)
            begin, end = start * self.first_stride, (stop - 1) * self.first_stride + self.first_kernel
            yield self.first_conv(sound[None, None, begin:end])[0]


class _SoundNorm(nn.Module):
    """A group norm of one channel per group, with means and variances of a whole sound that passes in blocks."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.mean, self.std = torch.zeros(()), torch.ones(())

    def measure(self, blocks: Iterator[Tensor]) -> None:
        """Take means and standard deviations from all blocks (channels, samples) of a sound."""
        count, total, squares = 0, 0.0, 0.0
        for block in blocks:
            block = block.double()
            count += block.shape[1]
            total = total + block.sum(1)
            squares = squares + block.square().sum(1)
        mean = torch.as_tensor(total / count)
        variance = torch.as_tensor(squares / count) - mean.square()
        self.mean = mean.float()[:, None]
        self.std = (variance.clamp_min(0) + self.norm.eps).sqrt().float()[:, None]

    def forward(self, x: Float[Tensor, "1 c s"]) -> Float[Tensor, "1 c s"]:
        """Normalise by what `measure` found."""
        return (x - self.mean) / self.std * self.norm.weight[:, None] + self.norm.bias[:, None]
