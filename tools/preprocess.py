"""Turn raw videos into a clip store (see --help)."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.datamodules.preprocessing.run import Preprocessing

# Settings that determine what a store contains; others (the number of workers) may change from run to run.
DETERMINING = ("dataset", "alignment", "clips", "fractions", "seed")


@command("preprocess")
def main(cfg: DictConfig) -> None:
    """Compose, instantiate, run."""
    raw = Path(cfg.raw).expanduser().resolve()
    plain = {key: OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in DETERMINING}
    Preprocessing(
        dataset=hydra.utils.instantiate(cfg.dataset, _convert_="all"),
        alignment=hydra.utils.instantiate(cfg.alignment, _convert_="all"),
        clips=hydra.utils.instantiate(cfg.clips),
        raw=raw,
        root=Path(cfg.root).expanduser(),
        fractions=dict(cfg.fractions),
        seed=cfg.seed,
        settings={"raw": str(raw), **plain},
        workers=cfg.workers,
        retry=cfg.retry,
    ).run()


if __name__ == "__main__":
    main()
