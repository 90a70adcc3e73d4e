"""landmark_driven: a face and moving landmarks, or with AToM's help a voice -> a video, frame by frame."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from src.audio.features import FPS, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.datamodules.landmark_driven import landmark_picture
from src.datamodules.store import Clip
from src.diffusion.noise import FrameNoise, NoiseMode
from src.diffusion.pixels import to_uint8, to_unit
from src.diffusion.sampling import SchedulerFactory, sampler_for, takes_eta
from src.errors import ConfigError, require_choice, require_least
from src.face.alignment import Alignment, TemplateAlignment, invert, similarity_transform, transform_points
from src.face.landmarks import rescaled, smooth
from src.face.topology import RIGID
from src.face.warp import warp
from src.lightning_modules.landmark_driven import LandmarkDriven, stack_condition
from src.media import VideoReader, resize
from src.pipelines.moditalker_atom import MotionGenerator, generate_motion, load_motion_generator, read_heads
from src.pipelines.sources import Portrait, read_portrait, stored_clip, track_landmarks
from src.pipelines.video import GENERATED, Frames, Video

log = logging.getLogger(__name__)

REAL, LANDMARKS = "real", "landmarks"

Points = Float[np.ndarray, "t 478 d"]


@dataclass(frozen=True)
class Driving:
    """The motion: landmarks in pixels of the aligned frames, and the way to these frames."""

    landmarks: Float[np.ndarray, "t 478 d"]
    frames: Callable[[range], Frames]
    fps: float
    audio: Path | None


class LandmarkDrivenPipeline:
    """Generates each frame from a reference frame, its landmark picture, and the landmark picture of the driving frame.

    The original's video script is `noise="same"`, `steps=50`, `motion="absolute"`, `rounding="down"`, `seed=1`, with the first frame of
    the driving clip as source.

    Args:
        model: trained `LandmarkDriven`.
        sampler: name of a preset in `src.diffusion.sampling.SAMPLERS` (ddim, ddpm, dpm_solver, unipc, euler, euler_ancestral), a scheduler
            class of diffusers or a partial of one; None: the model's own.
        steps: of the sampler.
        eta: randomness of DDIM's steps, 0 (none) to 1 (as DDPM).
        noise: `same` starting noise for all frames, which is steadier, or `random` for each.
        motion: `relative` moves the source's own face as the driving face moves; `absolute` takes the driving landmarks as they are,
            so that the result has the driving face's shape. Both agree where source and driving are the same recording.
        smoothing: standard deviation in frames of a Gaussian filter over the driving landmarks; 0: none, as in training.
        batch_size: frames at a time; changes memory and speed, not the result.
        alignment: how faces of pictures and videos are brought into the crop; must be that of the training data. None: the template
            alignment of landmark_driven at the model's size.
        fps: rate to which driving videos are resampled; None keeps theirs.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        side_by_side: show the real and the landmark frames left of the generated ones.
        write_real_video: also write the aligned driving frames.
        write_landmark_video: also write the landmark pictures.
        rounding: of grey levels; `down` as the original truncates them.
        motion_ckpt: checkpoint of AToM (moditalker_atom), which makes the landmarks of a voice; None: they come from the driving clip.
        features: speech features in place of those that this checkpoint records.
    """

    def __init__(
        self,
        model: LandmarkDriven,
        *,
        sampler: str | SchedulerFactory | None = None,
        steps: int = 50,
        eta: float = 0.0,
        noise: NoiseMode = "same",
        motion: Literal["relative", "absolute"] = "relative",
        smoothing: float = 0.0,
        batch_size: int = 16,
        alignment: Alignment | None = None,
        fps: float | None = None,
        face_model: str | Path | None = None,
        side_by_side: bool = False,
        write_real_video: bool = False,
        write_landmark_video: bool = False,
        rounding: Literal["nearest", "down"] = "nearest",
        motion_ckpt: str | Path | None = None,
        features: SpeechFeatures | ImportedFeatures | None = None,
    ) -> None:
        require_choice("pipeline.noise", noise, ("same", "random"))
        require_choice("pipeline.motion", motion, ("relative", "absolute"))
        require_choice("pipeline.rounding", rounding, ("nearest", "down"))
        require_least("pipeline.steps", steps, 1)
        require_least("pipeline.batch_size", batch_size, 1)
        if steps > model.num_train_timesteps:
            raise ConfigError(f"pipeline.steps={steps}: the model has only {model.num_train_timesteps} noise levels.")
        # A wrong sampler is told now, not after a minute of detection.
        scheduler = sampler_for(model.noise_schedule, sampler or model.sampler)
        if eta and not takes_eta(scheduler):
            raise ConfigError(f"pipeline.eta={eta} is for sampler=ddim: set eta=0 or choose ddim.")
        self.model = model
        self.sampler = sampler
        self.steps = steps
        self.eta = eta
        self.noise: NoiseMode = noise
        self.motion = motion
        self.smoothing = smoothing
        self.batch_size = batch_size
        self.resolution: int = model.net.sample_size
        self.alignment = alignment or TemplateAlignment(self.resolution)
        if self.alignment.size != (self.resolution, self.resolution):
            raise ConfigError(
                f"pipeline.alignment.size={self.alignment.size}: the model makes {self.resolution}x{self.resolution} frames."
            )
        self.fps = fps
        self.face_model = face_model
        self.beside = (REAL, LANDMARKS) if side_by_side else ()
        self.companions = (REAL,) * write_real_video + (LANDMARKS,) * write_landmark_video
        self.rounding: Literal["nearest", "down"] = rounding
        self.speaker: MotionGenerator | None = None
        if motion_ckpt is not None:
            self.speaker = load_motion_generator(motion_ckpt, device=str(model.device), features=features)

    @property
    def device(self) -> torch.device:
        """Where the frames are made."""
        return self.model.device

    def __call__(
        self,
        source: str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None = None,
        audio: str | Path | Float32[np.ndarray, " s"] | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Video:
        """The video, made when it is read.

        Args:
            source: the face: a picture, a video (its first frame with a face) or a clip of a clip store, `STORE@CLIP_ID` (its first frame);
                None: the driving clip.
            audio: sound of the result, a file or 16 kHz mono; None: the driving clip's. With `motion_ckpt` it is the voice that moves
                the face.
            driving: the motion: a video, or a clip of a clip store, `STORE@CLIP_ID`. With `motion_ckpt` that of the head alone; None: the
                head keeps still.
            seed: of the noise.

        Raises:
            ConfigError: no driving clip was given, or with `motion_ckpt` no voice.
            FaceError: no face in source or driving clip, or the landmark model is missing.
            MediaError, StoreError: a file cannot be read.
        """
        if self.speaker is not None:
            return self._speak(self.speaker, source, audio, driving, seed)
        if driving is None:
            raise ConfigError(
                "landmark_driven needs a driving clip: give driving=VIDEO or driving=STORE@CLIP_ID, or a voice and motion_ckpt=ATOM."
            )
        portrait = self.read_source(driving if source is None else source)
        motion = self.read_driving(driving)
        targets = motion.landmarks[..., :2].astype(np.float64)
        if self.smoothing:
            targets = smooth(targets, self.smoothing)
        if self.motion == "relative":
            targets = transfer_motion(targets, portrait.landmarks[..., :2].astype(np.float64))
        return self.animate(
            portrait.frame,
            self._pictures(portrait.landmarks[None])[0],
            lambda frames: self._pictures(targets[frames.start : frames.stop]),
            len(targets),
            real=motion.frames,
            fps=motion.fps,
            audio=Path(audio) if isinstance(audio, str) else motion.audio if audio is None else audio,
            seed=seed,
        )

    def _speak(
        self,
        speaker: MotionGenerator,
        source: str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None,
        audio: str | Path | Float32[np.ndarray, " s"] | None,
        driving: str | Path | Clip | None,
        seed: int,
    ) -> Video:
        """The video of landmarks that AToM makes of the voice."""
        face = driving if source is None else source
        voice = next((given for given in (audio, driving, source) if given is not None), None)
        if face is None or voice is None or (isinstance(voice, np.ndarray) and voice.ndim != 1):
            raise ConfigError("motion_ckpt needs a face and a voice: give source=FACE and audio=FILE.")
        portrait = self.read_source(face)
        heads = None
        if driving is not None:
            heads = read_heads(driving, smoothing=self.smoothing, face_model=self.face_model)
        targets, motion = generate_motion(speaker, portrait.points, voice, driving=heads, seed=seed)
        return self.animate(
            portrait.frame,
            self._pictures(portrait.landmarks[None])[0],
            lambda frames: self._pictures(targets[frames.start : frames.stop, :, :2]),
            len(targets),
            fps=float(FPS),
            audio=motion.audio,
            seed=seed,
        )

    def animate(
        self,
        reference: UInt8[np.ndarray, "h w 3"],
        reference_landmarks: UInt8[np.ndarray, "h w 3"],
        target_landmarks: Callable[[range], Frames],
        n_frames: int,
        *,
        real: Callable[[range], Frames] | None = None,
        fps: float = 25.0,
        audio: Path | Float32[np.ndarray, " s"] | None = None,
        seed: int = 1,
    ) -> Video:
        """The video of prepared pictures.

        Args:
            reference: aligned frame of the person.
            reference_landmarks: its landmark picture.
            target_landmarks: landmark pictures of a range of frames.
            n_frames: of the video.
            real: the aligned driving frames of a range, where they are to be shown or written.
            fps: frames per second.
            audio: sound.
            seed: of the noise.
        """
        height, width = reference.shape[:2]
        streams = {LANDMARKS: target_landmarks} | ({REAL: real} if real else {})
        constant = {
            "reference": self._tensor(reference[None]),
            "reference_landmarks": self._tensor(reference_landmarks[None]),
        }

        def render() -> Iterator[Mapping[str, Frames]]:
            noise = FrameNoise((3, height, width), torch.Generator().manual_seed(seed), self.noise)
            for start in range(0, n_frames, self.batch_size):
                frames = range(start, min(start + self.batch_size, n_frames))
                batch = {name: image.expand(len(frames), -1, -1, -1) for name, image in constant.items()}
                batch["target_landmarks"] = self._tensor(target_landmarks(frames))
                wanted = {name: streams[name](frames) for name in {*self.beside, *self.companions}}
                yield {GENERATED: self._denoise(stack_condition(batch), noise, len(frames)), **wanted}

        return Video(render, fps, n_frames, (height, width), audio, companions=self.companions, beside=self.beside)

    @torch.inference_mode()
    def _denoise(self, condition: Float[Tensor, "b 9 h w"], noise: FrameNoise, n_frames: int) -> Frames:
        """The next frames; noise comes from the CPU, so that it is the same on every machine."""
        start, generators = noise.draw(n_frames)
        frames = self.model.denoise(
            condition,
            start.to(condition.device),
            generators=generators,
            sampler=self.sampler,
            steps=self.steps,
            eta=self.eta,
        )
        return to_uint8(to_unit(frames), self.rounding).permute(0, 2, 3, 1).cpu().numpy()

    def _tensor(self, images: Frames) -> UInt8[Tensor, "t 3 h w"]:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)

    def _pictures(self, landmarks: Points) -> Frames:
        return landmark_picture(landmarks, (self.resolution, self.resolution), self.resolution)

    # --- reading what the user gives

    def read_source(self, source: str | Path | Clip | UInt8[np.ndarray, "h w 3"]) -> Portrait:
        """The aligned face of a picture, of a video's first frame that shows one, or of a stored clip's first frame."""
        return read_portrait(source, self.alignment, face_model=self.face_model)

    def read_driving(self, driving: str | Path | Clip) -> Driving:
        """The landmarks of a video or a stored clip, aligned, and the way to its aligned frames."""
        if (clip := stored_clip(driving)) is not None:
            size = (self.resolution, self.resolution)
            return Driving(
                rescaled(clip.landmarks[..., :2], clip.size, size),
                lambda frames: resize(clip.frames(frames), size),
                clip.fps,
                clip.audio_path if clip.has_audio else None,
            )
        assert isinstance(driving, str | Path)
        reader = VideoReader(driving, fps=self.fps)
        if self.fps is None and reader.info.variable_rate:
            reader = VideoReader(driving, fps=reader.info.fps)
        landmarks, _ = track_landmarks(reader, f"driving={driving}", self.face_model)
        matrices = self.alignment.fit(landmarks, (reader.info.height, reader.info.width))
        return Driving(
            transform_points(landmarks[..., :2], matrices),
            lambda frames: warp(reader.read(frames), matrices[frames.start : frames.stop], self.resolution),
            reader.fps,
            Path(driving) if reader.info.has_audio else None,
        )


def transfer_motion(
    driving: Float[np.ndarray, "t 478 2"], source: Float[np.ndarray, "478 2"]
) -> Float[np.ndarray, "t 478 2"]:
    """Landmarks of the source's face that moves as the driving face does.

    Each driving face is brought onto the source's by the rigid points, which separates head motion from expression. The frame that then
    comes closest to the source is taken as the state in which the source was portrayed: what other frames differ from it is added to the
    source, and the head motion since then is applied. Where the source is a frame of the driving clip, the driving landmarks come out.

    Args:
        driving: pixels of the aligned driving frames.
        source: pixels of the aligned source.
    """
    to_source = similarity_transform(driving[:, RIGID], np.broadcast_to(source[RIGID], (len(driving), len(RIGID), 2)))
    expressions = transform_points(driving, to_source)
    start = int(np.square(expressions - source).sum(axis=(1, 2)).argmin())
    head_motion = to_source[start] @ invert(to_source)
    return transform_points(source + expressions - expressions[start], head_motion)
