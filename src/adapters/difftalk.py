"""The original's checkpoints (https://github.com/sstzal/DiffTalk) and this project's `DiffTalk` and `DiffTalkAutoencoder`.

model.ckpt             first stage: `state_dict` of the autoencoder (latent-diffusion's `vq-f4`), while in training with `loss.*`: LPIPS,
                       which is dropped, and the discriminator. This is the only published file
epoch=....ckpt         second stage: U-Net under `model.diffusion_model.`, its average under `model_ema.` with names without dots,
                       autoencoder under `first_stage_model.`, encoders of the conditions, tables of the noise schedule
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from src.adapters.inert import StoredTensor, TorchArchive
from src.adapters.renaming import rename
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.errors import CheckpointError

T = TypeVar("T")

METHOD, AUTOENCODER_METHOD = "difftalk", "difftalk_autoencoder"

# Prefixes in the original's second-stage file.
UNET, AVERAGE, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
AVERAGED_UNET = "diffusion_model"  # stands before the averages' names
CONDITIONS = "cond_stage_model_for_"
DISCRIMINATOR, LOSS = "loss.discriminator.", "loss."
AVERAGE_DECAY, AVERAGE_COUNT = "decay", "num_updates"
MAX_DECAY = 0.9999

# What leaves no trace in the weights, as published.
RESOLUTION, LATENT_SIZE, HEAD_CHANNELS, STEPS = 256, 64, 32, 200
BETA_START, BETA_END = 0.0015, 0.0195

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


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern finds in the keys; 0 where it finds none."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1) + 1


# --- networks


def unet_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `DiffTalkNet.unet` from the original's U-Net; CheckpointError lists keys that the table does not know."""
    levels, num_res_blocks = _unet_depth(state_dict)
    table = unet_table(levels, num_res_blocks) | _upsampling(state_dict, num_res_blocks)
    return rename(state_dict, table, METHOD)


def unet_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original U-Net's state dict from that of `DiffTalkNet.unet`; inverse of `unet_from_official`."""
    levels = _count(state_dict, r"down_blocks\.(\d+)\.")
    num_res_blocks = _count(state_dict, r"down_blocks\.0\.resnets\.(\d+)\.")
    table = unet_table(levels, num_res_blocks) | _upsampling(state_dict, num_res_blocks)
    return rename(state_dict, _inverse(table), METHOD)


def _unet_depth(keys: Iterable[str]) -> tuple[int, int]:
    """Levels and residual blocks per level, from the original's keys."""
    steps = sorted(int(match[1]) for key in keys if (match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key)))
    blocks = _count(keys, r"input_blocks\.(\d+)\.")
    return len(steps) + 1, (steps[0] if steps else blocks) - 1


def autoencoder_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `VQAutoencoder` from the original's; CheckpointError lists keys that the table does not know."""
    renamed = rename(state_dict, autoencoder_table(_count(state_dict, r"encoder\.down\.(\d+)\.")), METHOD)
    # The original's attention has convolutions of 1x1 pixels, diffusers' linear layers.
    return {f"vq.{k}": v.flatten(1) if _is_projection(k) else v for k, v in renamed.items()}


def autoencoder_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original autoencoder's state dict from that of `VQAutoencoder`; inverse of `autoencoder_from_official`."""
    ours = {k.removeprefix("vq."): v[..., None, None] if _is_projection(k) else v for k, v in state_dict.items()}
    return rename(ours, _inverse(autoencoder_table(_count(ours, r"encoder\.down_blocks\.(\d+)\."))), METHOD)


def _is_projection(key: str) -> bool:
    return re.search(r"attentions\.\d+\.to_\w+(\.0)?\.weight$", key) is not None


# --- complete state dicts


def from_official(state_dict: Mapping[str, Tensor], weights: Literal["ema", "last"] = "ema") -> dict[str, Tensor]:
    """State dict of `DiffTalk`'s networks (`net.`, `first_stage.`) from the original's second-stage file.

    Args:
        state_dict: of the original.
        weights: the average of the U-Net where the file has one, or its last weights; the encoders of the conditions have no average.

    Raises:
        CheckpointError: keys that the original does not have, parts that are missing, or a first stage alone.
    """
    parts = _parts(choose(state_dict, weights))
    conditions = {f"{CONDITIONS}{key}": value for key, value in parts[CONDITIONS].items()}
    return {
        **{f"net.unet.{k}": v for k, v in unet_from_official(parts[UNET]).items()},
        **{f"net.context_encoder.{k}": v for k, v in rename(conditions, CONDITION_TABLE, METHOD).items()},
        **{f"first_stage.{k}": v for k, v in autoencoder_from_official(parts[FIRST_STAGE]).items()},
    }


def choose(state_dict: Mapping[str, T], weights: Literal["ema", "last"]) -> dict[str, T]:
    """A second-stage file without its average, which with `ema` takes the place of the U-Net's weights, where there is one.

    Raises:
        CheckpointError: the file is none, or its average is of another network.
    """
    parts = _parts(state_dict)
    kept = {key: value for key, value in state_dict.items() if not key.startswith(AVERAGE)}
    if weights == "last" or not parts[AVERAGE]:
        return kept
    average = _average(parts[AVERAGE], parts[UNET])
    return kept | {f"{UNET}{key}": value for key, value in average.items()}


def to_official(
    state_dict: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None = None,
    num_updates: int = 0,
    betas: Tensor | None = None,
) -> dict[str, Tensor]:
    """The original's second-stage state dict from that of `DiffTalk`'s networks; inverse of `from_official`.

    Args:
        state_dict: `net.` with the published context, and `first_stage.`.
        average: averaged weights under the same names; None: `state_dict` itself.
        num_updates: how many updates the average has had.
        betas: noise schedule, float64; None: the published one.
    """
    unet = unet_to_official(_below_prefix(state_dict, "net.unet."))
    averaged = unet if average is None else unet_to_official(_below_prefix(average, "net.unet."))
    conditions = _below_prefix(state_dict, "net.context_encoder.")
    first_stage = autoencoder_to_official(_below_prefix(state_dict, "first_stage."))
    return {
        **noise_tables(scaled_linear_betas() if betas is None else betas),
        **{f"{UNET}{k}": v for k, v in unet.items()},
        f"{AVERAGE}{AVERAGE_DECAY}": torch.tensor(MAX_DECAY),
        f"{AVERAGE}{AVERAGE_COUNT}": torch.tensor(num_updates, dtype=torch.int32),
        **{f"{AVERAGE}{average_name(k)}": v for k, v in averaged.items()},
        **{f"{FIRST_STAGE}{k}": v for k, v in first_stage.items()},
        **rename(conditions, _inverse(CONDITION_TABLE), METHOD),
    }


def average_name(key: str) -> str:
    """Name of the average of a weight of the U-Net, below `model_ema.`."""
    return AVERAGED_UNET + key.replace(".", "")


def autoencoder_checkpoint_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `DiffTalkAutoencoder`'s networks (`net.`, and `discriminator.` where it is there) from a first-stage file.

    Raises:
        CheckpointError: keys that the original does not have.
    """
    own = {k: v for k, v in state_dict.items() if not k.startswith(LOSS)}
    discriminator = _below_prefix(state_dict, DISCRIMINATOR)
    return {
        **{f"net.{k}": v for k, v in autoencoder_from_official(own).items()},
        **{f"discriminator.{k}": v for k, v in discriminator.items()},
    }


def _below_prefix(state_dict: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


def _parts(state_dict: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The groups of a second-stage file by their prefixes, and the tables of the noise under "".

    Raises:
        CheckpointError: a group is missing, or there are keys of no group.
    """
    if is_first_stage(state_dict):
        raise CheckpointError(
            "the file holds only the first stage, as the published model.ckpt does, and no U-Net: convert it with "
            "method=difftalk_autoencoder and train the second stage on it."
        )
    prefixes = (UNET, AVERAGE, FIRST_STAGE, CONDITIONS)
    parts = {prefix: _below_prefix(state_dict, prefix) for prefix in prefixes}
    parts[""] = {key: value for key, value in state_dict.items() if not key.startswith(prefixes)}
    unknown = sorted(parts[""].keys() - noise_tables(scaled_linear_betas(2)).keys())
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} weights are not of difftalk's networks (first: {', '.join(unknown[:3])}): "
            "give a checkpoint of the original difftalk model."
        )
    if absent := [prefix for prefix in (UNET, FIRST_STAGE, CONDITIONS) if not parts[prefix]]:
        raise CheckpointError(
            f"the file has no weights under {absent[0]}: give a whole checkpoint of DiffTalk's second stage."
        )
    return parts


def is_first_stage(keys: Iterable[str]) -> bool:
    """Whether a file holds the autoencoder alone."""
    return any(key.startswith("encoder.") for key in keys)


def _average(average: Mapping[str, T], last: Mapping[str, T]) -> dict[str, T]:
    """The averages under the names of the weights."""
    names = {key: average_name(key) for key in last}
    if absent := [key for key, name in names.items() if name not in average]:
        raise CheckpointError(f"the average of the U-Net lacks {absent[0]}: convert with weights=last.")
    if unknown := sorted(average.keys() - {*names.values(), AVERAGE_DECAY, AVERAGE_COUNT}):
        raise CheckpointError(
            f"the average of the U-Net has {unknown[0]}, which the U-Net lacks: convert with weights=last."
        )
    return {key: average[name] for key, name in names.items()}


# --- files


def load_official(
    path: str | Path, weights: Literal["ema", "last"] = "ema"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `DiffTalk` from a second-stage checkpoint; nothing in the file is run.

    Raises:
        CheckpointError: the file is none, or holds a first stage alone.
    """
    archive, stored = _stored(path)
    try:
        chosen = choose(stored, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    official = archive.load_tensors(chosen)
    state_dict = from_official(official)
    channels = autoencoder_arguments(_below_prefix(official, FIRST_STAGE))["latent_channels"]
    # Published latents are taken as they are.
    state_dict |= {"latent_mean": torch.zeros(channels), "latent_std": torch.ones(channels)}
    return release_config(official), state_dict


def load_official_autoencoder(
    path: str | Path, weights: Literal["ema", "last"] = "ema"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `DiffTalkAutoencoder` from a first-stage file, or the first stage of a second-stage one.

    Args:
        path: of the file.
        weights: there is no average of the first stage.

    Raises:
        CheckpointError: the file is none of these.
    """
    archive, stored = _stored(path)
    if not is_first_stage(stored):
        stored = _below_prefix(stored, FIRST_STAGE)
    if not stored:
        raise CheckpointError(
            f"{path} has no first stage: give the original's model.ckpt, or a checkpoint of its second stage."
        )
    official = archive.load_tensors(
        {k: v for k, v in stored.items() if k.startswith(DISCRIMINATOR) or not k.startswith(LOSS)}
    )
    state_dict = autoencoder_checkpoint_from_official(official)
    model = {
        "_target_": "src.lightning_modules.difftalk_autoencoder.DiffTalkAutoencoder",
        "net": autoencoder_config(official),
        "discriminator": discriminator_config(_below_prefix(official, DISCRIMINATOR)),
    }
    return {"model": model}, state_dict


def _stored(path: str | Path) -> tuple[TorchArchive, dict[str, StoredTensor]]:
    """The file and where the tensors of its state dict lie in it."""
    archive = TorchArchive(path)
    content = archive.content
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    stored = state_dict.items() if isinstance(state_dict, Mapping) else ()
    tensors = {str(key): value for key, value in stored if isinstance(value, StoredTensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} has no state_dict: give the original's model.ckpt, or a checkpoint of its second stage."
        )
    return archive, tensors


def release_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration groups that rebuild `DiffTalk` and its pipeline around the original's weights.

    The mask is that of the original's training: the frame is hidden from the tip of the nose on.
    """
    model = {
        "_target_": "src.lightning_modules.difftalk.DiffTalk",
        "net": {"_target_": "src.nn.difftalk.DiffTalkNet", "_convert_": "all", **net_arguments(official)},
        "first_stage": autoencoder_config(_below_prefix(official, FIRST_STAGE)),
        "noise_schedule": noise_schedule_config(official.get("betas")),
        "mask": {"_target_": "src.face.repainting.MaskRule", "shape": "nose_tip"},
        "sampler": "published",
        "sample_steps": STEPS,
    }
    pipeline = {
        "_target_": "src.pipelines.difftalk.DiffTalkPipeline",
        "audio_offsets": [-4, 3],
        "audio_edges": "zero",
    }
    return {"model": model, "pipeline": pipeline}


def noise_schedule_config(betas: Tensor | None) -> dict[str, Any]:
    """A scheduler with the file's noise; short where it is the published one."""
    published = scaled_linear_betas().float()
    shape: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": BETA_START, "beta_end": BETA_END}
    if betas is not None and not (
        betas.shape == published.shape and torch.allclose(betas.float(), published, rtol=1e-5, atol=0)
    ):
        shape = {"num_train_timesteps": len(betas), "trained_betas": betas.double().tolist()}
    return {"_target_": "diffusers.schedulers.DDPMScheduler", **shape, "clip_sample": False, "steps_offset": 1}


def autoencoder_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of `VQAutoencoder` for the original's weights."""
    return {"_target_": "src.nn.difftalk.VQAutoencoder", "_convert_": "all", **autoencoder_arguments(official)}


def discriminator_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of `PatchDiscriminator` for the original's weights; the published one where there are none."""
    convs = [value for key, value in official.items() if key.endswith(".weight") and value.ndim == 4]
    sizes = {"channels": convs[0].shape[0], "n_layers": len(convs) - 2} if len(convs) > 2 else {}
    return {"_target_": "src.nn.difftalk.PatchDiscriminator", **sizes}


# --- constructor arguments, read off the weights


def net_arguments(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `DiffTalkNet` for the weights of a second-stage file; CheckpointError where they are none."""
    unet = {key: tuple(value.shape) for key, value in _below_prefix(official, UNET).items()}
    levels, num_res_blocks = _unet_depth(unet)
    try:
        model_channels, in_channels = unet["input_blocks.0.0.weight"][:2]
        starts = [1 + level * (num_res_blocks + 1) for level in range(levels)]
        return {
            "image_size": LATENT_SIZE,
            "latent_channels": in_channels // 3,
            "model_channels": model_channels,
            "channel_mult": [unet[f"input_blocks.{i}.0.out_layers.3.bias"][0] // model_channels for i in starts],
            "num_res_blocks": num_res_blocks,
            "attention_resolutions": [
                2**level for level, i in enumerate(starts) if f"input_blocks.{i}.1.norm.weight" in unet
            ],
            "num_head_channels": HEAD_CHANNELS,
            "transformer_depth": _count(unet, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
            "context": "merged",
            "context_dim": unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            "n_audio_rows": official["cond_stage_model_for_audio_smooth.attentionNet.0.bias"].shape[0],
        }
    except LookupError as error:
        raise CheckpointError(
            "the weights are not those of DiffTalk's U-Net: give a checkpoint of the original."
        ) from error


def autoencoder_arguments(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `VQAutoencoder` for the original's weights; CheckpointError where they are none."""
    shapes = {key: tuple(value.shape) for key, value in official.items()}
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    try:
        channels = shapes["encoder.conv_in.weight"][0]
        n_codes, latent_channels = shapes["quantize.embedding.weight"]
        return {
            "channels": channels,
            "channel_mult": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] // channels for i in range(levels)],
            "num_res_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
            "latent_channels": latent_channels,
            "z_channels": shapes["encoder.conv_out.weight"][0],
            "n_codes": n_codes,
            "attention_resolutions": [
                RESOLUTION >> level for level in range(levels) if f"encoder.down.{level}.attn.0.norm.weight" in shapes
            ],
            "resolution": RESOLUTION,
        }
    except LookupError as error:
        raise CheckpointError(
            "the weights are not those of a VQ autoencoder: give the original's model.ckpt."
        ) from error
