"""Random frames of clips with what DiffTalk repaints them by: a mask, a reference picture, the sound around, landmarks of the upper face.

A batch is a dictionary of

    target      (b, 3, h, w)    uint8     RGB frame to be generated
    reference   (b, 3, h, w)    uint8     RGB frame of the same clip, some seconds away
    kept        (b, 1, h, w)    bool      False where the target is repainted
    audio       (b, n, d)       float32   speech features of the frames `audio_offsets` away from the target
    landmarks   (b, 39, 2)      float32   condition points of the target, (x, y) in pixels of a 256 x 256 frame, whatever h and w are
    lips        (b, 20, 2)      float32   outline of the lips, (x, y) in pixels of the h x w frame: for the loss alone
    index       (b,)            int64     row of the data set

With latents that were computed beforehand (`src.datamodules.latents`), `latent`, `masked_latent` and `reference_latent`
(b, c, h/f, w/f) float32 are in the place of `target` and `reference`, and no video is decoded.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import default_collate

from src.audio.windows import AudioEdges, audio_windows
from src.datamodules.frames import lips_of_frames, masks_of_frames, points_of_frames, read_pictures
from src.datamodules.latents import StoredLatents
from src.datamodules.speech_features import Features, check_features
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import ConfigError, StoreError, require_choice, require_least
from src.face.repainting import MaskRule

log = logging.getLogger(__name__)

Item = dict[str, Any]
ReferenceFrame = Literal["random", "fixed", "first"]

MIN_FRAMES = 2  # a target and another frame of the person
SHORT_CLIPS = (
    "%d of %d clips are too short for references %d frames away; where there is none, one of the farther half is taken"
)


def reference_candidates(
    target: int, frames: Int64[np.ndarray, " n"], gap: int
) -> tuple[Int64[np.ndarray, " m"], bool]:
    """Frames that can be the reference of `target`: those at least `gap` frames away, or the farther half where there are none.

    Returns:
        the candidates, and whether `gap` was kept.
    """
    distance = np.abs(frames - target)
    far = frames[distance >= max(gap, 1)]
    if len(far):
        return far, True
    farthest = np.argsort(-distance, kind="stable")[: max(1, len(frames) // 2)]
    return frames[np.sort(farthest)], False


class DiffTalkDataset(ClipDataset):
    """Random frames: a draw is determined by seed, epoch and row alone, whichever process makes it, before or after an interruption.

    Frames in which the detector saw no face are neither targets nor references.

    Args:
        clips: of a clip store.
        features: name and width of the speech features that condition the frames.
        resolution: height and width of the pictures; other frames are resized, those that are not square are squeezed.
        audio_offsets: first and last row of speech features, counted from the target, both included.
        audio_edges: what lies beyond the clip's ends, see `src.audio.windows.audio_windows`.
        mask: which part is repainted. Default: `MaskRule()`.
        reference: `random` draws another frame with every access; `fixed` draws it once for each target, as the original does; `first` is
            the clip's first frame.
        reference_gap: frames that lie between target and reference at least. Where a clip is too short for it, the reference is one of the
            farther half of its frames.
        latents: name of latents in the store that replace the pictures.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same frames in every epoch, for validation.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum or an unknown choice.
        StoreError: features or latents that do not fit, or not a single clip of two frames or more.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        features: Features,
        resolution: int,
        *,
        audio_offsets: Sequence[int] = (-4, 3),
        audio_edges: AudioEdges = "zero",
        mask: MaskRule | None = None,
        reference: ReferenceFrame = "random",
        reference_gap: int = 60,
        latents: str | None = None,
        draws_per_clip: int = 1,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.reference", reference, get_args(ReferenceFrame))
        require_least("datamodule.reference_gap", reference_gap, 1)
        require_least("datamodule.draws_per_clip", draws_per_clip, 1)
        require_least("datamodule.resolution", resolution, 1)
        self.features = features
        self.resolution = resolution
        self.audio_offsets = audio_window(audio_offsets)
        require_choice("datamodule.audio_edges", audio_edges, get_args(AudioEdges))
        self.audio_edges: AudioEdges = audio_edges
        self.mask = mask or MaskRule()
        self.reference: ReferenceFrame = reference
        self.reference_gap = reference_gap
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.seed = seed
        check_features(clips, features)
        self.clips = [clip for clip in clips if len(self.frames_of(clip)) >= MIN_FRAMES]
        if dropped := len(clips) - len(self.clips):
            log.info("%d of %d clips show the face in fewer than %d frames", dropped, len(clips), MIN_FRAMES)
        if not self.clips:
            raise StoreError(
                f"None of the {len(clips)} clips{f' of {clips[0].root}' if clips else ''} has {MIN_FRAMES} frames with "
                "a face: prepare longer clips."
            )
        self.latents = StoredLatents(self.clips, latents, resolution, self.mask) if latents else None
        self._tell_short_clips()

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        clip, target, reference = self.draw(index)
        return self.item(clip, target, reference) | {"index": index % len(self)}

    def draw(self, index: int) -> tuple[Clip, int, int]:
        """Clip, target frame and reference frame of a draw."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        frames = self.frames_of(clip)
        others = (
            frames[1:] if self.reference == "first" and len(frames) > 1 else frames
        )  # nobody is their own reference
        target = int(rng.choice(others))
        return clip, target, self.reference_of(clip, target, rng)

    def reference_of(self, clip: Clip, target: int, rng: np.random.Generator) -> int:
        """The reference frame of a target, drawn from those that are far enough away."""
        frames = self.frames_of(clip)
        if self.reference == "first":
            return int(frames[0])
        if self.reference == "fixed":
            rng = np.random.default_rng((self.seed, crc32(clip.id.encode()), target))
        candidates, _ = reference_candidates(target, frames, self.reference_gap)
        return int(rng.choice(candidates))

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices` with their pictures, collated."""
        draws = [self.draw(i) for i in indices]
        items = [self.item(*draw, pictures=True) for draw in draws]
        return default_collate([item | {"index": i % len(self)} for item, i in zip(items, indices, strict=True)])

    def frames_of(self, clip: Clip) -> Int64[np.ndarray, " n"]:
        """Frames that can be a target: those with features in which the detector saw the face."""
        n_frames = len(self._features_of(clip))
        return np.arange(n_frames) if clip.n_valid == clip.n_frames else np.flatnonzero(clip.valid[:n_frames])

    def item(self, clip: Clip, target: int, reference: int, *, pictures: bool = False) -> Item:
        """What repaints frame `target` of a clip, given the frame that shows the person; without `index`.

        Args:
            pictures: pictures, even where there are latents.
        """
        if self.latents and not pictures:
            shown = self.latents.item(clip, target, reference)
        else:
            target_picture, reference_picture = self._read(clip, [target, reference])
            shown = {"target": target_picture, "reference": reference_picture}
        conditions = self._conditions(clip, np.array([target]))
        return shown | {key: value[0] for key, value in conditions.items()}

    def window(self, clip: Clip, n_frames: int | None = None) -> dict[str, Tensor]:
        """The first `n_frames` frames of a clip (None: all that have features), with its first frame for the person.

        Returns:
            `target` (t, 3, h, w) uint8, `reference` (3, h, w) uint8, `kept` (t, 1, h, w) bool, `audio` (t, n, d), `landmarks`
            (t, 39, 2) and `lips` (t, 20, 2) float32.
        """
        frames = np.arange(len(self._features_of(clip)[:n_frames]))
        target = self._read(clip, frames)
        return {"target": target, "reference": target[0], **self._conditions(clip, frames)}

    def _conditions(self, clip: Clip, frames: Int64[np.ndarray, " t"]) -> dict[str, Tensor]:
        """`kept`, `audio`, `landmarks` and `lips` of frames."""
        landmarks = clip.landmarks[frames]
        audio = audio_windows(self._features_of(clip), self.audio_offsets, self.audio_edges, frames)
        return {
            "kept": torch.from_numpy(masks_of_frames(landmarks, clip.size, self.resolution, self.mask)),
            "audio": torch.from_numpy(audio),
            "landmarks": torch.from_numpy(points_of_frames(landmarks, clip.size)),
            "lips": torch.from_numpy(lips_of_frames(landmarks, clip.size, self.resolution)),
        }

    def _features_of(self, clip: Clip) -> Float32[np.ndarray, "t d"]:
        """Rows of features, as many as there are frames to go with them."""
        return clip.features(self.features.name)[: clip.n_frames]

    def _read(self, clip: Clip, frames: Sequence[int] | Int64[np.ndarray, " t"]) -> UInt8[Tensor, "t 3 h w"]:
        return read_pictures(clip, frames, self.resolution)

    def _tell_short_clips(self) -> None:
        """Say once how many clips have targets without a frame that is far enough away."""
        if self.reference == "first":
            return
        short = 0
        for clip in self.clips:
            frames = self.frames_of(clip)
            reach = np.maximum(frames - frames[0], frames[-1] - frames)
            short += bool(reach.min() < self.reference_gap)
        if short:
            log.info(SHORT_CLIPS, short, len(self.clips), self.reference_gap)


def audio_window(offsets: Sequence[int]) -> tuple[int, int]:
    """First and last offset of a window; ConfigError unless they are two, from low to high."""
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ConfigError(
            f"datamodule.audio_offsets={list(offsets)}: give the first and the last row, from low to high, for example [-4, 3]."
        )
    return int(offsets[0]), int(offsets[1])


class DiffTalkDataModule(StoreDataModule[DiffTalkDataset]):
    """Training and validation frames of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        features: what makes the speech features; those that the store lacks are extracted before training.
        resolution: see `DiffTalkDataset`.
        batch_size: training frames per process and step.
        audio_offsets: see `DiffTalkDataset`.
        audio_edges: idem.
        mask: idem.
        reference: idem, for training; validation has the first frame, as generation does.
        reference_gap: idem.
        latents: idem.
        draws_per_clip: idem, for training.
        val_draws_per_clip: idem, for validation, the same frames in every epoch.
        redraw: idem, for training.
        seed: of the order and of the draws.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing, or features or latents do not fit.
    """

    features: Features  # without them there are no samples

    def __init__(
        self,
        root: str | Path,
        features: Features,
        resolution: int = 256,
        batch_size: int = 8,
        *,
        audio_offsets: Sequence[int] = (-4, 3),
        audio_edges: AudioEdges = "zero",
        mask: MaskRule | None = None,
        reference: ReferenceFrame = "random",
        reference_gap: int = 60,
        latents: str | None = None,
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        redraw: bool = True,
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            features=features,
            train={"reference": reference, "draws_per_clip": draws_per_clip, "redraw": redraw},
            val={"reference": "first", "draws_per_clip": val_draws_per_clip, "redraw": False},
            seed=seed,
            **loading,
        )
        self.resolution = resolution
        self.options: dict[str, Any] = {
            "audio_offsets": audio_offsets,
            "audio_edges": audio_edges,
            "mask": mask,
            "reference_gap": reference_gap,
            "latents": latents,
            "seed": seed,
        }

    def dataset(self, clips: Sequence[Clip], **options: Any) -> DiffTalkDataset:
        """Frames with what repaints them."""
        return DiffTalkDataset(clips, self.features, self.resolution, **self.options, **options)

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip; see `DiffTalkDataset.window`."""
        return self.val_dataset.window(self.val_dataset.clips[0], n_frames)
