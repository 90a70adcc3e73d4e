"""The first stage: frames to small latents and back, through a codebook (VQ-GAN, arXiv:2012.09841; `vq-f4` of arXiv:2112.10752).

The layers are those of diffusers' `VQModel`, whose arithmetic is the original's; only the search in the codebook is our own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from src.errors import ConfigError

COMMITMENT = 0.25  # beta, section 3.1 of arXiv:2012.09841


class Quantised(NamedTuple):
    """Latents moved to the nearest entries of the codebook.

    Attributes:
        latent: (b, c, h, w); its gradient goes straight through to the latent before.
        loss: scalar, pulls latents and entries together.
        indices: (b, h, w) int64, which entries: how much of the codebook is in use.
    """

    latent: Tensor
    loss: Tensor
    indices: Tensor


class _VQModel(VQModel):
    """Its encoder and decoder can recompute activations; the class forgets to say so."""

    _supports_gradient_checkpointing = True


class VQAutoencoder(nn.Module):
    """Frames in [-1, 1] to latents `factor` times smaller, and back.

    The defaults are the original's `vq-f4`: 55 322 782 parameters, 256x256x3 pixels to 64x64x3. The paper's `vq-f8` for 512x512
    pixels: channel_mult [1, 2, 2, 4], latent_channels 4, n_codes 16384, attention_resolutions [32], resolution 256 (in training).

    Args:
        channels: width that `channel_mult` multiplies.
        channel_mult: per level, finest first; each level after the first halves the resolution.
        num_res_blocks: per level of the encoder (one more in the decoder).
        latent_channels: of the latent and of the codebook's entries.
        z_channels: of encoder's output and decoder's input; None: `latent_channels`.
        n_codes: entries of the codebook.
        attention_resolutions: sizes of feature maps with self-attention, where frames of `resolution` are encoded; the middle always
            has some.
        resolution: of frames, height and width; only to say which level `attention_resolutions` means.
        norm_num_groups: groups of the normalisations; divides every level's width.
        channels_last: keep activations channel by channel in memory; faster on tensor cores and with oneDNN, same result.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: widths and groups do not divide.
    """

    def __init__(
        self,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 4),
        num_res_blocks: int = 2,
        latent_channels: int = 3,
        z_channels: int | None = None,
        n_codes: int = 8192,
        attention_resolutions: Sequence[int] = (),
        resolution: int = 256,
        norm_num_groups: int = 32,
        channels_last: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels * factor for factor in channel_mult]
        if odd := [width for width in widths if width % norm_num_groups]:
            raise ConfigError(
                f"channels and channel_mult give a level of {odd[0]} channels, which norm_num_groups={norm_num_groups} does not "
                "divide: change one of the three."
            )
        attends = [resolution >> level in attention_resolutions for level in range(len(widths))]
        self.vq = _VQModel(
            down_block_types=tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends),
            up_block_types=tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attends)),
            block_out_channels=tuple(widths),
            layers_per_block=num_res_blocks,
            latent_channels=z_channels or latent_channels,
            vq_embed_dim=latent_channels,
            num_vq_embeddings=n_codes,
            norm_num_groups=norm_num_groups,
        )
        self.factor = 2 ** (len(widths) - 1)
        self.latent_channels = latent_channels
        self.n_codes = n_codes
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.vq.to(memory_format=self.memory_format)
        if gradient_checkpointing:
            self.vq.enable_gradient_checkpointing()

    @property
    def entries(self) -> Tensor:
        """The codebook, (n_codes, latent_channels)."""
        return self.vq.quantize.embedding.weight

    @property
    def last_layer(self) -> Float[Tensor, "3 c 3 3"]:
        """Weight of the decoder's last convolution, at which the losses are weighed against each other (equation 7)."""
        return self.vq.decoder.conv_out.weight

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 3 h w"], Quantised]:
        """Reconstruction, and what the codebook made of the latent."""
        quantised = self.quantise(self.encode(frames))
        return self._decode(quantised.latent), quantised

    def encode(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Latents before quantisation: what the second stage works on.

        Raises:
            ValueError: height or width is no multiple of `factor`.
        """
        height, width = frames.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"frames of {height}x{width} pixels: both sides must be multiples of {self.factor}")
        frames = frames.contiguous(memory_format=self.memory_format)
        return self.vq.quant_conv(self.vq.encoder(frames))

    def quantise(self, latent: Float[Tensor, "b c h w"]) -> Quantised:
        """The nearest entries of the codebook, and the loss

            mean((sg[q] - z)^2) + 0.25 mean((q - sg[z])^2)

        In the paper (equation 4) the factor belongs to the first term; published weights were trained with this order.
        """
        entries = self.entries
        with torch.autocast(latent.device.type, enabled=False):  # the nearest entry by bfloat16 would be another one
            z = latent.float().permute(0, 2, 3, 1)
            indices = nearest(z.detach().reshape(-1, self.latent_channels), entries.detach().float())
            q = entries.float()[indices].view(z.shape)
            loss = (q.detach() - z).square().mean() + COMMITMENT * (q - z.detach()).square().mean()
            straight_through = z + (q - z).detach()
        quantised = straight_through.permute(0, 3, 1, 2).contiguous().to(latent.dtype)
        return Quantised(quantised, loss, indices.view(z.shape[:3]))

    def decode(self, latent: Float[Tensor, "b c h w"], quantise: bool = True) -> Float[Tensor, "b 3 h2 w2"]:
        """Frames, roughly in [-1, 1], from latents, which are moved to the codebook's entries first unless `quantise` is false."""
        return self._decode(self.quantise(latent).latent if quantise else latent)

    def _decode(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        h = self.vq.post_quant_conv(latent.contiguous(memory_format=self.memory_format))
        return self.vq.decoder(h)


def nearest(vectors: Float[Tensor, "n c"], entries: Float[Tensor, "m c"]) -> Int64[Tensor, " n"]:
    """Index of the entry nearest to each vector, the first one on ties: the least |e|^2 - 2 v.e, since |v|^2 is the same for all."""
    norms = entries.square().sum(dim=1)
    return torch.cat(
        [torch.addmm(norms, part, entries.T, alpha=-2).argmin(dim=1) for part in vectors.split(_ROWS_AT_ONCE)]
    )


_ROWS_AT_ONCE = 1 << 13  # bounds the table of distances: 256 MiB with 8192 entries
