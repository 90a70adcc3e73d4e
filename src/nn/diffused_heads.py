"""The network of Diffused Heads (arXiv:2301.03396): a U-Net that denoises one frame, given a face, the past frames and a voice.

The identity frame and the motion frames (section 3.2) stand beside the noisy frame on the channels; the speech features of a window
around the frame scale and shift the activations of every residual block (equation 5).

Legend: `b` batch, `c` channels, `h w` pixels, `n` rows of the window, `d` features per row, `e` width of the embeddings.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.errors import ConfigError, require_choice
from src.nn.diffused_heads_blocks import AudioCondition, Blocks, Embeddings, IdentityCondition, Stage, zeroed


def time_features(t: Int64[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """Cosines and sines of the time step at dim/2 frequencies.

    f_i = 10000^(-i / (2 dim)): the frequencies span only 1..0.1, because the original divides by 2 dim where the usual formula
    divides by dim/2. Published weights depend on it.
    """
    indices = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10000) * indices / (2 * dim))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


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
