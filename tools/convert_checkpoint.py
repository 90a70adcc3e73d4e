"""Turn a training checkpoint or official weights into a release folder or one safetensors file (see --help)."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from src.checkpoint import load_published, save_release, save_safetensors
from src.cli import command
from src.errors import CheckpointError

log = logging.getLogger(__name__)


@command("convert_checkpoint")
def main(cfg: DictConfig) -> None:
    """Load safely, write tensors, method and plain configuration."""
    checkpoint = load_published(cfg.ckpt, cfg.method, cfg.weights)
    if cfg.method not in (None, checkpoint.method):
        raise CheckpointError(f"{cfg.ckpt} is a {checkpoint.method} checkpoint, not {cfg.method}; leave method out.")
    out = Path(cfg.out)
    if out.suffix == ".safetensors":
        save_safetensors(out, checkpoint.method, checkpoint.config, checkpoint.state_dict, source=checkpoint.path.name)
    else:
        save_release(out, checkpoint)
    log.info("wrote %s: %s, %d tensors", out, checkpoint.method, len(checkpoint.state_dict))


if __name__ == "__main__":
    main()
