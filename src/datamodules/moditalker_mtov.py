"""Windows of clips with what MToV makes them from: drawn landmarks, frames without the lower face, a picture of the person.

A batch is a dictionary of

    target         (b, t, 3, h, w)   uint8   RGB window to be generated
    masked         (b, t, 3, h, w)   uint8   the same, black from the base of the nose on
    landmarks      (b, t, 3, h, w)   uint8   its 68 landmarks as white dots on black
    reference      (b, 3, h, w)      uint8   RGB frame of the same clip that shows the person
    previous       (b, t, 3, h, w)   uint8   the window before, where `previous` asks for it; black where there is none
    has_previous   (b,)              bool    whether there is one
    lips           (b, t, 20, 2)     float32 outline of the lips, (x, y) in pixels of the window
    index          (b,)              int64   row of the data set

With latents that were computed beforehand (`src.datamodules.clip_latents`), `latent`, `masked_latent`, `landmark_latent`,
`reference_latent` and `previous_latent` (b, c, n) float32 are in the place of the pictures, and no video is decoded.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import default_collate

from src.datamodules.clip_latents import StoredClipLatents
from src.datamodules.frames import lips_of_frames, read_pictures
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import StoreError, require_choice, require_least
from src.face.landmarks import rescaled, to_ibug68
from src.face.moditalker_mtov import CANVAS, DOT_RADIUS, dots, mask_rows, without_lower_face
from src.media import resize

log = logging.getLogger(__name__)

Item = dict[str, Any]
ReferenceFrame = Literal["random", "first"]


def ibug_points(
    landmarks: Float[np.ndarray, "t n d"], size: tuple[int, int], resolution: int
) -> Float[np.ndarray, "t 68 2"]:
    """The 68 points of frames that are resized from `size` (height, width) to a square of side `resolution`, in its pixels."""
    points = to_ibug68(np.asarray(landmarks))[..., :2].astype(np.float64)
    return rescaled(points, size, (resolution, resolution))


def landmark_pictures(points: Float[np.ndarray, "t 68 2"], resolution: int) -> UInt8[Tensor, "t 3 h w"]:
    """Dots at points in pixels of frames of side `resolution`, as large beside the face as the original's.

    Smaller pictures than the original's canvas are drawn on it and made smaller: the dots are soft, and their places finer than a pixel.
    """
    if resolution >= CANVAS:
        return _tensor(dots(points, resolution, resolution, round(DOT_RADIUS * resolution / CANVAS)))
    on_canvas = (points + 0.5) * (CANVAS / resolution) - 0.5
    return _tensor(resize(dots(on_canvas, CANVAS), (resolution, resolution)))


def masked_pictures(
    pictures: UInt8[Tensor, "t 3 h w"], points: Float[np.ndarray, "t 68 2"]
) -> UInt8[Tensor, "t 3 h w"]:
    """Pictures whose lower face is hidden, by points in their pixels."""
    frames = pictures.permute(0, 2, 3, 1).numpy()
    return _tensor(without_lower_face(frames, mask_rows(points)))


def _tensor(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[Tensor, "t 3 h w"]:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def long_enough(clips: Sequence[Clip], frames: int) -> list[Clip]:
    """The clips with so many frames; StoreError where there is none."""
    kept = [clip for clip in clips if clip.n_frames >= frames]
    if dropped := len(clips) - len(kept):
        log.info("%d of %d clips are shorter than %d frames and left out", dropped, len(clips), frames)
    if not kept:
        raise StoreError(
            f"None of the {len(clips)} clips{f' of {clips[0].root}' if clips else ''} has {frames} frames: prepare longer clips."
        )
    return kept


class MToVDataset(ClipDataset):
    """Random windows: a draw is determined by seed, epoch and row alone, whichever process makes it, before or after an interruption.

    Args:
        clips: of a clip store.
        resolution: height and width of the pictures; other frames are resized, those that are not square are squeezed.
        frames: of a window.
        reference: `random` frame of the clip, or the `first` of the window, as the original has it.
        previous: items have the window before.
        latents: name of latents in the store that replace the pictures.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same windows in every epoch, for validation.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum or an unknown choice.
        StoreError: latents that do not fit, or not a single clip that is long enough.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        resolution: int,
        frames: int = 16,
        *,
        reference: ReferenceFrame = "random",
        previous: bool = False,
        latents: str | None = None,
        draws_per_clip: int = 1,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.reference", reference, get_args(ReferenceFrame))
        for name, value in (("resolution", resolution), ("frames", frames), ("draws_per_clip", draws_per_clip)):
            require_least(f"datamodule.{name}", value, 1)
        self.clips = long_enough(clips, frames)
        self.resolution, self.frames = resolution, frames
        self.reference: ReferenceFrame = reference
        self.previous = previous
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.seed = seed
        self.latents = StoredClipLatents(self.clips, latents, resolution, frames) if latents else None

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        clip, start, reference = self.draw(index)
        if self.latents is not None:
            item = self.latents.item(clip, start, reference, previous=self.previous)
        else:
            item = self.item(clip, start, reference)
        return item | {"lips": self._lips(clip, start), "index": index % len(self)}

    def draw(self, index: int) -> tuple[Clip, int, int]:
        """Clip, first frame of the window and reference frame of a draw."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        if self.latents is not None:
            start = int(rng.choice(self.latents.starts(clip)))
            references = self.latents.starts(clip)  # latents of pictures exist at these frames
        else:
            start, references = int(rng.integers(clip.n_frames - self.frames + 1)), np.arange(clip.n_frames)
        return clip, start, start if self.reference == "first" else int(rng.choice(references))

    def item(self, clip: Clip, start: int, reference: int) -> Item:
        """The window of a clip that begins at a frame, given the frame that shows the person; without `index`."""
        n = self.frames
        first = start - n if self.previous and start >= n else start
        pictures = read_pictures(clip, [*range(first, start + n), reference], self.resolution)
        target = pictures[start - first : -1]
        points = self.points(clip, np.arange(start, start + n))
        item: Item = {
            "target": target,
            "masked": masked_pictures(target, points),
            "landmarks": landmark_pictures(points, self.resolution),
            "reference": pictures[-1],
        }
        if self.previous:
            item |= {
                "previous": pictures[:n] if first < start else torch.zeros_like(target),
                "has_previous": first < start,
            }
        return item

    def _lips(self, clip: Clip, start: int) -> Float32[Tensor, "t 20 2"]:
        """Outline of the lips in the window that begins at a frame."""
        return torch.from_numpy(lips_of_frames(clip.landmarks[start : start + self.frames], clip.size, self.resolution))

    def points(self, clip: Clip, frames: Int64[np.ndarray, " t"]) -> Float[np.ndarray, "t 68 2"]:
        """The 68 points of frames, in pixels of the pictures."""
        return ibug_points(clip.landmarks[frames], clip.size, self.resolution)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices` with their pictures, collated."""
        items = [self.item(*self.draw(i)) | {"index": i % len(self)} for i in indices]
        return default_collate(items)

    def video(self, clip: Clip, n_frames: int) -> dict[str, Tensor]:
        """The first whole windows of a clip, `n_frames` at the most, its first frame for the person: `target`, `masked`, `landmarks`
        (t, 3, h, w) and `reference` (3, h, w) uint8.
        """
        n = max(1, min(n_frames, clip.n_frames) // self.frames) * self.frames
        target = read_pictures(clip, np.arange(n), self.resolution)
        points = self.points(clip, np.arange(n))
        return {
            "target": target,
            "masked": masked_pictures(target, points),
            "landmarks": landmark_pictures(points, self.resolution),
            "reference": target[0],
        }


class MToVDataModule(StoreDataModule[MToVDataset]):
    """Training and validation windows of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: see `MToVDataset`.
        frames: idem.
        batch_size: training windows per process and step.
        reference: see `MToVDataset`, for training; validation has a random frame.
        previous: idem.
        latents: idem, for training and for the loss of validation.
        draws_per_clip: idem, for training.
        val_draws_per_clip: idem, for validation, the same windows in every epoch.
        seed: of the order and of the draws.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing, or latents do not fit.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int = 256,
        frames: int = 16,
        batch_size: int = 4,
        *,
        reference: ReferenceFrame = "random",
        previous: bool = False,
        latents: str | None = None,
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            train={"reference": reference, "draws_per_clip": draws_per_clip, "redraw": True},
            val={"reference": "random", "draws_per_clip": val_draws_per_clip, "redraw": False},
            seed=seed,
            **loading,
        )
        self.resolution, self.frames = resolution, frames
        self.options: dict[str, Any] = {"previous": previous, "latents": latents, "seed": seed}

    def dataset(self, clips: Sequence[Clip], **options: Any) -> MToVDataset:
        """Windows with what makes them."""
        return MToVDataset(clips, self.resolution, self.frames, **self.options, **options)

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """The first validation windows, of as many clips as possible, and what is in the middle of them: `middle` (b, 3, h, w) uint8,
        `middle_landmarks`.
        """
        batch = super().preview(n_samples)
        middle = self.frames // 2
        return {**batch, "middle": batch["target"][:, middle], "middle_landmarks": batch["landmarks"][:, middle]}

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip, see `MToVDataset.video`."""
        return self.val_dataset.video(self.val_dataset.clips[0], n_frames)
