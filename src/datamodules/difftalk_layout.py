"""Data in the layout of DiffTalk's original training, read as it is.

    <root>/images/<clip>_<frame>.jpg          square frame of a face
    <root>/landmarks/<clip>_<frame>.lms       68 rows "x y", pixels of that frame
    <root>/audio_smooth/<clip>_<frame>.npy    (8, 16, 29) float, windows of DeepSpeech's logits around it
    <root>/data.txt                           optional: line n is "n <count>", the frames of clip n and one more
    <root>/../data_train.txt, data_test.txt   lists of <clip>_<frame>, one per line; beside `images`, too

`tools/preprocess.py dataset=difftalk` takes such data over into a clip store, where training runs faster: one video per clip.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.audio.windows import AudioEdges
from src.datamodules.difftalk import SHORT_CLIPS, ReferenceFrame, audio_window, reference_candidates
from src.datamodules.difftalk_layout_files import (
    FrameId,
    find_list,
    frames_by_clip,
    missing_files,
    read_audio_smooth,
    read_counts,
    read_frame_list,
    read_lms,
)
from src.datamodules.frames import LANDMARK_SIZE, lips_of_frames
from src.datamodules.resumable import LoaderOptions, ResumableDataModule
from src.errors import FeatureError, StoreError, require_choice, require_least
from src.face.repainting import MaskRule, condition_points, kept_masks
from src.media import read_image

log = logging.getLogger(__name__)

Item = dict[str, Any]

ORIGINAL_GAP = 60


# --- what the original chooses and makes of a frame


def original_candidates(frame: int, count: int) -> list[int]:
    """Reference frames of the original: 1 ... count - 1 without those from 60 before to 59 after.

    In the order of Python's sets, which mostly is the numbers' own: the original draws from a set that was made a list.
    """
    return list(set(range(1, count)) - set(range(frame - ORIGINAL_GAP, frame + ORIGINAL_GAP)))


def original_references(frames: Sequence[tuple[int, int]], counts: Mapping[int, int], seed: int) -> list[int]:
    """Reference frames as the original draws them, once for all training, with Python's generator.

    Args:
        frames: (clip, frame) in the order of the list.
        counts: by clip, as in `data.txt`: the last frame's number and one more.
        seed: of the whole program there.

    Raises:
        StoreError: a clip is too short; here the original fails, too.
    """
    generator = random.Random(seed)  # noqa: S311 (no secrets)
    chosen = []
    for clip, frame in frames:
        if clip not in counts:
            raise StoreError(
                f"data.txt has {len(counts)} lines and so none for clip {clip}: add it, or remove the file."
            )
        candidates = original_candidates(frame, counts[clip])
        if not candidates:
            raise StoreError(
                f"Clip {clip} is too short for a reference {ORIGINAL_GAP} frames from frame {frame}: choose datamodule.reference=random."
            )
        chosen.append(generator.choice(candidates))
    return chosen


def original_item(
    image: UInt8[np.ndarray, "h w 3"],
    reference: UInt8[np.ndarray, "h2 w2 3"],
    landmarks: Float32[np.ndarray, "68 2"],
    size: int,
    rule: MaskRule,
) -> dict[str, np.ndarray]:
    """The arrays that the original makes of a frame; of one that is not square, it takes the width for the height.

    Returns:
        `image`, `image_mask`, `reference_img` (size, size, 3) float32 in [-1, 1], black where the frame is repainted; `landmarks` (39, 2)
        and `landmarks_all` (68, 2) in pixels of the resized frame; `kept` (size, size) bool.
    """
    points = landmarks / (image.shape[1] / size)
    resized = resize_as_original(image, size)
    kept = kept_masks(points[None], (size, size), rule)[0]
    return {
        "image": _signed(resized),
        "image_mask": _signed(resized * kept[..., None]),
        "reference_img": _signed(resize_as_original(reference, size)),
        "landmarks": condition_points(points).astype(np.float32),
        "landmarks_all": points.astype(np.float32),
        "kept": kept,
    }


def resize_as_original(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A square picture by Pillow's bicubic resizing."""
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _signed(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    return (image / 127.5 - 1).astype(np.float32)


# --- the data set


class DiffTalkLayoutDataset(Dataset):
    """Every listed frame once per epoch; a batch is that of `src.datamodules.difftalk`, with windows of 16 x 29 logits as `audio`.

    Args:
        root: folder that holds `images`, `landmarks` and `audio_smooth`.
        frames: list of frames.
        resolution: height and width of the pictures; frames that are not square are squeezed.
        mask: which part is repainted; the original's training has `MaskRule("nose_tip")`.
        reference: `random` draws another frame with every access; `fixed` draws it once for each frame, by the original's rule; `first` is
            the clip's first frame, as in the original's inference.
        reference_gap: frames that lie between target and reference at least; where a clip is too short for it, the reference is one of the
            farther half of its frames. Not for `fixed`.
        audio_offsets: which windows the files of `audio_smooth` hold, counted from the frame, first and last.
        seed: of the draws.

    Raises:
        ConfigError: a setting or the list cannot be used.
        StoreError: files that it names are missing; the message has all of them.
    """

    def __init__(
        self,
        root: str | Path,
        frames: str | Path,
        resolution: int = 256,
        *,
        mask: MaskRule | None = None,
        reference: ReferenceFrame = "random",
        reference_gap: int = ORIGINAL_GAP,
        audio_offsets: Sequence[int] = (-4, 3),
        seed: int = 23,
    ) -> None:
        require_choice("datamodule.reference", reference, get_args(ReferenceFrame))
        require_least("datamodule.reference_gap", reference_gap, 1)
        require_least("datamodule.resolution", resolution, 1)
        self.root = Path(root)
        self.audio_offsets = audio_window(audio_offsets)
        self.frames = read_frame_list(Path(frames))
        self.resolution = resolution
        self.mask = mask or MaskRule()
        self.reference = reference
        self.reference_gap = reference_gap
        self.seed = seed
        if missing := missing_files(self.root, self.frames):
            raise StoreError(
                f"{self.root} lacks {len(missing)} files of the {len(self.frames)} frames in {frames}, copy them or take their frames "
                f"off the list: {', '.join(missing)}."
            )
        self.clips = {clip: np.array(numbers) for clip, numbers in frames_by_clip(self.root).items()}
        self.listed: dict[int, list[int]] = {}
        for frame in sorted(self.frames):
            self.listed.setdefault(frame.clip, []).append(frame.frame)
        self._fixed = self._draw_references() if reference == "fixed" else None
        if reference == "random":
            self._tell_short_clips()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Item:
        """The item of a draw `epoch * len(self) + row`."""
        row = index % len(self)
        frame = self.frames[row]
        return self.item(frame, self._reference_of(index)) | {"index": row}

    def limit(self, n_frames: int | None) -> None:
        """Keep so many frames of the list, evenly spread; None: all."""
        if n_frames is not None and n_frames < len(self.frames):
            rows = [round(row) for row in np.linspace(0, len(self.frames) - 1, n_frames)]
            self.frames = [self.frames[row] for row in rows]
            self._fixed = self._fixed and [self._fixed[row] for row in rows]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The items at `indices`, collated."""
        return default_collate([self[i] for i in indices])

    def item(self, frame: FrameId, reference: int) -> Item:
        """What repaints a frame, given the number of the frame that shows the person; without `index`."""
        target = self._picture(frame)
        points = read_lms(self.root / "landmarks" / f"{frame}.lms")
        scale = self.resolution / np.array(target.shape[1::-1])
        kept = kept_masks((points * scale)[None], (self.resolution, self.resolution), self.mask)
        shown = condition_points(points) * (LANDMARK_SIZE / np.array(target.shape[1::-1]))
        return {
            "target": self._to_tensor(target),
            "reference": self._to_tensor(self._picture(FrameId(frame.clip, reference))),
            "kept": torch.from_numpy(kept),
            "audio": torch.from_numpy(self._windows(self.root / "audio_smooth" / f"{frame}.npy")),
            "landmarks": torch.from_numpy(shown.astype(np.float32)),
            "lips": torch.from_numpy(lips_of_frames(points[None], target.shape[:2], self.resolution)[0]),
        }

    def _reference_of(self, index: int) -> int:
        row = index % len(self)
        frame, numbers = self.frames[row], self.clips[self.frames[row].clip]
        if self.reference == "first":
            return int(numbers[0])
        if self._fixed is not None:
            return self._fixed[row]
        candidates, _ = reference_candidates(frame.frame, numbers, self.reference_gap)
        return int(np.random.default_rng((self.seed, index)).choice(candidates))

    def _draw_references(self) -> list[int]:
        counts = read_counts(self.root / "data.txt") or {c: int(n[-1]) + 1 for c, n in self.clips.items()}
        drawn = original_references([(f.clip, f.frame) for f in self.frames], counts, self.seed)
        present = {clip: set(numbers.tolist()) for clip, numbers in self.clips.items()}
        chosen = {FrameId(frame.clip, number) for frame, number in zip(self.frames, drawn, strict=True)}
        if missing := sorted(frame for frame in chosen if frame.frame not in present[frame.clip]):
            raise StoreError(
                f"{self.root} lacks {len(missing)} pictures that data.txt counts and datamodule.reference=fixed draws, copy them or "
                f"correct data.txt: {', '.join(f'images/{frame}.jpg' for frame in missing)}."
            )
        return drawn

    def _tell_short_clips(self) -> None:
        """Say once how many listed clips have frames without another one that is far enough away."""
        short = sum(
            any(max(frame - numbers[0], numbers[-1] - frame) < self.reference_gap for frame in self.listed[clip])
            for clip, numbers in self.clips.items()
            if clip in self.listed
        )
        if short:
            log.info(SHORT_CLIPS, short, len(self.listed), self.reference_gap)

    def _windows(self, path: Path) -> Float32[np.ndarray, "n 464"]:
        windows, (first, last) = read_audio_smooth(path), self.audio_offsets
        if len(windows) != last - first + 1:
            raise FeatureError(
                f"{path} holds {len(windows)} windows, datamodule.audio_offsets=[{first}, {last}] are {last - first + 1}: set it alike."
            )
        return windows

    def _picture(self, frame: FrameId) -> UInt8[np.ndarray, "h w 3"]:
        return read_image(self.root / "images" / f"{frame}.jpg")

    def _to_tensor(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
        return torch.from_numpy(resize_as_original(picture, self.resolution)).permute(2, 0, 1).contiguous()


class DiffTalkLayoutDataModule(ResumableDataModule[DiffTalkLayoutDataset]):
    """Training and validation frames of such a folder; order and resuming as `ResumableDataModule` has them.

    Args:
        root: see `DiffTalkLayoutDataset`.
        train_list: frames for training; None: `data_train.txt` beside `root`, or in it.
        val_list: frames for validation; None: `data_test.txt` beside `root`, or in it.
        resolution: see `DiffTalkLayoutDataset`.
        batch_size: training frames per process and step.
        mask: see `DiffTalkLayoutDataset`.
        reference: idem, for training; validation has the first frame, as generation does.
        reference_gap: idem.
        audio_offsets: idem; recorded for sampling, which makes windows of its own.
        audio_edges: what the files have beyond a clip's ends, see `src.audio.windows.audio_windows`; only recorded for sampling.
        limit_val_frames: use only so many frames of the validation list, evenly spread; None: all.
        seed: of the order and of the draws.
        loading: see `src.datamodules.resumable.LoaderOptions`.

    Raises:
        ConfigError: a setting or a list that cannot be used.
        StoreError: files are missing.
    """

    def __init__(
        self,
        root: str | Path,
        train_list: str | Path | None = None,
        val_list: str | Path | None = None,
        resolution: int = 256,
        batch_size: int = 8,
        *,
        mask: MaskRule | None = None,
        reference: ReferenceFrame = "random",
        reference_gap: int = ORIGINAL_GAP,
        audio_offsets: Sequence[int] = (-4, 3),
        audio_edges: AudioEdges = "zero",
        limit_val_frames: int | None = None,
        seed: int = 23,
        **loading: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size, seed=seed, **loading)
        self.root = Path(root)
        self.lists = {
            "train": Path(train_list) if train_list else find_list(self.root, "data_train.txt"),
            "val": Path(val_list) if val_list else find_list(self.root, "data_test.txt"),
        }
        require_choice("datamodule.audio_edges", audio_edges, get_args(AudioEdges))
        if limit_val_frames is not None:
            require_least("datamodule.limit_val_frames", limit_val_frames, 1)
        self.reference: ReferenceFrame = reference
        self.limit_val_frames = limit_val_frames
        self.options: dict[str, Any] = {
            "resolution": resolution,
            "mask": mask,
            "reference_gap": reference_gap,
            "audio_offsets": audio_offsets,
            "seed": seed,
        }

    def setup(self, stage: str | None = None) -> None:
        """Read the lists and look for their files; no picture is opened."""
        if stage in (None, "fit"):
            self.train_dataset = DiffTalkLayoutDataset(
                self.root, self.lists["train"], reference=self.reference, **self.options
            )
        if stage in (None, "fit", "validate"):
            self.val_dataset = DiffTalkLayoutDataset(self.root, self.lists["val"], reference="first", **self.options)
            self.val_dataset.limit(self.limit_val_frames)

    def preview(self, n_samples: int) -> dict[str, Tensor]:
        """Validation items, evenly spread over the list."""
        rows = np.linspace(0, len(self.val_dataset) - 1, min(n_samples, len(self.val_dataset)))
        return self.val_dataset.batch([round(row) for row in rows])

    def preview_video(self, n_frames: int) -> dict[str, Tensor]:
        """The beginning of the first validation clip: `reference` (3, h, w), and the other entries of a batch along time."""
        first = self.val_dataset.frames[0].clip
        numbers = self.val_dataset.listed[first][:n_frames]
        items = [self.val_dataset.item(FrameId(first, number), int(numbers[0])) for number in numbers]
        return default_collate(items) | {"reference": items[0]["reference"]}
