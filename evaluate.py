"""Compare generated with real videos: `python evaluate.py generated=out/ reference=data/hdtf split=test` (see --help)."""

import dataclasses
import logging
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from src.cli import command
from src.datamodules.store import ClipStore
from src.errors import ConfigError
from src.metrics import report
from src.metrics.clips import Rules
from src.metrics.evaluation import FailedClip, aggregate, evaluate
from src.metrics.pairing import Reference, find_pairs, find_videos, require_complete

SOME_FAILED = 1  # exit status: the results are written, but not every pair could be compared

log = logging.getLogger(__name__)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Pair, measure, write and show."""
    if cfg.missing not in ("error", "skip"):
        raise ConfigError(f"missing={cfg.missing}: choose error or skip.")
    pairing = find_pairs(find_videos(Path(cfg.generated), "generated"), find_references(Path(cfg.reference), cfg.split))
    if cfg.missing == "error":
        require_complete(pairing)
    for side, names in (("real", pairing.only_generated), ("generated", pairing.only_reference)):
        if names:
            log.warning("no %s video, left out: %s", side, ", ".join(names))

    screen = Console()
    steps = evaluate(pairing.pairs, rules(cfg), landmarks=cfg.landmarks)
    results = list(track(steps, "comparing", total=len(pairing.pairs), console=screen, transient=True))
    failed = [result for result in results if isinstance(result, FailedClip)]
    for clip in failed:
        log.warning("%s failed: %s", clip.name, clip.reason)
    if len(failed) == len(results):
        raise ConfigError(
            f"None of the {len(results)} pairs can be compared; the first, {failed[0].name}: {failed[0].reason}"
        )

    totals = aggregate(results)
    out = Path(cfg.out)
    report.write_json(out / "metrics.json", totals, results, pairing, {str(key): value for key, value in cfg.items()})
    report.write_csv(out / "metrics.csv", results)
    report.plot_distributions(out / "distributions.png", totals, results)
    report.plot_mouths(out / "mouths.png", results)
    screen.print(report.summary_table(totals, f"{len(results) - len(failed)} of {len(results)} clips"))
    for line in report.not_computed(totals):
        screen.print(line, style="yellow", highlight=False)
    screen.print(f"written: {out}/", highlight=False)
    if failed:
        sys.exit(SOME_FAILED)


def rules(cfg: DictConfig) -> Rules:
    """The settings that say how two videos are made comparable."""
    return Rules(**{field.name: cfg[field.name] for field in dataclasses.fields(Rules)})


def find_references(path: Path, split: str | None) -> dict[str, Reference]:
    """Real videos by name: the clips of a clip store, or the videos of a folder, or one file."""
    if (path / "clips.csv").is_file():
        return {
            clip.id: Reference(
                clip.video_path,
                landmarks=clip.array_path(),
                valid=clip.array_path("valid"),
                audio=clip.audio_path if clip.has_audio else None,
            )
            for clip in ClipStore(path, split)
        }
    if split is not None:
        raise ConfigError(f"split={split} needs a clip store, but reference={path} is none; leave split out.")
    return {name: Reference(video) for name, video in find_videos(path, "reference").items()}


if __name__ == "__main__":
    main()
