"""Windows of clips for MToV's autoencoders: faces, or drawn landmarks.

A batch is a dictionary of

    target   (b, t, 3, h, w)   uint8   RGB window, or its landmarks as white dots on black
    index    (b,)              int64   row of the data set
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.datamodules.frames import read_pictures
from src.datamodules.moditalker_mtov import ibug_points, landmark_pictures, long_enough
from src.datamodules.resumable import ResumableDataModule, limited
from src.datamodules.store import Clip, ClipStore
from src.errors import require_choice, require_least

Content = Literal["faces", "landmarks"]


class MToVAutoencoderDataset(Dataset):
    """Random windows: a draw is determined by seed, epoch and row alone.

    Args:
        clips: of a clip store.
        resolution: height and width of the pictures; other frames are resized, those that are not square are squeezed.
        frames: of a window.
        content: `faces`, or the drawn `landmarks` of these.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same windows in every epoch, for validation.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum or an unknown choice.
        StoreError: not a single clip that is long enough.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        resolution: int,
        frames: int = 16,
        *,
        content: Content = "faces",
        draws_per_clip: int = 1,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.content", content, get_args(Content))
        for name, value in (("resolution", resolution), ("frames", frames), ("draws_per_clip", draws_per_clip)):
            require_least(f"datamodule.{name}", value, 1)
        self.clips = long_enough(clips, frames)
        self.resolution, self.frames = resolution, frames
        self.content: Content = content
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The window of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        start = int(rng.integers(clip.n_frames - self.frames + 1))
        return {"target": self.pictures(clip, np.arange(start, start + self.frames)), "index": row}

    def pictures(self, clip: Clip, frames: Int64[np.ndarray, " t"]) -> UInt8[Tensor, "t 3 h w"]:
        """Frames of a clip, or their landmarks."""
        if self.content == "faces":
            return read_pictures(clip, frames, self.resolution)
        return landmark_pictures(ibug_points(clip.landmarks[frames], clip.size, self.resolution), self.resolution)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices`, collated."""
        return default_collate([self[i] for i in indices])


class MToVAutoencoderDataModule(ResumableDataModule[MToVAutoencoderDataset]):
    """Training and validation windows of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: see `MToVAutoencoderDataset`.
        frames: idem.
        content: idem.
        batch_size: training windows per process and step.
        val_batch_size: validation windows per process and step; None: `batch_size`.
        num_workers: processes that decode.
        persistent_workers: keep them between epochs.
        pin_memory: page-locked batches, for GPUs.
        prefetch_factor: batches that each worker prepares ahead.
        draws_per_clip: training windows per clip and epoch.
        val_draws_per_clip: validation windows per clip, the same in every epoch.
        limit_clips: use only the first n clips of each split.
        train_split: split of the store for training.
        val_split: split of the store for validation.
        seed: of the order and of the draws.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int = 256,
        frames: int = 16,
        content: Content = "faces",
        batch_size: int = 1,
        *,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        prefetch_factor: int = 2,
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        limit_clips: int | None = None,
        train_split: str = "train",
        val_split: str = "validation",
        seed: int = 42,
    ) -> None:
        super().__init__(
            batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            persistent_workers=persistent_workers,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        self.root = Path(root)
        self.resolution, self.frames = resolution, frames
        self.content: Content = content
        self.draws_per_clip, self.val_draws_per_clip = draws_per_clip, val_draws_per_clip
        self.limit_clips = limit_clips
        self.train_split, self.val_split = train_split, val_split

    def setup(self, stage: str | None = None) -> None:
        """Read the store's tables; no video is opened."""
        if stage in (None, "fit"):
            self.train_dataset = self._dataset(self.train_split, self.draws_per_clip, redraw=True)
        if stage in (None, "fit", "validate"):
            self.val_dataset = self._dataset(self.val_split, self.val_draws_per_clip, redraw=False)

    def _dataset(self, split: str, draws_per_clip: int, *, redraw: bool) -> MToVAutoencoderDataset:
        clips = limited(ClipStore(self.root, split).clips, self.limit_clips)
        options: dict[str, Any] = {"draws_per_clip": draws_per_clip, "redraw": redraw, "seed": self.seed}
        return MToVAutoencoderDataset(clips, self.resolution, self.frames, content=self.content, **options)

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """The first validation windows, of as many clips as possible: `target` (b, 3, h, w) uint8 is what their middle frames look like,
        `clip` (b, t, 3, h, w) the windows.
        """
        windows = self.val_dataset.batch(range(min(n_samples, len(self.val_dataset))))
        return {"target": windows["target"][:, self.frames // 2], "clip": windows["target"]}

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip in whole windows: `target` (t, 3, h, w) uint8."""
        clip = self.val_dataset.clips[0]
        n = max(1, min(n_frames, clip.n_frames) // self.frames) * self.frames
        return {"target": self.val_dataset.pictures(clip, np.arange(n))}
