"""What is measured on a generated clip beside the real one, without a network (`src.metrics.quantities` names the numbers).

A measure sees the frames once, chunk by chunk, and then gives its values for the clip. `real` is the same quantity on the real video, and
`still` its value for the real clip's first frame repeated: what a mouth that never moves scores. A value that cannot be computed is left
out, with the reason; it is never replaced.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from src.face.landmarks import mouth_opening
from src.metrics.clips import OpenClip
from src.metrics.cpbd import CPBD
from src.metrics.images import PSNR, SSIM
from src.metrics.lip_sync import CurveCorrelation, MouthAudioCorrelation
from src.metrics.mouth_pixels import FOLDS, MouthReader, motion, mouth_patches, mouth_transforms
from src.metrics.quantities import PIXEL_AUDIO, PIXEL_MOTION, PIXEL_MOUTH, names_of
from src.metrics.smoothness import SmoothnessMeter

READABLE = 0.5  # correlation below which the real mouth cannot be read from its pixels

Frames = UInt8[np.ndarray, "t h w 3"]
Curve = Float[np.ndarray, " t"]
Features = Float32[np.ndarray, "n d"]


NO_SOUND = "needs sound in the generated or the real video"
NO_STORE = "needs a clip store as reference, whose landmarks place the mouth"


@dataclass
class Values:
    """Numbers of one clip by name, the reasons for those that are left out, and curves over its frames for the plots.

    Attributes:
        weights: how much the clip counts in the mean of a quantity, where that is not the same for all.
        features: of the generated and of the real side, one row per sample, for numbers of all clips together.
    """

    generated: dict[str, float] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    still: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    features: dict[str, tuple[Features, Features]] = field(default_factory=dict)

    def update(self, other: "Values") -> None:
        """Take over everything of `other`."""
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.update(theirs)

    def leave_out(self, names: tuple[str, ...], reason: str) -> None:
        """Note why these are not computed."""
        self.absent.update(dict.fromkeys(names, reason))


@runtime_checkable
class Measure(Protocol):
    """Something that is measured in one pass over the frames of a clip."""

    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        ...

    def finish(self) -> Values:
        """The clip's values, after the last frame."""
        ...


class ImageMeasure:
    """PSNR and SSIM."""

    def __init__(self) -> None:
        self._metrics = {"psnr": PSNR(), "ssim": SSIM()}

    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        images = tensor_of(generated), tensor_of(real)
        for metric in self._metrics.values():
            metric.update(*images)

    def finish(self) -> Values:
        """Means over the frames."""
        return Values({name: float(metric.compute()) for name, metric in self._metrics.items()})


class SharpnessMeasure:
    """CPBD of both videos."""

    def __init__(self) -> None:
        self._metrics = (CPBD(), CPBD())

    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        for metric, frames in zip(self._metrics, (generated, real), strict=True):
            metric.update(tensor_of(frames))

    def finish(self) -> Values:
        """Means over the frames."""
        generated, real = ({"cpbd": float(metric.compute())} for metric in self._metrics)
        return Values(generated, real)


class SmoothnessMeasure:
    """Differences of successive frames and optical flow of both videos.

    Args:
        names: the quantities that are asked for; without those of the flow it is not measured.

    Raises:
        ConfigError: OpenCV lacks a system library.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        flow = bool({*names_of("flow")} & {*names})
        self._meters = (SmoothnessMeter(flow), SmoothnessMeter(flow))

    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        for meter, frames in zip(self._meters, (generated, real), strict=True):
            meter.add(frames)

    def finish(self) -> Values:
        """Means over pairs of frames."""
        generated, real = ({name: getattr(meter.result(), name) for name in self._names} for meter in self._meters)
        return Values(generated, real)


class MouthPixelMeasure:
    """Movement of the mouth without a detector in the generated frames (`src.metrics.mouth_pixels`)."""

    def __init__(self, clip: OpenClip) -> None:
        assert clip.landmarks is not None, "needs the real landmarks"
        assert clip.face_known is not None, "needs the frames in which the real face is known"
        self._clip = clip
        self._known: Bool[np.ndarray, " t"] = clip.face_known
        self._opening = mouth_opening(clip.landmarks)
        self._transforms = mouth_transforms(clip.landmarks)
        self._position = 0
        self._first: Frames | None = None
        self._patches: dict[str, list[np.ndarray]] = {"generated": [], "real": [], "still": []}

    def add(self, generated: Frames, real: Frames) -> None:
        """Cut the mouths out of the next frames."""
        self._first = real[:1] if self._first is None else self._first
        transforms = self._transforms[self._position : self._position + len(real)]
        self._position += len(real)
        still = np.broadcast_to(self._first, real.shape)
        for name, frames in {"generated": generated, "real": real, "still": still}.items():
            self._patches[name].append(mouth_patches(frames, transforms))

    def finish(self) -> Values:
        """Correlations of motion and of the opening read from pixels, beside those of the frozen first frame."""
        patches = {name: np.concatenate(parts) for name, parts in self._patches.items()}
        known = {name: motion(rows[self._known]).ravel() for name, rows in patches.items()}
        values = Values(
            {PIXEL_MOTION: correlation_of(known["generated"], known["real"])},
            still={PIXEL_MOTION: correlation_of(known["still"], known["real"])},
        )
        values.update(self._read(patches))
        return values

    def _read(self, patches: dict[str, np.ndarray]) -> Values:
        values = Values()
        if self._known.sum() < 2 * FOLDS:
            values.leave_out((PIXEL_MOUTH, *PIXEL_AUDIO), "needs more frames in which the real face is found")
            return values
        reader = MouthReader.fit(patches["real"], self._opening, self._known)
        if not reader.quality >= READABLE:  # also NaN: the mouth stands still
            reason = f"the opening of the real mouth cannot be read from its pixels (correlation {reader.quality:.2f})"
            values.leave_out((PIXEL_MOUTH, *PIXEL_AUDIO), reason)
            return values
        read = {name: np.where(self._known, reader(rows), np.nan) for name, rows in patches.items()}
        real = np.where(self._known, self._opening, np.nan)
        values.generated[PIXEL_MOUTH] = correlation_of(read["generated"], real)
        values.still[PIXEL_MOUTH] = correlation_of(read["still"], real)
        values.curves = {"generated, read from pixels": read["generated"], "real": real}
        values.update(with_voice(PIXEL_AUDIO, read["generated"], real, self._clip))
        return values


def with_voice(names: tuple[str, ...], generated: Curve, real: Curve, clip: OpenClip) -> Values:
    """Correlation with the loudness of the sound, without shift and at the best one, of the generated and of the real mouth."""
    values = Values()
    if clip.loudness is None:
        values.leave_out(names, NO_SOUND)
        return values
    for numbers, mouth in ((values.generated, generated), (values.real, real)):
        metric = MouthAudioCorrelation(clip.rules.max_lag)
        metric.update(torch.from_numpy(mouth), torch.from_numpy(clip.loudness))
        numbers.update(zip(names, (float(value) for value in metric.compute().values()), strict=True))
    return values


def correlation_of(generated: Curve, real: Curve) -> float:
    """Correlation of a generated with a real curve; 0 where the generated one stands still, NaN where the real one does."""
    metric = CurveCorrelation()
    metric.update(torch.from_numpy(generated), torch.from_numpy(real))
    return float(metric.compute())


def tensor_of(frames: Frames) -> UInt8[Tensor, "t 3 h w"]:
    """Frames as metrics take them."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
