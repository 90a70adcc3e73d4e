"""The whole way in minutes and without a download: render heads, train, make talking videos, measure (see --help)."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from src.cli import command, exit_with

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
SHOWN_FRAMES = 8


@command("demo")
def main(cfg: DictConfig) -> None:
    """Run the project's own commands one after the other."""
    from src.datamodules.store import ClipStore

    start = time.perf_counter()
    root = Path(cfg.root)
    heads, run, videos = root / "heads", root / "run", root / "videos"
    step(
        "rendering heads that speak",
        ["tools/make_synthetic.py", f"root={heads}", f"identities={cfg.identities}", f"seconds={cfg.seconds}"]
        + [f"clips_per_identity={cfg.clips_per_identity}", f"size={cfg.size}"],
    )
    step(
        "training landmark_driven on them",
        [
            "train.py",
            "experiment=landmark_driven_synthetic",
            f"datamodule.root={heads}",
            f"hydra.run.dir={run}",
            *cfg.train,
        ],
    )
    people = [clip.id for clip in ClipStore(heads, "test")]  # nobody of whom was seen in training
    ckpt = run / "checkpoints" / "last.ckpt"
    step(
        f"sampling {len(people)} people that the model has not seen",
        ["sample.py", f"ckpt={ckpt}", f"inputs={heads}", "split=test", f"pipeline.steps={cfg.steps}", f"out={videos}"],
    )
    step(
        "the first one beside its landmarks and the real frames",
        [
            "sample.py",
            f"ckpt={ckpt}",
            f"source={heads}@{people[0]}",
            f"driving={heads}@{people[0]}",
            f"pipeline.steps={cfg.steps}",
            "pipeline.side_by_side=true",
            f"out={root / 'talk.mp4'}",
        ],
    )
    step(
        "measuring",
        ["evaluate.py", f"generated={videos}", f"reference={heads}", "split=test", f"out={root / 'evaluation'}"]
        + ["landmarks=false", "skip_frames=1", "metrics=[image,cpbd,mouth_pixels,frame_mse]", "workers=1"],
    )
    filmstrip(root / "talk.mp4", root / "talk.png")
    log.info(
        "done in %.1f minutes; open %s (real, landmarks, generated; with sound)",
        (time.perf_counter() - start) / 60,
        root / "talk.mp4",
    )


def step(title: str, arguments: list[str]) -> None:
    """Run one command of the project; a failure ends the demo, the command has said why."""
    log.info("%s: python %s", title, " ".join(arguments))
    start = time.perf_counter()
    status = subprocess.run([sys.executable, str(REPOSITORY / arguments[0]), *arguments[1:]], check=False).returncode
    if status:
        exit_with(f"python {arguments[0]} ended with status {status}; see its message above.")
    log.info("... %.0f s", time.perf_counter() - start)


def filmstrip(video: Path, picture: Path) -> None:
    """Frames of the video, evenly spread in time, one below the other."""
    from src.media import VideoReader, write_image

    reader = VideoReader(video)
    frames = reader.read(np.linspace(0, len(reader) - 1, SHOWN_FRAMES).round().astype(np.int64))
    write_image(picture, np.concatenate(list(frames)))


if __name__ == "__main__":
    main()
