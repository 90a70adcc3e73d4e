"""Turn raw videos into a clip store, add speech features or latents to it, or all of this (see --help)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.speech_features import write_features
from src.errors import ConfigError

# Settings that determine what a store contains; others (the number of workers) may change from run to run.
DETERMINING = ("dataset", "alignment", "clips", "fractions", "seed")


@command("preprocess")
def main(cfg: DictConfig) -> None:
    """Compose, instantiate, run."""
    root = Path(cfg.root).expanduser()
    if cfg.raw is None and cfg.get("features") is None and cfg.latents is None:
        raise ConfigError(
            "There is nothing to do: give raw=FOLDER to prepare its videos, or for a store that exists features=log_mel (or another) or "
            "latents=CHECKPOINT."
        )
    # Built before hours of work: their settings may be wrong.
    features = hydra.utils.instantiate(cfg.features, _convert_="all") if cfg.get("features") else None
    encode = _encoder(cfg) if cfg.latents is not None else None
    if cfg.raw is not None:
        _preprocessing(cfg, root).run()
    if features is not None:
        write_features(root, features)
    if encode is not None:
        encode(root)


def _encoder(cfg: DictConfig) -> Callable[[Path], int]:
    """What encodes a store, its checkpoint found to be one."""
    from src.datamodules.preprocessing.latents import (
        load_first_stage,
        write_latents,
    )  # networks: for those who ask for them

    load_first_stage(cfg.latents)
    options = {key: value for key, value in cfg.latent_options.items() if key != "mask"}
    return partial(write_latents, ckpt=cfg.latents, mask=hydra.utils.instantiate(cfg.latent_options.mask), **options)


def _preprocessing(cfg: DictConfig, root: Path) -> Preprocessing:
    raw = Path(cfg.raw).expanduser().resolve()
    plain = {key: OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in DETERMINING}
    return Preprocessing(
        dataset=hydra.utils.instantiate(cfg.dataset, _convert_="all"),
        alignment=hydra.utils.instantiate(cfg.alignment, _convert_="all"),
        clips=hydra.utils.instantiate(cfg.clips),
        raw=raw,
        root=root,
        fractions=dict(cfg.fractions),
        seed=cfg.seed,
        settings={"raw": str(raw), **plain},
        workers=cfg.workers,
        retry=cfg.retry,
    )


if __name__ == "__main__":
    main()
