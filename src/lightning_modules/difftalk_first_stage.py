"""What DiffTalk's second stage does about the first one before it trains: finds its weights, and sees that the data fit them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from src.datamodules.latents import fingerprint_of, load_first_stage
from src.errors import CheckpointError, ConfigError, StoreError
from src.lightning_modules.stages import UNTRAINED, checkpoint_of_stage
from src.nn.difftalk import DiffTalkNet, VQAutoencoder

log = logging.getLogger(__name__)

SETTING = "model.first_stage_ckpt"


def take_over(first_stage: VQAutoencoder, choice: str | Path | None, runs: str | Path) -> None:
    """Fill a first stage with the weights of a checkpoint.

    Args:
        first_stage: is filled in place.
        choice: a file, `last:RUN`, or `untrained`, which leaves it as it is.
        runs: folder of the runs.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it holds no first stage, or another one.
    """
    if choice == UNTRAINED:
        log.warning("%s=%s: the first stage is random", SETTING, UNTRAINED)
        return
    path = checkpoint_of_stage(choice, runs, SETTING, "train one with experiment=difftalk_autoencoder_...")
    there, _ = load_first_stage(path)
    try:
        first_stage.load_state_dict(there.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{SETTING}={path} is of another autoencoder than model.first_stage describes: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error
    log.info("first stage: %s", path)


def check_batch(batch: Mapping[str, Tensor], net: DiffTalkNet, first_stage: VQAutoencoder) -> None:
    """ConfigError where speech features or pictures of a batch are not those of the networks."""
    n_rows, dim = batch["audio"].shape[1:]
    if dim != net.audio_dim:
        raise ConfigError(
            f"net.audio_dim={net.audio_dim}: the speech features of the data have {dim} numbers per frame; "
            f"give net.audio_dim={dim}, or other features."
        )
    if n_rows != net.n_audio_rows:
        raise ConfigError(
            f"net.n_audio_rows={net.n_audio_rows}: the data have {n_rows} rows of speech features around a frame; "
            f"give net.n_audio_rows={n_rows}, or other datamodule.audio_offsets."
        )
    side, factor = batch["target"].shape[-1], first_stage.factor
    if side != net.image_size * factor:
        raise ConfigError(
            f"net.image_size={net.image_size}: the first stage makes latents of {side / factor:g} of frames of "
            f"datamodule.resolution={side}; give net.image_size={side // factor} and a resolution that {factor} divides."
        )


def check_latents(dataset: Any, first_stage: VQAutoencoder) -> None:
    """StoreError where the latents of a data set were made by another first stage."""
    stored = getattr(dataset, "latents", None)
    if stored is not None and (made_by := stored.settings.get("first_stage")) != fingerprint_of(first_stage):
        raise StoreError(
            f"{stored.folder} was made by another first stage ({made_by}) than the model's ({fingerprint_of(first_stage)}): "
            f"make latents of another name with tools/preprocess.py, or give the {SETTING} that made these."
        )
