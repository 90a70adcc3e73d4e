"""From a checkpoint to a ready pipeline in one call."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import get_class

from src.checkpoint import Checkpoint, check_targets, instantiate, load
from src.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)


def pick_device(choice: str) -> torch.device:
    """`auto` is the first GPU, else Apple's, else the CPU; ConfigError for a device that this machine does not have."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(choice)
    except RuntimeError as error:
        raise ConfigError(f"device={choice}: choose auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={choice}: PyTorch finds no CUDA device here; use device=cpu.")
    return device


def load_model(checkpoint: Checkpoint, device: str = "auto") -> Any:
    """The LightningModule that a checkpoint describes, with its weights, frozen; errors as of `load_pipeline`."""
    model = instantiate(checkpoint.config["model"])
    try:
        model.load_state_dict(checkpoint.state_dict, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the weights do not fit the {checkpoint.method} network that the checkpoint describes: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error
    return model.eval().requires_grad_(False).to(pick_device(device))


def load_pipeline(
    ckpt: str | Path | Checkpoint,
    *,
    weights: Literal["ema", "last"] = "ema",
    device: str = "auto",
    compile: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The pipeline of the checkpoint's method with its weights, ready to be called.

    Example:
        >>> pipeline = load_pipeline("logs/landmark_driven_synthetic/.../last.ckpt", options={"steps": 25})
        >>> video = pipeline(source="face.png", driving="clip.mp4")

    Args:
        ckpt: path of a `.ckpt`, release folder, converted `.safetensors` or diffusers folder, or what `src.checkpoint.load` gave.
        weights: averaged (`ema`) or last weights of the training.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        compile: compile the networks in place.
        options: replace settings of the recorded pipeline configuration; an unknown name is a ConfigError.

    Raises:
        CheckpointError: the file is missing, unsafe, or its weights do not fit the recorded network.
    """
    checkpoint = ckpt if isinstance(ckpt, Checkpoint) else load(ckpt, weights)
    if absent := [group for group in ("model", "pipeline") if not checkpoint.config.get(group)]:
        raise CheckpointError(
            f"{checkpoint.path} does not say how to build its {absent[0]}: it was trained without one, or its record was removed."
        )
    model = load_model(checkpoint, device)
    settings = checkpoint.config["pipeline"]
    check_targets(settings)
    known = set(inspect.signature(get_class(settings["_target_"])).parameters) - {"model"}
    if unknown := set(options or {}) - known:
        raise ConfigError(f"{checkpoint.method} has no option {min(unknown)!r}; there are: {', '.join(sorted(known))}.")
    log.info("loaded %s (%s weights of %s)", checkpoint.path, weights, checkpoint.method)
    pipeline = instantiate({**settings, **(options or {})}, model=model)
    if compile:
        for network in pipeline.model.children():
            network.compile()
    return pipeline
