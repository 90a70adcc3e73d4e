"""Random frames of clips with what conditions them: a picture of the person, the frames just before, and the sound around.

A batch is a dictionary of

    target    (b, 3, h, w)      uint8     RGB frame to be generated
    identity  (b, 3, h, w)      uint8     RGB frame of the same clip
    motion    (b, m, 3, h, w)   uint8     the m RGB frames before the target, oldest first; before the clip's first frame: the identity
    audio     (b, 2a + 1, d)    float32   speech features of the frames target - a ... target + a, repeated at the clip's ends
    lips      (b, 20, 2)        float32   outer and inner lip of the target, (x, y) in pixels of the h x w frames
    index     (b,)              int64     row of the data set

Grey or blurred motion frames and augmentation are made of these on the device: `src.diffusion.motion_frames`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from src.datamodules.speech_features import Features, check_features
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import StoreError, require_choice, require_least
from src.face.landmarks import mouth_points, rescaled
from src.media import resize

log = logging.getLogger(__name__)

Item = dict[str, Any]
IdentityFrame = Literal["random", "first"]
Aspect = Literal["square", "kept"]

MIN_FRAMES = 2  # a target and another frame of the person


# --- which frames


def motion_indices(target: int, identity: int, n_motion_frames: int) -> list[int]:
    """The frames before `target`, oldest first; frames before the clip's first are `identity`."""
    return [frame if frame >= 0 else identity for frame in range(target - n_motion_frames, target)]


def audio_indices(target: int, reach: int, n_frames: int) -> Int64[np.ndarray, " w"]:
    """Rows of features around `target`, `reach` on either side, the first and the last row repeated beyond the ends."""
    return np.arange(target - reach, target + reach + 1).clip(0, n_frames - 1)


def draw_frames(
    frames: Int64[np.ndarray, " n"], identity_frame: IdentityFrame, rng: np.random.Generator
) -> tuple[int, int]:
    """Target and identity frame (section 2.3 of the specification of Diffused Heads' training, arXiv:2301.03396).

    `random`: two different ones of `frames`, uniform without replacement. `first`: the target is any but the first of them, and the
    identity is the first.
    """
    if identity_frame == "random":
        target, identity = rng.choice(frames, 2, replace=False).tolist()
        return target, identity
    return int(rng.choice(frames[1:])), int(frames[0])


# --- what is in them


def resized_size(size: tuple[int, int], resolution: int, aspect: Aspect = "square") -> tuple[int, int]:
    """Height and width after resizing: a square, or the shorter side `resolution` and the longer one in proportion, rounded down."""
    if aspect == "square":
        return resolution, resolution
    short = min(size)
    height, width = (resolution * side // short for side in size)
    return height, width


def scale_lips_as_original(
    lips: Float32[np.ndarray, "*t 20 2"], size: tuple[int, int], resolution: int
) -> Float32[np.ndarray, "*t 20 2"]:
    """As the original training code scales them: x by the ratio of the heights, y by that of the widths, corners at integers."""
    height, width = size
    return lips / (np.array([height, width]) / resolution).astype(np.float32)


class DiffusedHeadsDataset(ClipDataset):
    """Random frames: a draw is determined by seed, epoch and row alone, whichever process makes it, before or after an interruption.

    Args:
        clips: of a clip store.
        features: name and width of the speech features that condition the frames.
        resolution: height and width of the pictures; frames of other sizes are resized.
        n_motion_frames: m, frames before the target.
        audio_radius: a, rows of features on either side of the target.
        identity_frame: `random` other frame of the clip, or its `first`.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same frames in every epoch, for validation.
        aspect: `square` squeezes frames that are not square; `kept` makes their shorter side `resolution`, as the original does.
        antialias: average over pixels where frames shrink. The published models were trained without, their demo runs with it.
        original_lip_landmarks: lips of the identity frame instead of the target's, scaled with height and width exchanged: two slips
            of the original, to repeat its training.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum or an unknown choice.
        StoreError: features that do not fit their video, or not a single clip of two frames or more with features.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        features: Features,
        resolution: int,
        *,
        n_motion_frames: int = 2,
        audio_radius: int = 2,
        identity_frame: IdentityFrame = "random",
        draws_per_clip: int = 1,
        redraw: bool = True,
        aspect: Aspect = "square",
        antialias: bool = True,
        original_lip_landmarks: bool = False,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.identity_frame", identity_frame, get_args(IdentityFrame))
        require_choice("datamodule.aspect", aspect, get_args(Aspect))
        require_least("datamodule.n_motion_frames", n_motion_frames, 0)
        require_least("datamodule.audio_radius", audio_radius, 0)
        require_least("datamodule.draws_per_clip", draws_per_clip, 1)
        self.features = features
        self.resolution = resolution
        self.n_motion_frames = n_motion_frames
        self.audio_radius = audio_radius
        self.identity_frame: IdentityFrame = identity_frame
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.aspect: Aspect = aspect
        self.antialias = antialias
        self.original_lip_landmarks = original_lip_landmarks
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

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        target, identity = draw_frames(self.frames_of(clip), self.identity_frame, rng)
        return self.item(clip, target, identity) | {"index": row}

    def frames_of(self, clip: Clip) -> Int64[np.ndarray, " n"]:
        """Frames that can be a target: those with features in which the detector saw the face."""
        n_frames = len(self._features_of(clip))
        return np.arange(n_frames) if clip.n_valid == clip.n_frames else np.flatnonzero(clip.valid[:n_frames])

    def item(self, clip: Clip, target: int, identity: int) -> Item:
        """What conditions frame `target` of a clip, given the frame that shows the person; without `index`."""
        features = self._features_of(clip)
        pictures = self._read(clip, [target, identity, *motion_indices(target, identity, self.n_motion_frames)])
        return {
            "target": pictures[0],
            "identity": pictures[1],
            "motion": pictures[2:],
            "audio": torch.from_numpy(features[audio_indices(target, self.audio_radius, len(features))]),
            "lips": torch.from_numpy(self._lips(clip, [identity if self.original_lip_landmarks else target])[0]),
        }

    def window(self, clip: Clip, n_frames: int | None = None) -> dict[str, Tensor]:
        """The first `n_frames` frames of a clip (None: all that have features), with frame 0 for the person.

        Returns:
            `target` (t, 3, h, w) uint8, `identity` (3, h, w) uint8, `features` (t, d) float32, `lips` (t, 20, 2) float32.
        """
        features = self._features_of(clip)[:n_frames]
        frames = range(len(features))
        target = self._read(clip, frames)
        return {
            "target": target,
            "identity": target[0],
            "features": torch.from_numpy(np.array(features)),
            "lips": torch.from_numpy(self._lips(clip, frames)),
        }

    def _features_of(self, clip: Clip) -> Float32[np.ndarray, "t d"]:
        """Rows of features, as many as there are frames to go with them."""
        return clip.features(self.features.name)[: clip.n_frames]

    def _read(self, clip: Clip, indices: Sequence[int]) -> UInt8[Tensor, "t 3 h w"]:
        """Frames in one decoder call, each decoded once."""
        frames, place = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        size = resized_size(clip.size, self.resolution, self.aspect)
        pictures = resize(clip.frames(frames), size, antialias=self.antialias)[place]
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()

    def _lips(self, clip: Clip, frames: Sequence[int]) -> Float32[np.ndarray, "t 20 2"]:
        lips = mouth_points(clip.landmarks[np.asarray(frames, np.int64)])[..., :2].astype(np.float32)
        if self.original_lip_landmarks:
            return scale_lips_as_original(lips, clip.size, self.resolution)
        return rescaled(lips, clip.size, resized_size(clip.size, self.resolution, self.aspect)).astype(np.float32)


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (t, d) of several clips as one (b, t, d), zero after a clip's end, and their lengths (b,) int64."""
    lengths = torch.tensor([len(rows) for rows in features])
    return pad_sequence(list(features), batch_first=True), lengths


class DiffusedHeadsDataModule(StoreDataModule[DiffusedHeadsDataset]):
    """Training and validation frames of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        features: what makes the speech features; those that the store lacks are extracted before training.
        resolution: see `DiffusedHeadsDataset`.
        batch_size: training frames per process and step.
        n_motion_frames: see `DiffusedHeadsDataset`.
        audio_radius: idem.
        identity_frame: idem, for training; validation has the first frame, as generation does.
        draws_per_clip: idem, for training.
        val_draws_per_clip: idem, for validation, the same frames in every epoch.
        aspect: idem.
        antialias: idem.
        original_lip_landmarks: idem.
        seed: of the order and of the draws.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

    Raises:
        StoreError: the store or a split is missing, or features do not fit.
    """

    features: Features  # without them there are no samples

    def __init__(
        self,
        root: str | Path,
        features: Features,
        resolution: int = 128,
        batch_size: int = 10,
        *,
        n_motion_frames: int = 2,
        audio_radius: int = 2,
        identity_frame: IdentityFrame = "random",
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        aspect: Aspect = "square",
        antialias: bool = True,
        original_lip_landmarks: bool = False,
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            features=features,
            train={"identity_frame": identity_frame, "draws_per_clip": draws_per_clip},
            val={"identity_frame": "first", "draws_per_clip": val_draws_per_clip, "redraw": False},
            seed=seed,
            **loading,
        )
        self.resolution = resolution
        self.options: dict[str, Any] = {
            "n_motion_frames": n_motion_frames,
            "audio_radius": audio_radius,
            "aspect": aspect,
            "antialias": antialias,
            "original_lip_landmarks": original_lip_landmarks,
            "seed": seed,
        }

    def dataset(self, clips: Sequence[Clip], **options: Any) -> DiffusedHeadsDataset:
        """Frames with what came before them and the sound around."""
        return DiffusedHeadsDataset(clips, self.features, self.resolution, **self.options, **options)

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip; see `DiffusedHeadsDataset.window`."""
        return self.val_dataset.window(self.val_dataset.clips[0], n_frames)

    def preview_videos(self, n_clips: int, n_frames: int) -> dict[str, Tensor]:
        """The beginnings of the first validation clips, padded with zeros where a clip is shorter.

        Returns:
            as `DiffusedHeadsDataset.window`, with a first axis of clips, and `lengths`, `index` (b,) int64: frames, and number of the clip.
        """
        windows = [self.val_dataset.window(clip, n_frames) for clip in self.val_dataset.clips[:n_clips]]
        features, lengths = pad_features([window["features"] for window in windows])
        padded = {key: pad_sequence([w[key] for w in windows], batch_first=True) for key in ("target", "lips")}
        return {
            **padded,
            "identity": torch.stack([w["identity"] for w in windows]),
            "features": features,
            "lengths": lengths,
            "index": torch.arange(len(windows)),
        }
