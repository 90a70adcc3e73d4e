"""Head rotations of reference videos, kept on disk: finding them takes longer than using them.

A file is named by the content of the video, so that another video of the same name is not mistaken for it. Its form is the original's
`batch.mat`: `source_type` and `ref_R_list`, a rotation per frame, not smoothed.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from src.errors import MediaError
from src.media import atomic_path
from src.media.looping import ping_pong

_DIGITS = 16  # of the content's sha256 in a file name
_CHUNK = 1 << 20
_ROTATIONS, _KIND = "ref_R_list", "source_type"


def content_key(path: str | os.PathLike[str]) -> str:
    """The first digits of the sha256 of a file; MediaError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror or error}); give a video.") from error
    return digest.hexdigest()[:_DIGITS]


def cached_rotations(
    video: str | os.PathLike[str], folder: Path, find: Callable[[], Float32[np.ndarray, "t 3 3"]]
) -> Float32[np.ndarray, "t 3 3"]:
    """Rotations of all frames of a video: from the folder where they are there, else from `find`, and kept."""
    path = folder / f"{content_key(video)}.mat"
    if path.exists():
        return read_rotations(path)
    rotations = find()
    write_rotations(path, rotations)
    return rotations


def read_rotations(path: Path) -> Float32[np.ndarray, "t 3 3"]:
    """Rotations of a file of this cache, or of the original's; MediaError where it is damaged."""
    try:
        content = loadmat(path)
        rotations = np.asarray(content[_ROTATIONS], np.float32).reshape(-1, 3, 3)
    except (MatReadError, KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise MediaError(f"{path} is no file of head rotations: delete it, and it is made again.") from error
    if not len(rotations) or not np.isfinite(rotations).all():
        raise MediaError(f"{path} holds no head rotations: delete it, and it is made again.")
    return rotations


def write_rotations(path: Path, rotations: Float32[np.ndarray, "t 3 3"], kind: str = "video") -> None:
    """Write a file of this cache, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        savemat(file, {_KIND: kind, _ROTATIONS: rotations[:, None]})


def chosen_rotations(
    rotations: Float32[np.ndarray, "v 3 3"], n_frames: int, rng: np.random.Generator | None
) -> Float32[np.ndarray, "t 3 3"]:
    """As many successive rotations as there are frames; a video that is too short is run through forwards and backwards.

    Args:
        rotations: of all frames of the reference video.
        n_frames: that are made.
        rng: draws where to begin; None: at the first frame.
    """
    spare = len(rotations) - n_frames
    start = int(rng.integers(spare + 1)) if rng is not None and spare > 0 else 0
    return rotations[start : start + n_frames] if spare >= 0 else rotations[ping_pong(len(rotations), n_frames)]
