"""LivePortrait's driving key points, composed from lips, head rotation, gaze and blinks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait.expressions import edited, gaze
from src.nn.liveportrait.keypoints import LIP, Motion, kalman_smooth, shifted, stacked, transform
from src.nn.liveportrait_talker.head_motion import SMOOTHING


@dataclass(frozen=True)
class Eyes:
    """What the eye network is told.

    Attributes:
        network: LivePortrait's.
        source: eye-close ratios of the source face, left and right.
        driving: the ratio that the left eye should have, frame by frame; the network takes one for both.
    """

    network: nn.Module
    source: Float[Tensor, "2"]
    driving: Float[Tensor, " t"]


def driving_key_points(
    source: Motion,
    lips: Float[Tensor, "t 6 3"],
    rotations: Float[Tensor, "t 3 3"] | None = None,
    *,
    stitching: nn.Module | None = None,
    eyes: Eyes | None = None,
    pupils: tuple[float, float] = (0.0, 0.0),
    multiplier: float = 1.0,
    smoothing: float = SMOOTHING,
) -> tuple[Float[Tensor, "t k 3"], Float[Tensor, "t k 3"]]:
    """x_s and x_d, what the warping network takes, frame by frame.

    The lips move by what MappingNet says of a frame less what it says of the first one, from where the source's lips are. Shift and
    scale are the source's.

    Args:
        source: of a picture, one row; or of a video, whose frame i becomes frame i: then the lips are those of its first frame,
            and smoothed.
        lips: MappingNet's output.
        rotations: of the head; None: the source's.
        stitching: LivePortrait's network that makes the shoulders meet the rest of the picture; None: they are left alone.
        eyes: for blinks; None: the source's eyes.
        pupils: gaze to the right and up, about -15 to 15; the lids stay.
        multiplier: of the whole motion.
        smoothing: observation variance of the Kalman smoother over the lips of a video.
    """
    n = len(lips)
    moved = lips - lips[:1]
    exp = source.exp.expand(n, -1, -1).clone()
    mouth = source.exp[:1, list(LIP)] + moved
    exp[:, list(LIP)] = mouth if len(source) == 1 else kalman_smooth(mouth, smoothing)
    exp = edited(exp, gaze(*pupils, lids=False))
    x_s = source.points().expand(n, -1, -1)
    rotation = source.rotation if rotations is None else rotations
    x_d = transform(source.kp, rotation, exp, source.scale, source.t)
    if eyes is not None:
        x_d = shifted(x_d, eyes.network(stacked(x_s, eyes.source[None], eyes.driving[:, None])))
    if stitching is not None:
        x_d = shifted(x_d, stitching(torch.cat([x_s.flatten(1), x_d.flatten(1)], dim=1)))
    return x_s, x_s + (x_d - x_s) * multiplier
