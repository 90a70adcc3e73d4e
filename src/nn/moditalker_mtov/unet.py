"""The U-Net that denoises the three planes of a clip's latent (PVDM, arXiv:2302.07685, section 3.2; conditions of MoDiTalker).

Every block sees each plane by itself, with the same weights; behind it, attention over the positions of all planes lets them agree.

Legend: `b` clips, `c` channels, `n` positions of the planes, `h w` cells of a frame, `t` frames.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src.errors import ConfigError
from src.nn.diffused_heads_blocks import Blocks, SelfAttention, zeroed
from src.nn.moditalker_mtov.planes import PlaneShape, join

Planes = tuple[Tensor, Tensor]
"""The picture (b, c, h, w), and the two planes of time, which are of one size: (2b, c, t, w), those of `yt` first."""


class CrossPlaneAttention(nn.Module):
    """Every position of every plane looks at all of them."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.attention = SelfAttention(channels, heads, groups)

    def forward(self, planes: Planes) -> Planes:
        """The planes after the attention."""
        picture, time = planes
        sequence = join([picture, *time.chunk(2)])[..., None]  # b c n 1
        attended = self.attention(sequence, {})[..., 0]
        n, m = picture[0, 0].numel(), time[0, 0].numel()
        xy, yt, xt = attended.split([n, m, m], dim=-1)
        return xy.reshape(picture.shape), torch.cat([yt, xt]).reshape(time.shape)


class MToVUNet(nn.Module):
    """Predicts the noise of a latent, given latents of what the clip is to show.

    The defaults are the published configuration: 132 172 804 parameters.

    Args:
        size: rows and columns of the picture plane.
        frames: of the planes of time; a multiple of 2^(levels - 1), as `size` is.
        latent_channels: of a latent.
        n_conditions: latents of whole clips that the network sees beside the noisy one and the picture.
        model_channels: width that `channel_mult` multiplies; also of the time features.
        channel_mult: per level, finest first.
        num_res_blocks: per level on the way down (one more on the way up).
        attention_resolutions: downsampling factors of the levels where each plane also attends to itself.
        num_heads: of all attention.
        dropout: rate in residual blocks.
        norm_num_groups: groups of the normalisations; divides every level's width.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: sizes do not divide.
    """

    def __init__(
        self,
        size: int = 32,
        frames: int = 16,
        latent_channels: int = 4,
        n_conditions: int = 2,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4, 2, 1),
        num_heads: int = 8,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths = [model_channels * factor for factor in channel_mult]
        stride = 2 ** (len(widths) - 1)
        if size % stride or frames % stride:
            raise ConfigError(f"size={size} and frames={frames} must be multiples of {stride}: choose fewer levels.")
        if odd := [width for width in widths if width % norm_num_groups or width % num_heads]:
            raise ConfigError(
                f"norm_num_groups={norm_num_groups} and num_heads={num_heads} must divide the {odd[0]} channels of a level."
            )
        self.shape = PlaneShape(frames, size, size)
        self.latent_channels, self.n_conditions = latent_channels, n_conditions
        self.model_channels = model_channels
        self.gradient_checkpointing = gradient_checkpointing
        embedding_dim = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        blocks = Blocks(
            groups=norm_num_groups,
            dropout=dropout,
            resblock_updown=True,
            attention_factors=attention_resolutions,
            num_heads=num_heads,
            num_head_channels=-1,
            side=size,
            embedding_dim=embedding_dim,
        )
        self.input_blocks, skips = blocks.encoder((2 + n_conditions) * latent_channels, widths, num_res_blocks)
        self.middle_block = blocks.middle(widths[-1], stride)
        self.output_blocks = blocks.decoder(skips, widths, num_res_blocks)

        def attention(channels: int) -> CrossPlaneAttention:
            return CrossPlaneAttention(channels, num_heads, norm_num_groups)

        # The first convolution has none.
        self.input_attentions = nn.ModuleList([nn.Identity(), *map(attention, skips[1:])])
        self.middle_attention = attention(widths[-1])
        self.output_attentions = nn.ModuleList(
            attention(width) for width in reversed(widths) for _ in range(num_res_blocks + 1)
        )
        self.out_norm = nn.GroupNorm(norm_num_groups, widths[0])
        self.out_conv = zeroed(nn.Conv2d(widths[0], latent_channels, 3, padding=1))

    def forward(
        self,
        noisy: Float[Tensor, "b c n"],
        timestep: Shaped[Tensor, " b"],
        conditions: Float[Tensor, "b k n"],
        picture: Float[Tensor, "b c m"],
    ) -> Float[Tensor, "b c n"]:
        """Noise of the latents.

        Args:
            noisy: z_t.
            timestep: as the training numbers them, 0..999; some samplers take fractions.
            conditions: latents side by side on the channels: landmarks, masked frames.
            picture: latents of a clip that shows the person; only their first plane is looked at, the others may be left out.

        Raises:
            ValueError: sizes do not fit the network.
        """
        if conditions.shape[1] != self.n_conditions * self.latent_channels:
            raise ValueError(
                f"conditions of {conditions.shape[1]} channels: the network takes {self.n_conditions} latents of {self.latent_channels}"
            )
        person = F.pad(picture[..., : self.shape.picture], (0, self.shape.length - self.shape.picture))
        xy, yt, xt = self.shape.split(torch.cat([noisy, conditions, person], dim=1))
        planes: Planes = (xy, torch.cat([yt, xt]))
        embedding = self._time_embedding(timestep).to(noisy.dtype)
        skips: list[Planes] = []
        for stage, attention in zip(self.input_blocks, self.input_attentions, strict=True):
            planes = self._run(stage, attention, planes, embedding)
            skips.append(planes)
        planes = self._run(self.middle_block, self.middle_attention, planes, embedding)
        for stage, attention in zip(self.output_blocks, self.output_attentions, strict=True):
            beside = skips.pop()
            planes = (torch.cat([planes[0], beside[0]], dim=1), torch.cat([planes[1], beside[1]], dim=1))
            planes = self._run(stage, attention, planes, embedding)
        xy, time = (self.out_conv(F.silu(self.out_norm(plane))) for plane in planes)
        return join([xy, *time.chunk(2)])

    def _time_embedding(self, timestep: Shaped[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Of cosines and sines of the time step, with frequencies from 1 down to 1/10000."""
        features = get_timestep_embedding(timestep, self.model_channels, flip_sin_to_cos=True, downscale_freq_shift=0.0)
        return self.time_embed(features.to(next(self.time_embed.parameters()).dtype))

    def _run(self, stage: nn.Module, attention: nn.Module, planes: Planes, embedding: Float[Tensor, "b e"]) -> Planes:
        """A stage on each plane, then the attention between them."""

        def both(picture: Tensor, time: Tensor) -> Planes:
            seen = (stage(picture, {"time": embedding}), stage(time, {"time": embedding.repeat(2, 1)}))
            return attention(seen)

        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(both, *planes, use_reentrant=False)
        return both(*planes)
