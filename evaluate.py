"""Compare generated with real videos: `python evaluate.py generated=out/ reference=data/hdtf split=test` (see --help)."""

import dataclasses
import logging
import os
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from src.cli import command
from src.datamodules.store import ClipStore
from src.errors import ConfigError
from src.metrics import html_report, report, weights
from src.metrics.cache import ResultCache
from src.metrics.clips import Rules
from src.metrics.evaluation import Options, evaluate
from src.metrics.pairing import Pairing, Reference, find_pairs, find_videos, listed_pairs, require_complete
from src.metrics.quantities import chosen_names
from src.metrics.results import FailedClip, aggregate
from src.metrics.transcripts import read_transcripts

SOME_FAILED = 1  # exit status: the results are written, but not every pair could be compared

log = logging.getLogger(__name__)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Pair, measure, write and show."""
    settings = {
        str(key): OmegaConf.to_container(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in cfg
    }
    options = options_of(cfg)
    names = chosen_names(options.metrics)
    pairing = pairing_of(cfg)
    rules, out = Rules(**{field.name: cfg[field.name] for field in dataclasses.fields(Rules)}), Path(str(cfg.out))

    screen = Console()
    workers = cfg.workers or (1 if options.device.startswith("cuda") else os.cpu_count() or 1)
    cache = ResultCache(out / "clips", cache_settings(rules, options)) if cfg.resume else None
    steps = evaluate(pairing.pairs, rules, options, workers, cache)
    results = list(track(steps, "comparing", total=len(pairing.pairs), console=screen, transient=True))
    results.sort(key=lambda result: result.name)
    failed = [result for result in results if isinstance(result, FailedClip)]
    for clip in failed:
        log.warning("%s failed: %s", clip.name, clip.reason)
    if len(failed) == len(results):
        raise ConfigError(
            f"None of the {len(results)} pairs can be compared; the first, {failed[0].name}: {failed[0].reason}"
        )

    totals = aggregate(results, names)
    title = f"{len(results) - len(failed)} of {len(results)} clips"
    report.write_json(out / "metrics.json", totals, results, pairing, settings)
    report.write_csv(out / "metrics.csv", results)
    report.write_markdown(out / "metrics.md", totals, title)
    report.plot_distributions(out / "distributions.png", totals, results)
    report.plot_mouths(out / "mouths.png", results)
    html_report.write_report(out / "report.html", totals, results, pairing, rules, settings)
    screen.print(report.summary_table(totals, title))
    for line in report.warnings_of(totals) + report.not_computed(totals):
        screen.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    screen.print(f"written: {out}/", highlight=False)
    if failed:
        sys.exit(SOME_FAILED)


def pairing_of(cfg: DictConfig) -> Pairing:
    """Which videos are compared: by name, or as a list says."""
    if cfg.missing not in ("error", "skip"):
        raise ConfigError(f"missing={cfg.missing}: choose error or skip.")
    generated, references = (
        find_videos(Path(cfg.generated), "generated"),
        find_references(Path(cfg.reference), cfg.split),
    )
    if cfg.pairs is not None:
        return listed_pairs(Path(cfg.pairs), generated, references)
    pairing = find_pairs(generated, references)
    if cfg.missing == "error":
        require_complete(pairing)
    for side, names in (("real", pairing.only_generated), ("generated", pairing.only_reference)):
        if names:
            log.warning("no %s video, left out: %s", side, ", ".join(names))
    return pairing


def options_of(cfg: DictConfig) -> Options:
    """What is measured, and with what."""
    given = {field.name: cfg[field.name] for field in dataclasses.fields(Options)}
    given["metrics"] = None if cfg.metrics is None else tuple(cfg.metrics)
    given["transcripts"] = {} if cfg.transcripts is None else read_transcripts(Path(cfg.transcripts))
    if cfg.device == "auto":
        given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    return Options(**given)


def cache_settings(rules: Rules, options: Options) -> dict[str, object]:
    """What decides on a clip's results: other settings, or other weight files, make them anew."""
    return {**dataclasses.asdict(rules), **dataclasses.asdict(options), "weights": weights.present()}


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
