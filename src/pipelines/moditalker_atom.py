"""AToM: a face and a voice -> moving landmarks, on a head that keeps still or moves like that of a driving video.

Other pipelines make pictures of them: MToV, MoDiTalker's second stage, and `landmark_driven`. Heads are those of MediaPipe's landmarks; the
original's way, by a 3D morphable face model, is `src.pipelines.moditalker_atom_exact`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from rich.console import Console
from rich.progress import Progress

from src.adapters.moditalker_atom import METHOD
from src.audio.features import FPS, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.checkpoint import Checkpoint, instantiate, load
from src.datamodules.store import Clip
from src.errors import CheckpointError, FaceError
from src.face.landmarks import smooth, to_ibug68
from src.face.mesh_motion import spread
from src.face.moditalker_atom import (
    Heads,
    fit_heads,
    follow,
    from_network,
    frontal_points,
    neutral_face,
    posed_points,
    to_network,
)
from src.face.moditalker_atom_exact import read_morphable_face
from src.face.topology import NUM_LANDMARKS
from src.lightning_modules.moditalker_atom import AToM
from src.media import VideoReader
from src.media.looping import ping_pong
from src.pipelines.loading import load_model
from src.pipelines.sources import stored_clip, track_landmarks
from src.pipelines.voices import read_voice

log = logging.getLogger(__name__)

LONG = 1500  # frames of a voice from which on progress is shown
MAX_GAP = 10  # frames of a driving video without a face that are interpolated

Voice = str | Path | Clip | Float32[np.ndarray, " s"]


@dataclass(frozen=True)
class SpokenMotion:
    """What AToM makes of a voice, without head pose.

    Attributes:
        faces: frontal, 25 per second, decimetres.
        reference: the person's face as it was given, frontal.
        audio: samples of the voice, 16 kHz.
    """

    faces: Float64[np.ndarray, "t 68 3"]
    reference: Float64[np.ndarray, "68 3"]
    audio: Float32[np.ndarray, " s"]

    def __len__(self) -> int:
        return len(self.faces)


class MotionGenerator:
    """A trained AToM with what it takes to use it.

    Args:
        model: in eval mode, on its device.
        features: speech features of the training.
        neutral: the face that displacements are counted from, decimetres; None: the average face.
    """

    def __init__(
        self,
        model: AToM,
        features: SpeechFeatures | ImportedFeatures | None,
        neutral: Float[np.ndarray, "68 3"] | None = None,
    ) -> None:
        self.model = model
        self.features = features
        self.neutral = neutral_face() if neutral is None else neutral

    def __call__(
        self,
        reference: Float[np.ndarray, "68 3"],
        audio: Voice,
        *,
        seed: int = 1,
        guidance: float | int | None = None,
        steps: int | None = None,
        audio_emb: Path | None = None,
    ) -> SpokenMotion:
        """Motion as long as the voice, however long that is.

        Args:
            reference: the person's frontal face, decimetres.
            audio: a sound or video file, 16 kHz mono, or a clip of a clip store, `STORE@CLIP_ID`.
            seed: of the noise.
            guidance: weight of the conditions; None: the model's own.
            steps: of the sampling; None: the model's own.
            audio_emb: a file of rows of speech features in place of computed ones.

        Raises:
            ConfigError, FeatureError, MediaError, StoreError: the voice cannot be used.
        """
        rows, samples = read_voice(audio, self.features, self.model.net.audio_dim, audio_emb)
        device = self.model.device
        face = torch.from_numpy(to_network(reference, self.neutral)).to(device)
        steps = self.model.sample_steps if steps is None else steps
        with Progress(console=Console(stderr=True), transient=True, disable=len(rows) < LONG) as bar:
            task = bar.add_task("motion", total=steps)
            made = self.model.generate(
                face,
                torch.from_numpy(rows).to(device),
                seed,
                guidance=guidance,
                steps=steps,
                callback=lambda *_: bar.advance(task),
            )
        return SpokenMotion(from_network(made.cpu().numpy(), self.neutral), reference.astype(np.float64), samples)


def load_motion_generator(
    ckpt: str | Path | Checkpoint,
    *,
    device: str = "auto",
    weights: Literal["ema", "last"] = "ema",
    features: SpeechFeatures | ImportedFeatures | None = None,
    face_model_3d: str | Path | None = None,
) -> MotionGenerator:
    """The generator of a checkpoint of AToM.

    Args:
        ckpt: a `.ckpt` of training, a release folder or a converted `.safetensors`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        weights: averaged or last weights of the training.
        features: in place of those that the checkpoint records.
        face_model_3d: BFM_model_front.mat, whose mean face is the neutral one of the published weights; None: the average face.

    Raises:
        CheckpointError: it is missing, unsafe or of another method.
    """
    checkpoint = ckpt if isinstance(ckpt, Checkpoint) else load(ckpt, weights)
    if checkpoint.method != METHOD:
        raise CheckpointError(
            f"{checkpoint.path} is of {checkpoint.method}, not of {METHOD}: give a checkpoint that makes landmarks of a voice."
        )
    model: AToM = load_model(checkpoint, device)
    recorded = (checkpoint.config.get("datamodule") or {}).get("features")
    if features is None and recorded:
        features = instantiate(recorded)
    neutral = None if face_model_3d is None else read_morphable_face(face_model_3d).neutral
    return MotionGenerator(model, features, neutral)


def generate_motion(
    generator: MotionGenerator,
    landmarks: Float[np.ndarray, "n 3"],
    audio: Voice,
    *,
    driving: Heads | None = None,
    pose: Literal["relative", "absolute"] = "relative",
    enlargement: float | int = 1.0,
    seed: int = 1,
    **options: Any,
) -> tuple[Float32[np.ndarray, "t n 3"], SpokenMotion]:
    """Landmarks of a person who says what the voice says, 25 per second, in pixels of the person's picture or of the driving frames.

    Args:
        generator: see `load_motion_generator`.
        landmarks: of the person's picture, 478 or 68 points, pixels, z in the same unit. As many points come out: of 478, those beside
            the 68 move with their neighbours.
        audio: the voice, see `MotionGenerator`.
        driving: heads of a driving video, see `read_heads`; one that is too short is played to and fro. None: the head keeps still.
        pose: `relative`: the person's head moves from where it is as the driving one does; `absolute`: it takes its place.
        enlargement: see `src.face.moditalker_atom.posed_points`.
        seed: of the noise.
        options: of `MotionGenerator.__call__`.

    Returns:
        the landmarks, and the motion without head pose.
    """
    head = fit_heads(landmarks[None])
    frontal = frontal_points(landmarks[None], head)[0]
    reference = to_ibug68(frontal)
    motion = generator(reference, audio, seed=seed, **options)
    moved = motion.faces - reference
    points = frontal + (spread(moved) if len(landmarks) == NUM_LANDMARKS else moved)
    heads = head_motion(head, driving, len(motion), pose)
    return posed_points(points, heads, enlargement).astype(np.float32), motion


def head_motion(
    head: Heads, driving: Heads | None, n_frames: int, pose: Literal["relative", "absolute"] = "relative"
) -> Heads:
    """A head for every frame; see `generate_motion`."""
    if driving is None:
        return head[np.zeros(n_frames, np.int64)]
    frames = driving[frames_for(len(driving), n_frames)]
    return follow(head, frames) if pose == "relative" else frames


def frames_for(n_driving: int, n_frames: int) -> Int64[np.ndarray, " t"]:
    """Frames of a driving video, to and fro where it is too short, which is said; a picture's single one keeps still."""
    if 1 < n_driving < n_frames:
        log.warning(
            "driving: %.1f s of head motion for %.1f s of voice; it is played to and fro",
            n_driving / FPS,
            n_frames / FPS,
        )
    return ping_pong(n_driving, n_frames)


def read_heads(
    driving: str | Path | Clip, *, smoothing: float | int = 0.0, face_model: str | Path | None = None
) -> Heads:
    """The heads of a driving video at 25 frames per second, or of a clip of a clip store.

    Args:
        driving: a path, or `STORE@CLIP_ID`.
        smoothing: of the landmarks along time, standard deviation in frames; the original has none.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.

    Raises:
        FaceError: no face for more than ten frames.
        MediaError, StoreError: it cannot be read.
    """
    return fit_heads(smooth(read_driving_landmarks(driving, face_model), smoothing))


def read_driving_landmarks(
    driving: str | Path | Clip, face_model: str | Path | None = None
) -> Float32[np.ndarray, "t 478 3"]:
    """Landmarks of every frame, short gaps interpolated; see `read_heads`."""
    if (clip := stored_clip(driving)) is not None:
        require_short_gaps(clip.valid, clip.fps, f"driving={driving}")
        return np.array(clip.landmarks)
    assert isinstance(driving, str | Path)
    landmarks, found = track_landmarks(VideoReader(driving, fps=FPS), f"driving={driving}", face_model)
    require_short_gaps(found, FPS, f"driving={driving}")
    return landmarks


def require_short_gaps(found: Bool[np.ndarray, " t"], fps: float | int, name: str) -> None:
    """FaceError that names the time where no face was found for more than `MAX_GAP` frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], found, [True]]).astype(np.int8)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if stop - start > MAX_GAP:
            raise FaceError(
                f"{name}: no face from {start / fps:.2f} s to {stop / fps:.2f} s, and at most {MAX_GAP} frames can be "
                "interpolated: cut the video there, or give another one."
            )
