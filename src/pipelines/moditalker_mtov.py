"""moditalker: a face, and landmarks that move or a voice -> a video, window by window."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from src.audio.features import FPS, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.datamodules.moditalker_mtov import landmark_pictures, masked_pictures
from src.datamodules.store import Clip
from src.diffusion.noise import generators_from
from src.diffusion.pixels import Rounding, to_uint8, to_unit
from src.diffusion.sampling import SchedulerFactory
from src.errors import ConfigError, require_choice, require_least
from src.face.alignment import Alignment, MeanFaceAlignment, similarity_transform, transform_points
from src.face.landmarks import smooth, to_ibug68
from src.face.moditalker_atom import fit_heads
from src.face.topology import RIGID
from src.lightning_modules.moditalker_mtov import PUBLISHED, MToV
from src.media.looping import ping_pong
from src.pipelines.footage import Footage, read_footage
from src.pipelines.moditalker_atom import MotionGenerator, Voice, generate_motion, load_motion_generator
from src.pipelines.moditalker_atom_exact import ExactAlignment, generate_exact_motion
from src.pipelines.sources import stored_clip
from src.pipelines.video import GENERATED, Frames, Video

log = logging.getLogger(__name__)

LANDMARKS = "landmarks"

Chaining = Literal["latent", "reference", "none"]
Motion = Literal["relative", "absolute"]
Source = str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None


@dataclass(frozen=True)
class Plan:
    """What every frame of a video is made from.

    Attributes:
        person: pictures of which one shows the person.
        body: pictures of head, upper face and background.
        shown: the picture behind each frame.
        points: the 68 landmarks of each frame, in pixels of the aligned pictures.
        audio: sound of the result.
        seed: of the noise.
    """

    person: Footage
    body: Footage
    shown: Int64[np.ndarray, " t"]
    points: Float[np.ndarray, "t 68 2"]
    audio: Path | Float32[np.ndarray, " s"] | None
    seed: int


class MToVPipeline:
    """Generates windows of frames, at 25 per second, whose mouths follow landmarks; each window knows the one before.

    Head, upper face and background of the result are those of the source: a video moves, a picture keeps still. The original's scripts are
    `sampler="published"`, `steps=100`, `eta=1`, `strength=0.25`, `chaining="none"`, `motion="absolute"`, `rounding="down"`, with the source
    as driving video.

    Args:
        model: trained `MToV`.
        sampler: `published`, or see `src.diffusion.sampling.sampler_for`; None: the model's own.
        steps: network evaluations per window; None: the model's own.
        eta: 0 is deterministic, 1 as random as DDPM; None: the model's own.
        strength: share of the noise that sampling starts with, from the latent of the still picture; `published` only. A small share keeps
            the still picture's mouth. None: noise alone.
        chaining: a window is told the `latent` of the one before (models with `n_conditions=3`), or its last frame shows the person
            (`reference`: errors add up), or `none`. None: `latent` where the model takes it.
        motion: `relative` moves the source's own face as the driving face does; `absolute` takes the driving landmarks as they are.
        smoothing: of the driving landmarks along time, standard deviation in frames.
        motion_ckpt: checkpoint of AToM, which makes the landmarks of a voice.
        features: speech features of AToM, in place of those that its checkpoint records.
        guidance: weight of AToM's conditions; None: its own.
        face_model_3d: BFM_model_front.mat; with `face_regressor`, AToM's landmarks are put onto heads the original's way, see
            `src.pipelines.moditalker_atom_exact`. None: by MediaPipe's landmarks alone.
        face_regressor: epoch_20.pth of Deep3DFaceRecon.
        keep_landmarks: also write the landmark pictures as a video.
        alignment: how faces are brought into the crop; must be that of the training data. None: the mean-face alignment.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        rounding: of grey levels; `down` as the original truncates them.

    Raises:
        ConfigError: a setting that cannot be used, or one of the two files without the other.
        CheckpointError: `motion_ckpt` is none of AToM.
    """

    def __init__(
        self,
        model: MToV,
        *,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float | int | None = None,
        strength: float | None = None,
        chaining: Chaining | None = None,
        motion: Motion = "relative",
        smoothing: float | int = 0.0,
        motion_ckpt: str | Path | None = None,
        features: SpeechFeatures | ImportedFeatures | None = None,
        guidance: float | int | None = None,
        face_model_3d: str | Path | None = None,
        face_regressor: str | Path | None = None,
        keep_landmarks: bool = False,
        alignment: Alignment | None = None,
        face_model: str | Path | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require_choice("pipeline.motion", motion, get_args(Motion))
        require_choice("pipeline.rounding", rounding, get_args(Rounding))
        require_least("pipeline.smoothing", smoothing, 0)
        if chaining is not None:
            require_choice("pipeline.chaining", chaining, get_args(Chaining))
        if chaining == "latent" and not model.sees_previous:
            raise ConfigError("pipeline.chaining=latent: the model was trained without it; choose reference or none.")
        model.check_sampler(sampler, steps, eta)  # a wrong choice is told now, not after a minute of detection
        if strength is not None:
            if (sampler or model.sampler) != PUBLISHED:
                raise ConfigError("pipeline.strength is of pipeline.sampler=published.")
            model.check_strength(strength, steps)
        self.model = model
        self.options: dict[str, Any] = {"sampler": sampler, "steps": steps, "eta": eta}
        self.strength = strength
        self.chaining: Chaining = chaining or ("latent" if model.sees_previous else "none")
        self.motion: Motion = motion
        self.smoothing = smoothing
        self.companions = (LANDMARKS,) if keep_landmarks else ()
        self.resolution = model.resolution
        self.alignment = alignment or MeanFaceAlignment.square(self.resolution)
        if self.alignment.size != (self.resolution, self.resolution):
            raise ConfigError(
                f"pipeline.alignment.size={self.alignment.size}: the model makes {self.resolution}x{self.resolution} frames."
            )
        self.face_model = face_model
        self.rounding: Rounding = rounding
        self.guidance = guidance
        exact = face_model_3d is not None or face_regressor is not None
        if exact and motion_ckpt is None:
            raise ConfigError(
                "pipeline.face_model_3d and face_regressor are for landmarks of AToM: give atom_ckpt too."
            )
        device = str(model.device)
        self.exact = ExactAlignment(face_model_3d, face_regressor, device=device) if exact else None
        self.generator = (
            None
            if motion_ckpt is None
            else load_motion_generator(motion_ckpt, device=device, features=features, face_model_3d=face_model_3d)
        )

    @property
    def device(self) -> torch.device:
        """Where the frames are made."""
        return self.model.device

    def __call__(
        self,
        source: Source = None,
        audio: Voice | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Video:
        """The video, made when it is read.

        Args:
            source: the person: a picture, a video, or a clip of a clip store, `STORE@CLIP_ID`; None: the driving clip.
            audio: the voice that AToM follows: a file, 16 kHz mono, or a stored clip. Without AToM only the sound of the result; None: the
                driving clip's.
            driving: the motion: a video, or a clip of a clip store, `STORE@CLIP_ID`. With AToM it gives head and upper face alone, and
                has to show the source's person; None: the source's own. What is too short runs to and fro.
            seed: of the noise.

        Raises:
            ConfigError: there is neither a driving clip nor a voice, or none that can be used.
            FaceError: no face in source or driving clip, or the landmark model is missing.
            MediaError, StoreError: a file cannot be read.
        """
        plan = self.plan(source, audio, driving, seed=seed)
        size = (self.resolution, self.resolution)
        return Video(
            lambda: self.render(plan), float(FPS), len(plan.shown), size, plan.audio, companions=self.companions
        )

    # --- reading what the user gives

    def plan(
        self,
        source: Source,
        audio: Voice | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Plan:
        """Pictures and landmarks for the network; arguments and errors as of a call."""
        if self.generator is not None:
            return self._spoken(self.generator, source, audio, driving, seed)
        if driving is None:
            hint = "" if audio is None else ", or motion_ckpt=CHECKPOINT, which makes them of the voice"
            raise ConfigError(f"moditalker_mtov needs landmarks: give driving=VIDEO or driving=STORE@CLIP_ID{hint}.")
        motion = self._footage(driving)
        body = motion if source is None or source is driving or source == driving else self._footage(source)
        shown = looped(len(body), len(motion), "source")
        landmarks = smooth(motion.landmarks, self.smoothing) if self.smoothing else motion.landmarks
        if self.motion == "relative" and body is not motion:
            landmarks = with_expressions(body.landmarks[shown], landmarks, body.landmarks[body.first])
        sound = motion.sound if audio is None else _sound(audio)
        return Plan(body, body, shown, to_ibug68(landmarks)[..., :2], sound, seed)

    def _spoken(
        self, generator: MotionGenerator, source: Source, audio: Voice | None, driving: Source, seed: int
    ) -> Plan:
        """Landmarks that AToM makes of a voice, on the heads of the driving clip, or of the source."""
        if source is None or audio is None:
            raise ConfigError("AToM makes landmarks of a voice: give source=FACE and audio=SOUND.")
        person = self._footage(source)
        body = person if driving is None else self._footage(driving)
        options: dict[str, Any] = {"seed": seed, "guidance": self.guidance}
        if self.exact is not None:
            face = self.exact.heads(person.crops([person.first]), person.landmarks[[person.first]])
            heads = self.exact.heads_of(body.crops, body.landmarks)
            points, motion = generate_exact_motion(generator, self.exact, face, audio, heads, **options)
        else:
            fitted = None if len(body) == 1 else fit_heads(body.landmarks_3d)
            landmarks, motion = generate_motion(
                generator, body.landmarks_3d[body.first], audio, driving=fitted, **options
            )
            points = to_ibug68(landmarks)[..., :2]
        shown = looped(len(body), len(points), "source" if driving is None else "driving video")
        return Plan(person, body, shown, points.astype(np.float64), motion.audio, seed)

    def _footage(self, given: Source) -> Footage:
        assert given is not None
        return read_footage(given, self.alignment, face_model=self.face_model)

    # --- making the frames

    @torch.inference_mode()
    def render(self, plan: Plan) -> Iterator[Mapping[str, Frames]]:
        """The frames, a window at a time; memory does not grow with their number."""
        n_frames, n = len(plan.shown), self.model.frames
        person = self._tensor(plan.person.crops([plan.person.first]))
        still = self._still(person) if self.strength is not None else None
        seeds = torch.Generator().manual_seed(plan.seed)
        before: dict[str, Tensor] = {}
        for start in range(0, n_frames, n):
            frames = np.minimum(np.arange(start, start + n), n_frames - 1)  # the last frame fills the last window
            batch, pictures = self._conditions(plan, frames)
            conditions = self.model.conditions({**batch, "reference": person, **before})
            generators = generators_from(torch.randint(2**62, (1,), generator=seeds).tolist(), self.device)
            latent = self.model.denoise(conditions, generators, start=still, strength=self.strength, **self.options)
            decoded = to_unit(self.model.decode(latent)[0])  # t 3 h w
            if self.chaining == "latent":
                before = {
                    "previous_latent": latent,
                    "has_previous": torch.ones(1, dtype=torch.bool, device=self.device),
                }
            elif self.chaining == "reference":
                person = to_uint8(decoded[-1:])
            made = to_uint8(decoded, self.rounding).permute(0, 2, 3, 1).cpu().numpy()
            wanted = min(n, n_frames - start)
            yield {GENERATED: made[:wanted], **dict.fromkeys(self.companions, pictures[:wanted])}

    def _conditions(self, plan: Plan, frames: Int64[np.ndarray, " t"]) -> tuple[dict[str, Tensor], Frames]:
        """Landmarks and masked frames of a window, and the landmark pictures to look at."""
        shown = plan.shown[frames]
        crops = torch.from_numpy(np.ascontiguousarray(plan.body.crops(shown))).permute(0, 3, 1, 2)
        # The mask is placed by the picture's own face, of which nothing below the nose is to be seen.
        own = to_ibug68(plan.body.landmarks[shown])[..., :2]
        drawn = landmark_pictures(plan.points[frames], self.resolution)
        batch = {"landmarks": drawn, "masked": masked_pictures(crops, own)}
        pictures = drawn.permute(0, 2, 3, 1).numpy()
        return {name: clip[None].to(self.device) for name, clip in batch.items()}, pictures

    def _still(self, person: UInt8[Tensor, "1 3 h w"]) -> Float[Tensor, "1 c n"]:
        """Latent of a window in which nothing moves."""
        return self.model.encode(person[:, None].expand(-1, self.model.frames, -1, -1, -1))

    def _tensor(self, frames: Frames) -> UInt8[Tensor, "t 3 h w"]:
        return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(self.device)


def _sound(audio: Voice) -> Path | Float32[np.ndarray, " s"]:
    """The file that holds a sound, or its samples."""
    if (clip := stored_clip(audio)) is not None:
        return clip.audio_path
    return audio if isinstance(audio, np.ndarray) else Path(str(audio))


def looped(n_pictures: int, n_wanted: int, name: str) -> Int64[np.ndarray, " t"]:
    """The picture behind each frame; where there are too few, they run to and fro, which is said."""
    if 1 < n_pictures < n_wanted:
        log.info("the %s has %d frames where %d are needed and runs to and fro", name, n_pictures, n_wanted)
    return np.zeros(n_wanted, np.int64) if n_pictures == 1 else ping_pong(n_pictures, n_wanted)


def with_expressions(
    posed: Float[np.ndarray, "t n 2"], driving: Float[np.ndarray, "t n 2"], neutral: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "t n 2"]:
    """Landmarks of a person whose face moves as the driving face does, in the person's own head poses.

    Every driving face is brought onto the portrait by the rigid points, which takes its head motion away. The one that then comes closest
    to the portrait is taken as the state in which the person was portrayed: what others differ from it is added to the portrait, which is
    then brought into the pose of each frame. Where person and driving clip are one, the driving landmarks come out.

    Args:
        posed: the person's landmarks in each frame; only their rigid points count.
        driving: landmarks of the driving clip.
        neutral: the person's portrait.
    """
    onto = np.broadcast_to(neutral[RIGID], (len(driving), len(RIGID), 2))
    expressions = transform_points(driving, similarity_transform(driving[:, RIGID], onto))
    start = int(np.square(expressions - neutral).sum(axis=(1, 2)).argmin())
    faces = neutral + expressions - expressions[start]
    return transform_points(faces, similarity_transform(onto, posed[:, RIGID]))
