"""Settings of a training run, looked at before anything is loaded, so that a mistake is answered at once."""

from pathlib import Path

from omegaconf import DictConfig, open_dict

from src.errors import ConfigError, require_choice

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
        "precision": "32-true",  # processors without units for half precision take minutes for a step of it
    },
    "datamodule": {"batch_size": 2, "num_workers": 0},
}
DEBUG_MODEL = {
    "sample_steps": 7,
    "eval_frames": 1,
    "eval_clips": 1,
    "first_stage_ckpt": "untrained",
    "autoencoder_ckpt": "untrained",
    "landmark_autoencoder_ckpt": "untrained",
    "init_ckpt": "untrained",
}  # where the model has such settings
DEBUG_SAMPLES = {"n_samples": 1, "n_frames": 1}


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for settings that cannot work."""
    if not cfg.get("model") or not cfg.get("datamodule"):
        raise ConfigError("nothing to train was chosen: give experiment=NAME (--help lists the experiments).")
    root = cfg.datamodule.get("root")
    if root is not None and not Path(root).is_dir():
        raise ConfigError(
            f"datamodule.root={root}: there is no such clip store; make one with tools/preprocess.py or tools/make_synthetic.py."
        )
    require_choice("task", cfg.task, ("fit", "validate"))


def shorten(cfg: DictConfig) -> None:
    """Change the settings into those of two steps on the CPU (`debug=true`)."""
    with open_dict(cfg):
        cfg.merge_with(DEBUG)
        cfg.model.merge_with({key: value for key, value in DEBUG_MODEL.items() if key in cfg.model})
        if cfg.callbacks and cfg.callbacks.get("samples"):
            cfg.callbacks.samples.merge_with(DEBUG_SAMPLES)


def resume_path(choice: str | None, runs: Path) -> Path | None:
    """The checkpoint that `ckpt_path` asks for: none, the newest `last.ckpt` below `runs`, or a file."""
    if choice is None:
        return None
    if choice == "last":
        from src.checkpoint import newest_checkpoint  # takes seconds: mistakes before are answered at once

        newest = newest_checkpoint(runs)
        if newest is None:
            raise ConfigError(
                f"ckpt_path=last: no run below {runs} has written a checkpoint yet; leave ckpt_path out to start anew."
            )
        return newest
    if not Path(choice).is_file():
        raise ConfigError(f"ckpt_path={choice}: there is no such file; give a .ckpt, or last.")
    return Path(choice)
