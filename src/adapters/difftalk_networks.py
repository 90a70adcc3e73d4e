"""Weights of the original's networks under this project's names and back, network by network; `src.adapters.difftalk` puts them together.

The layers are diffusers' layers, so each table says which of diffusers' names stands for which of the original's.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from src.adapters.renaming import rename

METHOD = "difftalk"

# Encoders of the conditions: original key -> ours, below `context_encoder.`.
CONDITION_TABLE = {
    f"{theirs}.{{}}.{kind}": f"{ours}.{kind}"
    for theirs, ours in {
        "cond_stage_model_for_audio.encoder_conv": "audio.convs.{}",
        "cond_stage_model_for_audio.encoder_fc1": "audio.fc.{}",
        "cond_stage_model_for_audio_smooth.attentionConvNet": "audio_attention.convs.{}",
        "cond_stage_model_for_ldm.encoder_fc1": "landmarks.fc.{}",
    }.items()
    for kind in ("weight", "bias")
} | {
    f"cond_stage_model_for_audio_smooth.attentionNet.0.{kind}": f"audio_attention.fc.{kind}"
    for kind in ("weight", "bias")
}

_KINDS = ("weight", "bias")
_TRANSFORMER = "transformer_blocks.{}."  # the original's names below a transformer block are diffusers' names
_UNET_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ATTENTION = {
    name: name
    for name in (
        "norm",
        "proj_in",
        "proj_out",
        *(f"{_TRANSFORMER}attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"{_TRANSFORMER}{part}" for part in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2")),
    )
}
_VQ_RESIDUAL = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_VQ_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def _below(theirs: str, ours: str, layers: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{old}": f"{ours}.{new}" for old, new in layers.items()}


def _with_kinds(layers: Mapping[str, str]) -> dict[str, str]:
    return {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in _KINDS}


def unet_table(levels: int, num_res_blocks: int) -> dict[str, str]:
    """The original's U-Net keys -> those of `DiffTalkNet.unet`.

    The original numbers the blocks of all levels through; after the last one of a level comes the step to the next.
    """
    layers = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    layers |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first_in, first_out = 1 + level * (num_res_blocks + 1), level * (num_res_blocks + 1)
        for i in range(num_res_blocks):
            layers |= _below(f"input_blocks.{first_in + i}.0", f"{down}.resnets.{i}", _UNET_RESIDUAL)
            layers |= _below(f"input_blocks.{first_in + i}.1", f"{down}.attentions.{i}", _UNET_ATTENTION)
        layers[f"input_blocks.{first_in + num_res_blocks}.0.op"] = f"{down}.downsamplers.0.conv"
        for i in range(num_res_blocks + 1):
            layers |= _below(f"output_blocks.{first_out + i}.0", f"{up}.resnets.{i}", _UNET_RESIDUAL)
            layers |= _below(f"output_blocks.{first_out + i}.1", f"{up}.attentions.{i}", _UNET_ATTENTION)
    for i in (0, 2):
        layers |= _below(f"middle_block.{i}", f"mid_block.resnets.{i // 2}", _UNET_RESIDUAL)
    layers |= _below("middle_block.1", "mid_block.attentions.0", _UNET_ATTENTION)
    return _with_kinds(layers)


def _upsampling(keys: Iterable[str], num_res_blocks: int) -> dict[str, str]:
    """Upsampling is the second layer of its block where the level has no attention, else the third: official -> ours."""
    table = {}
    for key in keys:
        if match := re.fullmatch(r"output_blocks\.(\d+)\.([12])\.conv\.(weight|bias)", key):
            level = int(match[1]) // (num_res_blocks + 1)
            table[key] = f"up_blocks.{level}.upsamplers.0.conv.{match[3]}"
        elif match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(weight|bias)", key):
            block = int(match[1]) * (num_res_blocks + 1) + num_res_blocks
            attends = any(other.startswith(f"up_blocks.{match[1]}.attentions.") for other in keys)
            table[f"output_blocks.{block}.{2 if attends else 1}.conv.{match[2]}"] = key
    return table


def autoencoder_table(levels: int) -> dict[str, str]:
    """The original's autoencoder keys -> those of `VQAutoencoder.vq`; the original counts the decoder's levels from the finest."""
    layers = {name: name for name in ("quant_conv", "post_quant_conv")}
    for half, name in (("encoder", "down"), ("decoder", "up")):
        layers |= {f"{half}.conv_in": f"{half}.conv_in", f"{half}.conv_out": f"{half}.conv_out"}
        layers[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        layers |= _below(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", _VQ_ATTENTION)
        for i in (1, 2):
            layers |= _below(f"{half}.mid.block_{i}", f"{half}.mid_block.resnets.{i - 1}", _VQ_RESIDUAL)
        for level in range(levels):
            ours = f"{half}.{name}_blocks.{level if name == 'down' else levels - 1 - level}"
            layers |= _below(f"{half}.{name}.{level}.block.{{}}", f"{ours}.resnets.{{}}", _VQ_RESIDUAL)
            layers |= _below(f"{half}.{name}.{level}.attn.{{}}", f"{ours}.attentions.{{}}", _VQ_ATTENTION)
            layers[f"{half}.{name}.{level}.{name}sample.conv"] = f"{ours}.{name}samplers.0.conv"
    return _with_kinds(layers) | {"quantize.embedding.weight": "quantize.embedding.weight"}


def inverse(table: Mapping[str, str]) -> dict[str, str]:
    """Ours -> the original's."""
    return {new: old for old, new in table.items()}


def count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern finds in the keys; 0 where it finds none."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1) + 1


def unet_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `DiffTalkNet.unet` from the original's U-Net; CheckpointError lists keys that the table does not know."""
    levels, num_res_blocks = unet_depth(state_dict)
    table = unet_table(levels, num_res_blocks) | _upsampling(state_dict, num_res_blocks)
    return rename(state_dict, table, METHOD)


def unet_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original U-Net's state dict from that of `DiffTalkNet.unet`; inverse of `unet_from_official`."""
    levels = count(state_dict, r"down_blocks\.(\d+)\.")
    num_res_blocks = count(state_dict, r"down_blocks\.0\.resnets\.(\d+)\.")
    table = unet_table(levels, num_res_blocks) | _upsampling(state_dict, num_res_blocks)
    return rename(state_dict, inverse(table), METHOD)


def unet_depth(keys: Iterable[str]) -> tuple[int, int]:
    """Levels and residual blocks per level, from the original's keys."""
    steps = sorted(int(match[1]) for key in keys if (match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key)))
    blocks = count(keys, r"input_blocks\.(\d+)\.")
    return len(steps) + 1, (steps[0] if steps else blocks) - 1


def autoencoder_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `VQAutoencoder` from the original's; CheckpointError lists keys that the table does not know."""
    renamed = rename(state_dict, autoencoder_table(count(state_dict, r"encoder\.down\.(\d+)\.")), METHOD)
    # The original's attention has convolutions of 1x1 pixels, diffusers' linear layers.
    return {f"vq.{k}": v.flatten(1) if _is_projection(k) else v for k, v in renamed.items()}


def autoencoder_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original autoencoder's state dict from that of `VQAutoencoder`; inverse of `autoencoder_from_official`."""
    ours = {k.removeprefix("vq."): v[..., None, None] if _is_projection(k) else v for k, v in state_dict.items()}
    return rename(ours, inverse(autoencoder_table(count(ours, r"encoder\.down_blocks\.(\d+)\."))), METHOD)


def _is_projection(key: str) -> bool:
    return re.search(r"attentions\.\d+\.to_\w+(\.0)?\.weight$", key) is not None
