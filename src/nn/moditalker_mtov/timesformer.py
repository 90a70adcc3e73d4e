"""Transformers over the cells of a clip: attention along time, then within each frame (TimeSformer, arXiv:2102.05095), as PVDM has it.

Legend: `b` clips, `t` frames, `n` cells of a frame, `d` width.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FINEST_SCALE = 5.0  # of the angles of cells

Rotation = tuple[Tensor, Tensor]
"""Sines and cosines (n, r) by which the first r channels of a head are turned."""


def turn(x: Float[Tensor, "... n d"], rotation: Rotation) -> Float[Tensor, "... n d"]:
    """x cos + x' sin, where x' of the neighbours (u, v) is (-v, u); channels beyond the tables stay as they are."""
    sin, cos = rotation
    turned, rest = x[..., : sin.shape[-1]], x[..., sin.shape[-1] :]
    pairs = turned.unflatten(-1, (-1, 2))
    quarter = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    rotated = turned * cos + quarter * sin
    return torch.cat([rotated, rest], dim=-1) if rest.shape[-1] else rotated


class TimeRotation(nn.Module):
    """Angles of frames: frame index x 10000^(-2i/d).

    The table lists the frequencies twice one after the other, while neighbouring channels are turned together: the two of a pair get
    different angles, so this is no rotation in the sense of RoFormer (arXiv:2104.09864). Published weights were trained so.
    """

    frequencies: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2).float() / head_dim
        self.register_buffer("frequencies", 1.0 / (10000**exponents))

    def forward(self, n_frames: int) -> Rotation:
        """Tables of so many frames."""
        index = torch.arange(n_frames, device=self.frequencies.device).to(self.frequencies)
        angles = (index[:, None] * self.frequencies).repeat(1, 2)
        return angles.sin(), angles.cos()


class SpaceRotation(nn.Module):
    """Angles of cells: pi x coordinate in [-1, 1] x scale, for rows and then columns, with scales from 1 to 5."""

    scales: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.logspace(0.0, math.log2(FINEST_SCALE), head_dim // 4, base=2))

    def forward(self, height: int, width: int) -> Rotation:
        """Tables of the cells of a frame, row by row."""
        rows, columns = (torch.linspace(-1, 1, n, device=self.scales.device).to(self.scales) for n in (height, width))
        by_row = (rows[:, None] * self.scales * math.pi)[:, None].expand(height, width, -1)
        by_column = (columns[:, None] * self.scales * math.pi)[None].expand(height, width, -1)
        angles = torch.cat([by_row, by_column], dim=-1).flatten(0, 1).repeat_interleave(2, dim=-1)
        return angles.sin(), angles.cos()


class Attention(nn.Module):
    """Self-attention of normalised tokens over the last but one axis; what is to be added to them."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Float[Tensor, "... n d"], rotation: Rotation | None = None) -> Float[Tensor, "... n d"]:
        """Attended tokens, turned by their places where `rotation` says so."""
        # One batch axis: the fused kernels know no more.
        qkv = self.qkv(self.norm(x)).flatten(0, -3)
        q, k, v = rearrange(qkv, "b n (part head c) -> part b head n c", part=3, head=self.heads)
        if rotation is not None:
            q, k = turn(q, rotation), turn(k, rotation)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(attended, "b head n c -> b n (head c)")).reshape(x.shape)

    def of_first(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
        """What `forward` makes of the first token alone, which looks at all of them."""
        normed = self.norm(x)
        width = self.out.in_features
        q = F.linear(normed[:, :1], self.qkv.weight[:width])
        q = rearrange(q, "b n (head c) -> b head n c", head=self.heads)
        kv = F.linear(normed, self.qkv.weight[width:])
        k, v = rearrange(kv, "b n (part head c) -> part b head n c", part=2, head=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(attended, "b head n c -> b n (head c)"))


class GatedFeedForward(nn.Module):
    """W2 (u GELU(g)) with (u, g) = W1 x of the normalised tokens (GEGLU, arXiv:2002.05202)."""

    def __init__(self, dim: int, factor: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * factor * dim)
        self.narrow = nn.Linear(factor * dim, dim)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """What is to be added to the tokens."""
        value, gate = self.widen(self.norm(x)).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))


class Layer(nn.Module):
    """Attention of each cell over time, of the cells of each frame, and a feed-forward network, all added to the tokens."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.time_attention = Attention(dim, heads, head_dim)
        self.space_attention = Attention(dim, heads, head_dim)
        self.feed_forward = GatedFeedForward(dim)

    def forward(self, x: Float[Tensor, "b t n d"], time: Rotation, space: Rotation) -> Float[Tensor, "b t n d"]:
        """The tokens after the layer."""
        x = x + self.time_attention(x.transpose(1, 2), time).transpose(1, 2)
        x = x + self.space_attention(x, space)
        return x + self.feed_forward(x)


class TimeSformer(nn.Module):
    """Layers over the cells of clips; nothing is added to the tokens for their places, and there is no norm at the end.

    Args:
        dim: width of the tokens.
        depth: layers.
        heads: of the attention.
        head_dim: width of a head.
        gradient_checkpointing: recompute each layer's activations in the backward pass instead of keeping them.
    """

    def __init__(
        self, dim: int, depth: int = 8, heads: int = 8, head_dim: int = 64, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.time_rotation = TimeRotation(head_dim)
        self.space_rotation = SpaceRotation(head_dim)
        self.layers = nn.ModuleList(Layer(dim, heads, head_dim) for _ in range(depth))

    def forward(self, cells: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b t h w d"]:
        """The cells after all layers."""
        time, space = self.time_rotation(cells.shape[1]), self.space_rotation(cells.shape[2], cells.shape[3])
        x = cells.flatten(2, 3)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            x = checkpoint(layer, x, time, space, use_reentrant=False) if recompute else layer(x, time, space)
        return x.reshape(cells.shape)


class PatchEmbedding(nn.Module):
    """Squares of pixels as tokens; their values in the order row, column, channel."""

    def __init__(self, dim: int, patch: int, channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(channels * patch**2, dim)

    def forward(self, video: Float[Tensor, "b t c height width"]) -> Float[Tensor, "b t h w d"]:
        """A token per square."""
        return self.linear(rearrange(video, "b t c (h p) (w q) -> b t h w (p q c)", p=self.patch, q=self.patch))
