"""The original's checkpoints (https://github.com/sstzal/DiffTalk) and this project's `DiffTalk` and `DiffTalkAutoencoder`.

model.ckpt             first stage: `state_dict` of the autoencoder (latent-diffusion's `vq-f4`), while in training with `loss.*`: LPIPS,
                       which is dropped, and the discriminator. This is the only published file
epoch=....ckpt         second stage: U-Net under `model.diffusion_model.`, its average under `model_ema.` with names without dots,
                       autoencoder under `first_stage_model.`, encoders of the conditions, tables of the noise schedule
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from src.adapters.difftalk_networks import (
    CONDITION_TABLE,
    METHOD,
    autoencoder_from_official,
    autoencoder_to_official,
    count,
    inverse,
    unet_depth,
    unet_from_official,
    unet_to_official,
)
from src.adapters.inert import StoredTensor, TorchArchive
from src.adapters.renaming import rename
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.errors import CheckpointError

T = TypeVar("T")

AUTOENCODER_METHOD = "difftalk_autoencoder"

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
        **rename(conditions, inverse(CONDITION_TABLE), METHOD),
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
    levels, num_res_blocks = unet_depth(unet)
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
            "transformer_depth": count(unet, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
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
    levels = count(shapes, r"encoder\.down\.(\d+)\.")
    try:
        channels = shapes["encoder.conv_in.weight"][0]
        n_codes, latent_channels = shapes["quantize.embedding.weight"]
        return {
            "channels": channels,
            "channel_mult": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] // channels for i in range(levels)],
            "num_res_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
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
