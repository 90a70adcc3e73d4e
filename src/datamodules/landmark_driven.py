"""Frames of clips with the reference frame and the two landmark pictures that condition them.

A batch is a dictionary of

    target               (b, 3, h, w)   uint8   RGB frame to be generated
    reference            (b, 3, h, w)   uint8   RGB frame of the same clip
    target_landmarks     (b, 3, h, w)   uint8   landmark picture of the target, black background
    reference_landmarks  (b, 3, h, w)   uint8   landmark picture of the reference
    index                (b,)           int64   row of the data set
"""

import functools
import logging
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import StoreError, require_choice
from src.face.drawing import draw_landmarks
from src.face.landmarks import rescaled, simplified
from src.media import resize

log = logging.getLogger(__name__)

Item = dict[str, Any]

REFERENCES_KEPT = 1024  # per process: reference frames and pictures, 98 kB each at 128x128


def landmark_picture(
    landmarks: Float[np.ndarray, "t 478 d"], crop_size: tuple[int, int], resolution: int
) -> UInt8[np.ndarray, "t h w 3"]:
    """Landmark pictures of `resolution` x `resolution` pixels.

    Args:
        landmarks: pixels of a crop, pixel centres at integer coordinates.
        crop_size: its height and width.
        resolution: of the pictures; lines stay one pixel wide at any resolution.
    """
    points = rescaled(simplified(landmarks)[..., :2], crop_size, (resolution, resolution))
    return draw_landmarks(points, resolution)


def read_frames(clip: Clip, indices: Sequence[int], resolution: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of a clip, resized to `resolution` x `resolution`."""
    return resize(clip.frames(indices), (resolution, resolution))


def read_pictures(clip: Clip, indices: Sequence[int], resolution: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Landmark pictures of frames of a clip."""
    return landmark_picture(clip.landmarks[np.asarray(indices, np.int64)], clip.size, resolution)


@functools.lru_cache(REFERENCES_KEPT)
def _reference(clip: Clip, frame: int, resolution: int) -> tuple[Tensor, Tensor]:
    """A reference frame and its landmark picture, (3, h, w) each."""
    return (
        _to_tensor(read_frames(clip, [frame], resolution)[0]),
        _to_tensor(read_pictures(clip, [frame], resolution)[0]),
    )


def _to_tensor(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


class LandmarkDrivenDataset(ClipDataset):
    """One item per kept frame; the items of all clips take turns, so that the first n items show as many clips as possible.

    Args:
        clips: of a clip store.
        resolution: height and width of the pictures; frames of other sizes are resized.
        selection: rule of the store that names the kept frames (`landmark_driven`: every second or third frame away from the ends), or
            `all` for every frame but the reference.
        reference: `first` frame of the clip, as the original has it, or a `random` other frame, drawn anew in every epoch.
        frames_per_clip: keep at most this many, evenly spread over the kept frames.
        seed: of the random references.

    Raises:
        StoreError: not a single frame is kept.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        resolution: int,
        *,
        selection: str = "landmark_driven",
        reference: Literal["first", "random"] = "first",
        frames_per_clip: int | None = None,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.reference", reference, ("first", "random"))
        self.clips = list(clips)
        self.resolution = resolution
        self.reference = reference
        self.seed = seed
        kept = [_spread(_kept_frames(clip, selection), frames_per_clip) for clip in self.clips]
        turns = zip_longest(*([(number, frame) for frame in frames] for number, frames in enumerate(kept)))
        self.items = np.array([item for item in chain.from_iterable(turns) if item is not None], np.int64).reshape(
            -1, 2
        )
        if empty := sum(len(frames) == 0 for frames in kept):
            log.info("%d of %d clips are too short: no frame of them is kept", empty, len(kept))
        if len(self.items) == 0:
            longest = max((clip.n_frames for clip in self.clips), default=0)
            raise StoreError(
                f"{self.clips[0].root if self.clips else 'the store'}: the selection {selection!r} keeps no frame of the "
                f"{len(self.clips)} clips (the longest has {longest} frames): prepare longer clips or set datamodule.selection=all."
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`; only random references depend on the epoch."""
        row = index % len(self)
        number, frame = self.items[row].tolist()
        clip = self.clips[number]
        reference, reference_landmarks = _reference(clip, self._reference_frame(clip, frame, index), self.resolution)
        return {
            "target": _to_tensor(read_frames(clip, [frame], self.resolution)[0]),
            "reference": reference,
            "target_landmarks": _to_tensor(read_pictures(clip, [frame], self.resolution)[0]),
            "reference_landmarks": reference_landmarks,
            "index": row,
        }

    def window(self, clip: Clip, n_frames: int) -> dict[str, Tensor]:
        """The first `n_frames` frames of a clip as a batch without `index`, reference frame 0."""
        frames = range(min(n_frames, clip.n_frames))
        reference = _reference(clip, 0, self.resolution)
        return {
            "target": _to_batch(read_frames(clip, frames, self.resolution)),
            "reference": reference[0].expand(len(frames), -1, -1, -1),
            "target_landmarks": _to_batch(read_pictures(clip, frames, self.resolution)),
            "reference_landmarks": reference[1].expand(len(frames), -1, -1, -1),
        }

    def _reference_frame(self, clip: Clip, frame: int, draw: int) -> int:
        if self.reference == "first":
            return 0
        others = np.flatnonzero(clip.valid)
        others = others[others != frame]
        return int(np.random.default_rng((self.seed, draw)).choice(others)) if len(others) else 0


def _to_batch(images: UInt8[np.ndarray, "t h w 3"]) -> UInt8[Tensor, "t 3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()


def _kept_frames(clip: Clip, selection: str) -> np.ndarray:
    """Frames that the rule keeps and in which the detector saw the face: interpolated landmarks describe no real picture."""
    frames = np.arange(1, clip.n_frames) if selection == "all" else clip.selection(selection)
    return frames[clip.valid[frames]] if clip.n_valid < clip.n_frames else frames


def _spread(frames: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of the frames, evenly spread."""
    if limit is None or len(frames) <= limit:
        return frames
    return frames[np.linspace(0, len(frames) - 1, limit).round().astype(np.int64)]


class LandmarkDrivenDataModule(StoreDataModule[LandmarkDrivenDataset]):
    """Training and validation frames of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        resolution: height and width of the frames.
        batch_size: training frames per process and step.
        selection: see `LandmarkDrivenDataset`.
        reference: idem, for training; validation always has the first frame.
        frames_per_clip: idem, for training.
        val_frames_per_clip: idem, for validation.
        seed: of the order and of random references.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

    Raises:
        StoreError: the store or a split is missing, or no frame is kept.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int = 128,
        batch_size: int = 64,
        *,
        selection: str = "landmark_driven",
        reference: Literal["first", "random"] = "first",
        frames_per_clip: int | None = None,
        val_frames_per_clip: int | None = None,
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            train={"reference": reference, "frames_per_clip": frames_per_clip, "seed": seed},
            val={"frames_per_clip": val_frames_per_clip},
            seed=seed,
            **loading,
        )
        self.resolution = resolution
        self.selection = selection

    def dataset(self, clips: Sequence[Clip], **options: Any) -> LandmarkDrivenDataset:
        """Frames that the selection keeps."""
        return LandmarkDrivenDataset(clips, self.resolution, selection=self.selection, **options)

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip, frame 0 as reference."""
        return self.val_dataset.window(self.val_dataset.clips[0], n_frames)
