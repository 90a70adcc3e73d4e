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

from src.datamodules.frames import read_pictures
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import require_least

Item = dict[str, Any]


class DiffTalkAutoencoderDataset(ClipDataset):
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


class DiffTalkAutoencoderDataModule(StoreDataModule[DiffTalkAutoencoderDataset]):
    """Training and validation frames of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: see `DiffTalkAutoencoderDataset`.
        batch_size: training frames per process and step.
        draws_per_clip: training frames per clip and epoch.
        val_draws_per_clip: validation frames per clip, the same in every epoch.
        seed: of the order and of the draws.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

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
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            train={"draws_per_clip": draws_per_clip, "redraw": True},
            val={"draws_per_clip": val_draws_per_clip, "redraw": False},
            seed=seed,
            **loading,
        )
        self.resolution = resolution

    def dataset(self, clips: Sequence[Clip], **options: Any) -> DiffTalkAutoencoderDataset:
        """Random frames."""
        return DiffTalkAutoencoderDataset(clips, self.resolution, seed=self.seed, **options)

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip: `target` (t, 3, h, w) uint8."""
        clip = self.val_dataset.clips[0]
        return {"target": read_pictures(clip, np.arange(min(n_frames, clip.n_frames)), self.resolution)}
