"""difftalk: a video or a portrait, and a voice -> the same pictures with a mouth that says it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from src.audio.features import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.audio.windows import AudioEdges, audio_windows
from src.datamodules.difftalk import masks_of_frames, points_of_frames
from src.datamodules.store import Clip
from src.diffusion.noise import FrameNoise, NoiseMode
from src.diffusion.pixels import Rounding, to_signed, to_uint8, to_unit
from src.diffusion.sampling import SchedulerFactory
from src.errors import ConfigError, require_choice, require_least
from src.face.alignment import Alignment, MeanFaceAlignment
from src.face.blending import colour_matched
from src.face.masks import feathered
from src.face.repainting import MaskRule
from src.lightning_modules.difftalk import PUBLISHED, Conditions, DiffTalk
from src.pipelines.footage import Footage, Frames, read_footage
from src.pipelines.video import GENERATED, Video
from src.pipelines.voices import choose_voice

log = logging.getLogger(__name__)

Paste = Literal["seamless", "feathered", "hard", "none"]
Reference = Literal["first", "previous"]
LongerVideo = Literal["cut", "keep"]
LongerAudio = Literal["loop", "cut"]
COLOUR_BORDER = 2  # widths of the edge: how far within the region skin of both pictures is compared
LEAST_BORDER = 2.0  # pixels


@dataclass(frozen=True)
class Plan:
    """Which pictures are repainted to which sound.

    Attributes:
        footage: the pictures.
        shown: the footage's frame behind each frame of the result.
        spoken: frames of the result that are repainted; the others stay as they are.
        features: rows of speech features.
        audio: sound of the result, 16 kHz mono.
        reference: the footage's frame that shows the person.
        seed: of the noise.
    """

    footage: Footage
    shown: Int64[np.ndarray, " t"]
    spoken: Bool[np.ndarray, " t"]
    features: Float32[np.ndarray, "f d"]
    audio: Float32[np.ndarray, " s"]
    reference: int
    seed: int


class DiffTalkPipeline:
    """Repaints the lower face of every frame after the sound around it, at 25 frames per second.

    The original's sampling is `sampler="published"`, `steps=200`, `paste="none"`, `whole_frame=False`, `noise="random"`,
    `rounding="down"` with the masks `MaskRule("nose_base")` for frames and `MaskRule("jaw")` for latents (`latent_mask`).

    Args:
        model: trained `DiffTalk`.
        features: what makes speech features of a voice; those of the training.
        audio_offsets: first and last row of features around a frame, those of the training.
        audio_edges: what lies beyond the sound's ends.
        audio_emb: a file of rows that another program computed, in place of computed ones.
        sampler: `published`, or see `src.diffusion.sampling.sampler_for`; None: the model's own.
        steps: network evaluations per frame; None: the model's own.
        eta: 0 is deterministic, 1 as random as DDPM; DDIM only.
        temperature: factor of the noise of each step; for `published`, as the two that follow.
        noise_dropout: share of that noise that is set to zero, from 0 to below 1.
        quantize_x0: move every step's clean latent to the first stage's codebook.
        noise: `same` starting noise for all frames, which is steadier, or `random` for each.
        hold_kept: hold the kept part of the latent fast while sampling.
        paste: put the kept pixels back with a `feathered` or a `hard` edge, or `none`: all pixels are the decoder's, as the original.
            `seamless` is feathered, and takes away the slow difference of colour that shows at the edge.
        feather: width of that edge, in frame widths.
        whole_frame: paste the face into the whole picture; False: the result is the aligned face alone.
        reference: the person is shown by the `first` frame with a face, or by the `previous` frame that was made (section 3.4 of the
            paper; one frame at a time).
        reference_frame: the source's frame that is the (first) reference.
        mask: what is repainted; None: the model's own.
        latent_mask: what the kept part of the latent is taken from; None: `mask`.
        longer_video: where the sound ends first, `cut` the video or `keep` the rest of its frames as they are.
        longer_audio: where the video ends first, `loop` it to and fro or `cut` the sound.
        smoothing: of a video's landmarks along time, standard deviation in frames: places mask and face more steadily.
        max_gap: frames in a row in which no face is found and that are repainted all the same, at interpolated places; longer stretches,
            such as cutaways, stay as they are.
        frame_limit: make at most so many frames.
        batch_size: frames at a time; changes memory and speed, not the result.
        alignment: how faces are brought into the crop; must be that of the training data. None: the mean-face alignment.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        rounding: of grey levels; `down` as the original truncates them.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self,
        model: DiffTalk,
        features: SpeechFeatures | ImportedFeatures | None = None,
        *,
        audio_offsets: Sequence[int] = (-4, 3),
        audio_edges: AudioEdges = "zero",
        audio_emb: str | Path | None = None,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        quantize_x0: bool = False,
        noise: NoiseMode = "same",
        hold_kept: bool = True,
        paste: Paste = "seamless",
        feather: float = 0.05,
        whole_frame: bool = True,
        reference: Reference = "first",
        reference_frame: int | None = None,
        mask: MaskRule | None = None,
        latent_mask: MaskRule | None = None,
        longer_video: LongerVideo = "cut",
        longer_audio: LongerAudio = "loop",
        smoothing: float = 1.0,
        max_gap: int = 5,
        frame_limit: int | None = None,
        batch_size: int = 8,
        alignment: Alignment | None = None,
        face_model: str | Path | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        for name, value, choices in (
            ("noise", noise, NoiseMode),
            ("paste", paste, Paste),
            ("reference", reference, Reference),
            ("longer_video", longer_video, LongerVideo),
            ("longer_audio", longer_audio, LongerAudio),
            ("audio_edges", audio_edges, AudioEdges),
            ("rounding", rounding, Rounding),
        ):
            require_choice(f"pipeline.{name}", value, get_args(choices))
        require_least("pipeline.batch_size", batch_size, 1)
        require_least("pipeline.feather", feather, 0)
        require_least("pipeline.smoothing", smoothing, 0)
        if steps is not None:
            require_least("pipeline.steps", steps, 1)
            if steps > model.num_train_timesteps:
                raise ConfigError(f"pipeline.steps={steps}: give 1 to {model.num_train_timesteps}.")
        if frame_limit is not None:
            require_least("pipeline.frame_limit", frame_limit, 1)
        if reference_frame is not None:
            require_least("pipeline.reference_frame", reference_frame, 0)
        if not 0 <= eta <= 1:
            raise ConfigError(f"pipeline.eta={eta}: give 0 (no randomness) to 1 (as DDPM).")
        require_least("pipeline.max_gap", max_gap, 0)
        require_least("pipeline.temperature", temperature, 0)
        if not 0 <= noise_dropout < 1:
            raise ConfigError(f"pipeline.noise_dropout={noise_dropout}: give a share from 0 to below 1.")
        model.check_sampler(sampler, eta)  # a wrong choice is told now, not after a minute of detection
        self.model = model
        self.features = features
        self.audio_offsets = _window(audio_offsets, model.net.n_audio_rows)
        self.audio_edges: AudioEdges = audio_edges
        self.audio_emb = None if audio_emb is None else Path(audio_emb)
        self.sampler, self.steps, self.eta = sampler, steps, eta
        self.published_options: dict[str, Any] = {
            "temperature": temperature,
            "noise_dropout": noise_dropout,
            "quantize_x0": quantize_x0,
        }
        if (sampler or model.sampler) != PUBLISHED and (temperature != 1 or noise_dropout or quantize_x0):
            raise ConfigError("pipeline.temperature, noise_dropout and quantize_x0 are of pipeline.sampler=published.")
        if (asked := steps or model.sample_steps) != (taken := model.evaluations(sampler, steps)):
            log.info("%d steps do not divide the model's %d: %d are taken", asked, model.num_train_timesteps, taken)
        self.noise: NoiseMode = noise
        self.hold_kept = hold_kept
        self.paste: Paste = paste
        self.resolution: int = model.net.image_size * model.first_stage.factor
        self.feather = feather * self.resolution
        self.whole_frame = whole_frame
        self.reference: Reference = reference
        self.reference_frame = reference_frame
        self.mask = mask or model.mask
        self.latent_mask = latent_mask or self.mask
        self.longer_video: LongerVideo = longer_video
        self.longer_audio: LongerAudio = longer_audio
        self.smoothing = smoothing
        self.max_gap = max_gap
        self.frame_limit = frame_limit
        self.batch_size = 1 if reference == "previous" else batch_size
        self.alignment = alignment or MeanFaceAlignment.square(self.resolution)
        if self.alignment.size != (self.resolution, self.resolution):
            raise ConfigError(
                f"pipeline.alignment.size={self.alignment.size}: the model makes {self.resolution}x{self.resolution} frames."
            )
        self.face_model = face_model
        self.rounding: Rounding = rounding

    @property
    def device(self) -> torch.device:
        """Where the frames are made."""
        return self.model.device

    def __call__(
        self,
        source: str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None = None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Video:
        """The video, made when it is read.

        Args:
            source: what is repainted: a video, a picture, or a clip of a clip store, `STORE@CLIP_ID`.
            audio: the voice: a sound or video file, 16 kHz mono, or `STORE@CLIP_ID`; None: the driving clip's, else the source's.
            driving: only its sound is used, where `audio` is None.
            seed: of the noise.

        Raises:
            ConfigError: there is no source or no voice, or the features are not those of the model.
            FaceError: no face in the source, or the landmark model is missing.
            FeatureError: the sound is shorter than a frame, or its features cannot be computed.
            MediaError, StoreError: a file cannot be read.
        """
        plan = self.plan(source, audio, driving, seed=seed)
        size = plan.footage.size if self.whole_frame else (self.resolution, self.resolution)
        return Video(lambda: self.render(plan), float(FPS), len(plan.shown), size, plan.audio, SAMPLE_RATE)

    # --- reading what the user gives

    def plan(
        self,
        source: str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Plan:
        """Pictures and voice for the network; arguments and errors as of a call."""
        if source is None:
            raise ConfigError("difftalk needs somebody who is to speak: give source=VIDEO or source=PICTURE.")
        features, samples = choose_voice(
            source, audio, driving, self.features, self.model.net.audio_dim, self.audio_emb
        )
        footage = read_footage(
            source,
            self.alignment,
            smoothing=self.smoothing,
            face_model=self.face_model,
            needed=self._needed(len(features)),
        )
        reference = footage.first if self.reference_frame is None else self.reference_frame
        if reference >= len(footage):
            raise ConfigError(f"pipeline.reference_frame={reference}: the source has {len(footage)} frames.")
        shows_face = footage.shows_face(self.max_gap)
        if not shows_face[reference]:
            raise ConfigError(
                f"pipeline.reference_frame={reference}: no face was found in this frame of the source; the first that shows one is "
                f"{footage.first}."
            )
        shown = self.order(len(footage), len(features))[: self.frame_limit]
        if absent := int((~shows_face[shown]).sum()):
            log.info(
                "%d of %d frames stay as they are: no face was found for more than max_gap=%d frames in a row",
                absent,
                len(shown),
                self.max_gap,
            )
        spoken = (np.arange(len(shown)) < len(features)) & shows_face[shown]
        sound = np.zeros(len(shown) * SAMPLES_PER_FRAME, np.float32)
        sound[: len(samples)] = samples[: len(sound)]
        return Plan(footage, shown, spoken, np.array(features), sound, reference, seed)

    def _needed(self, n_sound: int) -> int | None:
        """How many frames of a video are used for so many of sound; None: all."""
        wanted = [] if self.longer_video == "keep" else [n_sound]
        wanted += [] if self.frame_limit is None else [self.frame_limit]
        if not wanted:
            return None
        return max(min(wanted), 1 + (self.reference_frame or 0))

    def order(self, n_pictures: int, n_sound: int) -> Int64[np.ndarray, " t"]:
        """The picture behind each frame, for so many pictures and so many frames of sound."""
        if n_pictures == 1:
            return np.zeros(n_sound, np.int64)
        if n_sound <= n_pictures:
            if n_sound < n_pictures:
                log.info("the sound ends before the video: longer_video=%s", self.longer_video)
            return np.arange(n_sound if self.longer_video == "cut" else n_pictures)
        if self.longer_audio == "cut":
            return np.arange(n_pictures)
        log.info("the video ends %d frames before the sound and is looped to and fro", n_sound - n_pictures)
        there_and_back = np.concatenate([np.arange(n_pictures), np.arange(n_pictures - 2, 0, -1)])
        return np.resize(there_and_back, n_sound)

    # --- making the frames

    @torch.inference_mode()
    def render(self, plan: Plan) -> Iterator[Mapping[str, Frames]]:
        """The frames in batches; memory does not grow with their number."""
        footage, n_frames = plan.footage, len(plan.shown)
        reference = self.model.encode(self._signed(footage.crops([plan.reference])))
        noise = FrameNoise(tuple(reference.shape[1:]), torch.Generator().manual_seed(plan.seed), self.noise)
        for start in range(0, n_frames, self.batch_size):
            frames = np.arange(start, min(start + self.batch_size, n_frames))
            shown = plan.shown[frames]
            whole = footage.read(shown)
            crops = footage.crops(shown, whole)
            spoken = plan.spoken[frames]
            made = crops.copy()
            weights = np.zeros((*crops.shape[:3], 1), np.uint8)
            if spoken.any():
                latents = self._repaint(plan, frames[spoken], crops[spoken], reference, noise)
                if self.reference == "previous":
                    reference = latents[-1:]
                decoded = to_uint8(to_unit(self.model.decode(latents)), self.rounding).permute(0, 2, 3, 1).cpu().numpy()
                regions = self._regions(footage, shown[spoken])
                weights[spoken] = self._weights(regions)
                made[spoken] = self._in_colours_of(crops[spoken], decoded, regions, footage.covered(shown[spoken]))
            if self.whole_frame:
                yield {GENERATED: footage.pasted(whole, made, weights, shown)}
            else:
                yield {GENERATED: _blended(crops, made, weights)}

    def _repaint(
        self,
        plan: Plan,
        frames: Int64[np.ndarray, " t"],
        crops: Frames,
        reference: Float[Tensor, "1 c h2 w2"],
        noise: FrameNoise,
    ) -> Float[Tensor, "t c h2 w2"]:
        """Latents of the frames with the given numbers."""
        landmarks = plan.footage.landmarks[plan.shown[frames]]
        size = (self.resolution, self.resolution)
        kept = torch.from_numpy(masks_of_frames(landmarks, size, self.resolution, self.mask)).to(self.device)
        audio = audio_windows(plan.features, self.audio_offsets, self.audio_edges, frames)
        tokens = self.model.net.tokens(
            torch.from_numpy(audio).to(self.device), torch.from_numpy(points_of_frames(landmarks, size)).to(self.device)
        )
        pictures = self._signed(crops)
        masked = self.model.encode(pictures.masked_fill(~kept, -1.0))
        conditions = Conditions(masked, reference.expand_as(masked), tokens)
        if self.hold_kept:
            held = kept
            if self.latent_mask != self.mask:
                held = torch.from_numpy(masks_of_frames(landmarks, size, self.resolution, self.latent_mask))
            conditions = replace(
                conditions, known=self.model.encode(pictures), kept=self.model.kept_cells(held, self.latent_mask)
            )
        start, generators = noise.draw(len(frames))
        return self.model.repaint(
            conditions,
            start.to(self.device),
            generators=generators,
            sampler=self.sampler,
            steps=self.steps,
            eta=self.eta,
            **self.published_options,
        )

    def _regions(self, footage: Footage, shown: Int64[np.ndarray, " t"]) -> Bool[np.ndarray, "t h w"]:
        """Where the generated crop is taken."""
        size = (self.resolution, self.resolution)
        if self.paste == "none":
            return np.ones((len(shown), *size), np.bool_)
        repainted = ~masks_of_frames(footage.landmarks[shown], size, self.resolution, self.mask)[:, 0]
        if (
            footage.crops_of is None
        ):  # the crop ends within the picture: a region that reaches its border must fade there, too
            repainted[:, [0, -1]] = repainted[:, :, [0, -1]] = False
        return repainted

    def _weights(self, regions: Bool[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "t h w 1"]:
        """How much of the generated crop is taken, 0 to 255."""
        return feathered(regions, self.feather if self.paste in ("seamless", "feathered") else 0.0)[..., None]

    def _in_colours_of(
        self, crops: Frames, made: Frames, regions: Bool[np.ndarray, "t h w"], covered: Bool[np.ndarray, "t h w"]
    ) -> Frames:
        """The generated crops in the colours that the source has along the edge; the black beyond its borders is none of them."""
        if self.paste != "seamless":
            return made
        weights = feathered(regions, max(COLOUR_BORDER * self.feather, LEAST_BORDER))
        return colour_matched(made, crops, np.where(covered, weights, np.uint8(0))[..., None])

    def _signed(self, crops: Frames) -> Float[Tensor, "t 3 h w"]:
        return to_signed(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).permute(0, 3, 1, 2))


def _window(offsets: Sequence[int], n_rows: int) -> tuple[int, int]:
    """First and last offset; ConfigError unless there are as many rows between them as the network sees."""
    if len(offsets) != 2 or offsets[1] - offsets[0] + 1 != n_rows:
        raise ConfigError(
            f"pipeline.audio_offsets={list(offsets)}: give the first and the last of the {n_rows} rows that the model was trained "
            f"with, for example [{-(n_rows // 2)}, {(n_rows - 1) // 2}]."
        )
    return int(offsets[0]), int(offsets[1])


def _blended(known: Frames, made: Frames, weights: UInt8[np.ndarray, "t h w 1"]) -> Frames:
    share = weights.astype(np.float32) / 255
    return np.rint(known + share * (made.astype(np.float32) - known)).astype(np.uint8)
