"""Encodes the frames of a clip store with DiffTalk's frozen first stage; what is written is described in `src.datamodules.latents`."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16

from src.datamodules.frames import masks_of_frames, read_pictures
from src.datamodules.latents import FOLDER, clip_row, encoded_clips, frame_settings, load_first_stage, note_encoded
from src.datamodules.store import SAFE_ID, Clip, ClipStore
from src.datamodules.tables import require_settings, save_array
from src.diffusion.pixels import to_signed
from src.errors import ConfigError, require_least
from src.face.repainting import MaskRule
from src.nn.difftalk import VQAutoencoder

log = logging.getLogger(__name__)


def write_latents(
    root: Path | str,
    ckpt: str | Path,
    *,
    name: str = "difftalk",
    resolution: int = 256,
    mask: MaskRule | None = None,
    batch_size: int = 16,
    device: str | None = None,
) -> int:
    """Encode the clips of a store that have no latents yet, or were replaced since; a run that was interrupted goes on where it stopped.

    Args:
        root: of the store.
        ckpt: checkpoint of the first stage.
        name: of the folder.
        resolution: side of the frames that are encoded, pixels.
        mask: which part of the masked frames is black. Default: `MaskRule()`.
        batch_size: frames per pass.
        device: of the computation; None: a GPU where there is one.

    Returns:
        the number of clips that were encoded.

    Raises:
        ConfigError: a setting that cannot be used.
        CheckpointError: the checkpoint holds no first stage.
        StoreError: there is no store, or its latents of that name were made with other settings.
    """
    mask = mask or MaskRule()
    require_least("latent_options.batch_size", batch_size, 1)
    if not SAFE_ID.fullmatch(name):
        raise ConfigError(f"latent_options.name={name}: give the name of one folder, of letters, digits, '_' and '-'.")
    clips = ClipStore(root).clips
    net, fingerprint = load_first_stage(ckpt)
    if resolution < 1 or resolution % net.factor:
        raise ConfigError(f"latent_options.resolution={resolution}: give a multiple of {net.factor}.")
    folder = Path(root) / FOLDER / name
    settings = {"first_stage": fingerprint, **frame_settings(resolution, mask)}
    require_settings(folder, settings, "choose another latent_options.name, or delete the folder")
    net = net.to(chosen_device(device, "latent_options"))
    encoded = encoded_clips(folder)
    pending = [clip for clip in clips if encoded.get(clip.id) != clip_row(clip) or not _has_both(folder, clip)]
    log.info("%s: %d clips to encode, %d have latents", folder, len(pending), len(clips) - len(pending))
    began, n_frames = time.perf_counter(), 0
    for clip in pending:
        whole, masked = _encode_clip(net, clip, resolution, mask, batch_size)
        save_array(folder / f"{clip.id}.masked.npy", masked)
        save_array(folder / f"{clip.id}.npy", whole)
        note_encoded(folder, clip)  # last: says that both are there
        n_frames += clip.n_frames
    if pending:
        seconds = time.perf_counter() - began
        log.info("%d clips, %d frames encoded, %.1f frames per second", len(pending), n_frames, n_frames / seconds)
    return len(pending)


@torch.inference_mode()
def _encode_clip(
    net: VQAutoencoder, clip: Clip, resolution: int, mask: MaskRule, batch_size: int
) -> tuple[Float16[np.ndarray, "t c h w"], Float16[np.ndarray, "t c h w"]]:
    """Latents of the whole and of the masked frames."""
    device = next(net.parameters()).device
    whole, masked = [], []
    for frames in chunks(clip.n_frames, batch_size):
        pictures = to_signed(read_pictures(clip, frames, resolution).to(device))
        kept = torch.from_numpy(masks_of_frames(clip.landmarks[frames], clip.size, resolution, mask)).to(device)
        whole.append(net.encode(pictures).half().cpu().numpy())
        masked.append(net.encode(pictures.masked_fill(~kept, -1.0)).half().cpu().numpy())
    return np.concatenate(whole), np.concatenate(masked)


def chunks(n_frames: int, size: int) -> Iterator[np.ndarray]:
    """Numbers of the frames, `size` at a time."""
    for start in range(0, n_frames, size):
        yield np.arange(start, min(start + size, n_frames))


def _has_both(folder: Path, clip: Clip) -> bool:
    return all((folder / f"{clip.id}{kind}.npy").is_file() for kind in ("", ".masked"))


def is_made(folder: Path, clip: Clip) -> bool:
    """Whether the folder has an array of the clip's length that is no older than its video."""
    path = folder / f"{clip.id}.npy"
    if not path.is_file() or clip.video_path.stat().st_mtime > path.stat().st_mtime:
        return False
    return len(np.load(path, mmap_mode="r", allow_pickle=False)) == clip.n_frames


def chosen_device(device: str | None, options: str) -> torch.device:
    """The device of that name, or a GPU where there is one; ConfigError, which names the group of `options`, where there is none such."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{options}.device={device}: there is no such device; give cpu, cuda or null.") from error
    return chosen
