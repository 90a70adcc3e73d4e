"""LivePortraitTalker's networks that no training of ours makes: found, and joined with the one that it does make."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.adapters.liveportrait_talker import METHOD, load_official
from src.checkpoint import WEIGHTS_FILE, instantiate, load
from src.errors import CheckpointError, ConfigError
from src.model_files import models_dir
from src.nn.liveportrait_talker import MappingNet, TalkingPortrait
from src.nn.liveportrait_talker.exp_net import EXPRESSIONS

log = logging.getLogger(__name__)

_MAPPING = "mapping_net."


def talking_portrait(model: nn.Module, models: str | Path | None = None) -> TalkingPortrait:
    """All networks: the given ones, or published ones around a trained MappingNet, frozen.

    Args:
        model: all networks, or a LightningModule whose `net` is a MappingNet.
        models: a folder of published files, or a release folder or `.safetensors` of `tools/convert_checkpoint.py`; None: the folder of
            downloaded models.

    Raises:
        CheckpointError: files are missing (all are named) or damaged.
        ConfigError: `models` is given, but nothing is missing.
    """
    if isinstance(model, TalkingPortrait):
        if models is not None:
            raise ConfigError(f"pipeline.models={models}: the checkpoint holds all networks; leave it out.")
        return model
    net = getattr(model, "net", None)
    if not isinstance(net, MappingNet):
        raise CheckpointError(
            "the checkpoint holds no MappingNet: give one that train.py made for liveportrait_talker."
        )
    if (given := net.first.in_channels) != EXPRESSIONS:
        raise CheckpointError(
            f"the checkpoint's MappingNet hears other features, {given} numbers a frame: only one that was trained on the {EXPRESSIONS} "
            "expression coefficients makes videos, see docs/liveportrait_talker.md."
        )
    place = models_dir() if models is None else Path(models)
    settings, state_dict = _published(place)
    whole = instantiate(settings)
    assert isinstance(whole, TalkingPortrait)
    whole.mapping_net = net
    own = {f"{_MAPPING}{key}": value for key, value in net.state_dict().items()}
    frozen = {key: value for key, value in state_dict.items() if not key.startswith(_MAPPING)}
    whole.load_state_dict(frozen | own, strict=True)
    log.info("networks around the trained MappingNet: %s", place)
    return whole.eval().requires_grad_(False).to(next(net.parameters()).device)


def _published(place: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Settings and weights of `TalkingPortrait`, those of MappingNet perhaps missing."""
    if place.suffix != ".safetensors" and not (place / WEIGHTS_FILE).is_file():
        config, state_dict = load_official(place, mapping=False)
        return config["model"], state_dict
    checkpoint = load(place)
    if checkpoint.method != METHOD:
        raise CheckpointError(f"pipeline.models={place} is of {checkpoint.method}: give one of {METHOD}.")
    return checkpoint.config["model"], checkpoint.state_dict
