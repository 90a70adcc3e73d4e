"""Windows of clips for MToV's autoencoders: faces, or drawn landmarks.

A batch is a dictionary of

    target   (b, t, 3, h, w)   uint8   RGB window, or its landmarks as white dots on black
    lips     (b, t, 20, 2)     float32 outline of the lips, (x, y) in pixels of the window
    index    (b,)              int64   row of the data set
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from src.datamodules.frames import lips_of_frames, read_pictures
from src.datamodules.moditalker_mtov import ibug_points, landmark_pictures, long_enough
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import require_choice, require_least

Content = Literal["faces", "landmarks"]


class MToVAutoencoderDataset(ClipDataset):
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
        frames = np.arange(start, start + self.frames)
        lips = torch.from_numpy(lips_of_frames(clip.landmarks[frames], clip.size, self.resolution))
        return {"target": self.pictures(clip, frames), "lips": lips, "index": row}

    def pictures(self, clip: Clip, frames: Int64[np.ndarray, " t"]) -> UInt8[Tensor, "t 3 h w"]:
        """Frames of a clip, or their landmarks."""
        if self.content == "faces":
            return read_pictures(clip, frames, self.resolution)
        return landmark_pictures(ibug_points(clip.landmarks[frames], clip.size, self.resolution), self.resolution)


class MToVAutoencoderDataModule(StoreDataModule[MToVAutoencoderDataset]):
    """Training and validation windows of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: see `MToVAutoencoderDataset`.
        frames: idem.
        content: idem.
        batch_size: training windows per process and step.
        draws_per_clip: training windows per clip and epoch.
        val_draws_per_clip: validation windows per clip, the same in every epoch.
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
        frames: int = 16,
        content: Content = "faces",
        batch_size: int = 1,
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
        self.resolution, self.frames = resolution, frames
        self.content: Content = content

    def dataset(self, clips: Sequence[Clip], **options: Any) -> MToVAutoencoderDataset:
        """Random windows."""
        return MToVAutoencoderDataset(
            clips, self.resolution, self.frames, content=self.content, seed=self.seed, **options
        )

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """The first validation windows, of as many clips as possible: `target` (b, 3, h, w) uint8 is what their middle frames look like,
        `clip` (b, t, 3, h, w) the windows.
        """
        windows = super().preview(n_samples)
        return {"target": windows["target"][:, self.frames // 2], "clip": windows["target"]}

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip in whole windows: `target` (t, 3, h, w) uint8."""
        clip = self.val_dataset.clips[0]
        n = max(1, min(n_frames, clip.n_frames) // self.frames) * self.frames
        return {"target": self.val_dataset.pictures(clip, np.arange(n))}
