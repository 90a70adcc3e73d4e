"""How the faces of the training data were cut, for pictures that are to be cut likewise.

A clip store notes it. Where crops came from elsewhere nobody knows, so it is measured where faces lie in them on average.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from src.datamodules.difftalk_layout_files import FrameId, frames_by_clip, read_lms
from src.datamodules.store import ClipStore
from src.face.landmarks import rescaled, to_ibug68

FACE_CROPS = "src.face.alignment."  # alignments that look at the face; others leave the frames as they came
FOREIGN_CROPS = ("src.datamodules.preprocessing.difftalk.DiffTalkLayout",)  # data sets of crops that nobody describes
MEASURED_FRAMES = 500


def stored_alignment(root: str | Path, resolution: int) -> dict[str, Any] | None:
    """Configuration of the alignment of a store at a model's resolution; None where the store says of none, as for rendered heads.

    Args:
        root: of the store, or of data in DiffTalk's layout.
        resolution: side of the model's square frames, pixels.
    """
    root = Path(root)
    path = root / "settings.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    alignment = settings.get("alignment") or {}
    if str(alignment.get("_target_", "")).startswith(FACE_CROPS):
        return {"_target_": "src.face.alignment.ResizedAlignment", "alignment": alignment, "size": resolution}
    if (settings.get("dataset") or {}).get("_target_") in FOREIGN_CROPS:
        return _measured(_faces_of_store(root, resolution), resolution)
    if not settings and (root / "images").is_dir() and (root / "landmarks").is_dir():
        return _measured(_faces_of_layout(root, resolution), resolution)
    return None


def _measured(faces: Iterator[Float[np.ndarray, "68 2"]], resolution: int) -> dict[str, Any] | None:
    """The alignment that brings a face to where these lie on average; None where there is none."""
    points = list(faces)
    if not points:
        return None
    mean_face = np.mean(points, axis=0).round(2).tolist()
    return {"_target_": "src.face.alignment.MeanFaceAlignment", "size": resolution, "mean_face": mean_face}


def _faces_of_store(root: Path, resolution: int) -> Iterator[Float[np.ndarray, "68 2"]]:
    """Landmarks of frames of all clips, in pixels of the model's frames."""
    clips = ClipStore(root).clips
    for clip in clips:
        shown = np.flatnonzero(clip.valid)
        chosen = shown[_spread(len(shown), max(1, MEASURED_FRAMES // len(clips)))]
        points = to_ibug68(clip.landmarks[chosen])[..., :2]
        yield from rescaled(points, clip.size, (resolution, resolution))


def _faces_of_layout(root: Path, resolution: int) -> Iterator[Float[np.ndarray, "68 2"]]:
    """The same of pictures and landmark files; those that lack one are none of a data set's."""
    frames = [FrameId(clip, number) for clip, numbers in frames_by_clip(root).items() for number in numbers]
    frames = [frame for frame in frames if (root / "landmarks" / f"{frame}.lms").is_file()]
    for i in _spread(len(frames), MEASURED_FRAMES):
        with Image.open(root / "images" / f"{frames[i]}.jpg") as picture:
            size = (picture.height, picture.width)
        yield rescaled(read_lms(root / "landmarks" / f"{frames[i]}.lms"), size, (resolution, resolution))


def _spread(n: int, limit: int) -> list[int]:
    """At most `limit` of n numbers, evenly spread."""
    return [round(i) for i in np.linspace(0, n - 1, min(n, limit))]
