"""Frames of a store's clips as DiffTalk's networks see them: square pictures, masks and landmarks that go with them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from src.datamodules.store import Clip
from src.face.landmarks import mouth_points, rescaled
from src.face.repainting import MaskRule, condition_points, kept_masks
from src.media import resize

LANDMARK_SIZE = 256  # side of the frames in whose pixels landmarks are given: the size of the published network


def read_pictures(
    clip: Clip, frames: Sequence[int] | Int64[np.ndarray, " t"], resolution: int
) -> UInt8[Tensor, "t 3 h w"]:
    """Frames as squares, in one decoder call, each decoded once."""
    unique, place = np.unique(np.asarray(frames, np.int64), return_inverse=True)
    pictures = resize(clip.frames(unique), (resolution, resolution))[place]
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def points_of_frames(landmarks: Float32[np.ndarray, "t n d"], size: tuple[int, int]) -> Float32[np.ndarray, "t 39 2"]:
    """The network's landmarks from those of frames of `size` (height, width)."""
    points = rescaled(condition_points(landmarks), size, (LANDMARK_SIZE, LANDMARK_SIZE))
    return points.astype(np.float32)


def masks_of_frames(
    landmarks: Float32[np.ndarray, "t n d"], size: tuple[int, int], resolution: int, rule: MaskRule
) -> Bool[np.ndarray, "t 1 h w"]:
    """Masks of frames that are resized from `size` (height, width) to a square of side `resolution`."""
    square = (resolution, resolution)
    return kept_masks(rescaled(landmarks[..., :2], size, square), square, rule)[:, None]


def lips_of_frames(
    landmarks: Float32[np.ndarray, "t n d"], size: tuple[int, int], resolution: int
) -> Float32[np.ndarray, "t 20 2"]:
    """Outline of the lips in pixels of frames that are resized from `size` (height, width) to a square of side `resolution`."""
    return rescaled(mouth_points(landmarks)[..., :2], size, (resolution, resolution)).astype(np.float32)
