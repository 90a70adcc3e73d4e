"""Render people who speak into a clip store (see --help)."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.datamodules.synthetic.dataset import make_synthetic


@command("make_synthetic")
def main(cfg: DictConfig) -> None:
    """Render what is missing."""
    aligned: dict[str, Any] = {}
    if cfg.get("alignment"):
        plain = OmegaConf.to_container(cfg.alignment, resolve=True)
        aligned = {"alignment": instantiate(cfg.alignment, _convert_="all"), "alignment_settings": plain}
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
        **aligned,
    )


if __name__ == "__main__":
    main()
