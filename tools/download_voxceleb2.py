"""Fetch the videos of VoxCeleb2 and cut the utterances out of them (see --help)."""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.cli import command, require_file
from src.datamodules.preprocessing.voxceleb2_download import Download, summary

log = logging.getLogger(__name__)


@command("download_voxceleb2")
def main(cfg: DictConfig) -> None:
    """Fetch what is missing, or say how much that is."""
    annotations = require_file(Path(cfg.annotations).expanduser(), "annotations")
    download = Download(
        Path(cfg.root).expanduser(),
        pause=cfg.pause,
        retries=cfg.retries,
        backoff=cfg.backoff,
        patience=cfg.patience,
        retry_failed=cfg.retry_failed,
    )
    videos = download.pending(annotations, cfg.limit)
    if cfg.dry_run:
        log.info(
            "missing: %(videos)d videos with %(utterances)d utterances, %(hours).1f hours of speech", summary(videos)
        )
        return
    result = download.run(videos, instantiate(cfg.fetcher))
    log.info("%d videos and %d utterances are new, %d videos failed", result.videos, result.utterances, result.failed)


if __name__ == "__main__":
    main()
