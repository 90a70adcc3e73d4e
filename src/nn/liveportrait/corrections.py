"""What is corrected in driving key points before a frame is made of them (section 3.4 of arXiv:2407.03168)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from src.nn.liveportrait.portrait import LivePortrait

NEUTRAL_EYES = 0.39  # ratio that the eyes of a source video are opened to where its first frame shows them closed


@dataclass(frozen=True)
class Corrections:
    """Which corrections are made; the names are explained in the configuration of the pipeline.

    Attributes:
        stitching: keep the borders of the frame where they are.
        normalize_lip: close the lips of the source first; relative motion only.
        lip_threshold: source ratio from which on lips are closed.
        steady_eyes: open the eyes of all frames of a source video as those of its first one.
        eye_threshold: ratio below which that first frame's eyes count as closed.
        eye_retargeting: open both eyes as wide as the driving left one.
        lip_retargeting: open the lips as wide as the driving ones.
        keep_driving: retargeting adds to the driving motion; False, as the original: it replaces relative motion.
        multiplier: of the whole way from source to driving key points.
    """

    stitching: bool = True
    normalize_lip: bool = False
    lip_threshold: float = 0.03
    steady_eyes: bool = False
    eye_threshold: float = 0.18
    eye_retargeting: bool = False
    lip_retargeting: bool = False
    keep_driving: bool = False
    multiplier: float | int = 1.0


@dataclass(frozen=True)
class Ratios:
    """How far eyes and lips are open, one row per frame.

    Attributes:
        eyes: of the left and the right eye (sides of the picture).
        lip: of the lips.
    """

    eyes: Float[Tensor, "t 2"]
    lip: Float[Tensor, "t 1"]

    def __getitem__(self, rows: slice | list[int]) -> "Ratios":
        """The given rows."""
        return Ratios(self.eyes[rows], self.lip[rows])

    def __len__(self) -> int:
        return len(self.lip)


def corrected(
    model: LivePortrait,
    kp_source: Float[Tensor, "#t k 3"],
    kp_driving: Float[Tensor, "t k 3"],
    source: Ratios,
    driving: Ratios,
    rules: Corrections,
    *,
    relative: bool = True,
    first_eyes: Float[Tensor, "1 2"] | None = None,
) -> Float[Tensor, "t k 3"]:
    """x_d after retargeting, stitching, lip normalisation, and the multiplier, in the order of the published pipeline.

    Args:
        model: the small networks.
        kp_source: x_s, one or one per frame.
        kp_driving: x_d.
        source: of the source, one or one per frame.
        driving: of the driving face, one or one per frame.
        rules: what is done.
        relative: the motion is relative.
        first_eyes: ratios of the first frame of the source video; None: those of `source`'s first row.
    """
    if rules.eye_retargeting or rules.lip_retargeting:
        x_d = kp_source.expand_as(kp_driving) if relative and not rules.keep_driving else kp_driving
        if rules.eye_retargeting:
            x_d = x_d + model.eye_correction(kp_source, beside(source.eyes, driving.eyes[:, :1]))
        if rules.lip_retargeting:
            x_d = x_d + model.lip_correction(kp_source, beside(source.lip, driving.lip))
        if rules.stitching:
            x_d = model.stitch(kp_source, x_d)
    else:
        x_d = model.stitch(kp_source, kp_driving) if rules.stitching else kp_driving
        if rules.normalize_lip and relative:
            closed = model.lip_correction(kp_source, beside(source.lip, torch.zeros_like(source.lip)))
            x_d = x_d + torch.where((source.lip >= rules.lip_threshold)[..., None], closed, torch.zeros_like(closed))
        if rules.steady_eyes:
            mean = (source.eyes[:1] if first_eyes is None else first_eyes).mean(dim=1, keepdim=True)
            target = torch.where(mean < rules.eye_threshold, torch.full_like(mean, NEUTRAL_EYES), mean)
            x_d = x_d + model.eye_correction(kp_source, beside(source.eyes, target))
    return kp_source + (x_d - kp_source) * rules.multiplier


def beside(left: Float[Tensor, "#t n"], right: Float[Tensor, "#t m"]) -> Float[Tensor, "t2 _"]:
    """Columns side by side; a single row stands beside each of the other's."""
    n = max(len(left), len(right))
    return torch.cat([left.expand(n, -1), right.expand(n, -1)], dim=1)
