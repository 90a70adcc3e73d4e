"""Turn a training checkpoint or official weights into a release folder or one safetensors file (see --help)."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from src.adapters.i3d import read_i3d
from src.checkpoint import load_published, save_release, save_safetensors
from src.cli import command
from src.errors import CheckpointError, ConfigError
from src.media import atomic_path

log = logging.getLogger(__name__)


@command("convert_checkpoint")
def main(cfg: DictConfig) -> None:
    """Load safely, write tensors, method and plain configuration."""
    if cfg.method == "i3d":
        convert_i3d(Path(cfg.ckpt), Path(cfg.out))
        return
    checkpoint = load_published(cfg.ckpt, cfg.method, cfg.weights)
    if cfg.method not in (None, checkpoint.method):
        raise CheckpointError(f"{cfg.ckpt} is a {checkpoint.method} checkpoint, not {cfg.method}; leave method out.")
    out = Path(cfg.out)
    if out.suffix == ".safetensors":
        save_safetensors(out, checkpoint.method, checkpoint.config, checkpoint.state_dict, source=checkpoint.path.name)
    else:
        save_release(out, checkpoint)
    log.info("wrote %s: %s, %d tensors", out, checkpoint.method, len(checkpoint.state_dict))


def convert_i3d(path: Path, out: Path) -> None:
    """Write the network of FVD as the file of plain tensors that `evaluate.py` looks for."""
    if out.suffix != ".pt":
        raise ConfigError(
            f"out={out}: FVD reads its network from i3d_pretrained_400.pt in the models folder; give out=models/i3d_pretrained_400.pt."
        )
    weights = read_i3d(path)
    with atomic_path(out) as temporary:
        torch.save(weights, temporary)
    log.info("wrote %s: the network of FVD, %d tensors", out, len(weights))


if __name__ == "__main__":
    main()
