"""Methods side by side: `python tools/compare.py out/eval_a out/eval_b` (see --help)."""

import dataclasses
import json
import logging
import math
import sys
from pathlib import Path

from omegaconf import DictConfig

from src.cli import command
from src.errors import ConfigError
from src.media import atomic_path
from src.metrics.comparison import Run, check_comparable, comparison_table, computed_names, differences, read_run
from src.metrics.quantities import chosen_names

log = logging.getLogger(__name__)


@command("compare")
def main(cfg: DictConfig) -> None:
    """Read, compare, show, write."""
    if len(cfg.runs) < 2:
        raise ConfigError(
            "runs: give the folders of two or more evaluations, python tools/compare.py out/eval_a out/eval_b."
        )
    runs = [run_of(str(given)) for given in cfg.runs]
    for remark in check_comparable(runs):
        log.warning("%s", remark)
    chosen = chosen_names(None if cfg.metrics is None else tuple(cfg.metrics))
    names = [name for name in computed_names(runs) if name in chosen]
    if not names:
        raise ConfigError("metrics: none of these runs has a value of them; evaluate with them first.")
    table = comparison_table(runs, names)
    print(table, end="")
    if cfg.out is not None:
        write(Path(cfg.out), table, runs, names)


def run_of(given: str) -> Run:
    """The evaluation behind `folder` or `label:folder`."""
    label, colon, folder = given.partition(":")
    if colon and not Path(given).exists():
        return read_run(Path(folder), label)
    return read_run(Path(given))


def write(out: Path, table: str, runs: list[Run], names: list[str]) -> None:
    """The table, and beside it every difference with its interval and its test."""
    rows = [
        {"run": label, "against": runs[0].label, "metric": name}
        | {key: value if math.isfinite(value) else None for key, value in dataclasses.asdict(delta).items()}
        for (label, name), delta in differences(runs, names).items()
    ]
    for path, text in ((out, table), (out.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")):
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    log.info("wrote %s", out)


def folders_first(arguments: list[str]) -> list[str]:
    """Arguments without a sign are folders: they become the setting `runs`, as Hydra reads it."""
    plain = [given for given in arguments if "=" not in given and not given.startswith("-")]
    if not plain:
        return arguments
    quoted = ",".join("'" + given.replace("'", "\\'") + "'" for given in plain)
    return [f"runs=[{quoted}]", *(given for given in arguments if given not in plain)]


if __name__ == "__main__":
    sys.argv[1:] = folders_first(sys.argv[1:])
    main()
