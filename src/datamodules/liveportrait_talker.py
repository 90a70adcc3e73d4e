"""Expression coefficients around a frame and the lips that belong to it, for MappingNet.

A training batch is a dictionary of

    coefficients   (b, c, n)      float32   of a window of n frames, not normalised
    lips           (b, 6, 3)      float32   of the window's own frame: key points of LivePortrait's raw expression, see `LIP`
    index          (b,)           int64     row of the data set

A validation batch is one whole clip: `coefficients` (1, t, c), `lips` (1, t, 6, 3), `index` (1,).
"""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Unpack

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from src.audio.windows import audio_windows
from src.datamodules.resumable import ResumableDataModule, WorkerOptions, limited
from src.datamodules.speech_features import Features, clips_with_features, ensure_features
from src.datamodules.store import Clip, ClipStore
from src.errors import ConfigError, StoreError, require_choice, require_least
from src.face.lip_points import lip_points

Item = dict[str, Any]
Lips = Literal["extracted", "landmarks"]

THREEDMM, LIP_TARGETS = "threedmm", "lip_targets"  # folders below `features` that tools/preprocess.py fills
MEAN_CLIPS = 1000  # that the mean lips are computed of, at most


class ExpressiveClip(Protocol):
    """Coefficients and lips of the frames of a clip; read from their files at every access."""

    @property
    def coefficients(self) -> Float32[np.ndarray, "t c"]:
        """What the network is given."""
        ...

    @property
    def lips(self) -> Float32[np.ndarray, "t 6 3"]:
        """What it has to find."""
        ...

    @property
    def frames(self) -> Int64[np.ndarray, " f"]:
        """Frames that show the face."""
        ...


@dataclasses.dataclass(frozen=True)
class StoredExpressions:
    """An `ExpressiveClip` of a clip store.

    Attributes:
        clip: of the store.
        rows: name of the coefficients below `features`.
        n_coefficients: how many of their columns, the first ones, are taken.
        source: of the lips, see `LivePortraitTalkerDataModule`.
    """

    clip: Clip
    rows: str
    n_coefficients: int
    source: Lips

    @property
    def coefficients(self) -> Float32[np.ndarray, "t c"]:
        """See `ExpressiveClip`."""
        rows = self.clip.features(self.rows)
        if rows.shape[1] < self.n_coefficients or len(rows) != self.clip.n_frames:
            raise StoreError(
                f"The {self.rows} of clip {self.clip.id} are {len(rows)} rows of {rows.shape[1]}, expected are {self.clip.n_frames} of "
                f"{self.n_coefficients} or more: set datamodule.n_coefficients to their width, or make them again."
            )
        return rows[:, : self.n_coefficients]

    @property
    def lips(self) -> Float32[np.ndarray, "t 6 3"]:
        """See `ExpressiveClip`."""
        return _points(self.clip) if self.source == "landmarks" else self.clip.features(LIP_TARGETS)

    @property
    def frames(self) -> Int64[np.ndarray, " f"]:
        """See `ExpressiveClip`."""
        return np.flatnonzero(self.clip.valid)


@functools.lru_cache(4096)
def _points(clip: Clip) -> Float32[np.ndarray, "t 6 3"]:
    """The moving lips of a clip, of 72 bytes per frame; computed once."""
    return lip_points(clip.landmarks)


class LivePortraitTalkerDataset(Dataset):
    """Windows around random frames: a draw is determined by seed, epoch and row alone.

    Args:
        clips: that have a frame with a face.
        window: frames before and after a window's own; beyond a clip's ends its first and last row are repeated.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum, or a window that begins after its frame.
    """

    def __init__(
        self,
        clips: Sequence[ExpressiveClip],
        window: Sequence[int] = (14, 14),
        *,
        draws_per_clip: int = 1,
        seed: int = 0,
    ) -> None:
        require_least("datamodule.draws_per_clip", draws_per_clip, 1)
        self.clips = clips
        self.window = frames_around(window)
        self.draws_per_clip = draws_per_clip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        frame = int(np.random.default_rng((self.seed, index)).choice(clip.frames))
        before, after = self.window
        window = audio_windows(clip.coefficients, (-before, after), "repeat", [frame])[0]
        lips = torch.from_numpy(np.array(clip.lips[frame]))
        return {"coefficients": torch.from_numpy(window.T.copy()), "lips": lips, "index": row}


class WholeClips(Dataset):
    """Clips as they are, for validation.

    Args:
        clips: to show.
    """

    def __init__(self, clips: Sequence[ExpressiveClip]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        """All frames of a clip."""
        clip = self.clips[index % len(self)]
        arrays = {"coefficients": clip.coefficients, "lips": clip.lips}
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()} | {
            "index": index % len(self)
        }


def frames_around(window: Sequence[int]) -> tuple[int, int]:
    """Frames before and after a window's own; ConfigError unless they are two, none below zero."""
    if len(window) != 2 or min(window) < 0:
        raise ConfigError(
            f"datamodule.window={list(window)}: give the frames before and after the middle, e.g. [14, 14]."
        )
    return int(window[0]), int(window[1])


class ExpressionDataModule(ResumableDataModule[Dataset]):
    """What the DataModules of MappingNet have in common; order and resuming as `ResumableDataModule` has them.

    Args:
        window: see `LivePortraitTalkerDataset`.
        draws_per_clip: idem.
        limit_clips: use only the first n clips for training, and for validation.
        batch_size: training windows per process and step; validation takes one clip after another.
        loading: see `src.datamodules.resumable.WorkerOptions`.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        window: Sequence[int],
        draws_per_clip: int,
        limit_clips: int | None,
        seed: int,
        **loading: Unpack[WorkerOptions],
    ) -> None:
        super().__init__(batch_size, val_batch_size=1, seed=seed, **loading)
        self.window = frames_around(window)
        self.draws_per_clip = draws_per_clip
        self.limit_clips = limit_clips

    @abstractmethod
    def clips_of(self, use: Literal["train", "val"]) -> Sequence[ExpressiveClip]:
        """All clips for training or for validation that have coefficients and lips; StoreError where there is none."""

    def setup(self, stage: str | None = None) -> None:
        """Find the clips; their files are read when they are used."""
        self.train_clips = self._limited("train")
        if stage in (None, "fit"):
            self.train_dataset = LivePortraitTalkerDataset(
                self.train_clips, self.window, draws_per_clip=self.draws_per_clip, seed=self.seed
            )
        if stage in (None, "fit", "validate"):
            self.val_dataset = WholeClips(self._limited("val"))

    def _limited(self, use: Literal["train", "val"]) -> Sequence[ExpressiveClip]:
        return limited(self.clips_of(use), self.limit_clips)

    def mean_lips(self) -> Tensor:
        """Mean lips of the training clips (6, 3), of a thousand at most: what a model that hears nothing would say."""
        chosen = np.linspace(0, len(self.train_clips) - 1, min(len(self.train_clips), MEAN_CLIPS)).round().astype(int)
        clips = [self.train_clips[i] for i in chosen]
        total = sum(clip.lips.sum(axis=0, dtype=np.float64) for clip in clips)
        return torch.from_numpy(np.asarray(total / sum(len(clip.lips) for clip in clips), np.float32))


class LivePortraitTalkerDataModule(ExpressionDataModule):
    """Training and validation clips of a clip store.

    Args:
        root: the clip store.
        batch_size: training windows per process and step; validation takes one clip after another.
        features: what the network is given in place of the face's coefficients: speech features, made before the training where the store
            lacks them. None: those of the `threedmm` stage of tools/preprocess.py.
        n_coefficients: columns of the coefficients that the network is given, the first ones.
        lips: `extracted` by LivePortrait's motion extractor, in the `lip_targets` stage of tools/preprocess.py; or points of the
            `landmarks`, see `src.face.lip_points`.
        window: see `LivePortraitTalkerDataset`.
        draws_per_clip: idem.
        limit_clips: use only the first n clips of each split.
        train_split: split of the store for training.
        val_split: split of the store for validation.
        seed: of the order and of the draws.
        loading: see `src.datamodules.resumable.WorkerOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing, or no clip of it has coefficients and lips.
    """

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 64,
        *,
        features: Features | None = None,
        n_coefficients: int = 64,
        lips: Lips = "extracted",
        window: Sequence[int] = (14, 14),
        draws_per_clip: int = 1,
        limit_clips: int | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        seed: int = 42,
        **loading: Unpack[WorkerOptions],
    ) -> None:
        super().__init__(
            batch_size,
            window=window,
            draws_per_clip=draws_per_clip,
            limit_clips=limit_clips,
            seed=seed,
            **loading,
        )
        require_choice("datamodule.lips", lips, ("extracted", "landmarks"))
        require_least("datamodule.n_coefficients", n_coefficients, 1)
        self.prepare_data_per_node = False  # the nodes of a cluster see one store
        self.root = Path(root)
        self.features = features
        self.n_coefficients = n_coefficients
        self.lips: Lips = lips
        self.splits = {"train": train_split, "val": val_split}

    def prepare_data(self) -> None:
        """Extract the speech features that the store lacks, where they are what the network is given."""
        if self.features is not None:
            ensure_features(self.root, self.features)

    def clips_of(self, use: Literal["train", "val"]) -> Sequence[ExpressiveClip]:
        """See `ExpressionDataModule`."""
        rows = self.features.name if self.features is not None else THREEDMM
        names = (rows, LIP_TARGETS) if self.lips == "extracted" else (rows,)
        clips = ClipStore(self.root, self.splits[use]).clips
        for name in names:
            clips = clips_with_features(clips, name)
        found = [StoredExpressions(clip, rows, self.n_coefficients, self.lips) for clip in clips if clip.n_valid]
        if not found:
            raise StoreError(
                f"No clip of the split {self.splits[use]} of {self.root} shows a face: prepare other videos."
            )
        return found
