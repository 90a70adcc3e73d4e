"""Train one stage of a method: `python train.py experiment=landmark_driven_synthetic` (see --help)."""

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from src.cli import command
from src.errors import ConfigError

log = logging.getLogger(__name__)

# Two steps of a run, each with a validation and samples, whose size leaves the machine free: proves that an experiment composes, loads,
# trains and samples.
DEBUG = {
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 2,
        "max_epochs": -1,
        "limit_train_batches": 1,
        "limit_val_batches": 1,
        "check_val_every_n_epoch": 1,
    },
    "datamodule": {"batch_size": 2, "num_workers": 0},
    "model": {"sample_steps": 7, "eval_frames": 1},
}
DEBUG_SAMPLES = {"n_samples": 1, "n_frames": 1}

NO_NEWS = (
    ".*your dataloader is not resumable",  # Lightning looks at the loader; here the DataModule notes the position
    ".*LeafSpec.* is deprecated",  # between Lightning and PyTorch
)


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Compose, instantiate, fit or validate."""
    check(cfg)
    resume = resume_path(cfg.ckpt_path, Path(cfg.logs) / cfg.name)
    # Imported this late because it takes seconds: --help and mistakes answer at once.
    import pytorch_lightning as pl

    from src.datamodules.stored_alignment import stored_alignment
    from src.lightning_modules.checkpointing import check_resumable
    from src.lightning_modules.record import RecordConfig

    if cfg.debug:
        with open_dict(cfg):
            cfg.merge_with(DEBUG)
            if cfg.callbacks and cfg.callbacks.get("samples"):
                cfg.callbacks.samples.merge_with(DEBUG_SAMPLES)
    folder = Path(HydraConfig.get().runtime.output_dir)
    for known in NO_NEWS:
        warnings.filterwarnings("ignore", message=known)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule: pl.LightningDataModule = hydra.utils.instantiate(cfg.datamodule)
    model: pl.LightningModule = hydra.utils.instantiate(cfg.model)
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    record = {group: plain.get(group) for group in ("model", "pipeline", "datamodule")}
    if (
        record["pipeline"] and record["pipeline"].get("alignment", "absent") is None
    ):  # pictures are to be cut as the training data was
        record["pipeline"]["alignment"] = stored_alignment(cfg.datamodule.root, cfg.datamodule.resolution)
    callbacks = [*each(cfg.get("callbacks")), RecordConfig(cfg.method, record)]
    try:
        trainer: pl.Trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks, logger=each(cfg.get("logger")))
    except InstantiationException as error:  # Lightning looks at its settings and at the machine
        raise ConfigError(f"these trainer settings cannot be used here ({error.__cause__}).") from error
    if cfg.compile:
        for network in model.children():
            network.compile()  # in place: the names of the weights do not change
    if resume:
        check_resumable(resume, cfg.method, model)
        log.info("continuing from %s", resume)
    if cfg.task == "validate":
        trainer.validate(model, datamodule, ckpt_path=resume, weights_only=True)
    else:
        trainer.fit(model, datamodule, ckpt_path=resume, weights_only=True)
        if trainer.is_global_zero:
            log.info(
                "trained %d steps; sample with: python sample.py ckpt=%s",
                trainer.global_step,
                folder / "checkpoints" / "last.ckpt",
            )
    value = trainer.callback_metrics.get(cfg.metric)
    return None if value is None else float(value)


def each(group: DictConfig | None) -> list[Any]:
    """The objects of a group; settings of one that was taken out (null, or ~callbacks) build nothing."""
    return [hydra.utils.instantiate(entry) for entry in (group or {}).values() if entry and "_target_" in entry]


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for settings that cannot work, before anything is loaded."""
    if not cfg.get("model") or not cfg.get("datamodule"):
        raise ConfigError("nothing to train was chosen: give experiment=NAME (--help lists the experiments).")
    root = cfg.datamodule.get("root")
    if root is not None and not Path(root).is_dir():
        raise ConfigError(
            f"datamodule.root={root}: there is no such clip store; make one with tools/preprocess.py or tools/make_synthetic.py."
        )
    if cfg.task not in ("fit", "validate"):
        raise ConfigError(f"task={cfg.task}: choose fit or validate.")


def resume_path(choice: str | None, runs: Path) -> Path | None:
    """The checkpoint that `ckpt_path` asks for: none, the newest `last.ckpt` below `runs`, or a file."""
    if choice is None:
        return None
    if choice == "last":
        found = sorted(runs.glob("**/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise ConfigError(
                f"ckpt_path=last: no run below {runs} has written a checkpoint yet; leave ckpt_path out to start anew."
            )
        return found[-1]
    if not Path(choice).is_file():
        raise ConfigError(f"ckpt_path={choice}: there is no such file; give a .ckpt, or last.")
    return Path(choice)


if __name__ == "__main__":
    main()
