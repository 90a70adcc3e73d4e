"""Encodes windows of a clip store with MToV's frozen autoencoders; what is written is described in `src.datamodules.clip_latents`."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int64
from torch import Tensor

from src.checkpoint import instantiate, load
from src.datamodules.clip_latents import NAMES, window_settings, window_starts
from src.datamodules.frames import read_pictures
from src.datamodules.latents import FOLDER, clip_row, encoded_clips, fingerprint_of, note_encoded
from src.datamodules.moditalker_mtov import ibug_points, landmark_pictures, masked_pictures
from src.datamodules.preprocessing.latents import chosen_device
from src.datamodules.store import SAFE_ID, Clip, ClipStore
from src.datamodules.tables import require_settings
from src.diffusion.pixels import to_signed
from src.errors import CheckpointError, ConfigError, require_least
from src.media import atomic_path
from src.nn.moditalker_mtov import TriplaneAutoencoder

log = logging.getLogger(__name__)

METHOD = "moditalker_mtov_autoencoder"


@dataclass(frozen=True)
class Autoencoders:
    """The two that make the latents of a window."""

    faces: TriplaneAutoencoder
    landmarks: TriplaneAutoencoder

    def to(self, device: torch.device) -> "Autoencoders":
        """Both on a device."""
        return Autoencoders(self.faces.to(device), self.landmarks.to(device))


def read_autoencoders(faces: str | Path, landmarks: str | Path) -> Autoencoders:
    """The frozen networks of two checkpoints.

    Raises:
        CheckpointError: one is of another method, or they take windows of different sizes.
    """
    found = Autoencoders(_read(faces), _read(landmarks))
    a, b = found.faces, found.landmarks
    if (a.frames, a.resolution, a.shape) != (b.frames, b.resolution, b.shape):
        raise CheckpointError(
            f"{faces} takes {a.frames} frames of {a.resolution}x{a.resolution}, {landmarks} {b.frames} of {b.resolution}x{b.resolution}: "
            "give two autoencoders of the same sizes."
        )
    return found


def _read(path: str | Path) -> TriplaneAutoencoder:
    checkpoint = load(path)
    if checkpoint.method != METHOD or not checkpoint.config.get("model"):
        raise CheckpointError(f"{path} is of {checkpoint.method}: give a checkpoint of {METHOD}.")
    net = instantiate(checkpoint.config["model"]["net"])
    net.load_state_dict({k.removeprefix("net."): v for k, v in checkpoint.state_dict.items() if k.startswith("net.")})
    return net.eval().requires_grad_(False)


def write_clip_latents(
    root: Path | str,
    autoencoders: Autoencoders,
    *,
    name: str = "moditalker_mtov",
    stride: int = 4,
    batch_size: int = 4,
    device: str | None = None,
) -> int:
    """Encode the windows of clips of a store that have no latents yet, or are others than those that were encoded; a run that was
    interrupted goes on where it stopped.

    Args:
        root: of the store.
        autoencoders: whose sizes are those of the windows.
        name: of the folder.
        stride: frames between the beginnings of two windows.
        batch_size: windows per pass.
        device: of the computation; None: a GPU where there is one.

    Returns:
        the number of clips that were encoded.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: there is no store, or its latents of that name were made with other settings.
    """
    require_least("clip_latent_options.batch_size", batch_size, 1)
    require_least("clip_latent_options.stride", stride, 1)
    if not SAFE_ID.fullmatch(name):
        raise ConfigError(
            f"clip_latent_options.name={name}: give the name of one folder, of letters, digits, '_' and '-'."
        )
    frames, resolution = autoencoders.faces.frames, autoencoders.faces.resolution
    clips = [clip for clip in ClipStore(root).clips if clip.n_frames >= frames]
    folder = Path(root) / FOLDER / name
    made_by = {"autoencoder": autoencoders.faces, "landmark_autoencoder": autoencoders.landmarks}
    fingerprints = {key: fingerprint_of(net) for key, net in made_by.items()}
    settings = {**fingerprints, "stride": stride, **window_settings(resolution, frames)}
    require_settings(folder, settings, "choose another clip_latent_options.name, or delete the folder")
    nets = autoencoders.to(chosen_device(device, "clip_latent_options"))
    encoded = encoded_clips(folder)
    pending = [
        clip for clip in clips if encoded.get(clip.id) != clip_row(clip) or not (folder / f"{clip.id}.npz").is_file()
    ]
    log.info("%s: %d clips to encode, %d have latents", folder, len(pending), len(clips) - len(pending))
    began = time.perf_counter()
    for clip in pending:
        rows = _encode_clip(nets, clip, window_starts(clip.n_frames, frames, stride), batch_size)
        with atomic_path(folder / f"{clip.id}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **rows)
        note_encoded(folder, clip)  # last: says that they are there
    if pending:
        log.info("%d clips encoded in %.1f seconds", len(pending), time.perf_counter() - began)
    return len(pending)


@torch.inference_mode()
def _encode_clip(
    nets: Autoencoders, clip: Clip, starts: Int64[np.ndarray, " m"], batch_size: int
) -> dict[str, Float16[np.ndarray, "m c _"]]:
    """The arrays of a clip."""
    resolution, frames = nets.faces.resolution, nets.faces.frames
    pictures = read_pictures(clip, np.arange(clip.n_frames), resolution)
    points = ibug_points(clip.landmarks, clip.size, resolution)
    drawn, masked = landmark_pictures(points, resolution), masked_pictures(pictures, points)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        windows = chosen[:, None] + np.arange(frames)
        still = np.repeat(chosen[:, None], frames, axis=1)
        rows["latent"].append(_encode(nets.faces, pictures[windows]))
        rows["masked_latent"].append(_encode(nets.faces, masked[windows]))
        rows["landmark_latent"].append(_encode(nets.landmarks, drawn[windows]))
        rows["reference_latent"].append(_encode(nets.faces, pictures[still])[..., : nets.faces.shape.picture])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _encode(net: TriplaneAutoencoder, windows: Tensor) -> Float16[np.ndarray, "b c n"]:
    device = next(net.parameters()).device
    return net.encode(to_signed(windows.to(device))).half().cpu().numpy()
