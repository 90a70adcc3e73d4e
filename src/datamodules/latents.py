"""Latents of a clip store: what a frozen first stage makes of its frames, computed once instead of in every step of training.

latents/<name>/<clip>.npy            float16 (T, c, h, w), of whole frames
latents/<name>/<clip>.masked.npy     of frames whose repainted part is black, as the mask rule has it
latents/<name>/settings.json         first stage, resolution, mask: latents of other settings are refused
latents/<name>/clips.csv             what each clip was when it was encoded; of a clip made twice, the last row counts
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from src.checkpoint import instantiate, load, weights_sha256
from src.datamodules.store import Clip
from src.datamodules.tables import append_rows, differences, plain, read_rows
from src.errors import CheckpointError, StoreError
from src.face.repainting import MaskRule
from src.nn.difftalk import VQAutoencoder

FOLDER, CLIPS, CLIP_COLUMNS = "latents", "clips.csv", ("id", "n_frames", "fingerprint")
ENDS = 65_536  # bytes

OF_METHODS = {"difftalk_autoencoder": ("net", "net."), "difftalk": ("first_stage", "first_stage.")}
"""Checkpoints that hold a first stage: method -> (its place in the model's configuration, prefix of its weights)."""


def load_first_stage(path: str | Path) -> tuple[VQAutoencoder, str]:
    """The frozen first stage of a checkpoint of either stage, and the beginning of the sha256 of its weights.

    Raises:
        CheckpointError: there is none, or it is of another method.
    """
    checkpoint = load(path)
    if checkpoint.method not in OF_METHODS or not checkpoint.config.get("model"):
        raise CheckpointError(
            f"{path} is of {checkpoint.method} and holds no first stage of DiffTalk: give a checkpoint of difftalk_autoencoder."
        )
    place, prefix = OF_METHODS[checkpoint.method]
    net = instantiate(checkpoint.config["model"][place])
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.state_dict.items() if k.startswith(prefix)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the first stage that the checkpoint describes."
        ) from error
    return net.eval().requires_grad_(False), fingerprint_of(net)


def fingerprint_of(net: nn.Module) -> str:
    """The beginning of the sha256 of its weights: which network latents were made by."""
    return weights_sha256(net.state_dict())[:12]


class StoredLatents:
    """Reads the latents of clips.

    Args:
        clips: of one store.
        name: of the folder below `latents`.
        resolution: of the frames that they must have been made of.
        mask: by which they must have been masked.

    Raises:
        StoreError: there are none, they were made with other settings, or clips have none or have been replaced since.
    """

    def __init__(self, clips: Sequence[Clip], name: str, resolution: int, mask: MaskRule) -> None:
        self.folder = clips[0].root / FOLDER / name
        self.settings = read_settings(self.folder)
        wanted = frame_settings(resolution, mask)
        made_with = {key: self.settings.get(key) for key in wanted}
        if made_with != wanted:
            key, old, new = next(differences(made_with, wanted))
            raise StoreError(
                f"{self.folder} was made with {key}={old}, this run has datamodule.{key}={new}: set it alike, or make latents of "
                "another name with tools/preprocess.py."
            )
        present = {path.name for path in self.folder.glob("*.npy")}
        missing = [clip.id for clip in clips if not {f"{clip.id}.npy", f"{clip.id}.masked.npy"} <= present]
        if missing:
            raise StoreError(
                f"{self.folder} lacks the latents of {len(missing)} of {len(clips)} clips (first: {missing[0]}): "
                "make them with tools/preprocess.py latents=..."
            )
        check_unchanged(self.folder, clips, "latents")

    def item(self, clip: Clip, target: int, reference: int) -> dict[str, Tensor]:
        """`latent`, `masked_latent` and `reference_latent`, (c, h, w) float32."""
        whole, masked = self._open(f"{clip.id}.npy"), self._open(f"{clip.id}.masked.npy")
        return {
            "latent": _to_tensor(whole[target]),
            "masked_latent": _to_tensor(masked[target]),
            "reference_latent": _to_tensor(whole[reference]),
        }

    def _open(self, name: str) -> np.ndarray:
        return _open_array(self.folder / name)


def clip_row(clip: Clip) -> dict[str, str]:
    """What tells a clip from another of the same name: its length, and a hash of the ends of its video and of its landmarks.

    The whole files are not read: a video that was encoded anew differs in size, and in its table of frames, which lies at one end.
    """
    digest = hashlib.sha256()
    for path in (clip.video_path, clip.array_path()):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(ENDS))
            file.seek(max(size - ENDS, 0))
            digest.update(file.read(ENDS))
    return {"id": clip.id, "n_frames": str(clip.n_frames), "fingerprint": digest.hexdigest()[:12]}


def encoded_clips(folder: Path) -> dict[str, dict[str, str]]:
    """What the clips were when they were encoded, by id."""
    path = folder / CLIPS
    return {row["id"]: row for row in read_rows(path)} if path.is_file() else {}


def check_unchanged(folder: Path, clips: Sequence[Clip], stage: str) -> None:
    """StoreError where clips are others than those that were encoded; `stage` is the setting of tools/preprocess.py that encodes them."""
    encoded = encoded_clips(folder)
    if unknown := [clip.id for clip in clips if clip.id not in encoded]:
        raise StoreError(
            f"{folder} does not record what {len(unknown)} of {len(clips)} clips were when they were encoded (first: {unknown[0]}): make "
            f"their latents again with tools/preprocess.py {stage}=..."
        )
    if stale := [clip.id for clip in clips if encoded.get(clip.id) != clip_row(clip)]:
        raise StoreError(
            f"{folder}: {len(stale)} of {len(clips)} clips are others than those that were encoded (first: {stale[0]}): make "
            f"their latents again with tools/preprocess.py {stage}=..."
        )


def note_encoded(folder: Path, clip: Clip) -> None:
    """Write down what a clip was when it was encoded."""
    append_rows(folder / CLIPS, CLIP_COLUMNS, [clip_row(clip)])


def frame_settings(resolution: int, mask: MaskRule) -> dict[str, Any]:
    """What frames were encoded, as `settings.json` has it."""
    return plain({"resolution": resolution, "mask": dataclasses.asdict(mask)})


def read_settings(folder: Path, stage: str = "latents") -> dict[str, Any]:
    """How latents were made; StoreError where there are none, with the `stage` of tools/preprocess.py that makes them."""
    path = folder / "settings.json"
    if not path.is_file():
        made = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/settings.json")))
        raise StoreError(
            f"{folder} holds no latents{f' (there are {made})' if made else ''}: make them with tools/preprocess.py "
            f"{stage}=..., or leave datamodule.latents out."
        )
    return json.loads(path.read_text())


def _to_tensor(array: np.ndarray) -> Float32[Tensor, "c h w"]:
    return torch.from_numpy(array.astype(np.float32))


@functools.lru_cache(256)
def _open_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)
