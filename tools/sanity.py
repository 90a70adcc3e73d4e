"""Do metrics move as they should? Real videos against altered copies (see --help)."""

import logging
import math
from pathlib import Path

from omegaconf import DictConfig

from src.cli import command
from src.errors import ConfigError
from src.media import atomic_path
from src.metrics.clips import Rules
from src.metrics.evaluation import Evaluator, Options
from src.metrics.pairing import Pair, Reference, find_videos
from src.metrics.quantities import QUANTITIES, chosen_names
from src.metrics.report import ARROWS, number
from src.metrics.results import FailedClip, Result, aggregate
from src.metrics.sanity import lag_table, random_networks, read_footage, write_copies

log = logging.getLogger(__name__)


@command("sanity")
def main(cfg: DictConfig) -> None:
    """Alter, measure, write the table."""
    videos = find_videos(Path(cfg.clips), "clips")
    if len(videos) < 2:
        raise ConfigError(
            f"clips={cfg.clips}: give two or more videos, so that there is another person to compare with."
        )
    out, metrics = Path(cfg.out), tuple(cfg.metrics)
    names = chosen_names(metrics)
    folders = write_copies([read_footage(path, cfg.size, cfg.n_frames) for path in videos.values()], out)
    rows, lags = {}, {}
    with Evaluator(Rules(), Options(metrics), random_networks() if cfg.random_networks else None) as evaluator:
        for name, folder in folders.items():
            results = [evaluator(pair) for pair in pairs_of(folder, out / "real")]
            rows[name] = {key: value.mean for key, value in aggregate(results, names).items()}
            warn(name, results)
            if name == "itself":
                rows["(real)"] = {key: value.real for key, value in aggregate(results, names).items()}
                lags = lag_table(results)
            log.info("%s: %s", name, ", ".join(f"{key} {number(value)}" for key, value in rows[name].items()))
    text = table(rows, names) + "\n" + lag_rows(lags)
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, end="")


def pairs_of(folder: Path, real: Path) -> list[Pair]:
    """Every copy and the real video of its name."""
    return [Pair(path.stem, path, Reference(real / path.name)) for path in sorted(folder.glob("*.mp4"))]


def warn(row: str, results: list[Result]) -> None:
    """Say which copies could not be measured."""
    for result in results:
        if isinstance(result, FailedClip):
            log.warning("%s, %s: %s", row, result.name, result.reason)


def table(rows: dict[str, dict[str, float]], names: tuple[str, ...]) -> str:
    """Markdown: a row per alteration, a column per metric that was computed."""
    known = [name for name in names if any(math.isfinite(row[name]) for row in rows.values())]
    lines = ["| generated | " + " | ".join(f"{name} {ARROWS[QUANTITIES[name].better]}" for name in known) + " |"]
    lines.append("|---" * (len(known) + 1) + "|")
    lines += [f"| {row} | " + " | ".join(number(values[name]) for name in known) + " |" for row, values in rows.items()]
    return "\n".join(lines) + "\n"


def lag_rows(lags: dict[int, float]) -> str:
    """Markdown: correlation of mouth and sound by the shift of the sound."""
    if not any(math.isfinite(value) for value in lags.values()):
        return ""
    cells = (f"| {' | '.join(map(str, lags))} |", f"| {' | '.join(number(value) for value in lags.values())} |")
    return f"| sound later by {cells[0]}\n{'|---' * (len(lags) + 1)}|\n| correlation {cells[1]}\n"


if __name__ == "__main__":
    main()
