"""The mouth of a generated video where no detector can look at it: its pixels, at the place where the real clip's landmarks say it is.

Works without any model when the reference is a clip store, for methods that keep the pose of the real head (the generated face then
lies where the real one does). Two readings of the same small grey patches, cut around the mouth and stabilised by points that speech
does not move:

- motion: the patches of both videos, each pixel without its mean over time, correlated over pixels and frames;
- opening: a linear map from patches to mouth opening, fitted on the real clip (ridge regression), applied to the generated one.

Both are stand-ins for landmarks detected in the generated frames, and are named so in reports.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from src.face.geometry import similarity_transform, transform_points
from src.face.topology import STABLE
from src.face.warp import warp
from src.media.curves import pearson

PATCH = (12, 16)  # height and width in pixels
EYE_DISTANCE = 22.0  # patch pixels between the outer eye corners: the patch is 0.73 eye distances wide
MOUTH_ROW = 4.0  # patch row of the mouth corners; the jaw drops, so that more of the patch lies below
MOUTH_CORNERS = (61, 291)
EYE_CORNERS = (33, 263)  # the outer ones
LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255  # ITU-R BT.601, to [0, 1]
FOLDS = 4

Patches = Float32[np.ndarray, "t p"]


def mouth_transforms(landmarks: Float[np.ndarray, "t 478 d"]) -> Float[np.ndarray, "t 3 3"]:
    """Frame pixels -> patch pixels, per frame: the head is held still by its stable points, the mouth sits at a fixed place.

    The mouth's own points enter only through a median over the clip, so that its movement cannot move the patch.

    Args:
        landmarks: pixels of the frames, without gaps.
    """
    points = landmarks[..., :2].astype(np.float64)
    stable = points[:, STABLE]
    steady = similarity_transform(stable, EYE_DISTANCE * _upright_shape(stable))
    corners = transform_points(points[:, MOUTH_CORNERS, :], steady)
    steady[:, :2, 2] += [(PATCH[1] - 1) / 2, MOUTH_ROW] - np.median(corners.mean(axis=1), axis=0)
    return steady


def _upright_shape(stable: Float[np.ndarray, "t 5 2"]) -> Float[np.ndarray, "5 2"]:
    """Median over time of the stable points, with the line through the outer eye corners made horizontal and of length 1."""
    left, right = (STABLE.tolist().index(corner) for corner in EYE_CORNERS)
    points = stable @ np.array([1, 1j])  # t 5, as complex numbers: dividing rotates and scales
    upright = (points - points.mean(axis=1, keepdims=True)) / (points[:, right] - points[:, left])[:, None]
    return np.median(np.stack([upright.real, upright.imag], axis=-1), axis=0)


def mouth_patches(frames: UInt8[np.ndarray, "t h w 3"], transforms: Float[np.ndarray, "t 3 3"]) -> Patches:
    """Luma in [0, 1] of the mouth patches, one row per frame."""
    return (warp(frames, transforms, PATCH) @ LUMA).reshape(len(frames), -1)


def motion(patches: Patches) -> Float32[np.ndarray, "t p"]:
    """The patches without each pixel's mean over time: what moves."""
    return patches - patches.mean(axis=0)


@dataclass(frozen=True)
class MouthReader:
    """Reads a mouth's opening from its pixels: a ridge regression fitted on a clip whose opening is known.

    Attributes:
        quality: correlation of the read with the known opening, each quarter of the clip read by a fit on the other three; low where
            the mouth hardly moves or pixels do not show it, and then no reading of another video means anything.
    """

    mean_patch: Float[np.ndarray, " p"]
    mean_opening: float
    weights: Float[np.ndarray, " p"]
    quality: float

    @classmethod
    def fit(cls, patches: Patches, opening: Float[np.ndarray, " t"], known: Bool[np.ndarray, " t"]) -> "MouthReader":
        """Fit on the frames where `opening` is known; at least two frames per fold are needed."""
        patches, opening = patches[known].astype(np.float64), opening[known].astype(np.float64)
        held_out = np.empty_like(opening)
        for fold in np.array_split(np.arange(len(opening)), FOLDS):
            rest = np.delete(np.arange(len(opening)), fold)
            held_out[fold] = _predict(patches[fold], *_ridge(patches[rest], opening[rest]))
        return cls(*_ridge(patches, opening), quality=pearson(held_out, opening))

    def __call__(self, patches: Patches) -> Float[np.ndarray, " t"]:
        """Mouth opening of each patch, in eye distances like `src.face.landmarks.mouth_opening`."""
        return _predict(patches.astype(np.float64), self.mean_patch, self.mean_opening, self.weights)


def _ridge(
    patches: Float[np.ndarray, "t p"], opening: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " p"], float, Float[np.ndarray, " p"]]:
    """Mean patch, mean opening and weights; the penalty is the mean eigenvalue of the patches' scatter, whatever their contrast."""
    mean_patch, mean_opening = patches.mean(axis=0), float(opening.mean())
    centred = patches - mean_patch
    scatter = centred.T @ centred
    penalty = max(np.trace(scatter) / len(scatter), 1e-12)
    weights = np.linalg.solve(scatter + penalty * np.eye(len(scatter)), centred.T @ (opening - mean_opening))
    return mean_patch, mean_opening, weights


def _predict(
    patches: Float[np.ndarray, "t p"],
    mean_patch: Float[np.ndarray, " p"],
    mean_opening: float,
    weights: Float[np.ndarray, " p"],
) -> Float[np.ndarray, " t"]:
    return (patches - mean_patch) @ weights + mean_opening
