"""The stage before: finding the checkpoint that a later stage of a method builds on."""

from pathlib import Path

from src.checkpoint import newest_checkpoint
from src.errors import ConfigError

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
