"""What is measured with the published networks: perceptual distance, features of sets, synchronisation, words."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.ops import nms

from src.face.tracks import CROP_SIDE, SAME_FACE, crop_face, crop_path, track_faces
from src.media import resize
from src.metrics.clips import OpenClip, Side
from src.metrics.frechet import CLIP_FRAMES
from src.metrics.measures import NO_SOUND, Frames, Values, tensor_of
from src.metrics.mfcc import to_int16
from src.metrics.perceptual import LPIPS, PerceptualDistance
from src.metrics.quantities import names_of
from src.metrics.sync import FPS, SyncEmbedder, sync_scores
from src.metrics.transcripts import Recogniser, WordErrors, normalised
from src.nn.s3fd import detections, network_input
from src.nn.syncnet import SyncNet

DETECTION_SCALE = 0.25  # of the frame, in front of SyncNet
DETECTION_SCORE = 0.9
SCALES_OVERLAP = 0.1

SyncProtocol = Literal["whole", "tracks"]


class LpipsMeasure:
    """LPIPS of pairs of frames."""

    def __init__(self, distance: PerceptualDistance) -> None:
        self._metric = LPIPS(distance).to(distance.shift.device)

    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        device = self._metric.distance.shift.device
        self._metric.update(tensor_of(generated).to(device), tensor_of(real).to(device))

    def finish(self) -> Values:
        """Mean over the frames."""
        return Values({"lpips": float(self._metric.compute())})


class FrameFeatures:
    """Inception's features of every frame, for FID and KID."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._features: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.inference_mode()
    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        device = next(self._network.parameters()).device
        for features, frames in zip(self._features, (generated, real), strict=True):
            features.append(self._network(tensor_of(frames).to(device)).cpu())

    def finish(self) -> Values:
        """The features."""
        generated, real = (torch.cat(features).numpy() for features in self._features)
        return Values(features={"frames": (generated, real)})


class ClipFeatures:
    """I3D's logits of every 16 frames, for FVD; clips do not overlap, and what is left at the end is dropped."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._features: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._rest: list[Frames | None] = [None, None]

    @torch.inference_mode()
    def add(self, generated: Frames, real: Frames) -> None:
        """See the next frames of both videos."""
        for side, new in enumerate((generated, real)):
            waiting = self._rest[side]
            frames = new if waiting is None else np.concatenate([waiting, new])
            whole = len(frames) // CLIP_FRAMES * CLIP_FRAMES
            for start in range(0, whole, CLIP_FRAMES):
                clip = tensor_of(frames[start : start + CLIP_FRAMES])[None]
                self._features[side].append(self._network(clip).cpu())
            self._rest[side] = frames[whole:]

    def finish(self) -> Values:
        """The features; none for clips of fewer than 16 frames."""
        generated, real = (
            torch.cat(features).numpy() if features else np.empty((0, 400), np.float32) for features in self._features
        )
        return Values(features={"clips": (generated, real)})


class SyncMeasure:
    """SyncNet's scores of both videos.

    Args:
        clip: what is compared.
        network: with the published weights.
        protocol: `whole` squeezes each frame, which shows one face, to SyncNet's size: what Wav2Lip's authors do for LRS and LRW; `tracks`
            finds and follows faces first, as the original pipeline does, and finds none in clips of 100 frames or fewer.
        detector: S3FD with the published weights, for `tracks`.
    """

    def __init__(
        self, clip: OpenClip, network: SyncNet, protocol: SyncProtocol = "whole", detector: nn.Module | None = None
    ) -> None:
        self._clip = clip
        self._network = network
        self._detector = detector if protocol == "tracks" else None
        self._boxes: dict[Side, list[np.ndarray]] = {"generated": [], "real": []}
        self._whole = {side: self._embedder(side, 0, clip.n_frames) for side in self._boxes}

    def _embedder(self, side: Side, first: int, n_frames: int) -> SyncEmbedder | None:
        sound = self._clip.sound(side)
        if sound is None:
            return None
        start = first * len(sound) // max(1, self._clip.n_frames)
        return SyncEmbedder(self._network, to_int16(sound[start:]), n_frames)

    def add(self, generated: Frames, real: Frames) -> None:
        """Embed the next frames, or look for faces in them."""
        sides: dict[Side, Frames] = {"generated": generated, "real": real}
        for side, frames in sides.items():
            embedder = self._whole[side]
            if embedder is None:
                continue
            if self._detector is None:
                embedder.add(resize(frames, (CROP_SIDE, CROP_SIDE), antialias=False))
            else:
                self._boxes[side] += [find_faces(self._detector, frame) for frame in frames]

    def finish(self) -> Values:
        """Offset, confidence and distance; absent without sound, at another rate than 25 fps, and for too short a clip."""
        values = Values()
        if abs(self._clip.fps - FPS) > 0.01:
            values.leave_out(names_of("sync"), f"needs {FPS} fps: set fps={FPS}")
            return values
        if self._whole["generated"] is None:
            values.leave_out(names_of("sync"), NO_SOUND)
            return values
        for side, numbers in (("generated", values.generated), ("real", values.real)):
            if scored := self._scores(side):
                numbers.update(scored)
        if not values.generated:
            reason = (
                "needs six frames" if self._detector is None else "no face could be followed for more than 100 frames"
            )
            values.leave_out(names_of("sync"), reason)
        return values

    def _scores(self, side: Side) -> dict[str, float]:
        """Scores of the side; mean over its face tracks."""
        embedders = [self._whole[side]] if self._detector is None else self._follow(side)
        scored = []
        for embedder in embedders:
            lips, sounds = embedder.embeddings() if embedder else (torch.empty(0, 1), torch.empty(0, 1))
            if len(lips):
                scores = sync_scores(lips, sounds)
                scored.append([scores.confidence, scores.min_distance, scores.offset, abs(scores.offset)])
        return dict(zip(names_of("sync"), np.mean(scored, axis=0).tolist(), strict=True)) if scored else {}

    def _follow(self, side: Side) -> list[SyncEmbedder | None]:
        """One embedder per face track, fed with its crops in a second pass over the video."""
        tracks = track_faces(self._boxes[side], same_face=SAME_FACE)
        paths = [crop_path(track.boxes) for track in tracks]
        embedders = [self._embedder(side, int(track.frames[0]), len(track.frames)) for track in tracks]
        position = 0
        for frames in self._clip.frames_of(side) if tracks else ():
            for track, path, embedder in zip(tracks, paths, embedders, strict=True):
                first = int(track.frames[0])
                here = range(max(position, first), min(position + len(frames), first + len(track.frames)))
                crops = [
                    crop_face(frames[i - position], path.x[i - first], path.y[i - first], path.half[i - first])
                    for i in here
                ]
                if crops and embedder:
                    embedder.add(np.stack(crops))
            position += len(frames)
        return embedders


@torch.inference_mode()
def find_faces(detector: nn.Module, frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "n 4"]:
    """Boxes of the faces in pixels, at a quarter of the frame's size, as in front of SyncNet."""
    height, width = (round(side * DETECTION_SCALE) for side in frame.shape[:2])
    small = torch.from_numpy(resize(frame, (height, width), antialias=False)).permute(2, 0, 1).float()
    offsets, scores = detector(network_input(small.to(next(detector.parameters()).device)))
    found = detections(offsets[0].cpu(), scores[0].cpu(), (height, width))
    boxes = found[found[:, 0] > DETECTION_SCORE]
    scale = boxes.new_tensor([frame.shape[1], frame.shape[0]]).repeat(2)
    kept = nms(boxes[:, 1:] * scale, boxes[:, 0], SCALES_OVERLAP)
    return (boxes[kept, 1:] * scale).double().numpy()


class WordMeasure:
    """Word error rate of a recogniser that hears the generated video's sound.

    Args:
        clip: what is compared.
        recogniser: hears words in sound.
        transcript: what is said; None: what the recogniser hears in the real video.
    """

    def __init__(self, clip: OpenClip, recogniser: Recogniser, transcript: str | None = None) -> None:
        self._clip = clip
        self._recogniser = recogniser
        self._transcript = transcript

    def add(self, generated: Frames, real: Frames) -> None:
        """Frames are not looked at."""

    def finish(self) -> Values:
        """Edits per word; clips count by their words."""
        values = Values()
        generated, real = self._clip.sound("generated"), self._clip.sound("real")
        if generated is None or (real is None and self._transcript is None):
            values.leave_out(names_of("wer"), NO_SOUND)
            return values
        heard = None if real is None else normalised(self._recogniser(real))
        said = normalised(self._transcript) if self._transcript is not None else heard or ""
        if not said:
            values.leave_out(names_of("wer"), "nobody says a word")
            return values
        for numbers, text in ((values.generated, normalised(self._recogniser(generated))), (values.real, heard)):
            if text is not None:
                errors = WordErrors()
                errors.update([text], [said])
                numbers["wer_audio"] = float(errors.compute())
        values.weights["wer_audio"] = float(len(said.split()))
        return values
