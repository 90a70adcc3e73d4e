"""Train one stage of a method: `python train.py experiment=landmark_driven_synthetic` (see --help)."""

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.errors import ConfigError
from src.run_settings import check, resume_path, shorten

log = logging.getLogger(__name__)

NO_NEWS = (
    ".*your dataloader is not resumable",  # Lightning looks at the loader; here the DataModule notes the position
    ".*LeafSpec.* is deprecated",  # between Lightning and PyTorch
    ".*module\\(s\\) in eval mode at the start of training",  # a frozen first stage
    ".*ModelCheckpoint with manual optimization",  # weights after the step, as everywhere
)


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Compose, instantiate, fit or validate."""
    check(cfg)
    resume = resume_path(cfg.ckpt_path, Path(cfg.logs) / cfg.name)
    # Imported this late because it takes seconds: --help and mistakes answer at once.
    import pytorch_lightning as pl

    from src.lightning_modules.checkpointing import check_resumable
    from src.lightning_modules.record import RecordConfig, recorded_groups

    if cfg.debug:
        shorten(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    for known in NO_NEWS:
        warnings.filterwarnings("ignore", message=known)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule: pl.LightningDataModule = hydra.utils.instantiate(cfg.datamodule)
    model: pl.LightningModule = hydra.utils.instantiate(cfg.model)
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    callbacks = [*each(cfg.get("callbacks")), RecordConfig(cfg.method, recorded_groups(plain))]
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
            last = folder / "checkpoints" / "last.ckpt"
            use = "sample with: python sample.py ckpt=" if cfg.get("pipeline") else "its checkpoint: "
            log.info("trained %d steps; %s%s", trainer.global_step, use, last)
    value = trainer.callback_metrics.get(cfg.metric)
    return None if value is None else float(value)


def each(group: DictConfig | None) -> list[Any]:
    """The objects of a group; settings of one that was taken out (null, or ~callbacks) build nothing."""
    return [hydra.utils.instantiate(entry) for entry in (group or {}).values() if entry and "_target_" in entry]


if __name__ == "__main__":
    main()
