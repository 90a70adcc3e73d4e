"""The original's data for MappingNet: a `.mat` file of 3D morphable model coefficients beside every clip of VoxCeleb2.

<root>/<identity>/<YouTube id>/<number>.mp4    25 frames per second, whole frames
<root>/<identity>/<YouTube id>/<number>.mat    `threedmm` (t, 70): expression 64, angle 3, translation 3;
                                               `face_crop_list` (t, 4): left, top, right, bottom of the face;
                                               `landmarks_list` (t, 68, 2); `frame_number_list` (1, t)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from src.errors import StoreError
from src.media import atomic_path
from src.media.fixed_point import resize_fixed_point

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
