"""Speech features that other programs computed: one `.pth`, `.pt` or `.npy` file per clip, one row per video frame."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from src.audio.deepspeech import N_LOGITS, WINDOW_ROWS, WINDOW_SIZE, rows_of_windows
from src.audio.features import FPS, fit_rows
from src.errors import ConfigError, FeatureError

SUFFIXES = (".pth", ".pt", ".npy")


class ImportedFeatures:
    """Reads the rows of clips from a folder of files.

    A file is found by the clip's id, or by the name of the recording that the clip was cut from, which keeps its sub-folders: the layout of
    Diffused Heads' audio embeddings, `<folder>/<clip>.pth`.

    Args:
        folder: where the files lie.
        dim: numbers per row that the files must have; None: any.
        name: of the folder in a clip store.
    """

    def __init__(self, folder: str | os.PathLike[str], dim: int | None = None, name: str = "imported") -> None:
        self.folder = Path(folder).expanduser()
        self.name = name
        self._dim = dim

    @property
    def dim(self) -> int:
        """Numbers per row: as given, or those of the first file.

        Raises:
            FeatureError: the folder does not exist or holds no features.
        """
        if self._dim is None:
            first = min((p for p in self.folder.rglob("*") if p.suffix in SUFFIXES), default=None)
            if first is None:
                raise FeatureError(
                    f"features.folder={self.folder}: there are no {', '.join(SUFFIXES)} files; give their folder."
                )
            self._dim = read_embeddings(first).shape[1]
        return self._dim

    @property
    def settings(self) -> dict[str, Any]:
        """Folder and width."""
        return {"features": "imported", "folder": str(self.folder.resolve()), "dim": self.dim}

    def read(self, id: str, n_frames: int, source: str = "", start: float | int = 0.0) -> Float32[np.ndarray, "t d"]:
        """Rows of a clip.

        Args:
            id: of the clip.
            n_frames: of the clip, at 25 fps.
            source: recording that the clip was cut from, a relative path.
            start: seconds into the recording at which the clip begins. A file of the recording may go on after the clip's end.

        Raises:
            FeatureError: there is no file, or its rows do not fit.
        """
        if path := _with_suffix(self.folder / id):
            return fit_rows(read_embeddings(path, self.dim), n_frames)
        names = [id, *([str(Path(source).with_suffix(""))] if source else [])]
        path = _with_suffix(self.folder / names[-1])
        if path is None:
            raise FeatureError(
                f"{self.folder} has no features of clip {id} (looked for {' and '.join(names)} with {', '.join(SUFFIXES)}): "
                "compute them or leave the clip out."
            )
        first = round(start * FPS)
        return fit_rows(read_embeddings(path, self.dim)[first : first + n_frames], n_frames)


class ImportedWindows(ImportedFeatures):
    """Reads windows of DeepSpeech's logits, 16 x 29 numbers per frame, as rows of 464.

    Beside one file per clip, there may be one per frame, `<clip>_<number>.npy`, (8, 16, 29) or (16, 29): the layout of DiffTalk's
    `audio_smooth`. Of eight windows the fifth, the frame's own, is taken.

    Args:
        folder: where the files lie.
        name: of the folder in a clip store.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "deepspeech") -> None:
        super().__init__(folder, WINDOW_SIZE, name)

    def read(self, id: str, n_frames: int, source: str = "", start: float | int = 0.0) -> Float32[np.ndarray, "t 464"]:
        """Rows of a clip.

        Args:
            id: of the clip.
            n_frames: of the clip, at 25 fps.
            source: recording that the clip was cut from; for files per frame the picture of its first frame, `.../<clip>_<number>.jpg`.
            start: seconds into the recording at which the clip begins.

        Raises:
            FeatureError: files are missing (all are named), or their rows do not fit.
        """
        name, _, number = Path(source).stem.rpartition("_")
        if not number.isdecimal() or not (self.folder / f"{name}_{number}.npy").is_file():
            return super().read(id, n_frames, source, start)
        first = int(number) + round(start * FPS)
        paths = [self.folder / f"{name}_{first + i}.npy" for i in range(n_frames)]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise FeatureError(f"{self.folder} lacks {len(missing)} files of clip {id}: {', '.join(missing)}.")
        return np.concatenate([_read_frame(path) for path in paths])


def _read_frame(path: Path) -> Float32[np.ndarray, "1 464"]:
    """The window of one frame from a file of its own."""
    windows = _load_npy(path)
    if windows.size == 0 or windows.size % WINDOW_SIZE or not np.issubdtype(windows.dtype, np.floating):
        raise FeatureError(
            f"{path} holds {windows.dtype} of shape {windows.shape}, not windows of {WINDOW_ROWS} x {N_LOGITS} logits: make it again."
        )
    return rows_of_windows(windows.reshape(1, -1, WINDOW_ROWS, N_LOGITS))


def read_embeddings(path: str | os.PathLike[str], dim: int | None = None) -> Float32[np.ndarray, "t d"]:
    """Rows of a `.npy` file, or of a tensor saved by PyTorch; nothing is unpickled beyond tensors and plain values.

    Windows of DeepSpeech's logits, (t, 16, 29) or (t, 8, 16, 29), become rows of 464.

    Args:
        path: the file.
        dim: numbers per row that are expected; None: any.

    Raises:
        FeatureError: the file is missing or damaged, holds something else, or rows of another width.
        ConfigError: no known suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: speech features are read from {', '.join(SUFFIXES)} files.")
    if not path.is_file():
        raise FeatureError(f"{path}: there is no such file of speech features.")
    rows = _load_npy(path) if path.suffix == ".npy" else _load_tensor(path)
    if rows.ndim in (3, 4) and rows.shape[-2:] == (WINDOW_ROWS, N_LOGITS) and 0 not in rows.shape:
        rows = rows_of_windows(rows) if np.issubdtype(rows.dtype, np.floating) else rows
    if rows.ndim != 2 or 0 in rows.shape or not np.issubdtype(rows.dtype, np.floating):
        raise FeatureError(
            f"{path} holds {rows.dtype} of shape {rows.shape}, not floating point rows (frames, width): export one row per video frame."
        )
    if dim is not None and rows.shape[1] != dim:
        raise FeatureError(
            f"{path} has rows of {rows.shape[1]} numbers but {dim} are expected: use the encoder that the model was trained with."
        )
    if not np.isfinite(rows).all():
        raise FeatureError(f"{path} holds numbers that are not finite: compute these features again.")
    return rows.astype(np.float32)


def _with_suffix(path: Path) -> Path | None:
    """The file of that name with one of the known suffixes."""
    candidates = (path.with_name(path.name + suffix) for suffix in SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureError(f"{path} is damaged or no array of numbers: export it again with numpy.save.") from error


def _load_tensor(path: Path) -> np.ndarray:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FeatureError(
            f"{path} holds more than a tensor and was refused for safety: export it again as .npy."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FeatureError(f"{path} is damaged or was not saved by PyTorch: compute these features again.") from error
    if not isinstance(content, torch.Tensor):
        raise FeatureError(
            f"{path} holds a {type(content).__name__}, not a tensor (frames, width): export the rows alone."
        )
    return content.detach().float().numpy() if content.is_floating_point() else content.detach().numpy()
