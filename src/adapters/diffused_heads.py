"""The original's checkpoints (https://github.com/MStypulkowski/diffused-heads) and this project's `DiffusedHeads`.

epoch=...-step=....ckpt      Lightning: `state_dict` with the network twice, under `unet.` and `diffusion.nn_backbone.` (one module that is
                             registered twice); `hyper_parameters` with lists of OmegaConf and pictures' transforms of torchvision
crema_script.pt              TorchScript archive of the network alone
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from src.adapters.inert import Inert, TorchArchive, module_tensors, plain
from src.adapters.renaming import rename
from src.errors import CheckpointError

T = TypeVar("T")

METHOD = "diffused_heads"
PREFIXES = ("unet.", "diffusion.nn_backbone.")
IN_CHANNELS, PUBLISHED_SIZE, PUBLISHED_MOTION_FRAMES, PUBLISHED_TIMESTEPS = 3, 128, 2, 1000

# Hyper-parameters of the original's training that are arguments of `DiffusedHeadsUNet`, under the same names.
ARGUMENTS = (
    "image_size",
    "in_channels",
    "out_channels",
    "model_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_resolutions",
    "num_heads",
    "num_head_channels",
    "dropout",
    "resblock_updown",
    "n_motion_frames",
    "grayscale_motion",
    "n_audio_motion_embs",
    "id_condition_type",
    "audio_condition_type",
)

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


def load_official(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of the published Lightning checkpoint or TorchScript network; nothing in them is run.

    A TorchScript archive has no hyper-parameters: `arguments_of` reads them off the weights.

    Raises:
        CheckpointError: the file is none of these.
    """
    archive = TorchArchive(path)
    try:
        content = archive.content
        if isinstance(content, Inert) and content.origin.startswith("__torch__."):
            weights = archive.load_tensors(dict(module_tensors(content)))
            hyper_parameters: dict[str, Any] = {}
        else:
            weights = _lightning_weights(archive)
            hyper_parameters = _plain_entries(content.get("hyper_parameters"))
    except RecursionError as error:
        raise CheckpointError(f"{path} is damaged: its content holds itself.") from error
    state_dict = from_official(weights)
    config = release_config(arguments_of(weights), hyper_parameters)
    return config, {f"net.{key}": value for key, value in state_dict.items()}


def _plain_entries(hyper_parameters: object) -> dict[str, Any]:
    """The hyper-parameters as plain values; where they are of another form, the weights have to do."""
    values = plain(hyper_parameters)
    return values if isinstance(values, dict) else {}


def _lightning_weights(archive: TorchArchive) -> dict[str, Tensor]:
    """The network's tensors, which the original registers twice."""
    stored = archive.content.get("state_dict") if isinstance(archive.content, Mapping) else None
    if not isinstance(stored, Mapping):
        raise CheckpointError(
            f"{archive.path} has no state_dict: give a Lightning checkpoint of the original diffused-heads model."
        )
    first, *others = copies_in(stored)
    weights = archive.load_tensors(first)
    for other in others:
        apart = {
            key: value for key, value in other.items() if first.get(key) != value
        }  # mostly none: both are one tensor in the file
        if first.keys() != other.keys() or not _equal(archive.load_tensors(apart), weights):
            raise CheckpointError(
                f"{archive.path} holds two different networks under {' and '.join(PREFIXES)}: save one of them alone."
            )
    return weights


def copies_in(state_dict: Mapping[str, T]) -> list[dict[str, T]]:
    """The network under each of the two prefixes that are there, without them; the whole state dict if there is none."""
    copies = [
        {key.removeprefix(prefix): value for key, value in state_dict.items() if str(key).startswith(prefix)}
        for prefix in PREFIXES
    ]
    return [copy for copy in copies if copy] or [dict(state_dict)]


def _equal(some: Mapping[str, Tensor], all_: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, all_[key]) for key, value in some.items())


def release_config(net: Mapping[str, Any], hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration groups that rebuild model and pipeline around the network.

    Args:
        net: arguments of `DiffusedHeadsUNet`; those among the hyper-parameters go before them.
        hyper_parameters: of the original's training, as `plain` gives them; may be empty.
    """
    model = {
        "_target_": "src.lightning_modules.diffused_heads.DiffusedHeads",
        "net": {
            "_target_": "src.nn.diffused_heads.DiffusedHeadsUNet",
            "_convert_": "all",
            **net,
            **_given(hyper_parameters, ARGUMENTS),
        },
        "diffusion": {
            "_target_": "src.diffusion.learned_range.LearnedRangeDiffusion",
            "n_timesteps": hyper_parameters.get("n_timesteps", PUBLISHED_TIMESTEPS),
        },
        "motion_blur": _blurs(hyper_parameters.get("motion_transforms")),
        **_given(hyper_parameters, ("vlb_weight", "lip_weight")),
    }
    return {"model": model, "pipeline": {"_target_": "src.pipelines.diffused_heads.DiffusedHeadsPipeline"}}


def _given(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named values that are there and plain."""
    return {name: values[name] for name in names if name in values and not isinstance(values[name], Inert)}


def _blurs(motion_transforms: object) -> bool:
    """Whether the pickled transforms of the motion frames blur them."""
    state = motion_transforms.state if isinstance(motion_transforms, Inert) else None
    steps = state.get("transforms", ()) if isinstance(state, Mapping) else ()
    return any(isinstance(step, Inert) and step.origin.endswith(".GaussianBlur") for step in steps)


def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of `DiffusedHeadsUNet`, read off the original's weights.

    What leaves no trace in them is as published: 128x128 pixels (unless audio attention is tied to another size), 2 motion frames, 64
    channels per attention head, rows of speech features as wide as the network.

    Raises:
        CheckpointError: the weights are not those of such a network.
    """
    try:
        return _arguments_of({key: tuple(value.shape) for key, value in weights.items()})
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            "the weights are not those of the original diffused-heads network: give its Lightning checkpoint or TorchScript archive."
        ) from error


def _arguments_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    stages = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("output_blocks."))
    trained = {int(key.split(".")[1]) for key in shapes if key.startswith("input_blocks.")}
    upsampling = [key for key in shapes if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.bias", key)]
    levels = 1 + (len(upsampling) or stages - len(trained))
    per_level = stages // levels  # residual blocks of a level and the step between levels
    model_channels = shapes["time_embed.fc.0.weight"][1]
    starts = [1 + level * per_level for level in range(levels)]
    side = math.isqrt(shapes.get("middle_block.1.audio_emb_proj.bias", (0,))[0]) << (levels - 1) or PUBLISHED_SIZE
    frame = IN_CHANNELS if any(key.startswith("identity_encoder.") for key in shapes) else 2 * IN_CHANNELS
    motion = shapes["input_blocks.0.0.weight"][1] - frame
    grayscale = motion == PUBLISHED_MOTION_FRAMES
    rows = shapes["audio_embed.0.weight"][1] // model_channels
    return {
        "image_size": side,
        "out_channels": shapes["out.2.bias"][0],
        "model_channels": model_channels,
        "channel_mult": [shapes[f"input_blocks.{i}.0.in_layers.2.bias"][0] // model_channels for i in starts],
        "num_res_blocks": per_level - 1,
        "attention_resolutions": [
            side >> level for level, i in enumerate(starts) if f"input_blocks.{i}.1.proj_out.bias" in shapes
        ],
        "resblock_updown": bool(upsampling),
        "n_motion_frames": motion if grayscale else motion // IN_CHANNELS,
        "grayscale_motion": grayscale,
        "n_audio_motion_embs": (rows - 1) // 2,
        "id_condition_type": _identity_condition(shapes),
        "audio_condition_type": _audio_condition(shapes),
    }


def _identity_condition(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if "identity_encoder.out.3.bias" not in shapes:
        return "frame"
    return "post_gn" if "middle_block.0.x_emb_layers.1.bias" in shapes else "pre_gn"


def _audio_condition(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if "middle_block.1.audio_emb_proj.bias" in shapes:
        return "attention"
    width = shapes.get("middle_block.0.audio_emb_layers.1.bias")
    if width is None:
        return "pre_gn"
    return "post_gn" if width == shapes["middle_block.0.out_layers.3.bias"] else "double_pre_gn"
