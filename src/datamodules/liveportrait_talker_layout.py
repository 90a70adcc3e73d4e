"""The original's data for MappingNet: a `.mat` file of 3D morphable model coefficients beside every clip of VoxCeleb2.

Batches are those of `src.datamodules.liveportrait_talker`.

<root>/<identity>/<YouTube id>/<number>.mp4    25 frames per second, whole frames
<root>/<identity>/<YouTube id>/<number>.mat    `threedmm` (t, 70): expression 64, angle 3, translation 3;
                                               `face_crop_list` (t, 4): left, top, right, bottom of the face;
                                               `landmarks_list` (t, 68, 2); `frame_number_list` (1, t)
<root>/lip_targets/<identity>/<YouTube id>/<number>.npy    float32 (t, 6, 3), made of the clip before the first training
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from src.datamodules.liveportrait_talker import LIP_TARGETS, ExpressionDataModule, ExpressiveClip
from src.datamodules.resumable import WorkerOptions
from src.errors import StoreError
from src.media import atomic_path
from src.media.fixed_point import resize_fixed_point

log = logging.getLogger(__name__)

N_EXPRESSIONS = 64  # the first columns of the coefficients


@dataclass(frozen=True)
class FaceCoefficients:
    """What a `.mat` file tells of the frames of a clip.

    Attributes:
        coefficients: expression (64), angle (3), translation (3).
        rectangles: left, top, right and bottom of the face in pixels of the frame, the latter two exclusive.
        landmarks: 68 points in fractions of the rectangle.
        frames: numbers in the clip.
    """

    coefficients: Float32[np.ndarray, "t 70"]
    rectangles: Int64[np.ndarray, "t 4"]
    landmarks: Float32[np.ndarray, "t 68 2"]
    frames: Int64[np.ndarray, " t"]

    def __len__(self) -> int:
        return len(self.coefficients)

    def window(self, index: int, radius: int) -> Float32[np.ndarray, "64 n"]:
        """Expressions of the frames up to `radius` away; beyond the ends the first and the last frame are repeated."""
        return expression_window(self.coefficients, index, radius)


def expression_window(coefficients: Float32[np.ndarray, "t d"], index: int, radius: int) -> Float32[np.ndarray, "64 n"]:
    """The expressions around a frame, not normalised; see `FaceCoefficients.window`."""
    rows = np.arange(index - radius, index + radius + 1).clip(0, len(coefficients) - 1)
    return np.ascontiguousarray(coefficients[rows, :N_EXPRESSIONS].T)


def cropped_face(
    frame: UInt8[np.ndarray, "h w 3"], rectangle: Int64[np.ndarray, "4"], size: int
) -> Float32[np.ndarray, "3 size size"]:
    """The face in [0, 1], squeezed to a square; its channels are in the frame's order.

    The original's frames are blue, green, red here, while its inference hands RGB to the same motion extractor.
    """
    left, top, right, bottom = rectangle.tolist()
    face = resize_fixed_point(frame[top:bottom, left:right], (size, size))
    return np.ascontiguousarray(face.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def coefficient_files(root: str | Path) -> list[Path]:
    """The `.mat` files of a folder, sorted; names that begin with a dot are left out.

    Raises:
        StoreError: there is none.
    """
    root = Path(root)
    files = sorted(p for p in root.glob("*/*/*.mat") if not any(q.startswith(".") for q in p.relative_to(root).parts))
    if not files:
        raise StoreError(
            f"{root} has no IDENTITY/VIDEO/NUMBER.mat: make them with the threedmm stage of preprocess.py."
        )
    return files


def read_coefficients(path: str | Path) -> FaceCoefficients:
    """The content of a `.mat` file.

    Raises:
        StoreError: it is missing, damaged, or its arrays do not fit together.
    """
    try:
        content = loadmat(path)
        found = FaceCoefficients(
            np.asarray(content["threedmm"], np.float32),
            np.asarray(content["face_crop_list"], np.int64),
            np.asarray(content["landmarks_list"], np.float32),
            np.asarray(content["frame_number_list"], np.int64).ravel(),
        )
    except (MatReadError, KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise StoreError(f"{path} is no file of face coefficients: delete it and make it again.") from error
    t = len(found.frames)
    shapes = (found.coefficients.shape, found.rectangles.shape, found.landmarks.shape)
    if t == 0 or shapes != ((t, 70), (t, 4), (t, 68, 2)):
        raise StoreError(f"{path} has arrays of unequal lengths or other widths: delete it and make it again.")
    return found


def write_coefficients(path: Path, clip: FaceCoefficients) -> None:
    """Write a `.mat` file as the original does, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        content = {
            "threedmm": clip.coefficients,
            "face_crop_list": clip.rectangles,
            "landmarks_list": clip.landmarks,
            "frame_number_list": clip.frames[None],
        }
        savemat(file, content)


def lips_path(root: Path, coefficients: Path) -> Path:
    """Where the lip key points of a clip lie, by the path of its `.mat` file."""
    return root / LIP_TARGETS / coefficients.relative_to(root).with_suffix(".npy")


@dataclass(frozen=True)
class LayoutExpressions:
    """An `ExpressiveClip` of the layout.

    Attributes:
        root: folder of the layout.
        path: of the `.mat` file.
    """

    root: Path
    path: Path

    @property
    def coefficients(self) -> Float32[np.ndarray, "t 64"]:
        """See `ExpressiveClip`."""
        return _expressions(self.path)

    @property
    def lips(self) -> Float32[np.ndarray, "t 6 3"]:
        """See `ExpressiveClip`."""
        return np.load(lips_path(self.root, self.path), mmap_mode="r", allow_pickle=False)

    @property
    def frames(self) -> Int64[np.ndarray, " f"]:
        """See `ExpressiveClip`: the original drops clips in which a face was missed."""
        return np.arange(len(self.coefficients))


@functools.lru_cache(1024)
def _expressions(path: Path) -> Float32[np.ndarray, "t 64"]:
    return read_coefficients(path).coefficients[:, :N_EXPRESSIONS]


class LivePortraitTalkerLayoutDataModule(ExpressionDataModule):
    """Training and validation clips of two folders in the original's layout.

    Args:
        root: folder of the training clips.
        val_root: folder of the validation clips.
        motion_extractor: LivePortrait's motion_extractor.pth, or the folder that it lies in: finds the lips that are missing.
        channels: order of the colours that it is given: `rgb`, as at inference, or `bgr`, as the original trains.
        extract_batch_size: frames per pass of it.
        batch_size: see `src.datamodules.liveportrait_talker`, as all that follow.
        window: idem.
        draws_per_clip: idem.
        limit_clips: idem.
        seed: idem.
        loading: see `src.datamodules.resumable.WorkerOptions`.

    Raises:
        ConfigError: a setting that cannot be used.
        CheckpointError: there is no motion extractor.
        StoreError: a folder has no clip, or its lips were found by other weights.
    """

    def __init__(
        self,
        root: str | Path,
        val_root: str | Path,
        motion_extractor: str | Path,
        batch_size: int = 64,
        *,
        channels: Literal["rgb", "bgr"] = "rgb",
        extract_batch_size: int = 28,
        window: Sequence[int] = (14, 14),
        draws_per_clip: int = 1,
        limit_clips: int | None = None,
        seed: int = 42,
        **loading: Unpack[WorkerOptions],
    ) -> None:
        super().__init__(
            batch_size, window=window, draws_per_clip=draws_per_clip, limit_clips=limit_clips, seed=seed, **loading
        )
        self.prepare_data_per_node = False  # the nodes of a cluster see one folder
        self.roots = {"train": Path(root), "val": Path(val_root)}
        self.motion_extractor = motion_extractor
        self.channels: Literal["rgb", "bgr"] = channels
        self.extract_batch_size = extract_batch_size

    def prepare_data(self) -> None:
        """Find the lips that are missing."""
        from src.datamodules.preprocessing.liveportrait_talker import write_layout_lips  # networks: not for readers

        for root in dict.fromkeys(self.roots.values()):
            write_layout_lips(root, self.motion_extractor, channels=self.channels, batch_size=self.extract_batch_size)

    def clips_of(self, use: Literal["train", "val"]) -> Sequence[ExpressiveClip]:
        """See `ExpressionDataModule`."""
        root = self.roots[use]
        files = coefficient_files(root)
        found = [LayoutExpressions(root, path) for path in files if lips_path(root, path).is_file()]
        if not found:
            raise StoreError(
                f"{root}: not one of the {len(files)} clips has lips; look at {root / LIP_TARGETS}/failures.csv."
            )
        if len(found) < len(files):
            log.info("%s: %d of %d clips have no lips and are left out", root, len(files) - len(found), len(files))
        return found
