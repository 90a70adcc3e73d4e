"""What is measured on detected faces: each frame is searched once, and everything else looks at what was found."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from src.errors import ConfigError
from src.face.arcface_crop import aligned_faces, five_points
from src.face.detector import FaceTracker
from src.face.landmarks import detected, eye_aspect_ratio, mouth_opening, to_ibug68
from src.face.topology import RIGID
from src.metrics.blinks import find_blinks
from src.metrics.clips import OpenClip
from src.metrics.head_motion import beat_alignment, head_angles, motion_beats, pose_diversity, sound_beats
from src.metrics.identity import IdentitySimilarity, embed_faces
from src.metrics.landmarks import LandmarkDistance
from src.metrics.measures import NO_SOUND, Curve, Frames, Values, correlation_of, with_voice
from src.metrics.quantities import names_of

Landmarks = Float32[np.ndarray, "t 478 3"]
Pair = tuple[Landmarks, Landmarks]  # of the generated and of the real frames; NaN where no face is found


@runtime_checkable
class FaceReading(Protocol):
    """Something that is read off the landmarks of both videos."""

    def add(self, frames: tuple[Frames, Frames], landmarks: Pair) -> None:
        """See the next frames of both videos."""
        ...

    def finish(self) -> Values:
        """The clip's values, after the last frame."""
        ...


class FaceMeasure:
    """Finds the faces and hands them on.

    Args:
        clip: what is compared; its landmarks, where it has some, spare the detection in the real frames.
        trackers: for the generated and for the real frames.
        readings: what looks at the faces.
    """

    def __init__(self, clip: OpenClip, trackers: tuple[FaceTracker, FaceTracker], readings: list[FaceReading]) -> None:
        self._clip = clip
        self._trackers = trackers
        self._readings = readings
        self._position = 0
        for tracker in trackers:
            tracker.reset()

    def add(self, generated: Frames, real: Frames) -> None:
        """Detect in the next frames."""
        landmarks = _track(self._trackers[0], generated), self._real_landmarks(real)
        self._position += len(generated)
        for reading in self._readings:
            reading.add((generated, real), landmarks)

    def _real_landmarks(self, frames: Frames) -> Landmarks:
        clip = self._clip
        if clip.landmarks is None or clip.face_known is None:
            return _track(self._trackers[1], frames)
        here = slice(self._position, self._position + len(frames))
        return np.where(clip.face_known[here, None, None], clip.landmarks[here], np.nan).astype(np.float32)

    def finish(self) -> Values:
        """Everything that was read."""
        values = Values()
        for reading in self._readings:
            values.update(reading.finish())
        return values


class LandmarkReading:
    """Distances of the landmarks, and movement of the mouth."""

    def __init__(self, clip: OpenClip) -> None:
        self._clip = clip
        self._openings: tuple[list[Curve], list[Curve]] = ([], [])
        self._distances = {
            "lmd_face": LandmarkDistance("face"),
            "lmd_mouth": LandmarkDistance("mouth"),
            "lmd_mouth_normalised": LandmarkDistance("mouth", unit="eye_distance"),
        }

    def add(self, frames: tuple[Frames, Frames], landmarks: Pair) -> None:
        """Compare the next frames."""
        for openings, found in zip(self._openings, landmarks, strict=True):
            openings.append(mouth_opening(found))
        points = [torch.from_numpy(to_ibug68(found)[..., :2]) for found in landmarks]
        for distance in self._distances.values():
            distance.update(points[0], points[1], self._clip.size)

    def finish(self) -> Values:
        """Distances, and correlations of the mouth's opening with the real one and with the voice."""
        generated, real = (np.concatenate(openings) for openings in self._openings)
        values = Values({name: float(metric.compute()) for name, metric in self._distances.items()})
        values.generated["face_found"] = float(np.isfinite(generated).mean())
        values.real["face_found"] = float(np.isfinite(real).mean())
        values.generated["mouth_correlation"] = correlation_of(generated, real)
        values.curves = {"generated": generated, "real": real}
        values.update(with_voice(names_of("mouth_sound"), generated, real, self._clip))
        return values


class BlinkReading:
    """Blinks of both videos; clips count by their length, and a mean duration by its blinks."""

    def __init__(self, clip: OpenClip) -> None:
        self._fps = clip.fps
        self._ratios: tuple[list[Curve], list[Curve]] = ([], [])

    def add(self, frames: tuple[Frames, Frames], landmarks: Pair) -> None:
        """See the next frames of both videos."""
        for ratios, found in zip(self._ratios, landmarks, strict=True):
            ratios.append(eye_aspect_ratio(found))

    def finish(self) -> Values:
        """Blinks per second, and their mean length where there are some."""
        values = Values()
        for numbers, ratios in ((values.generated, self._ratios[0]), (values.real, self._ratios[1])):
            ratio = np.concatenate(ratios)
            blinks = find_blinks(ratio) if np.isfinite(ratio).any() else None
            numbers["blinks_per_second"] = np.nan if blinks is None else len(blinks) * self._fps / len(ratio)
            lengths = np.empty(0) if blinks is None else blinks[:, 1] - blinks[:, 0]
            lengths = lengths[lengths > 0]
            numbers["blink_duration"] = float(lengths.mean() / self._fps) if len(lengths) else np.nan
            if numbers is values.generated:
                values.weights = {
                    "blinks_per_second": len(ratio) / self._fps,
                    "blink_duration": float(max(1, len(lengths))),
                }
        if not np.isfinite(values.generated["blink_duration"]):
            values.leave_out(("blink_duration",), "no clip has a blink")
        return values


class PoseReading:
    """How varied the head's rotation is, and whether it keeps the beat."""

    def __init__(self, clip: OpenClip) -> None:
        self._clip = clip
        self._points: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, frames: tuple[Frames, Frames], landmarks: Pair) -> None:
        """See the next frames of both videos."""
        for points, found in zip(self._points, landmarks, strict=True):
            points.append(found[:, RIGID])

    def finish(self) -> Values:
        """Standard deviation of the angles; closeness of the turning points to the beats of the sound."""
        angles = [head_angles(np.concatenate(points)) for points in self._points]
        generated, real = ({"pose_diversity": pose_diversity(series)} for series in angles)
        values = Values(generated, real)
        try:
            heard = self._beats()
        except ConfigError as error:
            values.leave_out(("beat_alignment",), str(error))
            return values
        if heard is None:
            values.leave_out(("beat_alignment",), NO_SOUND)
            return values
        for numbers, series in zip((values.generated, values.real), angles, strict=True):
            whole = np.isfinite(series).all()
            numbers["beat_alignment"] = beat_alignment(motion_beats(series[:, None]), heard) if whole else np.nan
        return values

    def _beats(self) -> np.ndarray | None:
        sound = self._clip.sound("generated")
        return None if sound is None else sound_beats(sound, self._clip.fps)


class IdentityReading:
    """CSIM: the generated face against the real one of the same frame, and against the real video's first face.

    Args:
        network: ArcFace's, with published weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._source: torch.Tensor | None = None
        self._same = IdentitySimilarity()
        self._with_source = {"generated": IdentitySimilarity(), "real": IdentitySimilarity()}

    def add(self, frames: tuple[Frames, Frames], landmarks: Pair) -> None:
        """Embed and compare the next faces."""
        generated, real = (self._embed(*side) for side in zip(frames, landmarks, strict=True))
        self._same.update(generated, real)
        if self._source is None:
            found = real.isfinite().all(dim=1)
            if not found.any():
                return
            self._source = real[found][:1]
        self._with_source["generated"].update(generated, self._source)
        self._with_source["real"].update(real, self._source)

    def _embed(self, frames: Frames, landmarks: Landmarks) -> torch.Tensor:
        """Embeddings; NaN where no face was found."""
        known = detected(landmarks)
        embeddings = torch.full((len(frames), 512), torch.nan)
        if known.any():
            faces = aligned_faces(frames[known], five_points(landmarks[known]))
            batch = torch.from_numpy(faces).permute(0, 3, 1, 2)
            embeddings[torch.from_numpy(known)] = embed_faces(self._network, batch).cpu()
        return embeddings

    def finish(self) -> Values:
        """Means over the frames with a face in both."""
        generated, real = ({"csim_source": float(m.compute())} for m in self._with_source.values())
        return Values({"csim": float(self._same.compute()), **generated}, real)


def _track(tracker: FaceTracker, frames: Frames) -> Landmarks:
    """Landmarks in pixels; rows of NaN where no face is found."""
    faces = [tracker.track(frame) for frame in frames]
    return np.stack([np.full((478, 3), np.nan, np.float32) if face is None else face.landmarks for face in faces])
