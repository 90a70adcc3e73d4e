"""How far the face's points of a generated video are from those of the real one: the landmark distances of this field.

Points are the 68 of iBUG 300-W in their order, in pixels of the generated frame; a frame in which either video has no face is a row
of NaN. Detectors of 478 points go through `src.face.landmarks.to_ibug68`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

REGIONS = {"face": slice(0, 68), "mouth": slice(48, 68)}
EYES = (slice(36, 42), slice(42, 48))
SCALE = 256.0  # pixels: the frame size at which distances are given


def landmark_distances(
    generated: Float[Tensor, "t n 2"], reference: Float[Tensor, "t n 2"], centred: bool = True
) -> Float[Tensor, " t"]:
    """Mean Euclidean distance of corresponding points in each frame, in the unit of the points.

    Centred: each set's own mean point is subtracted first, so that a translation of the face costs nothing. The distance of the frame
    differences (`landmark_distances(x.diff(dim=0), y.diff(dim=0), centred=False)`) is the landmark velocity difference, LVD.
    """
    if centred:
        generated = generated - generated.mean(dim=1, keepdim=True)
        reference = reference - reference.mean(dim=1, keepdim=True)
    return (generated - reference).norm(dim=-1).mean(dim=-1)


def eye_distance(points: Float[Tensor, "t 68 2"]) -> Float[Tensor, " t"]:
    """Distance between the centres of the two eyes."""
    first, second = (points[:, eye].mean(dim=1) for eye in EYES)
    return (second - first).norm(dim=-1)


class LandmarkDistance(Metric):
    """Landmark distance (LMD), lower is better: mean over frames of the mean distance of corresponding points.

    Args:
        region: `face` for all 68 points (F-LMD), `mouth` for the points 48..67 (M-LMD, in many papers just LMD).
        centred: subtract each set's mean point first (the definition of RAD-NeRF and its successors); False compares raw positions.
        unit: `pixels_at_256` rescales to frames whose longer side has 256 pixels, so that sizes compare; `pixels` leaves the
            generated frame's pixels; `eye_distance` divides each frame by the distance of the reference's eye centres.

    Attributes:
        frames: number of frames that count.
        skipped: number of frames without a face in one of the two videos.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    frames: Tensor
    skipped: Tensor

    def __init__(
        self,
        region: Literal["face", "mouth"] = "face",
        centred: bool = True,
        unit: Literal["pixels_at_256", "pixels", "eye_distance"] = "pixels_at_256",
    ) -> None:
        super().__init__()
        self.region = REGIONS[region]
        self.centred = centred
        self.unit = unit
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, generated: Float[Tensor, "t 68 2"], reference: Float[Tensor, "t 68 2"], size: tuple[int, int]
    ) -> None:
        """Add frames.

        Args:
            generated: points in pixels of the generated frames; NaN where no face was found.
            reference: points of the real frames, in the same pixels.
            size: height and width of the generated frames.
        """
        distances = landmark_distances(generated[:, self.region], reference[:, self.region], self.centred).double()
        distances = distances * self._scale(reference, size)
        found = distances.isfinite()
        self.total += distances[found].sum()
        self.frames += found.sum()
        self.skipped += (~found).sum()

    def _scale(self, reference: Float[Tensor, "t 68 2"], size: tuple[int, int]) -> Float[Tensor, " t"] | float:
        if self.unit == "eye_distance":
            return 1 / eye_distance(reference.double())
        return SCALE / max(size) if self.unit == "pixels_at_256" else 1.0

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the frames with a face in both videos; NaN when there is none."""
        return (self.total / self.frames).float()
