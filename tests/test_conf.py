"""Every option of a class that the user chooses by a configuration file stands in that file, and nothing else does."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from src.cli import CONF_DIR

GROUPS = ("alignment", "datamodule", "dataset", "features", "model", "net", "pipeline")
OPTIONAL = {"dataset"}  # each data set states what it needs of the many settings of `Dataset`


def files() -> list[Path]:
    found = (path for group in GROUPS for path in (CONF_DIR / group).glob("*.yaml"))
    return sorted(path for path in found if "_target_" in OmegaConf.load(path))


def arguments_of(made: Callable) -> set[str]:
    """Names of all arguments, also of those that `**options: Unpack[SomeTypedDict]` stands for."""
    names = set()
    for name, parameter in inspect.signature(made).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(name)
        elif shared := get_args(parameter.annotation):
            names |= get_type_hints(shared[0]).keys()
    return names


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_lists_the_arguments_of_its_class(path):
    group, settings = path.parent.name, OmegaConf.load(path)
    target = settings["_target_"]
    made = get_method(target) if target.endswith(".square") else get_class(target)
    arguments = arguments_of(made) - ({"model"} if group == "pipeline" else set())
    given = {str(key) for key in settings} - {"_target_", "_convert_", "defaults"}
    chosen = (
        {"lr_scheduler", "first_stage", "autoencoder", "landmark_autoencoder"} if group == "model" else set()
    )  # by groups of their own
    assert given <= arguments
    if group not in OPTIONAL:
        assert arguments - given <= chosen
