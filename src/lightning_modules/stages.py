"""The stage before: finding the checkpoint that a later stage of a method builds on."""

import logging
from pathlib import Path

from torch import nn

from src.checkpoint import load, newest_checkpoint
from src.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

UNTRAINED = "untrained"  # random weights: only to try the code


def checkpoint_of_stage(choice: str | Path | None, runs: str | Path, setting: str, how: str) -> Path:
    """The checkpoint that a setting names.

    Args:
        choice: a file, or `last:RUN`: the newest of the runs of that name.
        runs: folder of the runs.
        setting: its name, for errors.
        how: what makes such a checkpoint, for errors.

    Raises:
        ConfigError: there is none.
    """
    if choice is None:
        raise ConfigError(f"{setting} has no value: {how} and give its checkpoint.")
    name = str(choice).removeprefix("last:")
    if name == str(choice):
        return Path(choice)
    newest = newest_checkpoint(Path(runs) / name)
    if newest is None:
        raise ConfigError(
            f"{setting}={choice}: no run below {Path(runs) / name} has written a checkpoint; run python train.py experiment={name} "
            "first, or give a file."
        )
    return newest


def fill_from_stage(
    net: nn.Module, choice: str | Path | None, runs: str | Path, setting: str, method: str, how: str
) -> None:
    """Give a network the weights that a checkpoint has for the `net` of its module.

    Args:
        net: to be filled.
        choice: see `checkpoint_of_stage`, or `untrained`: as it is.
        runs: folder of the runs.
        setting: its name, for errors.
        method: of the checkpoint.
        how: what makes such a checkpoint, for errors.

    Raises:
        ConfigError: there is no checkpoint.
        CheckpointError: it is of another method or another network.
    """
    if choice == UNTRAINED:
        log.warning("%s=%s: its weights are random", setting, UNTRAINED)
        return
    path = checkpoint_of_stage(choice, runs, setting, how)
    checkpoint = load(path)
    if checkpoint.method != method:
        raise CheckpointError(f"{setting}={path} is of {checkpoint.method}: give a checkpoint of {method}.")
    prefix = "net."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.state_dict.items() if k.startswith(prefix)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{setting}={path} is of another network than this one: {reason}") from error
    log.info("%s: %s", setting, path)
