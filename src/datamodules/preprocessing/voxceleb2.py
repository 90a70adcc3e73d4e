"""VoxCeleb2's annotations: which part of which video shows whom, and where the face is.

A file per utterance: five lines `key : value`, an empty one, a header, then a line per frame at 25 per second: its number in the whole
video, and the face's box as fractions of width and height. (VoxCeleb1's files have pixels there and are refused.)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from src.errors import StoreError

FPS = 25  # of the frame numbers
_HEADER_LINES = 7  # five facts, an empty line, the names of the columns
_LEAST_SIDE = 20  # pixels; smaller boxes are no use to a face detector


@dataclass(frozen=True)
class Annotation:
    """One utterance.

    Attributes:
        video: YouTube's id.
        identity: of the speaker.
        frames: numbers in the whole video.
        boxes: left, top, width and height of the face in fractions of the picture.
    """

    video: str
    identity: str
    frames: Int64[np.ndarray, " k"]
    boxes: Float64[np.ndarray, "k 4"]

    @property
    def seconds(self) -> tuple[float, float]:
        """Where the utterance begins and ends in the whole video, to the millisecond."""
        return round(int(self.frames[0]) / FPS, 3), round(int(self.frames[-1]) / FPS, 3)

    def boxes_at(self, n_frames: int) -> Float64[np.ndarray, "t 4"]:
        """Boxes for the `n_frames` frames that the utterance was cut to, spread evenly over it and interpolated."""
        known = np.linspace(0, n_frames / FPS, len(self.boxes))
        wanted = np.linspace(0, n_frames / FPS, n_frames)
        return np.stack([np.interp(wanted, known, column) for column in self.boxes.T], axis=1)


def read_annotation(path: str | Path) -> Annotation:
    """The annotation in a text file.

    Raises:
        StoreError: it cannot be read, is none, or has boxes in pixels.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        facts = dict(_fact(line) for line in lines[: _HEADER_LINES - 2])
        table = np.array([line.split() for line in lines[_HEADER_LINES:] if line.strip()], np.float64)
        frames, boxes = table[:, 0].astype(np.int64), np.ascontiguousarray(table[:, 1:])
        annotation = Annotation(facts["Reference"], facts["Identity"], frames, boxes)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, LookupError) as error:
        raise StoreError(f"{path} is no annotation of VoxCeleb2: give the files of vox2_dev_txt.zip.") from error
    if boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise StoreError(f"{path} has rows that are not a frame number and a box: give the files of vox2_dev_txt.zip.")
    if np.abs(boxes).max() > 2:
        raise StoreError(
            f"{path} has boxes in pixels, as VoxCeleb1 has them: give VoxCeleb2's files (vox2_dev_txt.zip)."
        )
    return annotation


def _fact(line: str) -> tuple[str, str]:
    """Name and value of a line `key : value`."""
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def search_boxes(boxes: Float64[np.ndarray, "t 4"], size: tuple[int, int]) -> Int64[np.ndarray, "t 4"]:
    """Where the face is looked for: left, top, right, bottom (both exclusive) of boxes twice as wide and high, cut at the picture's edge.

    Args:
        boxes: of `Annotation.boxes_at`.
        size: height and width of the picture.
    """
    height, width = size
    frame = np.array([width, height])
    corner, extent = np.trunc(boxes[:, :2] * frame), np.trunc(boxes[:, 2:] * frame)
    centre = np.trunc(corner + extent / 2)
    start = np.maximum(centre - extent, 0)
    end = np.minimum(start + 2 * extent, frame)
    return np.concatenate([start, end], axis=1).astype(np.int64)


def usable(boxes: Int64[np.ndarray, "t 4"]) -> Bool[np.ndarray, " t"]:
    """True for the boxes that are large enough to look for a face in; elsewhere the whole frame is searched."""
    return ((boxes[:, 2:] - boxes[:, :2]) > _LEAST_SIDE).all(axis=1)


def in_frame(rectangles: Int64[np.ndarray, "t 4"], boxes: Int64[np.ndarray, "t 4"]) -> Int64[np.ndarray, "t 4"]:
    """Rectangles in pixels of the search boxes as pixels of the whole frame."""
    return rectangles + np.tile(boxes[:, :2], 2)
