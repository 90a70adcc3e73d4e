"""Measure how generated videos wander from their first frame, and plot it (see --help)."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.errors import ConfigError, MediaError
from src.media import VideoReader, atomic_path
from src.metrics.drift import CURVES, Curves, drift, plot_drift
from src.metrics.pairing import find_videos

log = logging.getLogger(__name__)


@command("drift")
def main(cfg: DictConfig) -> None:
    """Read, measure, plot."""
    if not isinstance(cfg.videos, DictConfig) or not cfg.videos:
        raise ConfigError(
            f"videos={cfg.videos}: give labels and videos or folders of them, such as videos={{plain:out/a}}."
        )
    out = Path(cfg.out)
    if out.suffix != ".png":
        raise ConfigError(f"out={out}: the plot is written as .png; end the name with it.")
    curves = {}
    for label, place in cfg.videos.items():
        curves[str(label)] = [curves_of(path) for path in find_videos(Path(place), f"videos.{label}").values()]
    plot_drift(out, curves)
    table = {label: [{k: v.tolist() for k, v in video.items()} for video in videos] for label, videos in curves.items()}
    with atomic_path(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"settings": OmegaConf.to_container(cfg), "curves": table}, indent=1) + "\n")
    for label, videos in curves.items():
        last = {name: sum(float(video[name][-1]) for video in videos) / len(videos) for name in CURVES}
        log.info(
            "%s, last second of %d videos: %s", label, len(videos), ", ".join(f"{k} {v:.2f}" for k, v in last.items())
        )
    log.info("wrote %s", out)


def curves_of(path: Path) -> Curves:
    """Drift of a file; MediaError where it is too short to drift."""
    reader = VideoReader(path)
    curves = drift(reader.stream(), reader.fps)
    if not len(curves["difference"]):
        raise MediaError(f"{path} is shorter than half a second: leave it out.")
    return curves


if __name__ == "__main__":
    main()
