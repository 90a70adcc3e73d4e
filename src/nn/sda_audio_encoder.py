"""The audio encoder of Speech-Driven Animation (Vougioukas et al., arXiv:1906.06337), which Diffused Heads takes its embeddings from.

A stack of strided convolutions turns every window of sound into one code, independently of the others; a GRU runs over the codes.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

FIRST_CHANNELS = 16  # doubled by every further layer


@dataclass(frozen=True)
class ConvLayer:
    """Sizes of one convolution, in samples of its input."""

    kernel: int
    stride: int
    padding: int

    def output_length(self, length: int) -> int:
        """Samples that `length` samples become."""
        return (length + 2 * self.padding - self.kernel) // self.stride + 1


def plan_layers(length: int, first: tuple[int, int] | None) -> list[ConvLayer]:
    """The convolutions that shorten a window of `length` samples to one; the last one spans all that the others leave.

    Behind the first layer, strides are the prime factors of the length it leaves, ascending, and kernels twice the strides.

    Args:
        length: samples of a window.
        first: kernel and stride of the first layer; None: that one follows the rule as well.

    Raises:
        ValueError: the window is too short for the first layer, or its length too simple a number to be divided.
    """
    layers: list[ConvLayer] = []
    if first is not None:
        layers.append(_padded(*first, length))
        length = layers[0].output_length(length)
    for factor in _prime_factors(length)[:-1]:  # the last factor's place is taken by the layer that spans the rest
        layers.append(_padded(2 * factor, factor, length))
        length = layers[-1].output_length(length)
    if not layers or length < 1:
        raise ValueError(
            f"windows that leave {length} samples cannot be divided into layers; choose another window length"
        )
    return [*layers, ConvLayer(kernel=length, stride=1, padding=0)]


def _padded(kernel: int, stride: int, length: int) -> ConvLayer:
    """A layer whose padding makes the output `ceil(length / stride)` long, the same on both sides, rounded up."""
    missing = (math.ceil(length / stride) - 1) * stride + kernel - length
    return ConvLayer(kernel, stride, max(0, math.ceil(missing / 2)))


def _prime_factors(number: int) -> list[int]:
    """Ascending, with repetitions; empty for 1."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


class WindowEncoder(nn.Module):
    """One window of sound -> one code in (-1, 1).

    Args:
        length: samples of a window.
        code_size: numbers of a code.
        first: kernel and stride of the first convolution, in samples; None: by the rule of `plan_layers`.
    """

    def __init__(self, length: int, code_size: int, first: tuple[int, int] | None) -> None:
        super().__init__()
        *strided, last = plan_layers(length, first)
        self.layers = nn.ModuleList()
        channels = 1
        for i, layer in enumerate(strided):
            wider = FIRST_CHANNELS * 2**i
            conv = nn.Conv1d(channels, wider, layer.kernel, layer.stride, layer.padding)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm1d(wider), nn.ReLU()))
            channels = wider
        self.layers.append(nn.Sequential(nn.Conv1d(channels, code_size, last.kernel), nn.Tanh()))

    def forward(self, windows: Float[Tensor, "n s"]) -> Float[Tensor, "n d"]:
        """Codes of windows of sound in [-1, 1]."""
        x = windows.unsqueeze(1)  # n 1 s
        for layer in self.layers:
            x = layer(x)
        return x.squeeze(-1)


class SDAAudioEncoder(nn.Module):
    """Windows of sound -> one embedding per window; causal, with a state that continues a sound where the last call stopped.

    The arguments are the original's. Published encoders have the defaults.

    Args:
        feat_length: seconds of a window.
        enc_code_size: numbers of a window's code.
        rnn_code_size: numbers of an embedding.
        rate: samples per second.
        n_layers: of the GRU.
        init_kernel: seconds of the first convolution's kernel; None, as `init_stride`: by the rule of the other layers.
        init_stride: seconds of its stride.
    """

    def __init__(
        self,
        feat_length: float = 0.2,
        enc_code_size: int = 256,
        rnn_code_size: int = 256,
        rate: int = 16_000,
        n_layers: int = 2,
        init_kernel: float | None = 0.005,
        init_stride: float | None = 0.001,
    ) -> None:
        super().__init__()
        self.rate = rate
        self.window = int(feat_length * rate)
        both = init_kernel is not None and init_stride is not None
        first = (int(init_kernel * rate), int(init_stride * rate)) if both else None
        self.encoder = WindowEncoder(self.window, enc_code_size, first)
        self.gru = nn.GRU(enc_code_size, rnn_code_size, n_layers, batch_first=True)

    def forward(
        self, windows: Float[Tensor, "b t s"], state: Float[Tensor, "l b d"] | None = None
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "l b d"]]:
        """Embeddings of windows in temporal order, and the state after the last one.

        Args:
            windows: sound in [-1, 1], `window` samples each.
            state: what the call for the sound before returned; None at the beginning.
        """
        b, t, _ = windows.shape
        codes = self.encoder(windows.flatten(0, 1)).unflatten(0, (b, t))
        return self.gru(codes, state)
