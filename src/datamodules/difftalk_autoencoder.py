"""Single random frames of clips, for DiffTalk's first stage.

A batch is a dictionary of

    target   (b, 3, h, w)   uint8   RGB frame
    index    (b,)           int64   row of the data set
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.datamodules.frames import read_pictures
from src.datamodules.resumable import LoaderOptions, ResumableDataModule, limited
from src.datamodules.store import Clip, ClipStore
from src.errors import require_least

Item = dict[str, Any]


class DiffTalkAutoencoderDataset(Dataset):
    """Random frames, with or without a face: a draw is determined by seed, epoch and row alone.

    Args:
        clips: of a clip store.
        resolution: height and width of the pictures; other frames are resized, those that are not square are squeezed.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same frames in every epoch, for validation.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum.
    """

    def __init__(
        self, clips: Sequence[Clip], resolution: int, *, draws_per_clip: int = 1, redraw: bool = True, seed: int = 0
    ) -> None:
        require_least("datamodule.resolution", resolution, 1)
        require_least("datamodule.draws_per_clip", draws_per_clip, 1)
        self.clips = list(clips)
        self.resolution = resolution
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The frame of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        frame = int(rng.integers(clip.n_frames))
        return {"target": read_pictures(clip, [frame], self.resolution)[0], "index": row}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices`, collated."""
        return default_collate([self[i] for i in indices])


class DiffTalkAutoencoderDataModule(ResumableDataModule[DiffTalkAutoencoderDataset]):
    """Training and validation frames of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: see `DiffTalkAutoencoderDataset`.
        batch_size: training frames per process and step.
        draws_per_clip: training frames per clip and epoch.
        val_draws_per_clip: validation frames per clip, the same in every epoch.
        limit_clips: use only the first n clips of each split.
        train_split: split of the store for training.
        val_split: split of the store for validation.
        seed: of the order and of the draws.
        loading: see `src.datamodules.resumable.LoaderOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int = 256,
        batch_size: int = 8,
        *,
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        limit_clips: int | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        seed: int = 42,
        **loading: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size, seed=seed, **loading)
        self.root = Path(root)
        self.resolution = resolution
        self.draws_per_clip = draws_per_clip
        self.val_draws_per_clip = val_draws_per_clip
        self.limit_clips = limit_clips
        self.train_split = train_split
        self.val_split = val_split

    def setup(self, stage: str | None = None) -> None:
        """Read the store's tables; no video is opened."""
        if stage in (None, "fit"):
            self.train_dataset = self._dataset(self.train_split, self.draws_per_clip, redraw=True)
        if stage in (None, "fit", "validate"):
            self.val_dataset = self._dataset(self.val_split, self.val_draws_per_clip, redraw=False)

    def _dataset(self, split: str, draws_per_clip: int, *, redraw: bool) -> DiffTalkAutoencoderDataset:
        clips = limited(ClipStore(self.root, split).clips, self.limit_clips)
        return DiffTalkAutoencoderDataset(
            clips, self.resolution, draws_per_clip=draws_per_clip, redraw=redraw, seed=self.seed
        )

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """The first validation frames, of as many clips as possible."""
        return self.val_dataset.batch(range(min(n_samples, len(self.val_dataset))))

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip: `target` (t, 3, h, w) uint8."""
        clip = self.val_dataset.clips[0]
        return {"target": read_pictures(clip, np.arange(min(n_frames, clip.n_frames)), self.resolution)}
