"""The building blocks of Diffused Heads' U-Net (arXiv:2301.03396): residual blocks that time, voice and face modulate, and attention.

Legend: `b` batch, `c` channels, `h w` pixels, `e` width of the embeddings.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from src.errors import ConfigError
from src.nn.attention import attend_by_head

IdentityCondition = Literal["frame", "pre_gn", "post_gn"]
AudioCondition = Literal["pre_gn", "post_gn", "double_pre_gn", "attention"]
Resampling = Literal["down", "up"]


Embeddings = Mapping[str, Tensor]
"""What conditions the blocks, each (b, e): `time` with all that is added to it; `audio` and `identity` where blocks take them."""


def resample(x: Float[Tensor, "b c h w"], direction: Resampling | None) -> Float[Tensor, "b c h2 w2"]:
    """Half the size by averaging 2x2 pixels, twice the size by repeating them, or x itself."""
    if direction == "down":
        return F.avg_pool2d(x, 2)
    if direction == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero: a block that starts as its skip connection."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def broadcast(vector: Float[Tensor, "b c"]) -> Float[Tensor, "b c 1 1"]:
    """A value per channel, for feature maps."""
    return vector[:, :, None, None]


class Resample(nn.Module):
    """Pooling or upsampling without weights, between the levels of a U-Net whose residual blocks do not resample."""

    def __init__(self, direction: Resampling) -> None:
        super().__init__()
        self.direction: Resampling = direction

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c h2 w2"]:
        """The resampled feature map."""
        return resample(x, self.direction)


class ResidualBlock(nn.Module):
    """Two convolutions around a conditioned normalisation.

        h = conv(resample(SiLU(GN(x))))
        h = GN(h) (1 + t_s) + t_b                    time; with all that is added to its embedding
        h = h (1 + a_s) + a_b   or   h = h a         audio: double_pre_gn, post_gn (equation 5, where the paper's scales have no 1)
        h = h i                                      identity: post_gn
        y = skip(resample(x)) + conv(dropout(SiLU(h)))

    Args:
        in_channels, out_channels: multiples of `groups`.
        embedding_dim: width of the embeddings; 0 for a block without conditions.
        dropout: rate.
        groups: of the normalisations.
        resampling: of the block's input.
        audio_scale, audio_shift: audio scales, or scales and shifts, the activations.
        identity_scale: the identity scales them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        dropout: float,
        groups: int,
        resampling: Resampling | None = None,
        *,
        audio_condition: AudioCondition | None = None,
        identity_scale: bool = False,
    ) -> None:
        super().__init__()
        self.resampling: Resampling | None = resampling
        self.audio_condition = audio_condition
        self.in_norm = nn.GroupNorm(groups, in_channels)
        self.in_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_proj = nn.Linear(embedding_dim, 2 * out_channels) if embedding_dim else None
        audio_width = {"double_pre_gn": 2 * out_channels, "post_gn": out_channels}.get(audio_condition or "", 0)
        self.audio_proj = nn.Linear(embedding_dim, audio_width) if audio_width else None
        self.identity_proj = nn.Linear(embedding_dim, out_channels) if identity_scale else None
        self.out_norm = nn.GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.out_conv = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c2 h2 w2"]:
        """The block's output."""
        h = self.in_conv(resample(F.silu(self.in_norm(x)), self.resampling))
        h = self._modulate(self.out_norm(h), embeddings)
        h = self.out_conv(self.dropout(F.silu(h)))
        return self.skip(resample(x, self.resampling)) + h

    def _modulate(self, h: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c h w"]:
        if self.time_proj is not None:
            scale, shift = broadcast(self.time_proj(F.silu(embeddings["time"]))).chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        if self.audio_proj is not None:
            audio = broadcast(self.audio_proj(F.silu(embeddings["audio"])))
            if self.audio_condition == "post_gn":
                h = h * audio
            else:
                scale, shift = audio.chunk(2, dim=1)
                h = torch.addcmul(shift, h, 1 + scale)
        if self.identity_proj is not None:
            h = h * broadcast(self.identity_proj(F.silu(embeddings["identity"])))
        return h


class SelfAttention(nn.Module):
    """Every position of the feature map looks at all others; `x + proj(attention(GN(x)))`."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c h w"]:
        """The block's output."""
        attended = attend_by_head(self.qkv(self.norm(x).flatten(2)), self.heads)
        return x + self.proj(attended).reshape(x.shape)


class AudioAttention(nn.Module):
    """Every position looks at the sound, which is spread over as many positions as the feature map has.

    As in the original, the channels are concatenated as [q | k | v] but read as `[head][q | k | v]`: with more than one head, queries,
    keys and values trade places between heads. Weights trained that way need it; a single head is what one expects.
    """

    def __init__(self, channels: int, heads: int, groups: int, embedding_dim: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.side = side
        self.sound_proj = nn.Linear(embedding_dim, side**2)
        self.x_norm = nn.GroupNorm(groups, channels)
        self.sound_norm = nn.GroupNorm(groups, channels)
        self.q = nn.Conv1d(channels, channels, 1)
        self.kv = nn.Conv1d(channels, 2 * channels, 1)
        self.proj = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c h w"]:
        """The block's output.

        Raises:
            ValueError: the feature map has another size than the network was built for.
        """
        if x.shape[2:] != (self.side, self.side):
            raise ValueError(f"audio attention is tied to {self.side}x{self.side} cells, not {x.shape[2]}x{x.shape[3]}")
        sound = self.sound_proj(embeddings["audio"])[:, None].expand(-1, x.shape[1], -1)
        qkv = torch.cat([self.q(self.x_norm(x).flatten(2)), self.kv(self.sound_norm(sound))], dim=1)
        return x + self.proj(attend_by_head(qkv, self.heads)).reshape(x.shape)


class Stage(nn.ModuleList):
    """Blocks that run one after the other, with the same embeddings."""

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c2 h2 w2"]:
        """The last block's output."""
        for block in self:
            x = block(x, embeddings)
        return x


class Stem(nn.Module):
    """The first convolution, called like every other block."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"], embeddings: Embeddings) -> Float[Tensor, "b c2 h w"]:
        """Convolution of the input."""
        return self.conv(x)


class Blocks:
    """Makes the blocks of one network: all with the same embeddings, normalisation, dropout and attention.

    Args:
        groups: of the normalisations.
        dropout: rate in residual blocks.
        resblock_updown: residual blocks change the resolution, not plain pooling.
        attention_factors: downsampling factors at which attention follows a residual block.
        num_heads, num_head_channels: heads of the attention; a fixed width per head where `num_head_channels` is not -1.
        side: height and width of the input, for audio attention.
        embedding_dim: width of the embeddings; 0 for blocks without conditions.
        audio_condition, identity_condition: how the blocks take them; None: not at all.
    """

    def __init__(
        self,
        *,
        groups: int,
        dropout: float,
        resblock_updown: bool,
        attention_factors: Sequence[int],
        num_heads: int,
        num_head_channels: int,
        side: int,
        embedding_dim: int = 0,
        audio_condition: AudioCondition | None = None,
        identity_condition: IdentityCondition | None = None,
    ) -> None:
        self.groups = groups
        self.dropout = dropout
        self.resblock_updown = resblock_updown
        self.attention_factors = attention_factors
        self.num_heads = num_heads
        self.num_head_channels = num_head_channels
        self.side = side
        self.embedding_dim = embedding_dim
        self.audio_condition = audio_condition
        self.identity_condition = identity_condition

    def residual(self, in_channels: int, out_channels: int, resampling: Resampling | None = None) -> ResidualBlock:
        """A residual block."""
        return ResidualBlock(
            in_channels,
            out_channels,
            self.embedding_dim,
            self.dropout,
            self.groups,
            resampling,
            audio_condition=self.audio_condition,
            identity_scale=self.identity_condition == "post_gn",
        )

    def resampling(self, channels: int, direction: Resampling) -> nn.Module:
        """A block between two levels."""
        return self.residual(channels, channels, direction) if self.resblock_updown else Resample(direction)

    def attention(self, channels: int, factor: int) -> nn.Module:
        """An attention block for feature maps `factor` times smaller than the input."""
        if self.num_head_channels != -1 and channels % self.num_head_channels:
            raise ConfigError(
                f"num_head_channels={self.num_head_channels} does not divide the {channels} channels of a level: choose a divisor, or -1."
            )
        heads = self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels
        if channels % heads:
            raise ConfigError(
                f"num_heads={heads} does not divide the {channels} channels of a level: choose a divisor."
            )
        if self.audio_condition == "attention":
            return AudioAttention(channels, heads, self.groups, self.embedding_dim, self.side // factor)
        return SelfAttention(channels, heads, self.groups)

    def level(self, in_channels: int, out_channels: int, factor: int) -> list[nn.Module]:
        """A residual block, with attention behind it where the level has some."""
        attention = [self.attention(out_channels, factor)] if factor in self.attention_factors else []
        return [self.residual(in_channels, out_channels), *attention]

    def middle(self, channels: int, factor: int) -> Stage:
        """The coarsest blocks: they always attend."""
        return Stage(
            [self.residual(channels, channels), self.attention(channels, factor), self.residual(channels, channels)]
        )

    def encoder(self, in_channels: int, widths: Sequence[int], num_res_blocks: int) -> tuple[nn.ModuleList, list[int]]:
        """The way down and the channels that each of its stages gives."""
        stages, channels = nn.ModuleList([Stage([Stem(in_channels, widths[0])])]), [widths[0]]
        for depth, width in enumerate(widths):
            if depth:
                stages.append(Stage([self.resampling(channels[-1], "down")]))
                channels.append(channels[-1])
            for _ in range(num_res_blocks):
                stages.append(Stage(self.level(channels[-1], width, 2**depth)))
                channels.append(width)
        return stages, channels

    def decoder(self, skips: Sequence[int], widths: Sequence[int], num_res_blocks: int) -> nn.ModuleList:
        """The way up: every stage takes the output before it and, in reverse order, one of the encoder's."""
        stages, remaining, channels = nn.ModuleList(), list(skips), widths[-1]
        for depth, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                stage = self.level(channels + remaining.pop(), width, 2**depth)
                if depth and i == num_res_blocks:
                    stage.append(self.resampling(width, "up"))
                stages.append(Stage(stage))
                channels = width
        return stages
