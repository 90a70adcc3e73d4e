"""Driving key points of the audio-driven talker: predicted lips, a head pose and blinks, on the source's own motion."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from src.nn.liveportrait.expressions import edited, gaze
from src.nn.liveportrait.keypoints import LIP, Motion, kalman_smooth, transform
from src.nn.liveportrait.portrait import LivePortrait


def talking_points(
    model: LivePortrait,
    source: Motion,
    lips: Float[Tensor, "t 6 3"],
    *,
    source_is_video: bool = False,
    rotation: Float[Tensor, "t 3 3"] | None = None,
    eyes: Float[Tensor, "t 3"] | None = None,
    edits: Mapping[str, float | int] | None = None,
    stitching: bool = True,
    multiplier: float | int = 1.0,
    smoothing: float = 3e-7,
    own_lips: bool = False,
) -> Float[Tensor, "t 21 3"]:
    """x_d of every frame.

    Args:
        model: the small networks.
        source: of the picture, or of the frames of a video, as many as `lips`.
        lips: predicted expression of the key points `keypoints.LIP`; what changes since the first frame is taken.
        source_is_video: lips move from those of the video's first frame on, and are smoothed.
        rotation: of the head in every frame, see `keypoints.rotation_matrix`; None: the source's.
        eyes: ratios of the source's left and right eye, and that of the blink, for `LivePortrait.eye_correction`; pictures only.
        edits: amounts of `expressions.edited`, such as those of `pupils`.
        stitching: keep the borders of the frame where they are.
        multiplier: of the whole way from source to driving key points.
        smoothing: observation variance of `kalman_smooth`.
        own_lips: of a video: lips move from those of each frame on; the original takes the first frame's for all.
    """
    index = list(LIP)
    moved = (source.exp if own_lips else source.exp[:1])[:, index] + (lips - lips[:1])
    exp = source.exp.expand(len(lips), -1, -1).clone()
    exp[:, index] = kalman_smooth(moved, smoothing) if source_is_video else moved
    kp_source = source.points()
    x_d = transform(
        source.kp,
        rotation if rotation is not None else source.rotation,
        edited(exp, edits or {}),
        source.scale,
        source.t,
    )
    if eyes is not None:
        x_d = x_d + model.eye_correction(kp_source, eyes)
    if stitching:
        x_d = model.stitch(kp_source, x_d)
    return kp_source + (x_d - kp_source) * multiplier


def pupils(pupil_x: float | int, pupil_y: float | int) -> dict[str, float | int]:
    """Edits that turn the gaze as the talker does: the lids stay."""
    return gaze(pupil_x, pupil_y, lids=False)
