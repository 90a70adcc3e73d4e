"""Checkpoints: safe loading of training checkpoints, release folders and converted weights, and the release format.

Nothing is unpickled beyond tensors and plain values, and a `_target_` read back from a file must be a class of ours or one of the few
library classes below, so a checkpoint of unknown origin cannot run anything.
"""

import hashlib
import importlib
import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import hydra.utils
import torch
import yaml
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.adapters import difftalk, diffused_heads, liveportrait, liveportrait_talker, moditalker_atom, moditalker_mtov
from src.adapters.landmark_driven import load_diffusers_folder, release_config
from src.errors import CheckpointError
from src.media import atomic_path
from src.model_files import models_dir

log = logging.getLogger(__name__)

SLUG = re.compile(r"[a-z][a-z0-9_]*")  # name of a method
LANDMARK_DRIVEN = "landmark_driven"  # whose original writes diffusers folders, which say so themselves
RECORD_KEY = "viseme"  # what this project adds to Lightning's checkpoint
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.yaml", "README.md"

# Library classes that a configuration inside a checkpoint may name, beside the classes of `src`.
ALLOWED_MODULES = ("diffusers.schedulers.", "torch.optim.")
ALLOWED_FUNCTIONS = ("diffusers.optimization.get_scheduler", "src.face.alignment.MeanFaceAlignment.square")

Weights = Literal["ema", "last"]

# Readers of original files that do not say which method they are of: method -> (configuration groups, state dict).
PUBLISHED: dict[str, Callable[[Path, Weights], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    diffused_heads.METHOD: lambda path, _: diffused_heads.load_official(path),  # has no average
    difftalk.METHOD: difftalk.load_official,
    difftalk.AUTOENCODER_METHOD: difftalk.load_official_autoencoder,
    moditalker_atom.METHOD: moditalker_atom.load_official,
    liveportrait.METHOD: lambda path, _: liveportrait.load_official(path),  # has no average
    liveportrait_talker.METHOD: lambda path, _: liveportrait_talker.load_official(path),  # has no average
    moditalker_mtov.METHOD: lambda path, _: moditalker_mtov.load_official(path),  # has the average alone
    # Has no average:
    moditalker_mtov.AUTOENCODER_METHOD: lambda path, _: moditalker_mtov.load_official_autoencoder(path),
}
FOLDERS = {liveportrait.METHOD, liveportrait_talker.METHOD, moditalker_mtov.METHOD}  # published as several files


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    `state_dict` are the averaged weights where the training kept an average and `weights="ema"` was asked for, else the last ones.
    `config` holds the plain configuration groups of the training (`model`, `pipeline`, `datamodule`), empty where the file has none.
    """

    path: Path
    method: str
    state_dict: dict[str, Tensor] = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """File name and the first 12 digits of the sha256 of the weights: goes into the metadata of generated videos."""
        return f"{self.path.name} {weights_sha256(self.state_dict)[:12]}"


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Sha256 over names and bytes of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        digest.update(name.encode())
        digest.update(state_dict[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load(path: str | Path, weights: Weights = "ema") -> Checkpoint:
    """The checkpoint at `path`: a `.ckpt` of `train.py`, a release folder, a `.safetensors` of `tools/convert_checkpoint.py` or a
    diffusers folder.

    Raises CheckpointError when there is none, it is damaged, it holds more than tensors and plain values, or it is of no known layout.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint.")
    if path.is_dir():
        return _load_folder(path, weights)
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _load_lightning(path, weights)


def load_published(path: str | Path, method: str | None = None, weights: Weights = "ema") -> Checkpoint:
    """The checkpoint at `path` as `load` gives it, or, where `method` says of which method it is, a file in its original form."""
    path, known = Path(path), sorted({LANDMARK_DRIVEN, *PUBLISHED})
    if method is not None and method not in known:
        raise CheckpointError(f"method={method}: choose {' or '.join(known)}, or leave method out.")
    try:
        return load(path, weights)
    except CheckpointError:
        readable = path.is_dir() if method in FOLDERS else path.is_file() and path.suffix != ".safetensors"
        if method is None or method not in PUBLISHED or not readable:
            raise
    config, state_dict = PUBLISHED[method](path, weights)
    return Checkpoint(path, method, state_dict, config)


def load_downloaded(method: str) -> Checkpoint:
    """Published weights of a method out of the folder that `tools/download_models.py` fills; CheckpointError names what is missing."""
    config, state_dict = PUBLISHED[method](models_dir(), "last")
    return Checkpoint(models_dir(), method, state_dict, config)


def method_of(path: str | Path) -> str:
    """The slug of the method that the checkpoint at `path` belongs to."""
    return load(path).method


def newest_checkpoint(runs: Path) -> Path | None:
    """The `last.ckpt` that was written last by the runs below a folder; None where there is none."""
    return max(runs.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, default=None)


def load_pickled(path: Path) -> dict[str, Any]:
    """`torch.load` that refuses everything but tensors and plain values; CheckpointError in one sentence otherwise."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values and was refused for safety; convert official files with "
            "python tools/convert_checkpoint.py method=NAME."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint; copy or download it again.") from error


def _load_lightning(path: Path, weights: Weights) -> Checkpoint:
    content = load_pickled(path)
    record = content.get(RECORD_KEY) if isinstance(content, dict) else None
    if record is None:
        raise CheckpointError(
            f"{path} was not written by train.py; convert weights of other origin with python tools/convert_checkpoint.py."
        )
    raw = weights == "last" and "current_model_state" in content
    return _described(path, record, content.get("current_model_state" if raw else "state_dict"))


def _described(path: Path, record: object, state_dict: object) -> Checkpoint:
    """What a file says of itself, which may be anything; the method's name becomes part of paths."""
    method, config = (record.get("method"), record.get("config")) if isinstance(record, dict) else (None, None)
    if (
        not isinstance(method, str)
        or not SLUG.fullmatch(method)
        or not isinstance(config, dict)
        or not isinstance(state_dict, dict)
        or not all(isinstance(value, Tensor) for value in state_dict.values())
    ):
        raise CheckpointError(f"{path} does not hold a method's name, its configuration and weights: make it again.")
    return Checkpoint(path, method, state_dict, config)


def _load_folder(path: Path, weights: Weights) -> Checkpoint:
    if (path / WEIGHTS_FILE).exists():
        return _load_safetensors(path / WEIGHTS_FILE)
    if (path / "unet").is_dir():
        net, state_dict, schedule = load_diffusers_folder(path, weights)
        config = release_config(net, schedule)
        return Checkpoint(path, LANDMARK_DRIVEN, {f"net.{k}": v for k, v in state_dict.items()}, config)
    newest = max(path.rglob("last.ckpt"), key=lambda p: p.stat().st_mtime, default=None)
    hint = f"; did you mean {newest}?" if newest else "."
    raise CheckpointError(f"{path} is neither a release folder ({WEIGHTS_FILE}) nor a diffusers folder (unet/)" + hint)


def _load_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file; copy or download it again.") from error
    if "method" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{path} does not say which method it is of; make it with python tools/convert_checkpoint.py."
        )
    try:
        config = json.loads(metadata["config"])
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its configuration is no JSON; copy or download it again.") from error
    return _described(path, {"method": metadata["method"], "config": config}, state_dict)


def record(method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into a checkpoint beside the weights: plain values only, so that `weights_only=True` reads it."""
    return {"method": method, "config": json.loads(json.dumps(config))}


def save_safetensors(
    path: Path, method: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor], **origin: str
) -> None:
    """Write weights with method and configuration in the metadata; atomic."""
    metadata = {"format": "pt", "method": method, "config": json.dumps(config), **origin}
    with atomic_path(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()}, temporary, metadata=metadata
        )


def save_release(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the release folder: `model.safetensors`, `config.yaml` and a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / WEIGHTS_FILE, checkpoint.method, checkpoint.config, checkpoint.state_dict)
    (folder / CONFIG_FILE).write_text(
        yaml.safe_dump({"method": checkpoint.method, **checkpoint.config}, sort_keys=False)
    )
    (folder / CARD_FILE).write_text(_model_card(checkpoint))


def _model_card(checkpoint: Checkpoint) -> str:
    count = sum(t.numel() for t in checkpoint.state_dict.values())
    return (
        f"# {checkpoint.method}\n\n"
        f"Weights of {checkpoint.method} for Viseme, from {checkpoint.path.name}: {count:,} values, sha256 of the weights "
        f"`{weights_sha256(checkpoint.state_dict)}`.\n\n"
        f"```\npython sample.py ckpt=THIS_FOLDER source=face.png {_driven_by(checkpoint)} out=talk.mp4\n```\n\n"
        "Training data, intended use and limits: to be filled in by who publishes it. "
        "Videos made with this model are synthetic and say so in their metadata; get the consent of the people shown.\n"
    )


def _driven_by(checkpoint: Checkpoint) -> str:
    """What the method takes beside a face, as settings of `sample.py`: the others listen."""
    if checkpoint.method in (LANDMARK_DRIVEN, liveportrait.METHOD):
        return "driving=clip.mp4"
    if checkpoint.method == liveportrait_talker.METHOD:
        return "audio=speech.wav"
    knows_features = (checkpoint.config.get("pipeline") or {}).get("features")
    return "audio=speech.wav" if knows_features else "audio=speech.wav features=THOSE_OF_ITS_TRAINING"


def instantiate(config: Mapping[str, Any], **kwargs: Any) -> Any:
    """Build the object that a configuration from a checkpoint describes, after `check_targets` has found it harmless."""
    check_targets(config)
    try:
        return hydra.utils.instantiate(OmegaConf.create(dict(config)), **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, TypeError | ValueError):  # an argument that is not there, or of the wrong kind
            raise CheckpointError(f"the checkpoint's settings or yours do not fit the code ({error}).") from error
        raise


def check_targets(config: object) -> None:
    """Raise CheckpointError when a configuration names a `_target_` outside `src` and the allow-list, or interpolates."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_target(config["_target_"])
        for value in config.values():
            check_targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            check_targets(value)
    elif isinstance(config, str) and "${" in config:
        raise CheckpointError(
            f"the checkpoint's configuration holds the interpolation {config!r}, which is refused for safety."
        )


def _check_target(target: object) -> None:
    module, _, name = str(target).rpartition(".")
    if target in ALLOWED_FUNCTIONS:
        return
    if f"{module}.".startswith(("src.", *ALLOWED_MODULES)):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
        # Defined there and a class: `src.cli.os.system` and functions with side effects are neither.
        home = getattr(found, "__module__", "")
        if isinstance(found, type) and home.startswith(("src.", *ALLOWED_MODULES)):
            return
    raise CheckpointError(f"the checkpoint's configuration wants to call {target!r}, which is refused for safety.")
