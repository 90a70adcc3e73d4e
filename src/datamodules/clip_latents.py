"""Latents of a clip store's windows: what MToV's frozen autoencoders make of them, computed once instead of in every step of training.

latents/<name>/<clip>.npz       float16 arrays with a row per window: `latent`, `masked_latent`, `landmark_latent` (m, c, n), and
                                `reference_latent` (m, c, k) of the still picture that each window begins with
latents/<name>/settings.json    autoencoders, resolution, frames, stride: latents of other settings are refused
latents/<name>/clips.csv        what each clip was when it was encoded, see `src.datamodules.latents`

Windows begin `stride` frames after each other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from src.datamodules.latents import FOLDER, check_unchanged, read_settings
from src.datamodules.store import Clip
from src.datamodules.tables import differences
from src.errors import StoreError

NAMES = ("latent", "masked_latent", "landmark_latent", "reference_latent")


def window_settings(resolution: int, frames: int) -> dict[str, Any]:
    """What windows were encoded, as `settings.json` has it."""
    return {"resolution": resolution, "frames": frames}


def window_starts(n_frames: int, frames: int, stride: int) -> Int64[np.ndarray, " m"]:
    """First frames of the windows of a clip."""
    return np.arange(0, n_frames - frames + 1, stride)


class StoredClipLatents:
    """Reads the latents of windows.

    Args:
        clips: of one store.
        name: of the folder below `latents`.
        resolution: of the frames that they must have been made of.
        frames: of the windows.

    Raises:
        StoreError: there are none, they were made with other settings, or clips have none or have been replaced since.
    """

    def __init__(self, clips: Sequence[Clip], name: str, resolution: int, frames: int) -> None:
        self.folder = clips[0].root / FOLDER / name
        self.settings = read_settings(self.folder, "clip_latents")
        wanted = window_settings(resolution, frames)
        made_with = {key: self.settings.get(key) for key in wanted}
        if made_with != wanted:
            key, old, new = next(differences(made_with, wanted))
            raise StoreError(
                f"{self.folder} was made with {key}={old}, this run has datamodule.{key}={new}: set it alike, or make latents of "
                "another name with tools/preprocess.py."
            )
        missing = [clip.id for clip in clips if not self._path(clip).is_file()]
        if missing:
            raise StoreError(
                f"{self.folder} lacks the latents of {len(missing)} of {len(clips)} clips (first: {missing[0]}): "
                "make them with tools/preprocess.py clip_latents=..."
            )
        check_unchanged(self.folder, clips, "clip_latents")
        self.frames, self.stride = frames, int(self.settings["stride"])
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    def starts(self, clip: Clip) -> Int64[np.ndarray, " m"]:
        """First frames of the clip's windows."""
        return window_starts(clip.n_frames, self.frames, self.stride)

    def item(self, clip: Clip, start: int, reference: int, *, previous: bool) -> dict[str, Any]:
        """`latent`, `masked_latent`, `landmark_latent` (c, n), `reference_latent` (c, k); with `previous` also `previous_latent` (c, n)
        and `has_previous`, all float32.
        """
        arrays = self._open(clip)
        row = start // self.stride
        item: dict[str, Any] = {name: _tensor(arrays[name][row]) for name in NAMES[:-1]}
        item["reference_latent"] = _tensor(arrays["reference_latent"][reference // self.stride])
        if previous:
            before = start - self.frames
            there = before >= 0 and before % self.stride == 0
            item["has_previous"] = there
            item["previous_latent"] = (
                _tensor(arrays["latent"][before // self.stride]) if there else torch.zeros_like(item["latent"])
            )
        return item

    def _path(self, clip: Clip) -> Path:
        return self.folder / f"{clip.id}.npz"

    def _open(self, clip: Clip) -> dict[str, np.ndarray]:
        """The clip's arrays; small enough to be kept, for an epoch sees each of them many times."""
        if clip.id not in self._arrays:
            with np.load(self._path(clip), allow_pickle=False) as file:
                self._arrays[clip.id] = {name: file[name] for name in NAMES}
        return self._arrays[clip.id]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
