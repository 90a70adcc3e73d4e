"""The network of the second stage: a U-Net that denoises the latent of a frame whose lower face is to be repainted.

The layers are those of diffusers' `UNet2DConditionModel`, whose arithmetic is that of the original's U-Net (arXiv:2112.10752); attention
runs through PyTorch's scaled-dot-product kernels.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from src.errors import ConfigError, require_choice
from src.nn.difftalk.condition_encoders import N_LANDMARKS, WINDOW_DIM, ContextEncoder, MergedContext, TokenContext

Context = Literal["tokens", "merged"]


class DiffTalkNet(nn.Module):
    """Predicts the noise of a frame's latent, given the masked frame, a reference frame, the voice and the face's landmarks.

    The latents of masked and reference frame stand beside the noisy one on the channels; voice and landmarks are attended to
    (section 3.3 of the paper). The defaults are the original's sizes, 530 million parameters, with the sound in tokens of its own;
    `context="merged"` is the layout of the original.

    Args:
        image_size: height and width of the latents that the network is trained on; others can be denoised, too.
        latent_channels: of one latent.
        model_channels: width that `channel_mult` multiplies.
        channel_mult: per level, finest first.
        num_res_blocks: per level on the way down (one more on the way up).
        attention_resolutions: downsampling factors of the levels with attention; the middle always has some.
        num_head_channels: width of an attention head; -1: `num_heads` decides.
        num_heads: of the attention, where `num_head_channels` is -1.
        transformer_depth: attention blocks one after the other.
        context: a token for each row of speech features and others for the landmarks (`tokens`), or one for all (`merged`).
        context_dim: width of a token.
        audio_dim: width of a row of speech features; `merged` takes DeepSpeech's windows of 464 logits only.
        n_audio_rows: rows per frame.
        dropout: rate in residual blocks.
        norm_num_groups: groups of the normalisations; divides every level's width.
        channels_last: keep activations channel by channel in memory; faster on tensor cores and with oneDNN, same result.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: widths, heads or groups do not divide, or the speech features do not fit `context`.
    """

    def __init__(
        self,
        image_size: int = 64,
        latent_channels: int = 3,
        model_channels: int = 256,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (8, 4, 2),
        num_head_channels: int = 32,
        num_heads: int = 8,
        transformer_depth: int = 1,
        context: Context = "tokens",
        context_dim: int = 128,
        audio_dim: int = WINDOW_DIM,
        n_audio_rows: int = 8,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        channels_last: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_choice("context", context, get_args(Context))
        widths = [model_channels * factor for factor in channel_mult]
        _check_widths(widths, norm_num_groups)
        encoder = MergedContext if context == "merged" else TokenContext
        self.context_encoder: ContextEncoder = encoder(audio_dim, n_audio_rows, context_dim)
        attends = [2**level in attention_resolutions for level in range(len(widths))]
        self.unet = UNet2DConditionModel(
            sample_size=image_size,
            in_channels=3 * latent_channels,
            out_channels=latent_channels,
            block_out_channels=tuple(widths),
            layers_per_block=num_res_blocks,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            # What this argument is named after is not what it means: the number of heads.
            attention_head_dim=tuple(_heads(width, num_head_channels, num_heads) for width in widths),
            transformer_layers_per_block=transformer_depth,
            cross_attention_dim=context_dim,
            dropout=dropout,
            norm_num_groups=norm_num_groups,
        )
        _start_as_identity(self.unet)
        self.image_size = image_size
        self.latent_channels = latent_channels
        self.stride = 2 ** (len(widths) - 1)  # latents are divided into cells of this many values
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.unet.to(memory_format=self.memory_format)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    @property
    def audio_dim(self) -> int:
        """Values in a row of speech features."""
        return self.context_encoder.audio_dim

    @property
    def n_audio_rows(self) -> int:
        """Rows of speech features that a frame sees."""
        return self.context_encoder.n_rows

    def forward(
        self,
        noisy: Float[Tensor, "b c h w"],
        timestep: Shaped[Tensor, "b"] | Int[Tensor, ""],
        masked: Float[Tensor, "b c h w"],
        reference: Float[Tensor, "b c h w"],
        audio: Float[Tensor, "b n d"],
        landmarks: Float[Tensor, "b 39 2"],
    ) -> Float[Tensor, "b c h w"]:
        """Prediction for each noisy latent.

        Args:
            noisy: latents at their noise levels.
            timestep: 0..999, one per frame or one for all.
            masked: latents of the frames without what is to be repainted.
            reference: latents of another frame of the person.
            audio: rows of speech features around the frame, oldest first.
            landmarks: 39 points that do not move with the mouth, in pixels of a 256x256 frame.

        Raises:
            ValueError: sizes do not fit the network.
        """
        return self.denoise(noisy, timestep, masked, reference, self.tokens(audio, landmarks))

    def tokens(self, audio: Float[Tensor, "b n d"], landmarks: Float[Tensor, "b k 2"]) -> Float[Tensor, "b m e"]:
        """What the U-Net attends to; the same in all steps of a sampling.

        Raises:
            ValueError: other rows of speech features, or other landmarks, than the network takes.
        """
        if audio.shape[1:] != (self.n_audio_rows, self.audio_dim):
            raise ValueError(
                f"speech features of {audio.shape[1]} rows of {audio.shape[2]} values: "
                f"the network takes {self.n_audio_rows} of {self.audio_dim}"
            )
        if landmarks.shape[1:] != (N_LANDMARKS, 2):
            raise ValueError(f"landmarks of shape {tuple(landmarks.shape[1:])}: the network takes {N_LANDMARKS} points")
        return self.context_encoder(audio, landmarks)

    def denoise(
        self,
        noisy: Float[Tensor, "b c h w"],
        timestep: Shaped[Tensor, "b"] | Int[Tensor, ""],
        masked: Float[Tensor, "b c h w"],
        reference: Float[Tensor, "b c h w"],
        tokens: Float[Tensor, "b m e"],
    ) -> Float[Tensor, "b c h w"]:
        """Prediction for each noisy latent, where the tokens are there already.

        Raises:
            ValueError: height or width is no multiple of `stride`.
        """
        height, width = noisy.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"latents of {height}x{width}: both sides must be multiples of {self.stride}")
        x = torch.cat([noisy, masked, reference], dim=1).contiguous(memory_format=self.memory_format)
        return self.unet(x, timestep, tokens, return_dict=False)[0]


def _heads(width: int, num_head_channels: int, num_heads: int) -> int:
    heads = num_heads if num_head_channels == -1 else width // num_head_channels
    if heads < 1 or width % heads or (num_head_channels != -1 and width % num_head_channels):
        raise ConfigError(
            f"num_head_channels={num_head_channels}, num_heads={num_heads}: a level of {width} channels cannot be divided like that; "
            "choose divisors."
        )
    return heads


def _check_widths(widths: Sequence[int], groups: int) -> None:
    if odd := [width for width in widths if width % groups]:
        raise ConfigError(
            f"model_channels and channel_mult give a level of {odd[0]} channels, which norm_num_groups={groups} does not divide: "
            "change one of the three."
        )


def _start_as_identity(unet: UNet2DConditionModel) -> None:
    """Zeros where residual blocks and attention rejoin the main path and in the last convolution, as the original starts."""
    layers: list[nn.Module] = [unet.conv_out]
    layers += [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    layers += [module.proj_out for module in unet.modules() if isinstance(module, Transformer2DModel)]
    for parameter in (p for layer in layers for p in layer.parameters()):
        nn.init.zeros_(parameter)
