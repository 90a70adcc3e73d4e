"""Turn raw videos into a clip store, add speech features, latents or other rows to it, or all of this (see --help)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from src.cli import command, require_file
from src.datamodules.preprocessing.recordings import RecordingSource, WritesStore
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.speech_features import write_features
from src.errors import ConfigError

NETWORK_STAGES = ("latents", "threedmm", "lip_targets")  # settings that name the weights of a frozen network

# Settings that determine what a store contains; others (the number of workers) may change from run to run.
DETERMINING = ("dataset", "alignment", "clips", "fractions", "seed")


@command("preprocess")
def main(cfg: DictConfig) -> None:
    """Compose, instantiate, run."""
    root = Path(cfg.root).expanduser()
    if all(cfg.get(stage) is None for stage in ("raw", "features", "clip_latents", *NETWORK_STAGES)):
        raise ConfigError(
            "There is nothing to do: give raw=FOLDER to prepare its videos, or for a store that exists features=log_mel (or another), "
            "latents=CHECKPOINT, clip_latents=[CHECKPOINT,CHECKPOINT], threedmm=WEIGHTS or lip_targets=WEIGHTS."
        )
    # Built before hours of work: their settings may be wrong.
    features = hydra.utils.instantiate(cfg.features, _convert_="all") if cfg.get("features") else None
    encode = _encoder(cfg) if cfg.latents is not None else None
    encode_windows = _window_encoder(cfg) if cfg.clip_latents is not None else None
    for stage in NETWORK_STAGES[1:]:
        if cfg[stage] is not None:
            require_file(cfg[stage], stage)
    if cfg.raw is not None:
        _prepare(cfg, root)
    if features is not None:
        write_features(root, features)
    if encode is not None:
        encode(root)
    if encode_windows is not None:
        encode_windows(root)
    _write_talker_rows(cfg, root)


def _encoder(cfg: DictConfig) -> Callable[[Path], int]:
    """What encodes a store, its checkpoint found to be one."""
    from src.datamodules.preprocessing.latents import (
        load_first_stage,
        write_latents,
    )  # networks: for those who ask for them

    load_first_stage(cfg.latents)
    options = {key: value for key, value in cfg.latent_options.items() if key != "mask"}
    return partial(write_latents, ckpt=cfg.latents, mask=hydra.utils.instantiate(cfg.latent_options.mask), **options)


def _window_encoder(cfg: DictConfig) -> Callable[[Path], int]:
    """What encodes the windows of a store, its two checkpoints found to be autoencoders of them."""
    from src.datamodules.preprocessing.clip_latents import read_autoencoders, write_clip_latents
    from src.lightning_modules.stages import checkpoint_of_stage

    if len(cfg.clip_latents) != 2:
        raise ConfigError(
            f"clip_latents={list(cfg.clip_latents)}: give two checkpoints, of the autoencoder of faces and of that of landmarks."
        )
    how = "train an autoencoder with experiment=moditalker_mtov_...autoencoder_..."
    faces, landmarks = (checkpoint_of_stage(choice, cfg.runs, "clip_latents", how) for choice in cfg.clip_latents)
    return partial(write_clip_latents, autoencoders=read_autoencoders(faces, landmarks), **cfg.clip_latent_options)


def _write_talker_rows(cfg: DictConfig, root: Path) -> None:
    """What liveportrait_talker learns from, where it is asked for."""
    if cfg.threedmm is None and cfg.lip_targets is None:
        return
    from src.datamodules.preprocessing.liveportrait_talker import (
        write_lip_targets,
        write_threedmm,
    )  # networks, as above

    options = dict(cfg.talker_options)
    channels = options.pop("channels")
    if cfg.threedmm is not None:
        write_threedmm(root, cfg.threedmm, **options)
    if cfg.lip_targets is not None:
        write_lip_targets(root, cfg.lip_targets, channels=channels, **options)


def _prepare(cfg: DictConfig, root: Path) -> None:
    """Write the clips of a data set: cut out of its videos, or what it has instead of them."""
    raw = Path(cfg.raw).expanduser().resolve()
    dataset = hydra.utils.instantiate(cfg.dataset, _convert_="all")
    if isinstance(dataset, WritesStore):
        dataset.write_store(raw, root)
    else:
        _preprocessing(cfg, dataset, raw, root).run()


def _preprocessing(cfg: DictConfig, dataset: RecordingSource, raw: Path, root: Path) -> Preprocessing:
    plain = {key: OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in DETERMINING}
    return Preprocessing(
        dataset=dataset,
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
