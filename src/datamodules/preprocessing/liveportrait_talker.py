"""What MappingNet learns from, computed once for the clips of a store by frozen published networks.

features/threedmm/<clip>.npy      float32 (T, 70)     expression (64), angle (3), translation (3) of the 3D morphable model
features/lip_targets/<clip>.npy   float32 (T, 6, 3)   lip key points of the raw expression that LivePortrait's motion extractor finds
settings.json, failures.csv       beside them: by which weights they were made; clips that have none, and why

Faces are cut as SadTalker cuts them, every frame by itself, but by the store's landmarks instead of another detector's.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from src.adapters.liveportrait import load_motion_extractor
from src.adapters.liveportrait_talker import load_face_regressor
from src.audio.devices import choose_device
from src.checkpoint import weights_sha256
from src.datamodules.liveportrait_talker import LIP_TARGETS, THREEDMM
from src.datamodules.liveportrait_talker_layout import coefficient_files, cropped_face, lips_path, read_coefficients
from src.datamodules.preprocessing.latents import chunks, is_made
from src.datamodules.speech_features import Extraction, shown, write_failures
from src.datamodules.store import Clip, ClipStore
from src.datamodules.tables import require_settings, save_array
from src.errors import StoreError, VisemeError, require_choice, require_least
from src.face.landmarks import to_ibug68
from src.face.liveportrait_talker import CROP_SIZE, face_rectangle, regressor_crop
from src.media import VideoReader
from src.media.fixed_point import resize_fixed_point
from src.nn.liveportrait.motion_extractor import MotionExtractor
from src.nn.liveportrait_talker import FaceRegressor, lip_targets, motion_coefficients

log = logging.getLogger(__name__)

Channels = Literal["rgb", "bgr"]
Rows = Float32[np.ndarray, "t ..."]
MakeRows = Callable[[UInt8[np.ndarray, "t h w 3"], Float[np.ndarray, "t 68 2"]], Rows]  # of frames and their landmarks
T = TypeVar("T")

OTHER_WEIGHTS = "delete the folder to make them anew"


def write_threedmm(
    root: Path | str, weights: str | Path, *, batch_size: int = 28, device: str | None = None
) -> Extraction:
    """Write the coefficients of the 3D morphable model of the clips that have none yet.

    Args:
        root: of the store.
        weights: SadTalker's safetensors file.
        batch_size: frames per pass.
        device: of the computation; None: a GPU where there is one.

    Raises:
        CheckpointError: the file is missing or another one.
        StoreError: there is no store, its coefficients were made by other weights, or not one clip can have any.
    """
    net = load_face_regressor(weights)
    settings = {"weights": fingerprint(net), "landmarks": "mediapipe"}
    net.to(choose_device(device))
    return _write(
        Path(root), THREEDMM, settings, lambda frames, points: coefficients_of(net, frames, points), batch_size
    )


def write_lip_targets(
    root: Path | str,
    weights: str | Path,
    *,
    channels: Channels = "rgb",
    batch_size: int = 28,
    device: str | None = None,
) -> Extraction:
    """Write the lip key points of the clips that have none yet.

    Args:
        root: of the store.
        weights: LivePortrait's motion_extractor.pth, or the folder that it lies in.
        channels: order of the colours that the network is given: `rgb`, as at inference, or `bgr`, as the published MappingNet was
            trained.
        batch_size: frames per pass.
        device: of the computation; None: a GPU where there is one.

    Raises:
        CheckpointError: the file is missing or another one.
        StoreError: there is no store, its lips were made by other weights or with other colours, or not one clip can have any.
    """
    require_choice("talker_options.channels", channels, ("rgb", "bgr"))
    net = load_motion_extractor(weights)
    settings = {"weights": fingerprint(net), "landmarks": "mediapipe", "channels": channels}
    net.to(choose_device(device))
    return _write(
        Path(root), LIP_TARGETS, settings, lambda frames, points: lips_of(net, frames, points, channels), batch_size
    )


def write_layout_lips(
    root: Path,
    weights: str | Path,
    *,
    channels: Channels = "rgb",
    batch_size: int = 28,
    device: str | None = None,
) -> Extraction:
    """Write the lip key points of the clips of a folder in the original's layout that have none yet; arguments of `write_lip_targets`.

    Raises:
        CheckpointError: the file of weights is missing or another one.
        StoreError: the folder has no clips, or its lips were made by other weights or with other colours.
    """
    require_choice("datamodule.channels", channels, ("rgb", "bgr"))
    net = load_motion_extractor(weights)
    folder = root / LIP_TARGETS
    files = coefficient_files(root)
    require_settings(folder, {"weights": fingerprint(net), "channels": channels}, OTHER_WEIGHTS)
    net.to(choose_device(device))

    def make(path: Path) -> Rows:
        clip, reader = read_coefficients(path), VideoReader(path.with_suffix(".mp4"))
        if clip.frames.max() >= len(reader):
            raise StoreError(
                f"{path} tells of frame {clip.frames.max()}, but its video has {len(reader)}: copy both again."
            )
        parts = []
        for frames in chunks(len(clip), batch_size):
            pictures = reader.read(clip.frames[frames])
            faces = [cropped_face(p, r, CROP_SIZE) for p, r in zip(pictures, clip.rectangles[frames], strict=True)]
            parts.append(_lips(net, np.stack(faces), channels))
        return np.concatenate(parts)

    places = {str(path.relative_to(root).with_suffix("")): path for path in files}
    pending = {name: path for name, path in places.items() if not lips_path(root, path).is_file()}
    return _each(folder, pending, make, n_present=len(places) - len(pending))


def fingerprint(net: torch.nn.Module) -> str:
    """The beginning of the sha256 of a network's weights."""
    return weights_sha256(net.state_dict())[:12]


def face_crops(
    frames: UInt8[np.ndarray, "t h w 3"], points: Float[np.ndarray, "t 68 2"]
) -> tuple[UInt8[np.ndarray, "t 256 256 3"], Float[np.ndarray, "t 68 2"]]:
    """The rendered part of every frame, squeezed to a square as at inference, and its landmarks; FaceError where a face lies outside."""
    size = (frames.shape[1], frames.shape[2])
    rectangles = np.array([face_rectangle(face, size) for face in points])  # t 4
    faces = [
        resize_fixed_point(frame[top:bottom, left:right], (CROP_SIZE, CROP_SIZE))
        for frame, (left, top, right, bottom) in zip(frames, rectangles.tolist(), strict=True)
    ]
    scale = CROP_SIZE / (rectangles[:, None, 2:] - rectangles[:, None, :2])
    return np.stack(faces), (points - rectangles[:, None, :2] + 0.5) * scale - 0.5


@torch.inference_mode()
def coefficients_of(
    net: FaceRegressor, frames: UInt8[np.ndarray, "t h w 3"], points: Float[np.ndarray, "t 68 2"]
) -> Float32[np.ndarray, "t 70"]:
    """Coefficients of frames."""
    faces, inside = face_crops(frames, points)
    aligned = np.stack([regressor_crop(face, p).image for face, p in zip(faces, inside, strict=True)])
    given = torch.from_numpy(aligned).to(next(net.parameters()).device)
    return motion_coefficients(net(given.permute(0, 3, 1, 2).float() / 255)).cpu().numpy()


def lips_of(
    net: MotionExtractor,
    frames: UInt8[np.ndarray, "t h w 3"],
    points: Float[np.ndarray, "t 68 2"],
    channels: Channels = "rgb",
) -> Float32[np.ndarray, "t 6 3"]:
    """Lip key points of frames."""
    faces, _ = face_crops(frames, points)
    return _lips(net, faces.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255), channels)


@torch.inference_mode()
def _lips(
    net: MotionExtractor, faces: Float32[np.ndarray, "t 3 h w"], channels: Channels
) -> Float32[np.ndarray, "t 6 3"]:
    """Lip key points of faces in [0, 1], RGB."""
    given = torch.from_numpy(np.ascontiguousarray(faces if channels == "rgb" else faces[:, ::-1]))
    return lip_targets(net(given.to(next(net.parameters()).device))["exp"].float()).cpu().numpy()


def _write(root: Path, name: str, settings: Mapping[str, Any], make: MakeRows, batch_size: int) -> Extraction:
    """Write the rows that the clips of a store lack."""
    require_least("talker_options.batch_size", batch_size, 1)
    clips = ClipStore(root).clips
    folder = root / "features" / name
    require_settings(folder, settings, OTHER_WEIGHTS)

    def rows_of(clip: Clip) -> Rows:
        points = to_ibug68(clip.landmarks[..., :2])
        return np.concatenate([make(clip.frames(f), points[f]) for f in chunks(clip.n_frames, batch_size)])

    pending = {clip.id: clip for clip in clips if not is_made(folder, clip)}
    return _each(folder, pending, rows_of, n_present=len(clips) - len(pending))


def _each(folder: Path, pending: Mapping[str, T], make: Callable[[T], Rows], n_present: int) -> Extraction:
    """Write the rows of one clip after another; one that fails is noted, and the rest goes on."""
    result = Extraction(present=n_present)
    began, n_frames = time.perf_counter(), 0
    for id in shown(list(pending), folder.name, progress=True):
        try:
            rows = make(pending[id])
        except VisemeError as error:
            result.failures[id] = str(error)
            continue
        save_array(folder / f"{id}.npy", rows)
        result.written += 1
        n_frames += len(rows)
    write_failures(folder, result.failures)
    if result.failures and not result.written + result.present:
        id, reason = next(iter(result.failures.items()))
        raise StoreError(f"Not one of {len(pending)} clips got its {folder.name} (clip {id}: {reason})")
    rate = n_frames / max(time.perf_counter() - began, 1e-6)
    failed = f"; {len(result.failures)} failed: {folder / 'failures.csv'}" if result.failures else ""
    log.info(
        "%s: %d clips written (%.1f frames per second), %d had it%s", folder, result.written, rate, n_present, failed
    )
    return result
