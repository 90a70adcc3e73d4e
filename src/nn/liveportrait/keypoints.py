"""The algebra of LivePortrait's 21 implicit key points (section 3 of arXiv:2407.03168).

Points are rows and multiply matrices from the left; coordinates lie in [-1, 1], x to the right, y down, z into the picture.

    x_c canonical points      R rotation      d expression (`exp`)      s scale      t shift
    x = s (x_c R + d) + t, without t's z      (equation 2; the published weights expect the depth to stay)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull
from torch import Tensor

Region = Literal["all", "exp", "pose", "lip", "eyes"]

NUM_KEYPOINTS = 21
BIN_DEGREES, FIRST_BIN_DEGREES = 3.0, -97.5  # of the classes of head angles

LIP = (6, 12, 14, 17, 19, 20)
EYES = (11, 13, 15, 16, 18)

# What of the expression is taken over where the source is a video or the motion is absolute: whole points, and single axes of others.
EXPRESSION_POINTS = (1, 2, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
EXPRESSION_AXES = ((3, 1), (4, 1), (5, 2), (8, 2), (9, 1), (9, 2))

# The expression of a neutral face, published with the code; rows are key points.
# fmt: off
_NEUTRAL_MICRO = (
    (-94.524, 242.22, -40.0974), (208.596, 468.054, 12.7464), (-124.602, 324.972, 4.425), (119.652, -456.624, 54.0852),
    (-265.254, -74.598, -15.528), (-33.4884, -183.036, -3.49404), (-0.475428, -0.452466, 1.59498), (-541.296, 2632.8, 7.2486),
    (-11.694, 5.00502, 9.9888), (0.80286, 5.19132, -409.344), (166.878, -19.815, -88.548), (-15.1536, 82.506, 5.94012),
    (-0.261054, 2.7591, 2.21028), (-66.282, -68.286, -3.45318), (-832.62, -1795.92, -2.59176), (6.9714, 36.5514, -1.8978),
    (-4.80876, 7.1148, -10.3236), (-636.84, -1166.1, 56.2314), (283.29, -14.5656, 10.9746), (-4.16022, -15090.6, -2549.4),
    (222.474, 5627.88, 2726.46),
)
# fmt: on


@dataclass(frozen=True)
class Motion:
    """Key points and motion of faces, float32, one row each.

    Attributes:
        pitch, yaw, roll: of the head, in degrees.
        t: shift (x, y, z).
        exp: expression of each key point.
        scale: of the head.
        kp: canonical key points.
    """

    pitch: Float[Tensor, "b 1"]
    yaw: Float[Tensor, "b 1"]
    roll: Float[Tensor, "b 1"]
    t: Float[Tensor, "b 3"]
    exp: Float[Tensor, "b k 3"]
    scale: Float[Tensor, "b 1"]
    kp: Float[Tensor, "b k 3"]

    @classmethod
    def of_heads(cls, heads: dict[str, Float[Tensor, "b _"]]) -> "Motion":
        """From what `MotionExtractor` gives."""
        values = {name: value.float() for name, value in heads.items()}
        angles = {name: degrees_of(values[name]) for name in ("pitch", "yaw", "roll")}
        points = {name: values[name].unflatten(1, (-1, 3)) for name in ("exp", "kp")}
        return cls(t=values["t"], scale=values["scale"], **angles, **points)

    @property
    def rotation(self) -> Float[Tensor, "b 3 3"]:
        """R of each row."""
        return rotation_matrix(self.pitch, self.yaw, self.roll)

    def points(self) -> Float[Tensor, "b k 3"]:
        """x of each row."""
        return transform(self.kp, self.rotation, self.exp, self.scale, self.t)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> "Motion":
        """The given rows."""
        return Motion(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Motion":
        """The motion on another device."""
        return Motion(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @staticmethod
    def cat(parts: Sequence["Motion"]) -> "Motion":
        """The rows of several motions, one after the other."""
        names = [field.name for field in fields(Motion)]
        return Motion(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def degrees_of(logits: Float[Tensor, "b n"]) -> Float[Tensor, "b 1"]:
    """The angle that the classes stand for on average; single numbers are degrees already."""
    if logits.shape[1] == 1:
        return logits
    bins = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)
    return BIN_DEGREES * (logits.float().softmax(dim=1) * bins).sum(dim=1, keepdim=True) + FIRST_BIN_DEGREES


def rotation_matrix(
    pitch: Float[Tensor, "b 1"], yaw: Float[Tensor, "b 1"], roll: Float[Tensor, "b 1"]
) -> Float[Tensor, "b 3 3"]:
    """(R_z(roll) R_y(yaw) R_x(pitch))^T of angles in degrees, for points that are rows."""
    x, y, z = (torch.deg2rad(angle[:, 0]) for angle in (pitch, yaw, roll))
    zero, one = torch.zeros_like(x), torch.ones_like(x)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    about_x = matrix(one, zero, zero, zero, x.cos(), -x.sin(), zero, x.sin(), x.cos())
    about_y = matrix(y.cos(), zero, y.sin(), zero, one, zero, -y.sin(), zero, y.cos())
    about_z = matrix(z.cos(), -z.sin(), zero, z.sin(), z.cos(), zero, zero, zero, one)
    return (about_z @ about_y @ about_x).mT


def head_angles(
    rotation: Float[Tensor, "b 3 3"],
) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 1"], Float[Tensor, "b 1"]]:
    """Pitch, yaw and roll in degrees of rotations; inverse of `rotation_matrix` for a yaw of less than 90 degrees."""
    r = rotation.mT  # R_z R_y R_x
    pitch = torch.atan2(r[:, 2, 1], r[:, 2, 2])
    yaw = torch.asin(-r[:, 2, 0].clamp(-1, 1))
    roll = torch.atan2(r[:, 1, 0], r[:, 0, 0])
    return torch.rad2deg(pitch)[:, None], torch.rad2deg(yaw)[:, None], torch.rad2deg(roll)[:, None]


def transform(
    kp: Float[Tensor, "#b k 3"],
    rotation: Float[Tensor, "#b 3 3"],
    exp: Float[Tensor, "#b k 3"],
    scale: Float[Tensor, "#b 1"],
    t: Float[Tensor, "#b 3"],
    *,
    keep_depth: bool = False,
) -> Float[Tensor, "_ k 3"]:
    """x = s (x_c R + d) + t; t's z counts only if `keep_depth`."""
    shift = t if keep_depth else t * t.new_tensor([1.0, 1.0, 0.0])
    return scale[..., None] * (kp @ rotation + exp) + shift[:, None]


@cache
def neutral_expression() -> Float[Tensor, "1 21 3"]:
    """The expression of a neutral face with closed lips."""
    return torch.tensor(_NEUTRAL_MICRO, dtype=torch.float64).mul(1e-6).float()[None]


@cache
def expression_subset() -> Bool[Tensor, "21 3"]:
    """True where an expression is taken over from a driving face that replaces the source's."""
    subset = torch.zeros(NUM_KEYPOINTS, 3, dtype=torch.bool)
    subset[list(EXPRESSION_POINTS)] = True
    for point, axis in EXPRESSION_AXES:
        subset[point, axis] = True
    return subset


def region_mask(region: Region, *, whole_face: bool) -> Bool[Tensor, "21 3"]:
    """Which coordinates of the expression a region covers; `whole_face`: all of them where it is `all` or `exp`."""
    if region in ("all", "exp"):
        return torch.ones(NUM_KEYPOINTS, 3, dtype=torch.bool) if whole_face else expression_subset()
    mask = torch.zeros(NUM_KEYPOINTS, 3, dtype=torch.bool)
    points = {"lip": LIP, "eyes": EYES, "pose": ()}[region]
    mask[list(points)] = True
    return mask


def kalman_smooth(
    series: Float[Tensor, "t *n"], observation_variance: float, process_variance: float = 1e-5
) -> Float[Tensor, "t *n"]:
    """Each number smoothed along time by a Kalman filter and a Rauch-Tung-Striebel pass back; a random walk, observed with noise.

    The first observation is the initial mean, with variance 1. Computed in float64; gains are those of all series.

    Args:
        series: observations.
        observation_variance: larger is smoother.
        process_variance: of the random walk, per step.
    """
    observed = series.detach().cpu().double().numpy()  # not on the device: mps has no float64
    mean, variance, predicted_variance = observed[0], 0.0, 1.0
    filtered, variances, predicted = [], [], []
    for i, value in enumerate(observed):
        if i > 0:
            predicted_variance = variance + process_variance
        gain = predicted_variance / (predicted_variance + observation_variance)
        mean = mean + gain * (value - mean)
        variance = predicted_variance * (1 - gain)
        filtered.append(mean)
        variances.append(variance)
        predicted.append(predicted_variance)
    smoothed = [filtered[-1]]
    for i in range(len(observed) - 2, -1, -1):  # the predicted mean of a random walk is the filtered one before
        smoothed.append(filtered[i] + variances[i] / predicted[i + 1] * (smoothed[-1] - filtered[i]))
    return torch.from_numpy(np.stack(smoothed[::-1])).to(series)


def motion_multiplier(kp_source: Float[Tensor, "1 k 3"], kp_driving: Float[Tensor, "1 k 3"]) -> float:
    """How much larger the source's face is than the driving one: the square root of the ratio of the hulls' volumes."""
    source, driving = (ConvexHull(points[0].detach().cpu().double().numpy()) for points in (kp_source, kp_driving))
    return float(np.sqrt(source.volume) / np.sqrt(driving.volume))


def drive(
    source: Motion,
    driving: Motion,
    *,
    relative: bool = True,
    region: Region = "all",
    source_is_video: bool = False,
    driving_is_image: bool = False,
    smoothing: float = 3e-7,
) -> Float[Tensor, "t k 3"]:
    """x_d: the source's key points moved by the driving face's motion, before any correction (section 3.3 of the paper).

    Relative motion adds what changed since the first driving frame to the source; absolute motion replaces the source's. Of a driving
    picture, relative motion is what differs from a neutral face. A source video keeps its own shift and scale, and its motion is smoothed.

    Args:
        source: of the picture, or of all frames of a video.
        driving: of the picture, or of all frames of a video.
        relative: see above.
        region: what is moved.
        source_is_video: frame i of the source is driven by frame i; the shorter one decides.
        driving_is_image: all frames are driven by the one picture.
        smoothing: observation variance of `kalman_smooth`, for source videos.
    """
    if source_is_video:
        n = len(source) if driving_is_image else min(len(source), len(driving))
        source, driving = source[:n], driving if driving_is_image else driving[:n]

    def smoothed(series: Tensor) -> Tensor:
        return kalman_smooth(series, smoothing) if source_is_video and not driving_is_image else series

    first = driving[:1]
    poses, whole = region in ("all", "pose"), region == "all"
    rotation, exp, scale, t = source.rotation, source.exp, source.scale, source.t
    if relative:
        candidate = smoothed(exp + driving.exp - _resting(first, region, source_is_video, driving_is_image))
        if poses:
            rotation = smoothed((driving.rotation @ first.rotation.mT) @ rotation)
        if not source_is_video:
            t = t + driving.t - first.t if poses else t
            scale = scale * driving.scale / first.scale if whole else scale
    else:
        candidate = smoothed(driving.exp)
        rotation = smoothed(driving.rotation) if poses else rotation
        t = driving.t if poses else t
    covered = region_mask(region, whole_face=relative and not source_is_video).to(exp.device)
    x_d = transform(source.kp, rotation, torch.where(covered, candidate, exp), scale, t)
    return x_d.expand(max(len(source), len(driving)), -1, -1)


def _resting(first: Motion, region: Region, source_is_video: bool, driving_is_image: bool) -> Tensor:
    """The driving expression that changes nothing."""
    if not driving_is_image:
        return first.exp
    if region == "eyes" and not source_is_video:
        return torch.zeros_like(first.exp)
    return neutral_expression().to(first.exp)


def stacked(kp: Float[Tensor, "#b k 3"], *others: Float[Tensor, "#b _"]) -> Float[Tensor, "b2 n"]:
    """Rows for the small networks: key point after key point, then the other numbers."""
    n = max(len(part) for part in (kp, *others))
    return torch.cat([part.flatten(1).expand(n, -1) for part in (kp, *others)], dim=1)


def shifted(points: Float[Tensor, "b k 3"], correction: Float[Tensor, "b n"]) -> Float[Tensor, "b k 3"]:
    """Points moved by a shift each, and then all by the common (x, y) that may follow."""
    own, common = correction.split([points[0].numel(), correction.shape[1] - points[0].numel()], dim=1)
    moved = points + own.unflatten(1, (-1, 3))
    return moved + F.pad(common, (0, 1))[:, None] if common.shape[1] else moved
