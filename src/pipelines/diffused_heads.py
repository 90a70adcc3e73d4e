"""diffused_heads: a face and a voice -> a video, frame after frame."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from src.audio.features import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechFeatures
from src.audio.imported import ImportedFeatures
from src.datamodules.store import Clip
from src.diffusion.noise import FrameNoise, NoiseMode
from src.diffusion.pixels import to_signed, to_uint8, to_uint8_like_diffused_heads, to_unit
from src.diffusion.sampling import SchedulerFactory
from src.errors import ConfigError, require_choice, require_least
from src.face.alignment import Alignment, MeanFaceAlignment
from src.lightning_modules.diffused_heads import DiffusedHeads
from src.media import resize
from src.pipelines.sources import Portrait, read_portrait
from src.pipelines.video import GENERATED, Video
from src.pipelines.voices import choose_voice

Rounding = Literal["nearest", "original"]
IdentityFrame = Literal["first", "random"]


@dataclass(frozen=True)
class Request:
    """A face and a voice, ready for the network.

    Attributes:
        identity: the aligned face, RGB.
        features: one row per video frame to be made.
        audio: sound of the result, 16 kHz mono, as long as the video.
        seed: of the noise.
    """

    identity: UInt8[np.ndarray, "h w 3"]
    features: Float32[np.ndarray, "f d"]
    audio: Float32[np.ndarray, " s"]
    seed: int = 1


class DiffusedHeadsPipeline:
    """Generates frame after frame from the face, the two frames before and the sound around, at 25 frames per second.

    The original's demo is `sampler="ancestral"`, `steps=100`, `scale=2`, `rounding="original"`.

    Args:
        model: trained `DiffusedHeads`.
        features: extractor of the speech features that the model was trained with.
        sampler: None: the model's own; `ancestral` as published, or a preset of `src.diffusion.sampling.SAMPLERS` (`ddim`, `dpm_solver`,
            `unipc`, ...), which work at 10 to 25 steps.
        steps: network evaluations per frame; None: the model's own.
        eta: randomness of DDIM's steps, 0 (none) to 1 (as DDPM).
        noise: independent starting noise for each frame (`random`), or the `same` for all, which is steadier.
        stabilize: every `segment_len` frames the identity frame takes the place of the oldest motion frame, against drift.
        segment_len: frames between two stabilisations.
        identity_frame: which frame of a source video or clip shows the person: the `first` with a face, or a `random` one.
        frame_limit: make at most so many frames; None: as long as the sound.
        audio_emb: file of precomputed speech features (.pth, .npy) that replaces the extractor; None: computed.
        scale: the written frames are so many times larger than the model's.
        alignment: how the face of a picture is brought into the crop; must be that of the training data. None: the mean-face alignment at
            the model's size.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        batch_size: videos at a time where many are made.
        rounding: of grey levels; `original` enlarges and truncates 127 v + 127, so that white is 254.
    """

    def __init__(
        self,
        model: DiffusedHeads,
        features: SpeechFeatures | ImportedFeatures | None = None,
        *,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        noise: NoiseMode = "random",
        stabilize: bool = False,
        segment_len: int = 15,
        identity_frame: IdentityFrame = "first",
        frame_limit: int | None = None,
        audio_emb: str | Path | None = None,
        scale: int = 1,
        alignment: Alignment | None = None,
        face_model: str | Path | None = None,
        batch_size: int = 4,
        rounding: Rounding = "nearest",
    ) -> None:
        require_choice("pipeline.noise", noise, get_args(NoiseMode))
        require_choice("pipeline.identity_frame", identity_frame, get_args(IdentityFrame))
        require_choice("pipeline.rounding", rounding, get_args(Rounding))
        require_least("pipeline.segment_len", segment_len, 1)
        require_least("pipeline.scale", scale, 1)
        require_least("pipeline.batch_size", batch_size, 1)
        if frame_limit is not None:
            require_least("pipeline.frame_limit", frame_limit, 1)
        self.model = model
        self.features = features
        self.frame_sampler = model.frame_sampler(sampler, steps, eta)  # a wrong choice is told now
        self.noise: NoiseMode = noise
        self.stabilize_every = segment_len if stabilize else None
        self.identity_frame: IdentityFrame = identity_frame
        self.frame_limit = frame_limit
        self.audio_emb = None if audio_emb is None else Path(audio_emb)
        self.scale = scale
        self.resolution: int = model.net.image_size
        self.alignment = alignment or MeanFaceAlignment.square(self.resolution)
        if self.alignment.size != (self.resolution, self.resolution):
            raise ConfigError(
                f"pipeline.alignment.size={self.alignment.size}: the model makes {self.resolution}x{self.resolution} frames."
            )
        self.face_model = face_model
        self.batch_size = batch_size
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
            source: the face: a picture, a video, or a clip of a clip store, `STORE@CLIP_ID`.
            audio: the voice: a sound or video file, 16 kHz mono, or `STORE@CLIP_ID`; None: the driving clip's, else the source's.
            driving: only its sound is used, where `audio` is None.
            seed: of the noise.

        Raises:
            ConfigError: there is no face or no voice, or the features are not those of the model.
            FaceError: no face in the source, or the landmark model is missing.
            FeatureError: the sound is shorter than a frame, or its features cannot be computed.
            MediaError, StoreError: a file cannot be read.
        """
        return self.videos([self.prepare(source, audio, driving, seed=seed)])[0]

    def prepare(
        self,
        source: str | Path | Clip | UInt8[np.ndarray, "h w 3"] | None,
        audio: str | Path | Clip | Float32[np.ndarray, " s"] | None = None,
        driving: str | Path | Clip | None = None,
        *,
        seed: int = 1,
    ) -> Request:
        """Face and voice for the network; arguments and errors as of a call."""
        if source is None:
            raise ConfigError("diffused_heads needs a face: give source=PICTURE.")
        features, samples = choose_voice(
            source, audio, driving, self.features, self.model.net.audio_dim, self.audio_emb
        )
        portrait = self.read_source(source, seed)
        n_frames = min(len(features), self.frame_limit or len(features))
        samples = samples[: n_frames * SAMPLES_PER_FRAME]
        return Request(portrait.frame, np.array(features[:n_frames]), samples, seed)

    def videos(self, requests: Sequence[Request]) -> list[Video]:
        """One video per request, each made by itself when it is read; `render` makes several at once."""

        def video(request: Request) -> Video:
            side = self.resolution * self.scale
            return Video(
                lambda: ({GENERATED: frames[0][None]} for frames in self.render([request]) if frames[0] is not None),
                float(FPS),
                len(request.features),
                (side, side),
                request.audio,
                SAMPLE_RATE,
            )

        return [video(request) for request in requests]

    @torch.inference_mode()
    def render(self, requests: Sequence[Request]) -> Iterator[list[UInt8[np.ndarray, "h w 3"] | None]]:
        """The next frame of every request, until the longest ends; None for those that have ended.

        A video does not depend on those beside it, but for the rounding errors of another batch size.
        """
        identity = to_signed(torch.from_numpy(np.stack([r.identity for r in requests])).permute(0, 3, 1, 2)).to(
            self.device
        )
        lengths = torch.tensor([len(r.features) for r in requests])
        features = pad_sequence([torch.from_numpy(r.features) for r in requests], batch_first=True)
        noises = [
            FrameNoise((3, *identity.shape[-2:]), torch.Generator().manual_seed(r.seed), self.noise) for r in requests
        ]
        frames = self.model.generate(
            identity,
            features.to(self.device),
            noises,
            sampler=self.frame_sampler,
            lengths=lengths.to(self.device),
            stabilize_every=self.stabilize_every,
        )
        for i, frame in enumerate(frames):
            pictures = self._pictures(frame)
            yield [picture if i < length else None for picture, length in zip(pictures, lengths.tolist(), strict=True)]

    def _pictures(self, frames: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h2 w2 3"]:
        original = self.rounding == "original"
        levels = to_uint8_like_diffused_heads(frames, self.scale) if original else to_uint8(to_unit(frames))
        pictures = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        side = self.resolution * self.scale
        return pictures if pictures.shape[1] == side else resize(pictures, (side, side))

    # --- reading what the user gives

    def read_source(self, source: str | Path | Clip | UInt8[np.ndarray, "h w 3"], seed: int = 1) -> Portrait:
        """The aligned face; `seed` decides which frame, where a random one is asked for."""
        random_seed = seed if self.identity_frame == "random" else None
        return read_portrait(source, self.alignment, face_model=self.face_model, random_seed=random_seed)
