"""The original's checkpoints (https://github.com/cvlab-kaist/MoDiTalker, folder `MToV`) and this project's `MToV` and `MToVAutoencoder`.

All files are bare state dicts:

autoencoder_rgb.pth       the autoencoder of faces
autoencoder_motion.pth    the autoencoder of landmarks, of the same layout
diffusion_model.pth       the U-Net under `diffusion_model.`, with blocks that its forward pass never runs (`output_bg_*`), which are
                          dropped; `ema_model_<iteration>.pth` is the same. It is not published any more
loss_last*.pth            both discriminators, and LPIPS, which is dropped
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.adapters.inert import StoredTensor, TorchArchive
from src.adapters.renaming import rename
from src.errors import CheckpointError

METHOD, AUTOENCODER_METHOD = "moditalker_mtov", "moditalker_mtov_autoencoder"
RGB_FILE, LANDMARK_FILE, UNET_FILE = "autoencoder_rgb.pth", "autoencoder_motion.pth", "diffusion_model.pth"

UNET = "diffusion_model."
UNUSED = ("output_bg_blocks.", "output_bg_attns.", "zeros")  # of the U-Net: nothing ever looks at them
COORDS = "coords"  # of the autoencoder: idem
DISCRIMINATORS = {"discriminator_2d.": "frame_discriminator.", "discriminator_3d.": "clip_discriminator."}
PERCEPTUAL = "perceptual_loss."

# What leaves no trace in the weights, as published.
HEADS, SAMPLING_STEPS, LATENT_SIZE, FRAMES = 8, 100, 32, 16
BETA_START, BETA_END = 0.0015, 0.0195

_KINDS = ("weight", "bias")
_STATISTICS = (*_KINDS, "running_mean", "running_var", "num_batches_tracked")


def _with_kinds(layers: Mapping[str, str], kinds: Iterable[str] = _KINDS) -> dict[str, str]:
    return {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in kinds}


def _attention(theirs: str, ours: str) -> dict[str, str]:
    layers = {f"{theirs}.norm": f"{ours}.norm", f"{theirs}.fn.to_out.0": f"{ours}.out"}
    return _with_kinds(layers) | {f"{theirs}.fn.to_qkv.weight": f"{ours}.qkv.weight"}


def _transformer(part: str) -> dict[str, str]:
    theirs, ours = f"{part}.layers.{{}}", f"{part}.layers.{{}}"
    feed_forward = {"norm": "norm", "fn.net.0": "widen", "fn.net.3": "narrow"}
    return (
        _attention(f"{theirs}.0", f"{ours}.time_attention")
        | _attention(f"{theirs}.1", f"{ours}.space_attention")
        | _with_kinds({f"{theirs}.2.{old}": f"{ours}.feed_forward.{new}" for old, new in feed_forward.items()})
        | {
            f"{part}.frame_rot_emb.inv_freqs": f"{part}.time_rotation.frequencies",
            f"{part}.image_rot_emb.scales": f"{part}.space_rotation.scales",
        }
    )


def _readout(plane: str) -> dict[str, str]:
    theirs, ours = f"{plane}_quant_attn.layers.{{}}", f"readouts.{plane}.layers.{{}}"
    feed_forward = {"norm": "norm", "fn.net.0": "layers.0", "fn.net.3": "layers.2"}
    return (
        {f"{plane}_token": f"readouts.{plane}.token", f"{plane}_pos_embedding": f"readouts.{plane}.positions"}
        | _attention(f"{theirs}.0", f"{ours}.attention")
        | _with_kinds({f"{theirs}.1.{old}": f"{ours}.feed_forward.{new}" for old, new in feed_forward.items()})
        | _with_kinds({f"pre_{plane}": f"to_latent.{plane}", f"post_{plane}": f"from_latent.{plane}"})
    )


# Original key -> key of `TriplaneAutoencoder`, `ClipDiscriminator`, `MToVUNet`; `{}` is one number.
AUTOENCODER_TABLE = (
    _transformer("encoder")
    | _transformer("decoder")
    | {key: new for plane in ("xy", "yt", "xt") for key, new in _readout(plane).items()}
    | _with_kinds({"encoder.to_patch_embedding": "patch_embedding.linear", "to_pixel.1": "to_pixels"})
)
DISCRIMINATOR_TABLE = _with_kinds({"model{}.{}": "stages.{}.{}"}, _STATISTICS)
_RESIDUAL = {
    "in_layers.0": "in_norm",
    "in_layers.2": "in_conv",
    "emb_layers.1": "time_proj",
    "out_layers.0": "out_norm",
    "out_layers.3": "out_conv",
    "skip_connection": "skip",
}
_SELF_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "proj"}
_STAGES = ("input_blocks.{}.{}", "middle_block.{}", "output_blocks.{}.{}")
_CROSS_PLANE = {
    "input_attns.{}": "input_attentions.{}",
    "mid_attn": "middle_attention",
    "output_attns.{}": "output_attentions.{}",
}
UNET_TABLE = _with_kinds(
    {"time_embed.{}": "time_embed.{}", "input_blocks.0.0": "input_blocks.0.0.conv"}
    | {f"{stage}.{old}": f"{stage}.{new}" for stage in _STAGES for old, new in (_RESIDUAL | _SELF_ATTENTION).items()}
    | {f"{a}.{old}": f"{b}.attention.{new}" for a, b in _CROSS_PLANE.items() for old, new in _SELF_ATTENTION.items()}
    | {"out.0": "out_norm", "out.2": "out_conv"}
)


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def _below(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


# --- networks


def autoencoder_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `TriplaneAutoencoder` from the original's; CheckpointError lists keys that the table does not know."""
    kept = {key: value for key, value in state_dict.items() if key != COORDS}
    return rename(kept, AUTOENCODER_TABLE, AUTOENCODER_METHOD)


def autoencoder_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original autoencoder's state dict from that of `TriplaneAutoencoder`; inverse of `autoencoder_from_official`."""
    official = rename(state_dict, _inverse(AUTOENCODER_TABLE), AUTOENCODER_METHOD)
    if (positions := official.get("xy_pos_embedding")) is not None:
        official[COORDS] = torch.linspace(-1, 1, positions.shape[1] - 1, device=positions.device)[:, None]
    return official


def discriminators_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of both discriminators (`frame_discriminator.`, `clip_discriminator.`) from the original's criterion."""
    found = {}
    for theirs, ours in DISCRIMINATORS.items():
        renamed = rename(_below(state_dict, theirs), DISCRIMINATOR_TABLE, AUTOENCODER_METHOD)
        found |= {f"{ours}{key}": value for key, value in renamed.items()}
    known = (*DISCRIMINATORS, PERCEPTUAL)
    if unknown := sorted(key for key in state_dict if not key.startswith(known)):
        raise CheckpointError(
            f"{len(unknown)} weights are not of the losses of MToV's autoencoder (first: {unknown[0]}): give the original's loss_last.pth."
        )
    return found


def discriminators_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The discriminators' part of the original's criterion; inverse of `discriminators_from_official`."""
    official = {}
    for theirs, ours in DISCRIMINATORS.items():
        renamed = rename(_below(state_dict, ours), _inverse(DISCRIMINATOR_TABLE), AUTOENCODER_METHOD)
        official |= {f"{theirs}{key}": value for key, value in renamed.items()}
    return official


def unet_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `MToVUNet` from the original's U-Net; what its forward pass never runs is dropped.

    Raises:
        CheckpointError: keys that the table does not know.
    """
    inner = {key.removeprefix(UNET): value for key, value in state_dict.items()}
    kept = {key: value for key, value in inner.items() if not key.startswith(UNUSED)}
    return rename(kept, UNET_TABLE, METHOD)


def unet_to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of the original U-Net that is run; inverse of `unet_from_official`."""
    return {f"{UNET}{key}": value for key, value in rename(state_dict, _inverse(UNET_TABLE), METHOD).items()}


# --- constructor arguments, read off the weights


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern finds in the keys; 0 where it finds none."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1) + 1


def autoencoder_arguments(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `TriplaneAutoencoder` for the original's weights; CheckpointError where they are none."""
    shapes = {key: tuple(value.shape) for key, value in official.items()}
    try:
        patch = shapes["to_pixel.1.weight"][-1]
        head_dim = 2 * shapes["encoder.frame_rot_emb.inv_freqs"][0]
        return {
            "resolution": (shapes["xt_pos_embedding"][1] - 1) * patch,
            "frames": shapes["xy_pos_embedding"][1] - 1,
            "dim": shapes["xy_token"][-1],
            "latent_channels": shapes["pre_xy.bias"][0],
            "patch": patch,
            "depth": _count(shapes, r"encoder\.layers\.(\d+)\."),
            "heads": shapes["encoder.layers.0.0.fn.to_out.0.weight"][1] // head_dim,
            "head_dim": head_dim,
            "readout_depth": _count(shapes, r"xy_quant_attn\.layers\.(\d+)\."),
        }
    except LookupError as error:
        raise CheckpointError(
            "the weights are not those of MToV's autoencoder: give the original's autoencoder_rgb.pth or autoencoder_motion.pth."
        ) from error


def unet_arguments(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `MToVUNet` for the original's weights; CheckpointError where they are none."""
    shapes = {key.removeprefix(UNET): tuple(value.shape) for key, value in official.items()}
    try:
        model_channels, latent_channels = shapes["input_blocks.0.0.bias"][0], shapes["out.2.bias"][0]
        n_stages = _count(shapes, r"output_blocks\.(\d+)\.")
        # The last stage of a level ends with a residual block more, which doubles the size.
        last = (i for i in range(n_stages) if any(f"output_blocks.{i}.{k}.in_layers.0.bias" in shapes for k in (1, 2)))
        per_level = next(last, n_stages - 1) + 1
        starts = [1 + level * per_level for level in range(n_stages // per_level)]
        return {
            "size": LATENT_SIZE,
            "frames": FRAMES,
            "latent_channels": latent_channels,
            "n_conditions": shapes["input_blocks.0.0.weight"][1] // latent_channels - 2,
            "model_channels": model_channels,
            "channel_mult": [shapes[f"input_blocks.{i}.0.out_layers.3.bias"][0] // model_channels for i in starts],
            "num_res_blocks": per_level - 1,
            "attention_resolutions": [
                2**level for level, i in enumerate(starts) if f"input_blocks.{i}.1.norm.weight" in shapes
            ],
            "num_heads": HEADS,
        }
    except LookupError as error:
        raise CheckpointError(
            "the weights are not those of MToV's U-Net: give the original's diffusion_model.pth or ema_model_<iteration>.pth."
        ) from error


# --- files


def load_official_autoencoder(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `MToVAutoencoder` from autoencoder_rgb.pth or autoencoder_motion.pth.

    Raises:
        CheckpointError: the file is none of these.
    """
    official = read_state_dict(path)
    model = {
        "_target_": "src.lightning_modules.moditalker_mtov_autoencoder.MToVAutoencoder",
        "net": autoencoder_config(official),
    }
    return {"model": model}, {f"net.{key}": value for key, value in autoencoder_from_official(official).items()}


def load_official(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `MToV` from a folder with the U-Net and both autoencoders.

    Raises:
        CheckpointError: a file is missing or holds something else.
    """
    folder = Path(folder)
    unets = sorted(folder.glob("ema_model_*.pth"), key=lambda path: int("0" + re.sub(r"\D", "", path.stem)))
    unet_file = folder / UNET_FILE if (folder / UNET_FILE).is_file() or not unets else unets[-1]
    files = {"net": unet_file, "autoencoder": folder / RGB_FILE, "landmark_autoencoder": folder / LANDMARK_FILE}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: MToV needs the U-Net ({UNET_FILE} or ema_model_<iteration>.pth) and the autoencoders "
            f"of faces ({RGB_FILE}) and landmarks ({LANDMARK_FILE})."
        )
    official = {name: read_state_dict(path) for name, path in files.items()}
    state_dict = {f"net.{key}": value for key, value in unet_from_official(official["net"]).items()}
    for name in ("autoencoder", "landmark_autoencoder"):
        state_dict |= {f"{name}.{key}": value for key, value in autoencoder_from_official(official[name]).items()}
    return release_config(official), state_dict


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a bare state dict; nothing in the file is run. CheckpointError where there are none."""
    archive = TorchArchive(path)
    content = archive.content
    stored = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value for key, value in stored if isinstance(value, StoredTensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: give a .pth file of the original MToV.")
    return archive.load_tensors(tensors)


def autoencoder_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of `TriplaneAutoencoder` for the original's weights."""
    return {
        "_target_": "src.nn.moditalker_mtov.TriplaneAutoencoder",
        "_convert_": "all",
        **autoencoder_arguments(official),
    }


def release_config(official: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Configuration groups that rebuild `MToV` and its pipeline around the original's weights.

    Args:
        official: state dicts of `net`, `autoencoder` and `landmark_autoencoder`.
    """
    autoencoder = autoencoder_arguments(official["autoencoder"])
    sizes = {"size": autoencoder["resolution"] // autoencoder["patch"], "frames": autoencoder["frames"]}
    net = {
        "_target_": "src.nn.moditalker_mtov.MToVUNet",
        "_convert_": "all",
        **unet_arguments(official["net"]),
        **sizes,
    }
    model = {
        "_target_": "src.lightning_modules.moditalker_mtov.MToV",
        "net": net,
        "autoencoder": autoencoder_config(official["autoencoder"]),
        "landmark_autoencoder": autoencoder_config(official["landmark_autoencoder"]),
        "noise_schedule": {
            "_target_": "diffusers.schedulers.DDPMScheduler",
            "beta_schedule": "scaled_linear",
            "beta_start": BETA_START,
            "beta_end": BETA_END,
            "clip_sample": True,
        },
        "sampler": "published",
        "sample_steps": SAMPLING_STEPS,
    }
    return {"model": model, "pipeline": {"_target_": "src.pipelines.moditalker_mtov.MToVPipeline"}}
