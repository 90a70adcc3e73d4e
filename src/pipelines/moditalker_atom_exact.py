"""AToM's landmarks the original's way: heads and faces are coefficients of a 3D morphable face model.

It takes two files that users have to get for themselves, and makes the landmarks that the published MToV was trained with.
`src.pipelines.moditalker_atom` does without them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from src.adapters.moditalker_atom import load_face_regressor
from src.audio.features import FPS
from src.datamodules.store import Clip
from src.errors import ConfigError
from src.face.landmarks import to_ibug68
from src.face.liveportrait_talker import regressor_crop
from src.face.moditalker_atom_exact import MorphableFace, align_by_coefficients, read_morphable_face
from src.media import VideoReader
from src.nn.liveportrait_talker import FaceRegressor
from src.nn.liveportrait_talker.face_regressor import part
from src.pipelines.loading import pick_device
from src.pipelines.moditalker_atom import MotionGenerator, SpokenMotion, Voice, frames_for, read_driving_landmarks
from src.pipelines.sources import stored_clip

AUXILIARY_FILES = {
    "face_model_3d": "BFM_model_front.mat, landmarks out of coefficients of the 3D morphable face model",
    "face_regressor": "epoch_20.pth of Deep3DFaceRecon, coefficients of a face in a picture",
}
"""What is needed, and what for."""


@dataclass(frozen=True)
class ExactHeads:
    """The heads of a driving video as the original takes them: `coefficients` of the face model and 68 `landmarks` per frame."""

    coefficients: Float32[np.ndarray, "t 257"]
    landmarks: Float64[np.ndarray, "t 68 2"]

    def __len__(self) -> int:
        return len(self.landmarks)

    def part(self, name: str) -> Float32[np.ndarray, "t n"]:
        """Some of the coefficients, see `src.nn.liveportrait_talker.face_regressor.PARTS`."""
        return part(torch.from_numpy(self.coefficients), name).numpy()


class ExactAlignment:
    """The original's way through a 3D morphable face model: coefficients of faces, landmarks out of them, and landmarks onto heads.

    Args:
        face_model_3d: BFM_model_front.mat.
        face_regressor: epoch_20.pth of Deep3DFaceRecon.
        device: where the regressor runs.
        batch_size: frames per pass.

    Raises:
        ConfigError: files that are missing, all of them, with what each is for.
    """

    def __init__(
        self,
        face_model_3d: str | Path | None,
        face_regressor: str | Path | None,
        *,
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        given = {"face_model_3d": face_model_3d, "face_regressor": face_regressor}
        absent = [name for name, path in given.items() if not path or not Path(path).is_file()]
        if face_model_3d is None or face_regressor is None or absent:
            needed = "; ".join(f"{name}={given[name]} ({AUXILIARY_FILES[name]})" for name in absent)
            raise ConfigError(
                f"the exact alignment needs files that are not there: {needed}. Give them, or take the free alignment, which needs none."
            )
        self.face: MorphableFace = read_morphable_face(face_model_3d)
        self.regressor: FaceRegressor = load_face_regressor(face_regressor).to(pick_device(device))
        self.batch_size = batch_size

    def read_heads(self, driving: str | Path | Clip, *, face_model: str | Path | None = None) -> ExactHeads:
        """The heads of a driving video at 25 frames per second, or of a stored clip; errors as of the free `read_heads`."""
        landmarks = read_driving_landmarks(driving, face_model)
        clip = stored_clip(driving)
        return self.heads_of(clip.frames if clip is not None else VideoReader(str(driving), fps=FPS).read, landmarks)

    def heads_of(
        self, read: Callable[[range], UInt8[np.ndarray, "_ h w 3"]], landmarks: Float[np.ndarray, "t n d"]
    ) -> ExactHeads:
        """The heads of all frames that have landmarks; `read` gives frames of given numbers, as many at a time as a pass takes."""
        chunks = [range(i, min(i + self.batch_size, len(landmarks))) for i in range(0, len(landmarks), self.batch_size)]
        heads = [self.heads(read(chunk), landmarks[chunk.start : chunk.stop]) for chunk in chunks]
        return ExactHeads(
            np.concatenate([head.coefficients for head in heads]), np.concatenate([head.landmarks for head in heads])
        )

    @torch.inference_mode()
    def heads(self, frames: UInt8[np.ndarray, "t h w 3"], landmarks: Float[np.ndarray, "t n d"]) -> ExactHeads:
        """Coefficients of the faces in RGB frames, given their 478 or 68 landmarks in pixels."""
        points = to_ibug68(landmarks[..., :2]).astype(np.float64)
        crops = np.stack([regressor_crop(frame, face).image for frame, face in zip(frames, points, strict=True)])
        device = next(self.regressor.parameters()).device
        pictures = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 255
        return ExactHeads(self.regressor(pictures).cpu().numpy(), points)

    def frontal(self, heads: ExactHeads) -> Float32[np.ndarray, "t 68 3"]:
        """Their faces without pose, decimetres."""
        return self.face.faces(heads.part("identity"), heads.part("expression"))

    def onto(self, faces: Float[np.ndarray, "t 68 3"], heads: ExactHeads) -> Int64[np.ndarray, "t 68 2"]:
        """Frontal faces in whole pixels of the frames that the heads were found in."""
        aligned = align_by_coefficients(faces, heads.part("angle"), heads.part("translation"), heads.landmarks)
        return aligned.astype(np.int64)


def generate_exact_motion(
    generator: MotionGenerator,
    alignment: ExactAlignment,
    source: ExactHeads,
    audio: Voice,
    driving: ExactHeads,
    *,
    seed: int = 1,
    **options: Any,
) -> tuple[Int64[np.ndarray, "t 68 2"], SpokenMotion]:
    """Landmarks as the original's two scripts make them: the person's face from `source` speaks on the heads of `driving`.

    Args:
        generator: with the neutral face of the same face model.
        alignment: of both heads.
        source: one frame of the person.
        audio: the voice.
        driving: a head per frame; too few are played to and fro.
        seed: of the noise.
        options: of `MotionGenerator.__call__`.
    """
    motion = generator(alignment.frontal(source)[0].astype(np.float64), audio, seed=seed, **options)
    frames = frames_for(len(driving), len(motion))
    heads = ExactHeads(driving.coefficients[frames], driving.landmarks[frames])
    return alignment.onto(motion.faces, heads), motion
