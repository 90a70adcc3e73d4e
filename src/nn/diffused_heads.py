"""The network of Diffused Heads (arXiv:2301.03396): a U-Net that denoises one frame, given a face, the past frames and a voice.

The identity frame and the motion frames (section 3.2) stand beside the noisy frame on the channels; the speech features of a window
around the frame scale and shift the activations of every residual block (equation 5).

Legend: `b` batch, `c` channels, `h w` pixels, `n` rows of the window, `d` features per row, `e` width of the embeddings.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.errors import ConfigError, require_choice
from src.nn.attention import attend_by_head

IdentityCondition = Literal["frame", "pre_gn", "post_gn"]
AudioCondition = Literal["pre_gn", "post_gn", "double_pre_gn", "attention"]
Resampling = Literal["down", "up"]


Embeddings = Mapping[str, Tensor]
"""What conditions the blocks, each (b, e): `time` with all that is added to it; `audio` and `identity` where blocks take them."""


def time_features(t: Int64[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """Cosines and sines of the time step at dim/2 frequencies.

    f_i = 10000^(-i / (2 dim)): the frequencies span only 1..0.1, because the original divides by 2 dim where the usual formula
    divides by dim/2. Published weights depend on it.
    """
    indices = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10000) * indices / (2 * dim))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


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


class IdentityEncoder(nn.Module):
    """The identity frame as one vector, for the identity conditions other than `frame`."""

    def __init__(
        self, blocks: Blocks, in_channels: int, widths: Sequence[int], num_res_blocks: int, embedding_dim: int
    ) -> None:
        super().__init__()
        self.input_blocks, channels = blocks.encoder(in_channels, widths, num_res_blocks)
        self.middle_block = blocks.middle(channels[-1], 2 ** (len(widths) - 1))
        self.out_norm = nn.GroupNorm(blocks.groups, channels[-1])
        self.out_conv = zeroed(nn.Conv2d(channels[-1], embedding_dim, 1))

    def forward(self, identity: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Embedding of each frame."""
        h = identity
        for stage in (*self.input_blocks, self.middle_block):
            h = stage(h, {})
        return self.out_conv(F.silu(self.out_norm(h)).mean(dim=(2, 3), keepdim=True)).flatten(1)


class DiffusedHeadsUNet(nn.Module):
    """Predicts the noise of a frame, and how the variance of the step lies between its bounds.

    The defaults are the training configuration of the original: 215 739 398 parameters. The published CREMA model has
    `grayscale_motion=False`; the paper (section 4) has attention in the middle only, `attention_resolutions=()`.

    Args:
        image_size: height and width of the training frames; turns `attention_resolutions` into levels, and fixes the size that audio
            attention works with. Without audio attention other sizes can be denoised.
        in_channels: of a frame.
        out_channels: 6: noise and variance (learned range), 3: noise only (fixed variance).
        model_channels: width that `channel_mult` multiplies; also of the time features.
        channel_mult: per level, finest first.
        num_res_blocks: per level on the way down (one more on the way up).
        attention_resolutions: sizes of the feature maps, in pixels, with attention; the coarsest level always has some in the middle.
        num_heads: of the attention, where `num_head_channels` is -1.
        num_head_channels: width of an attention head; -1: `num_heads` decides.
        dropout: rate in residual blocks.
        resblock_updown: residual blocks change the resolution, not plain pooling.
        n_motion_frames: past frames that the network sees.
        grayscale_motion: they have one channel each, not `in_channels`.
        n_audio_motion_embs: rows of speech features before and after the frame's own.
        audio_dim: width of a row; None: `model_channels`, as the original has it.
        id_condition_type: the identity frame on the input's channels (`frame`), or its encoding, added to the time embedding (`pre_gn`)
            or multiplied with the normalised activations (`post_gn`).
        audio_condition_type: added to the time embedding (`pre_gn`), multiplied with the normalised activations (`post_gn`), scale and
            shift (`double_pre_gn`; equation 5), or looked at (`attention`).
        norm_num_groups: groups of the normalisations; divides every level's width.
        patch_size: fold squares of this many pixels into channels before the network and back behind it. The official layout has 1.
        channels_last: keep activations channel by channel in memory; faster on tensor cores and with oneDNN, same result.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: widths, heads, groups or sizes do not divide.
    """

    def __init__(
        self,
        image_size: int = 128,
        in_channels: int = 3,
        out_channels: int = 6,
        model_channels: int = 256,
        channel_mult: Sequence[int] = (1, 2, 3),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (32,),
        num_heads: int = 4,
        num_head_channels: int = 64,
        dropout: float = 0.1,
        resblock_updown: bool = True,
        n_motion_frames: int = 2,
        grayscale_motion: bool = True,
        n_audio_motion_embs: int = 2,
        audio_dim: int | None = None,
        id_condition_type: IdentityCondition = "frame",
        audio_condition_type: AudioCondition = "double_pre_gn",
        norm_num_groups: int = 32,
        patch_size: int = 1,
        channels_last: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_choice("id_condition_type", id_condition_type, get_args(IdentityCondition))
        require_choice("audio_condition_type", audio_condition_type, get_args(AudioCondition))
        widths = [model_channels * factor for factor in channel_mult]
        _check_widths(widths, norm_num_groups)
        self.stride = patch_size * 2 ** (len(widths) - 1)  # frames are divided into cells of this many pixels
        if image_size % self.stride:
            raise ConfigError(f"image_size={image_size} is no multiple of {self.stride}: choose one, or fewer levels.")
        self.image_size = image_size
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.n_motion_frames = n_motion_frames
        self.grayscale_motion = grayscale_motion
        self.motion_channels = n_motion_frames * (1 if grayscale_motion else in_channels)
        self.n_audio_motion_embs = n_audio_motion_embs
        self.audio_dim = audio_dim or model_channels
        self.id_condition_type: IdentityCondition = id_condition_type
        self.audio_condition_type: AudioCondition = audio_condition_type
        self.model_channels = model_channels
        self.patch_size = patch_size
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.gradient_checkpointing = gradient_checkpointing

        embedding_dim = 4 * model_channels
        self.time_embed = _perceptron(model_channels, embedding_dim)
        self.audio_embed = _perceptron(self.audio_window * self.audio_dim, embedding_dim)
        side = image_size // patch_size
        make_blocks = partial(
            Blocks,
            groups=norm_num_groups,
            dropout=dropout,
            resblock_updown=resblock_updown,
            attention_factors=_attention_factors(side, attention_resolutions),
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            side=side,
        )
        beside = self.motion_channels + (in_channels if id_condition_type == "frame" else 0)
        blocks = make_blocks(
            embedding_dim=embedding_dim, audio_condition=audio_condition_type, identity_condition=id_condition_type
        )
        folded = patch_size**2
        self.input_blocks, skips = blocks.encoder((in_channels + beside) * folded, widths, num_res_blocks)
        self.middle_block = blocks.middle(widths[-1], 2 ** (len(widths) - 1))
        self.output_blocks = blocks.decoder(skips, widths, num_res_blocks)
        self.out_norm = nn.GroupNorm(norm_num_groups, widths[0])
        self.out_conv = zeroed(nn.Conv2d(widths[0], out_channels * folded, 3, padding=1))
        self.identity_encoder = (
            None
            if id_condition_type == "frame"
            else IdentityEncoder(make_blocks(), in_channels * folded, widths, num_res_blocks, embedding_dim)
        )
        self.to(memory_format=self.memory_format)

    @property
    def audio_window(self) -> int:
        """Rows of speech features that a frame sees."""
        return 2 * self.n_audio_motion_embs + 1

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Int64[Tensor, " b"],
        identity: Float[Tensor, "b c h w"],
        motion: Float[Tensor, "b mc h w"],
        audio: Float[Tensor, "b n d"] | None,
    ) -> Float[Tensor, "b c2 h w"]:
        """Noise of the frames, and with 6 output channels the interpolation (nu) of the variances behind it.

        Args:
            x: noisy frames, x_t.
            t: their time steps, as the training numbers them (0..999), also where the sampling skips steps.
            identity: frames of the person, RGB in [-1, 1].
            motion: the frames before, oldest first, side by side on the channels; grey ones are weighted in [-1, 1].
            audio: rows t-a..t+a of the speech features; None only with `audio_condition_type="pre_gn"`.

        Raises:
            ValueError: sizes do not fit the network.
        """
        self._check_inputs(x, motion, audio)
        embeddings = self._embeddings(t, identity, audio, x.dtype)
        parts = [x, motion, identity] if self.id_condition_type == "frame" else [x, motion]
        h = self._fold(torch.cat(parts, dim=1))
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            h = self._run(stage, h, embeddings)
            skips.append(h)
        h = self._run(self.middle_block, h, embeddings)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embeddings)
        return F.pixel_shuffle(self.out_conv(F.silu(self.out_norm(h))), self.patch_size)

    def _embeddings(self, t: Tensor, identity: Tensor, audio: Tensor | None, dtype: torch.dtype) -> Embeddings:
        """What the blocks are conditioned on: sums of embeddings happen here, scales and shifts in the blocks."""
        embeddings = {"time": self.time_embed(time_features(t, self.model_channels).to(dtype))}
        if audio is not None:
            added = self.audio_condition_type == "pre_gn"
            _include(embeddings, "audio", self.audio_embed(audio.flatten(1)), added)
        if self.identity_encoder is not None:
            added = self.id_condition_type == "pre_gn"
            _include(embeddings, "identity", self.identity_encoder(self._fold(identity)), added)
        return embeddings

    def _fold(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=self.memory_format)

    def _run(self, stage: Stage, h: Tensor, embeddings: Embeddings) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, h, embeddings, use_reentrant=False)
        return stage(h, embeddings)

    def _check_inputs(self, x: Tensor, motion: Tensor, audio: Tensor | None) -> None:
        height, width = x.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"frames of {height}x{width} pixels: both sides must be multiples of {self.stride}")
        if motion.shape[1] != self.motion_channels:
            raise ValueError(f"{motion.shape[1]} channels of motion frames: the network takes {self.motion_channels}")
        if audio is None:
            if self.audio_condition_type != "pre_gn":
                raise ValueError(f"audio_condition_type={self.audio_condition_type} cannot do without audio")
        elif audio.shape[1:] != (self.audio_window, self.audio_dim):
            raise ValueError(
                f"speech features of {audio.shape[1]} rows of {audio.shape[2]} values: "
                f"the network takes {self.audio_window} of {self.audio_dim}"
            )


def _include(embeddings: dict[str, Tensor], name: str, embedding: Tensor, added: bool) -> None:
    if added:
        embeddings["time"] = embeddings["time"] + embedding
    else:
        embeddings[name] = embedding


def _perceptron(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.SiLU(), nn.Linear(out_features, out_features))


def _attention_factors(side: int, resolutions: Sequence[int]) -> list[int]:
    """Downsampling factors of the levels whose feature maps have the given sizes."""
    return [side // resolution for resolution in resolutions]


def _check_widths(widths: Sequence[int], groups: int) -> None:
    if odd := [width for width in widths if width % groups]:
        raise ConfigError(
            f"model_channels and channel_mult give a level of {odd[0]} channels, which norm_num_groups={groups} does not divide: "
            "change one of the three."
        )
