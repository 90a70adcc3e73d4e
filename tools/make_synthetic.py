"""Render people who speak into a clip store (see --help)."""

from pathlib import Path

from omegaconf import DictConfig

from src.cli import command
from src.datamodules.synthetic.dataset import make_synthetic


@command("make_synthetic")
def main(cfg: DictConfig) -> None:
    """Render what is missing."""
    make_synthetic(
        Path(cfg.root).expanduser(),
        n_identities=cfg.identities,
        clips_per_identity=cfg.clips_per_identity,
        seconds=cfg.seconds,
        size=cfg.size,
        seed=cfg.seed,
        workers=cfg.workers,
        fps=cfg.fps,
        fractions=dict(cfg.fractions),
        crf=cfg.crf,
    )


if __name__ == "__main__":
    main()
