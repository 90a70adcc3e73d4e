"""The original's checkpoints (https://github.com/MStypulkowski/diffused-heads) and this project's `DiffusedHeads`."""

from collections.abc import Mapping

from torch import Tensor

from src.adapters.renaming import rename

METHOD = "diffused_heads"

_RESIDUAL = {
    "in_layers.0": "in_norm",
    "in_layers.2": "in_conv",
    "t_emb_layers.1": "time_proj",
    "audio_emb_layers.1": "audio_proj",
    "x_emb_layers.1": "identity_proj",
    "out_layers.0": "out_norm",
    "out_layers.3": "out_conv",
    "skip_connection": "skip",
}
_SELF_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "proj"}
_AUDIO_ATTENTION = {"audio_emb_proj": "sound_proj", "norm_x": "x_norm", "norm_emb": "sound_norm", "q": "q", "kv": "kv"}
_BLOCK = _RESIDUAL | _SELF_ATTENTION | _AUDIO_ATTENTION

# Original layer, "{}" for one number, -> ours; below each hangs a `weight` and a `bias`.
_LAYERS = {
    "time_embed.fc.{}": "time_embed.{}",
    "audio_embed.{}": "audio_embed.{}",
    **{
        f"{network}{theirs}": f"{network}{ours}"
        for network in ("", "identity_encoder.")
        for theirs, ours in {
            "input_blocks.0.0": "input_blocks.0.0.conv",
            **{
                f"{stage}.{theirs}": f"{stage}.{ours}"
                for stage in ("input_blocks.{}.{}", "middle_block.{}", "output_blocks.{}.{}")
                for theirs, ours in _BLOCK.items()
            },
            "out.0": "out_norm",
        }.items()
    },
    "out.2": "out_conv",
    "identity_encoder.out.3": "identity_encoder.out_conv",
}
TABLE = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _LAYERS.items() for kind in ("weight", "bias")}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `DiffusedHeadsUNet` from the original's UNet; CheckpointError lists keys that the table does not know."""
    return rename(state_dict, TABLE, METHOD)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original UNet's state dict from that of `DiffusedHeadsUNet`; inverse of `from_official`."""
    return rename(state_dict, {ours: theirs for theirs, ours in TABLE.items()}, METHOD)
