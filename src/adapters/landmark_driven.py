"""The original's checkpoints, folders in diffusers' form, and this project's `LandmarkDriven`.

NAME/                    the finished pipeline (averaged weights where an average was kept)
    unet/config.json     unet/diffusion_pytorch_model.safetensors (or .bin)
    scheduler/scheduler_config.json
checkpoint-<step>/       a training state
    unet/                the last weights
    unet_ema/            the averaged weights, where an average was kept
"""

import inspect
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import diffusers.schedulers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from src.adapters.renaming import rename
from src.errors import CheckpointError

# Original key, "{}" for one number, -> ours; below each entry hangs a `weight` and a `bias`. One rule for all: "unet." comes first.
_LAYERS = (
    "conv_in",
    "time_embedding.linear_{}",
    *(
        f"{block}.{layer}"
        for block in ("down_blocks.{}", "mid_block", "up_blocks.{}")
        for layer in (
            *(
                f"resnets.{{}}.{name}"
                for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
            ),
            *(f"attentions.{{}}.{name}" for name in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")),
        )
    ),
    "down_blocks.{}.downsamplers.0.conv",
    "up_blocks.{}.upsamplers.0.conv",
    "conv_norm_out",
    "conv_out",
)
TABLE = {f"{layer}.{kind}": f"unet.{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")}

# How very old versions of diffusers call the layers of an attention block.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# What diffusers' EMAModel adds to the configuration of the network that it averages.
EMA_SETTINGS = {
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}

# The noise schedule that the original builds in code: `checkpoint-<step>` folders do not hold it.
ORIGINAL_SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `LandmarkDrivenUNet` from the original's; CheckpointError lists keys that the table does not know."""
    return rename({_modern(key): value for key, value in state_dict.items()}, TABLE, "landmark_driven")


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict from that of `LandmarkDrivenUNet`; inverse of `from_official` up to the very old names."""
    return rename(state_dict, {ours: theirs for theirs, ours in TABLE.items()}, "landmark_driven")


def _modern(key: str) -> str:
    match = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))", key)
    return match[1] + OLD_ATTENTION[match[2]] + match[3] if match else key


def load_diffusers_folder(
    path: str | Path, weights: Literal["ema", "last"] = "ema"
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Constructor arguments and state dict of `LandmarkDrivenUNet`, and the scheduler's configuration, of an original checkpoint folder.

    Args:
        path: folder with `unet/`, see the module's docstring.
        weights: `ema` prefers `unet_ema/` where there is one.

    Raises:
        CheckpointError: files are missing or damaged, or hold another kind of model.
    """
    path = Path(path)
    averaged = weights == "ema" and (path / "unet_ema").is_dir()
    unet = path / ("unet_ema" if averaged else "unet")
    scheduler = path / "scheduler" / "scheduler_config.json"
    return (
        _net_arguments(unet / "config.json"),
        from_official(_read_weights(unet)),
        _scheduler_config(_read_json(scheduler) if scheduler.exists() else ORIGINAL_SCHEDULER, path),
    )


def release_config(net: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration groups that rebuild model and pipeline around what `load_diffusers_folder` returns."""
    return {
        "model": {
            "_target_": "src.lightning_modules.landmark_driven.LandmarkDriven",
            "net": {"_target_": "src.nn.landmark_driven.LandmarkDrivenUNet", "_convert_": "all", **net},
            "noise_schedule": dict(scheduler),
        },
        "pipeline": {"_target_": "src.pipelines.landmark_driven.LandmarkDrivenPipeline"},
    }


def _net_arguments(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    if (kind := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise CheckpointError(f"{path} describes a {kind}: give a checkpoint of the original landmark-driven model.")
    arguments = {k: v for k, v in config.items() if not k.startswith("_") and k not in EMA_SETTINGS}
    if unknown := set(arguments) - set(inspect.signature(UNet2DModel).parameters):
        raise CheckpointError(
            f"{path} has the setting {sorted(unknown)[0]!r}, which this version of diffusers lacks: update it."
        )
    return arguments


def _scheduler_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The scheduler as a configuration with `_target_`."""
    name = str(config.get("_class_name"))
    kind = getattr(diffusers.schedulers, name, None) if name.endswith("Scheduler") else None
    if not isinstance(kind, type):
        raise CheckpointError(f"{path}: diffusers has no scheduler {name!r}; correct scheduler/scheduler_config.json.")
    known = inspect.signature(kind).parameters
    return {"_target_": f"{kind.__module__}.{name}", **{k: v for k, v in config.items() if k in known}}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: copy the whole checkpoint folder.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy the checkpoint folder again.") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    safe, pickled = (folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin"))
    try:
        if safe.exists():
            return load_file(safe)
        if pickled.exists():
            return torch.load(pickled, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{pickled} holds more than tensors and was refused for safety.") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"the weights in {folder} are damaged: copy the checkpoint folder again.") from error
    raise CheckpointError(f"{safe} is missing: copy the whole checkpoint folder.")
