"""Windows of facial motion with the sound that goes with them, for AToM.

A batch is a dictionary of

    motion      (b, t, 204)   float32   residuals of 68 frontal landmarks to the reference, network units (centimetres), see
                                        `src.face.moditalker_atom`; zero where there is no frame
    reference   (b, 204)      float32   the person: displacements of another frame of the clip from the neutral face, network units
    audio       (b, t, d)     float32   speech features, one row per frame; zero where there is no frame
    valid       (b, t)        bool      False for padding and for frames in which the detector saw no face
    index       (b,)          int64     row of the data set

No video is decoded: the landmarks are those of the clip store, or rows of its folder `features` that hold motion in network units.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from src.datamodules.speech_features import Features, check_features
from src.datamodules.store import Clip
from src.datamodules.store_datamodule import ClipDataset, SplitOptions, StoreDataModule
from src.errors import StoreError, require_choice, require_least
from src.face.landmarks import to_ibug68
from src.face.moditalker_atom import N_VALUES, fit_heads, frontal_points, neutral_face, to_network

log = logging.getLogger(__name__)

Item = dict[str, Any]
ReferenceFace = Literal["random", "first"]

REMEMBERED_CLIPS = 4096  # per process, whose motion is computed once: 80 kB for four seconds


def frontal_motion(landmarks: Float32[np.ndarray, "t n 3"]) -> Float32[np.ndarray, "t 204"]:
    """Faces without head pose in network units, of 478 or 68 landmarks in pixels."""
    points = to_ibug68(landmarks)
    return to_network(frontal_points(points, fit_heads(points)), neutral_face())


class AToMDataset(ClipDataset):
    """Random windows: a draw is determined by seed, epoch and row alone, whichever process makes it, before or after an interruption.

    Args:
        clips: of a clip store.
        features: name and width of the speech features.
        window: frames; shorter clips are padded.
        motion: name of rows in the folder `features` that hold displacements in network units, 204 per frame; None: from landmarks.
        reference: `random` draws the frame that shows the person anew with every access; `first` is the window's first frame, as the
            original has it, whose residual is then always zero: what follows a window would have to begin with the reference, too.
        draws_per_clip: rows of the data set per clip; the rows of all clips take turns.
        redraw: draw anew in every epoch; False: the same windows in every epoch, for validation.
        seed: of the draws.

    Raises:
        ConfigError: a number below its minimum or an unknown choice.
        StoreError: features or motion that do not fit, or not a single clip that shows a face.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        features: Features,
        window: int,
        *,
        motion: str | None = None,
        reference: ReferenceFace = "random",
        draws_per_clip: int = 1,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        require_choice("datamodule.reference", reference, get_args(ReferenceFace))
        require_least("datamodule.window", window, 2)
        require_least("datamodule.draws_per_clip", draws_per_clip, 1)
        self.features = features
        self.window = window
        self.motion = motion
        self.reference: ReferenceFace = reference
        self.draws_per_clip = draws_per_clip
        self.redraw = redraw
        self.seed = seed
        check_features(clips, features)
        self.clips = [clip for clip in clips if clip.n_valid]
        if not self.clips:
            raise StoreError(f"None of the {len(clips)} clips shows a face: prepare other recordings.")
        self._remembered: OrderedDict[str, Float32[np.ndarray, "t 204"]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.clips) * self.draws_per_clip

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        clip = self.clips[row % len(self.clips)]
        rng = np.random.default_rng((self.seed, index if self.redraw else row))
        last = max(self.length_of(clip) - self.window, 0)
        start = int(rng.integers(last + 1))
        return self.item(clip, start, self.reference_of(clip, start, rng)) | {"index": row}

    def item(self, clip: Clip, start: int, reference: int) -> Item:
        """The window of a clip from frame `start` on, counted from its frame `reference`; without `index`."""
        frames = slice(start, min(start + self.window, self.length_of(clip)))
        motion = self.motion_of(clip)
        face = motion[reference]
        return {
            "motion": self._padded(motion[frames] - face),
            "reference": torch.from_numpy(face.copy()),
            "audio": self._padded(clip.features(self.features.name)[frames]),
            "valid": self._padded(clip.valid[frames]),
        }

    def whole(self, clip: Clip) -> Item:
        """All of a clip: `faces` (t, 204), `reference` (204,): its first frame with a face, `audio` (t, d)."""
        n_frames = self.length_of(clip)
        faces = torch.from_numpy(self.motion_of(clip)[:n_frames].copy())
        audio = torch.from_numpy(np.array(clip.features(self.features.name)[:n_frames]))
        return {"faces": faces, "reference": faces[int(np.argmax(clip.valid))], "audio": audio}

    def length_of(self, clip: Clip) -> int:
        """Frames that have motion and features."""
        return min(clip.n_frames, len(clip.features(self.features.name)))

    def motion_of(self, clip: Clip) -> Float32[np.ndarray, "t 204"]:
        """Displacements from the neutral face; computed once where they are not stored."""
        if self.motion is not None:
            return self._stored_motion(clip)
        if clip.id not in self._remembered:
            if len(self._remembered) >= REMEMBERED_CLIPS:
                self._remembered.popitem(last=False)
            self._remembered[clip.id] = frontal_motion(np.asarray(clip.landmarks))
        return self._remembered[clip.id]

    def reference_of(self, clip: Clip, start: int, rng: np.random.Generator) -> int:
        """The frame that shows the person."""
        shown = np.flatnonzero(clip.valid[: self.length_of(clip)])
        if self.reference == "random":
            return int(rng.choice(shown))
        return int(shown[min(np.searchsorted(shown, start), len(shown) - 1)])

    def _stored_motion(self, clip: Clip) -> Float32[np.ndarray, "t 204"]:
        rows = clip.features(str(self.motion))
        if rows.ndim != 2 or rows.shape[1] != N_VALUES or len(rows) != clip.n_frames:
            shape = " x ".join(map(str, rows.shape))
            raise StoreError(
                f"datamodule.motion={self.motion}: clip {clip.id} has {shape} numbers, not {clip.n_frames} rows of {N_VALUES}; "
                "name rows of landmarks in network units, or null."
            )
        return rows

    def _padded(self, rows: np.ndarray) -> Tensor:
        """Rows and, behind them, as many zeros as make up a window."""
        out = torch.zeros((self.window, *rows.shape[1:]), dtype=torch.bool if rows.dtype == bool else torch.float32)
        out[: len(rows)] = torch.from_numpy(np.array(rows))
        return out


class AToMDataModule(StoreDataModule[AToMDataset]):
    """Training and validation windows of a clip store; order and resuming as `ResumableDataModule` has them.

    Args:
        root: the clip store.
        features: what makes the speech features; those that the store lacks are extracted before training.
        window: see `AToMDataset`.
        batch_size: training windows per process and step.
        motion: see `AToMDataset`.
        reference: idem, for training; validation has the first frame.
        draws_per_clip: idem, for training.
        val_draws_per_clip: idem, for validation, the same windows in every epoch.
        seed: of the order and of the draws.
        loading: see `src.datamodules.store_datamodule.SplitOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        StoreError: the store or a split is missing, or features do not fit.
    """

    features: Features  # without them there are no samples

    def __init__(
        self,
        root: str | Path,
        features: Features,
        window: int = 156,
        batch_size: int = 64,
        *,
        motion: str | None = None,
        reference: ReferenceFace = "random",
        draws_per_clip: int = 1,
        val_draws_per_clip: int = 1,
        seed: int = 42,
        **loading: Unpack[SplitOptions],
    ) -> None:
        super().__init__(
            root,
            batch_size,
            features=features,
            train={"reference": reference, "draws_per_clip": draws_per_clip},
            val={"reference": "first", "draws_per_clip": val_draws_per_clip, "redraw": False},
            seed=seed,
            **loading,
        )
        self.window = window
        self.motion = motion

    def dataset(self, clips: Sequence[Clip], **options: Any) -> AToMDataset:
        """Windows of motion with their sound."""
        return AToMDataset(clips, self.features, self.window, motion=self.motion, seed=self.seed, **options)

    def preview_clips(self, n_clips: int) -> list[dict[str, Tensor]]:
        """The first validation clips, whole; see `AToMDataset.whole`."""
        return [self.val_dataset.whole(clip) for clip in self.val_dataset.clips[:n_clips]]
