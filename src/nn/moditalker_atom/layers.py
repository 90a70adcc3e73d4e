"""What the published and the repaired motion decoder of AToM have in common."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

WAVELENGTH = 10_000


def rotary_frequencies(dim: int) -> Float[Tensor, " n"]:
    """Angles per position of the dim / 2 pairs, 10000^(-2i / dim), in float32 (arXiv:2104.09864, equation 15)."""
    return 1.0 / (WAVELENGTH ** (torch.arange(0, dim, 2, device="cpu").float() / dim))


def rotate(
    x: Float[Tensor, "*b n d"], positions: Float[Tensor, " n"], frequencies: Float[Tensor, " half"]
) -> Float[Tensor, "*b n d"]:
    """Features whose neighbouring pairs are turned by position x frequency: rotary position embedding."""
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def time_embedding(timesteps: Int64[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """Sines, then cosines of the time steps at dim / 2 frequencies from 1 to 1/10000.

    The order of the operations is the original's: at time step 1000 another one changes the angles by 1e-4.
    """
    half = dim // 2
    steps = torch.arange(half, device=timesteps.device)
    angles = timesteps[:, None] * torch.exp(steps * -(math.log(WAVELENGTH) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sinusoidal_positions(n: int, dim: int) -> Float[Tensor, "n dim"]:
    """Sines at even and cosines at odd features (arXiv:1706.03762, section 3.5)."""
    frequencies = torch.exp(torch.arange(0, dim, 2, device="cpu").float() * (-math.log(WAVELENGTH) / dim))
    angles = torch.arange(n, device="cpu").float()[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Film(nn.Module):
    """Scales and shifts features by a condition: (1 + scale) x + shift (FiLM, arXiv:1709.07871)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def scale_and_shift(self, condition: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b 1 d"]]:
        """The two factors, the same for all tokens."""
        scale, shift = self.linear(F.mish(condition))[:, None].chunk(2, dim=-1)
        return scale, shift

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """The modulated features."""
        scale, shift = self.scale_and_shift(condition)
        return (1 + scale) * x + shift


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(hidden, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n out"]:
        """Token by token."""
        return self.second(self.dropout(F.gelu(self.first(x))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward net, norms first.

    Args:
        attention: maps (tokens, tokens, what else it is told) to tokens.
        dim: width of the tokens.
        ff_dim: hidden width of the feed-forward net.
        dropout: of what attention and feed-forward net add.
    """

    def __init__(self, attention: nn.Module, dim: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = attention
        self.feed_forward = FeedForward(dim, ff_dim, dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], told: Tensor | None) -> Float[Tensor, "b n d"]:
        """Tokens that have looked at each other; `told` is the attention's third argument: rotary frequencies, or which tokens count."""
        normed = self.norm1(x)
        x = x + self.dropout(self.attention(normed, normed, told))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


def summary(dim: int) -> nn.Sequential:
    """From the mean of tokens to a vector that conditions others."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
