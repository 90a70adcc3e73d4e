"""What is measured on a generated clip beside the real one, and what each number is called.

A measure sees the frames once, chunk by chunk, and then gives its values for the clip. `real` is the same quantity on the real video, and
`still` its value for the real clip's first frame repeated: what a mouth that never moves scores. A value that cannot be computed is left
out, with the reason; it is never replaced.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from src.face.detector import FaceTracker
from src.face.landmarks import mouth_opening, to_ibug68
from src.metrics.clips import OpenClip
from src.metrics.images import PSNR, SSIM
from src.metrics.landmarks import LandmarkDistance
from src.metrics.lip_sync import CurveCorrelation, MouthAudioCorrelation
from src.metrics.mouth_pixels import FOLDS, MouthReader, motion, mouth_patches, mouth_transforms

READABLE = 0.5  # correlation below which the real mouth cannot be read from its pixels

Frames = UInt8[np.ndarray, "t h w 3"]
Curve = Float[np.ndarray, " t"]


@dataclass(frozen=True)
class Quantity:
    """A number of the report: its unit, which direction is better, and what it is, in a few words."""

    unit: str
    better: str  # "higher", "lower", or "real": the closer to the real video's value
    meaning: str


QUANTITIES = {
    "psnr": Quantity("dB", "higher", "peak signal-to-noise ratio of the frames"),
    "ssim": Quantity("", "higher", "structural similarity of the frames"),
    "face_found": Quantity("share", "higher", "share of the frames in which the detector finds a face"),
    "lmd_face": Quantity("px@256", "lower", "landmark distance, centred, all 68 points"),
    "lmd_mouth": Quantity("px@256", "lower", "landmark distance, centred, mouth"),
    "lmd_mouth_normalised": Quantity("eye dist.", "lower", "landmark distance, centred, mouth"),
    "mouth_correlation": Quantity("", "higher", "the mouth opens as the real one does"),
    "audio_correlation": Quantity("", "higher", "the mouth opens with the voice, no shift"),
    "audio_correlation_best": Quantity("", "higher", "the same at the best shift"),
    "audio_lag": Quantity("frames", "real", "that shift: how far the sound lags the mouth"),
    "pixel_motion_correlation": Quantity("", "higher", "the mouth's pixels move as the real ones do"),
    "pixel_mouth_correlation": Quantity("", "higher", "mouth opening, read from pixels, against the real one"),
    "pixel_audio_correlation": Quantity("", "higher", "mouth opening, read from pixels, with the voice"),
    "pixel_audio_correlation_best": Quantity("", "higher", "the same at the best shift"),
    "pixel_audio_lag": Quantity("frames", "real", "that shift: how far the sound lags the mouth"),
}
IMAGE = ("psnr", "ssim")
LANDMARK = ("face_found", "lmd_face", "lmd_mouth", "lmd_mouth_normalised", "mouth_correlation")
AUDIO = ("audio_correlation", "audio_correlation_best", "audio_lag")
PIXEL = ("pixel_motion_correlation", "pixel_mouth_correlation")
PIXEL_AUDIO = tuple(f"pixel_{name}" for name in AUDIO)

NO_SOUND = "needs sound in the generated or the real video"
NO_STORE = "needs a clip store as reference, whose landmarks place the mouth"


@dataclass
class Values:
    """Numbers of one clip by name, the reasons for those that are left out, and curves over its frames for the plots."""

    generated: dict[str, float] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    still: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)

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
        images = _tensor(generated), _tensor(real)
        for metric in self._metrics.values():
            metric.update(*images)

    def finish(self) -> Values:
        """Means over the frames."""
        return Values({name: float(metric.compute()) for name, metric in self._metrics.items()})


class LandmarkMeasure:
    """Distances of the landmarks, and movement of the mouth, as a detector sees them.

    Args:
        clip: what is compared; its landmarks, where it has some, spare the detection in the real frames.
        trackers: for the generated and for the real frames.
    """

    def __init__(self, clip: OpenClip, trackers: tuple[FaceTracker, FaceTracker]) -> None:
        self._clip = clip
        self._trackers = trackers
        self._position = 0
        self._openings: tuple[list[Curve], list[Curve]] = ([], [])
        self._distances = {
            "lmd_face": LandmarkDistance("face"),
            "lmd_mouth": LandmarkDistance("mouth"),
            "lmd_mouth_normalised": LandmarkDistance("mouth", unit="eye_distance"),
        }
        for tracker in trackers:
            tracker.reset()

    def add(self, generated: Frames, real: Frames) -> None:
        """Detect in the next frames and compare."""
        both = _track(self._trackers[0], generated), self._real_landmarks(real)
        self._position += len(generated)
        for openings, landmarks in zip(self._openings, both, strict=True):
            openings.append(mouth_opening(landmarks))
        points = [torch.from_numpy(to_ibug68(landmarks)[..., :2]) for landmarks in both]
        for distance in self._distances.values():
            distance.update(points[0], points[1], self._clip.size)

    def _real_landmarks(self, frames: Frames) -> Float[np.ndarray, "t 478 3"]:
        clip = self._clip
        if clip.landmarks is None or clip.face_known is None:
            return _track(self._trackers[1], frames)
        here = slice(self._position, self._position + len(frames))
        return np.where(clip.face_known[here, None, None], clip.landmarks[here], np.nan)

    def finish(self) -> Values:
        """Distances, and correlations of the mouth's opening with the real one and with the voice."""
        generated, real = (np.concatenate(openings) for openings in self._openings)
        values = Values({name: float(metric.compute()) for name, metric in self._distances.items()})
        values.generated["face_found"] = float(np.isfinite(generated).mean())
        values.real["face_found"] = float(np.isfinite(real).mean())
        values.generated["mouth_correlation"] = _correlation(generated, real)
        values.curves = {"generated": generated, "real": real}
        values.update(_with_voice(AUDIO, generated, real, self._clip))
        return values


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
            {PIXEL[0]: _correlation(known["generated"], known["real"])},
            still={PIXEL[0]: _correlation(known["still"], known["real"])},
        )
        values.update(self._read(patches))
        return values

    def _read(self, patches: dict[str, np.ndarray]) -> Values:
        values = Values()
        if self._known.sum() < 2 * FOLDS:
            values.leave_out((PIXEL[1], *PIXEL_AUDIO), "needs more frames in which the real face is found")
            return values
        reader = MouthReader.fit(patches["real"], self._opening, self._known)
        if not reader.quality >= READABLE:  # also NaN: the mouth stands still
            reason = f"the opening of the real mouth cannot be read from its pixels (correlation {reader.quality:.2f})"
            values.leave_out((PIXEL[1], *PIXEL_AUDIO), reason)
            return values
        read = {name: np.where(self._known, reader(rows), np.nan) for name, rows in patches.items()}
        real = np.where(self._known, self._opening, np.nan)
        values.generated[PIXEL[1]] = _correlation(read["generated"], real)
        values.still[PIXEL[1]] = _correlation(read["still"], real)
        values.curves = {"generated, read from pixels": read["generated"], "real": real}
        values.update(_with_voice(PIXEL_AUDIO, read["generated"], real, self._clip))
        return values


def _with_voice(names: tuple[str, ...], generated: Curve, real: Curve, clip: OpenClip) -> Values:
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


def _correlation(generated: Curve, real: Curve) -> float:
    metric = CurveCorrelation()
    metric.update(torch.from_numpy(generated), torch.from_numpy(real))
    return float(metric.compute())


def _track(tracker: FaceTracker, frames: Frames) -> Float[np.ndarray, "t 478 3"]:
    """Landmarks in pixels; rows of NaN where no face is found."""
    faces = [tracker.track(frame) for frame in frames]
    return np.stack([np.full((478, 3), np.nan, np.float32) if face is None else face.landmarks for face in faces])


def _tensor(frames: Frames) -> UInt8[Tensor, "t 3 h w"]:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
