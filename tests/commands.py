"""The commands of the project, run as their users run them, but in the test's process: importing takes longer than most runs."""

import contextlib
import io
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """Exit status and output of a command; a defect's traceback is raised instead."""

    returncode: int
    stdout: str
    stderr: str


def run_command(folder: Path, script: str, *overrides: str, environment: dict[str, str] | None = None) -> Done:
    """`python <script> <overrides>` in `folder`; `script` is relative to the project's root."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [str(ROOT / script), *overrides]),
        mock.patch.dict(os.environ, environment or {}),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(),
        _settings_kept(),
    ):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(status, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _settings_kept() -> Generator[None]:
    """What commands change for their whole process: the logging and Hydra's globals."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    known = [(logger, list(logger.handlers), logger.level, logger.propagate, logger.disabled) for logger in loggers]
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
        for logger, own, own_level, propagate, disabled in known:
            logger.handlers, logger.propagate, logger.disabled = own, propagate, disabled
            logger.setLevel(own_level)
