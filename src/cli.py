"""The frame of every command: Hydra composes the configuration; a user's mistake ends in one sentence and exit status 2.

Only problems that the user can solve become a sentence: `VisemeError` wherever it was raised, a mistyped override, a
missing mandatory value. Any other exception is a defect of ours and keeps its traceback and exit status 1.
"""

import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from src.errors import ConfigError, VisemeError

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
USER_MISTAKE = 2  # exit status

log = logging.getLogger(__name__)


class DefectError(Exception):
    """Carries an exception of the task past the errors of the composition, which are the user's."""


def command(config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Decorator: `task(cfg)` becomes a command that reads `conf/<config_name>.yaml` and the command line."""

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> object:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                # Processes that a strategy starts for this job repeat sys.argv: they must run this job, not the sweep.
                sys.argv = [sys.argv[0], *HydraConfig.get().overrides.task]
            try:
                return task(cfg)
            except Exception as error:
                _exit_if_users(error)
                raise DefectError from error

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = (
                "1"  # Hydra then raises its own errors instead of printing and exiting with 1
            )
            try:
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(guarded)()
            except DefectError as defect:
                raise (defect.__cause__ or defect) from None
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                # ValueError: of Hydra's own, when a group is set to null. Those of the task arrive as DefectError.
                _exit_if_users(error)
                exit_with(_composition_sentence(error, config_name))

        return main

    return decorate


def exit_with(sentence: str) -> NoReturn:
    """Say what is wrong on standard error and leave with status 2."""
    print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(USER_MISTAKE)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _exit_if_users(error: Exception) -> None:
    """Leave with the sentence of the VisemeError or missing value behind `error` (Hydra wraps what constructors raise)."""
    for cause in _causes(error):
        if isinstance(cause, VisemeError):
            exit_with(_sentence_of(cause))
        if isinstance(cause, MissingMandatoryValue):
            key = re.search(r"(?:full_key: |key: |value: )([\w.]+)", str(cause))
            name = key.group(1) if key else "a value"
            exit_with(f"{name} has no value; give it on the command line: {name}=...")


def _sentence_of(error: VisemeError) -> str:
    """The message in one line; of an error in a DataLoader's worker, without the traceback that PyTorch puts around it."""
    message = str(error)
    if re.match(r"Caught \w+ in DataLoader worker", message):
        message = message.rpartition(f".{type(error).__name__}: ")[2]
    return " ".join(message.split())


def _composition_sentence(error: Exception, config_name: str) -> str:
    """One sentence for an error of Hydra's composition: the override, what is wrong, the closest existing name."""
    message = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = [str(o) for o in error.options or []]
        hint = _closest(name, known)
        listed = f" (there are: {', '.join(sorted(known))})" if known else ""
        return f"conf/{group or '.'} has no {name!r}{hint}{listed}."
    if "Config group override must be a string" in message:
        groups = [
            a.removesuffix("=null")
            for a in sys.argv[1:]
            if a.endswith("=null") and a.removesuffix("=null") in _groups()
        ]
        return f"a group cannot be null; to do without {' and '.join(groups) or 'it'} write {' '.join('~' + g for g in groups)}."
    if match := re.search(r"(?:Could not override '?|Could not find match for |Key )'?([\w./@]+)", message):
        key = match.group(1)
        known = known_keys(config_name)
        if key not in known:
            return f"there is no setting {key!r}{_closest(key, known)}; --help lists the settings."
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        return f"the override {error.override} cannot be read; quote special characters twice: '{key}=\"{value}\"'."
    return " ".join(message.split("\n\n")[0].split()) + " (--help lists the settings)."


def _closest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def known_keys(config_name: str) -> list[str]:
    """Dotted names of all settings of a command, with those that the group choices on the command line bring."""
    overrides = [a for a in sys.argv[1:] if re.fullmatch(r"[a-z_]+=[\w]+", a)]
    for chosen in (overrides, []):
        try:
            with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                cfg = hydra.compose(config_name, overrides=chosen)
        except HydraException:
            log.debug("the overrides %s do not compose either", chosen)
            continue
        return sorted({*_dotted(OmegaConf.to_container(cfg, resolve=False)), *_groups()})
    return _groups()


def _groups() -> list[str]:
    return [p.name for p in CONF_DIR.iterdir() if p.is_dir()]


def _dotted(tree: object, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")


def require_file(path: str | Path | None, setting: str) -> Path:
    """`path` as a Path, or a ConfigError that names the setting."""
    if path is None:
        raise ConfigError(f"{setting} has no value; give it on the command line: {setting}=...")
    if not Path(path).exists():
        raise ConfigError(f"{setting}={path}: there is no such file or folder.")
    return Path(path)
