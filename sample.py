"""Make a talking video: `python sample.py ckpt=last.ckpt source=face.png driving=clip.mp4 out=talk.mp4` (see --help)."""

import logging
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import command, exit_with, require_file
from src.errors import ConfigError, VisemeError

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16")


@command("sample")
def main(cfg: DictConfig) -> None:
    """Load the checkpoint's pipeline, run it, write the file(s)."""
    require_file(cfg.ckpt, "ckpt")
    if cfg.precision not in PRECISIONS:
        raise ConfigError(f"precision={cfg.precision}: choose one of {', '.join(PRECISIONS)}.")
    # Imported this late because it takes seconds: --help and mistakes answer at once.
    import torch

    from src.checkpoint import load
    from src.media import Provenance
    from src.pipelines.loading import load_pipeline
    from src.pipelines.video import write

    checkpoint = load(cfg.ckpt, cfg.weights)
    pipeline = load_pipeline(checkpoint, device=cfg.device, compile=cfg.compile, options=own_options(cfg))
    video = pipeline(source=cfg.source, audio=cfg.audio, driving=cfg.driving, seed=cfg.seed)
    with torch.autocast(pipeline.device.type, getattr(torch, cfg.precision), enabled=cfg.precision != "float32"):
        written = write(video, Path(cfg.out), Provenance(checkpoint.method, checkpoint.fingerprint))
    for path in written:
        log.info("wrote %s", path)


def own_options(cfg: DictConfig) -> dict[str, object]:
    """The pipeline settings that stand on the command line; all others come from the checkpoint."""
    keys = [o.split("=")[0].lstrip("+") for o in HydraConfig.get().overrides.task if o.startswith("pipeline.")]
    return {key.removeprefix("pipeline."): OmegaConf.select(cfg, key) for key in keys}


def add_method(arguments: list[str]) -> list[str]:
    """`arguments` with `pipeline=METHOD` of the checkpoint added, so that Hydra knows and checks the method's options."""
    ckpt = next((a.removeprefix("ckpt=") for a in arguments if a.startswith("ckpt=")), None)
    if ckpt is None or any(a.startswith("pipeline=") for a in arguments):
        return arguments
    from src.checkpoint import method_of

    return [*arguments, f"pipeline={method_of(ckpt)}"]


if __name__ == "__main__":
    try:
        sys.argv[1:] = add_method(sys.argv[1:])
    except VisemeError as error:
        exit_with(str(error))
    main()
