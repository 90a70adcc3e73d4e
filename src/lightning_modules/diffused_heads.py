"""Training of Diffused Heads: a diffusion model of the next frame, given a face, the frames before and the sound around it.

Symbols: x_0 clean target frame, eps noise, t time step, x_t noisy frame, m motion frames, a rows of features on either side.
Source: Stypulkowski et al., arXiv:2301.03396.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.diffusion.autoregressive import generate_frames
from src.diffusion.learned_range import LearnedRangeDiffusion
from src.diffusion.learned_range_sampling import FrameSampler
from src.diffusion.motion_frames import MotionAugmentation, motion_transform
from src.diffusion.noise import FrameNoise, NoiseMode, generators_from, randn_each
from src.diffusion.pixels import to_signed, to_uint8, to_unit
from src.diffusion.regions import boxed_loss, mouth_box
from src.diffusion.sampling import SchedulerFactory
from src.errors import ConfigError, FaceError
from src.face.detector import FaceDetector
from src.face.landmarks import mouth_points
from src.lightning_modules.optimization import OptimizerFactory, optimize
from src.lightning_modules.optimization import SchedulerFactory as LRSchedulerFactory
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import StepRandomness, seed_of
from src.lightning_modules.validation import evaluation_is_due, row_generators
from src.metrics.images import PSNR, SSIM
from src.metrics.landmarks import SCALE, landmark_distances
from src.nn.diffused_heads import DiffusedHeadsUNet

log = logging.getLogger(__name__)

LIP_MARGIN = 5  # pixels around the lips in 128x128 frames
LIP_MARGIN_AT = 128
DETECTABLE = 256  # pixels: side to which small frames are enlarged before a face is looked for

Batch = Mapping[str, Tensor]


class DiffusedHeads(pl.LightningModule):
    """Learns to denoise a frame from the identity frame, the motion frames and an audio window; generates videos frame by frame.

    Batches are those of `src.datamodules.diffused_heads`. Logged: `train/loss` and its terms `train/loss_simple`, `train/loss_vlb`,
    `train/loss_lip`; `val/loss` with the same noise and time steps in every epoch; `val/ssim`, `val/psnr`, `val/lpips` (with its weights)
    and `val/lmd_mouth` (pixels at 256x256; where the landmark model is installed) of short videos that are generated from the beginning of
    validation clips.

    Args:
        net: maps (x_t, t, identity, motion frames, audio window) to a prediction.
        diffusion: noising and its reversal.
        optimizer: partial, called with the parameters; only training needs it.
        lr_scheduler: partial, called with `optimizer` (and `num_training_steps` where it takes that).
        lr_interval: when the schedule advances: `epoch` as the original's, or `step`.
        vlb_weight: of the variational bound, which trains the variance.
        lip_weight: of the error within the lip box; 0: training needs no landmarks.
        motion_blur: blur motion frames, in training and sampling alike, by a 5x5 Gaussian.
        augmentation: of the real motion and identity frames of training, against drift; None: none, as the original.
        sampler: for sampling during validation, see `FrameSampler`; None: the published ancestral sampler.
        sample_steps: of that sampler.
        eval_every_n_epochs: epochs between two evaluations of generated videos, starting with the first; 0: never.
        eval_clips: validation clips that are generated for them.
        eval_frames: of each of these clips.
        seed: of the noise.
    """

    def __init__(
        self,
        net: DiffusedHeadsUNet,
        diffusion: LearnedRangeDiffusion,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: LRSchedulerFactory | None = None,
        *,
        lr_interval: Literal["step", "epoch"] = "epoch",
        vlb_weight: float = 1e-4,
        lip_weight: float = 0.2,
        motion_blur: bool = False,
        augmentation: MotionAugmentation | None = None,
        sampler: str | SchedulerFactory | None = None,
        sample_steps: int = 100,
        eval_every_n_epochs: int = 50,
        eval_clips: int = 4,
        eval_frames: int = 25,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.net: DiffusedHeadsUNet = net
        self.diffusion = diffusion
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval: Literal["step", "epoch"] = lr_interval
        self.vlb_weight = vlb_weight
        self.lip_weight = lip_weight
        self.motion_blur = motion_blur
        self.augmentation = augmentation or MotionAugmentation()
        self.sampler = sampler
        self.sample_steps = sample_steps
        self.eval_every_n_epochs = eval_every_n_epochs
        self.eval_clips = eval_clips
        self.eval_frames = eval_frames
        self.seed = seed
        self.val_loss = MeanMetric()
        self.val_ssim = SSIM()
        self.val_psnr = PSNR()
        self.val_lpips = ValidationLPIPS()
        self.val_lmd_mouth = MeanMetric()

    def forward(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        timestep: Int64[Tensor, " b"],
        identity: Float[Tensor, "b 3 h w"],
        motion: Float[Tensor, "b mc h w"],
        audio: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b c h w"]:
        """The network's output for x_t at t."""
        return self.net(noisy, timestep, identity, motion, audio)

    # --- training

    def setup(self, stage: str) -> None:
        """ConfigError where the speech features of the data are not as wide as the network takes them."""
        features = getattr(self.trainer.datamodule, "features", None)  # ty: ignore[missing-attribute]
        if features is not None and features.dim != self.net.audio_dim:
            raise ConfigError(
                f"net.audio_dim={self.net.audio_dim}: the features {features.name} have {features.dim} numbers per frame; "
                f"give net.audio_dim={features.dim}, or other features=."
            )

    def losses(
        self, batch: Batch, noise: Float[Tensor, "b 3 h w"], timestep: Int64[Tensor, " b"], augment: int | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """L = L_simple + vlb_weight L_vlb + lip_weight L_lip and its terms, `loss`, `loss_simple`, ...  (section 3.3).

        Args:
            batch: of the data set.
            noise: eps.
            timestep: t.
            augment: seed of the augmentation; None: none.
        """
        clean, identity, motion = (to_signed(batch[key]) for key in ("target", "identity", "motion"))
        if augment is not None and self.augmentation.active:
            generator = torch.Generator(clean.device).manual_seed(augment)
            motion, identity = self.augmentation(motion, identity, generator)
        noisy = self.diffusion.q_sample(clean, timestep, noise)
        output = self(noisy, timestep, identity, self.motion_channels(motion), batch["audio"])
        terms = self.diffusion.terms(output, clean, noisy, timestep, noise)
        losses = {"loss_simple": terms.simple.mean()}
        loss = losses["loss_simple"]
        if terms.vlb is not None:
            losses["loss_vlb"] = terms.vlb.mean()
            loss = loss + self.vlb_weight * losses["loss_vlb"]
        if self.lip_weight:
            losses["loss_lip"] = boxed_loss(terms.error, self._lip_boxes(batch["lips"], clean.shape[-2:]))
            loss = loss + self.lip_weight * losses["loss_lip"]
        return {"loss": loss, **losses}

    def motion_channels(self, motion: Float[Tensor, "b m 3 h w"]) -> Float[Tensor, "b mc h w"]:
        """Motion frames as the network takes them: grey or RGB, side by side on the channels, oldest first."""
        return rearrange(self._as_motion(motion), "b m c h w -> b (m c) h w")

    def _as_motion(self, frames: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b c h w"]:
        return motion_transform(frames, grayscale=self.net.grayscale_motion, blur=self.motion_blur)

    @staticmethod
    def _lip_boxes(lips: Float[Tensor, "b 20 2"], size: Sequence[int]) -> Int64[Tensor, "b 4"]:
        """The original's margin of 5 pixels in 128x128 frames, in proportion for others."""
        height, width = size
        return mouth_box(lips, (height, width), margin=max(1, round(LIP_MARGIN * height / LIP_MARGIN_AT)))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss at random time steps, uniform over the noise levels."""
        clean = to_signed(batch["target"])
        randomness = StepRandomness(self, self.seed, batch_idx)
        noise = randomness.normal(clean)
        timestep = randomness.integers(len(self.diffusion), len(clean))
        augment = seed_of(self.seed, "augmentation", self.current_epoch, batch_idx, randomness.rank)
        losses = self.losses(batch, noise, timestep, augment)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", sync_dist=True, batch_size=len(clean))
        return losses["loss"]

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss`, and where it is due the measures of generated videos."""
        if batch_idx == 0 and evaluation_is_due(self, self.eval_every_n_epochs):
            self._evaluate()
        shape = batch["target"].shape[1:]
        generators = row_generators(self, "val/loss", batch["index"])
        timestep = torch.cat(
            [torch.randint(len(self.diffusion), (1,), generator=g, device=self.device) for g in generators]
        )
        losses = self.losses(batch, randn_each(generators, shape), timestep)
        self.val_loss.update(losses["loss"], weight=len(timestep))
        self.log("val/loss", self.val_loss, prog_bar=True)

    def _evaluate(self) -> None:
        """Generate the beginnings of a few validation clips and compare them with the real frames; each process takes its share."""
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        clips = datamodule.preview_videos(self.eval_clips, self.eval_frames)
        mine = slice(self.global_rank, None, self.trainer.world_size)
        clips = {key: value[mine] for key, value in clips.items()}
        self.val_lpips.log_from(self, clips["identity"].shape[-2:])
        if len(clips["identity"]):
            generated = self.sample_videos(clips, seed_of(self.seed, "val/video"))
            for frames, real, lips, length in zip(
                generated, clips["target"], clips["lips"], clips["lengths"].tolist(), strict=True
            ):
                frames, real = to_unit(frames[:length]), real[:length].to(self.device)
                self.val_ssim.update(frames, real)
                self.val_psnr.update(frames, real)
                self.val_lpips.update(frames, real)
                self._update_lmd(frames, lips[:length])
        self.log("val/ssim", self.val_ssim, prog_bar=True)
        self.log("val/psnr", self.val_psnr, prog_bar=True)
        if self._can_detect():
            self.log("val/lmd_mouth", self.val_lmd_mouth)

    def _can_detect(self) -> bool:
        """Whether faces can be detected here; says once why not."""
        if not hasattr(self, "_detection"):
            try:
                with FaceDetector("image"):
                    self._detection = True
            except FaceError as error:
                log.warning("val/lmd_mouth is not computed: %s", error)
                self._detection = False
        return self._detection

    def _update_lmd(self, frames: Float[Tensor, "t 3 h w"], lips: Float[Tensor, "t 20 2"]) -> None:
        """Centred distance of the lips that a detector finds in generated frames to the real ones, pixels at 256x256."""
        if not self._can_detect():
            return
        height, width = frames.shape[-2:]
        factor = max(1, DETECTABLE // max(height, width))
        enlarged = F.interpolate(frames, scale_factor=float(factor), mode="bicubic", antialias=True).clamp(0, 1)
        pictures = to_uint8(enlarged).permute(0, 2, 3, 1).cpu().numpy()
        with FaceDetector("image") as detector:
            for picture, real in zip(pictures, lips.cpu(), strict=True):
                for face in detector.detect(np.ascontiguousarray(picture))[:1]:
                    points = torch.from_numpy(mouth_points(face.landmarks)[..., :2]).float()
                    points = (points + 0.5) / factor - 0.5
                    distance = landmark_distances(points[None], real[None]) * SCALE / max(height, width)
                    self.val_lmd_mouth.update(distance.to(self.device))

    # --- sampling

    def frame_sampler(
        self, sampler: str | SchedulerFactory | None = None, steps: int | None = None, eta: float = 0.0
    ) -> FrameSampler:
        """The sampler of one frame; by default the model's own."""
        steps = self.sample_steps if steps is None else steps
        return FrameSampler(self.diffusion, sampler or self.sampler, steps, eta)

    @torch.no_grad()
    def generate(
        self,
        identity: Float[Tensor, "b 3 h w"],
        features: Float[Tensor, "b f d"],
        noises: Sequence[FrameNoise],
        *,
        sampler: FrameSampler | None = None,
        lengths: Int64[Tensor, " b"] | None = None,
        stabilize_every: int | None = None,
    ) -> Iterator[Float[Tensor, "b 3 h w"]]:
        """Frame after frame of several videos, in [-1, 1]; memory does not grow with their number.

        Args:
            identity: aligned faces in [-1, 1].
            features: rows of speech features, one per frame, padded to the longest.
            noises: of each video; a video is the same in every batch.
            sampler: of a frame; None: the model's own.
            lengths: rows of each video that are its own; later frames of it are to be dropped.
            stabilize_every: frames after which the identity frame replaces the oldest motion frame; None: never.
        """
        sampler = sampler or self.frame_sampler()
        step_generators: list[torch.Generator] = []

        def start(i: int) -> Float[Tensor, "b 3 h w"]:
            drawn = [noise.draw(1) for noise in noises]
            step_generators[:] = [generators[0] for _, generators in drawn]
            return torch.cat([frame for frame, _ in drawn]).to(identity.device)

        def denoise(noise: Tensor, motion: Tensor, audio: Tensor, i: int) -> Float[Tensor, "b 3 h w"]:
            network: Callable[[Tensor, Tensor], Tensor] = partial(self._network, identity, motion, audio)
            return sampler(network, noise, generators=step_generators)

        return generate_frames(
            denoise,
            identity,
            features,
            start,
            n_motion_frames=self.net.n_motion_frames,
            audio_radius=self.net.n_audio_motion_embs,
            motion_transform=self._as_motion,
            stabilize_every=stabilize_every,
            lengths=lengths,
        )

    def _network(
        self, identity: Tensor, motion: Tensor, audio: Tensor, noisy: Tensor, timestep: Tensor
    ) -> Float[Tensor, "b c h w"]:
        return self.net(noisy, timestep, identity, motion, audio)

    def sample(
        self, conditions: Batch, generator: torch.Generator, *, noise: NoiseMode = "random", **options: Any
    ) -> Float[Tensor, "b 3 h w"]:
        """Single frames in [-1, 1] after real motion frames, deterministic for the state of `generator`.

        Args:
            conditions: batch with `identity`, `motion` and `audio`; other keys are ignored.
            generator: of all noise.
            noise: independent starting noise per frame, or the same for all.
            options: of `frame_sampler`.
        """
        identity, motion = to_signed(conditions["identity"]), to_signed(conditions["motion"])
        start, generators = FrameNoise(tuple(identity.shape[1:]), generator, noise).draw(len(identity))
        network = partial(self._network, identity, self.motion_channels(motion), conditions["audio"])
        with torch.no_grad():
            return self.frame_sampler(**options)(network, start.to(identity.device), generators=generators)

    def sample_video(
        self,
        conditions: Mapping[str, UInt8[Tensor, "3 h w"] | Float[Tensor, "t d"] | Tensor],
        generator: torch.Generator,
        *,
        noise: NoiseMode = "random",
        **options: Any,
    ) -> Float[Tensor, "t 3 h w"]:
        """A whole video in [-1, 1], each frame from the generated ones before it.

        Args:
            conditions: `identity` (3, h, w) uint8 and `features` (t, d); other keys are ignored.
            generator: of all noise.
            noise: as in `sample`.
            options: of `frame_sampler`.
        """
        identity = to_signed(conditions["identity"])[None]
        noises = [FrameNoise(tuple(identity.shape[1:]), generator, noise)]
        sampler = self.frame_sampler(**options)
        return torch.cat(list(self.generate(identity, conditions["features"][None], noises, sampler=sampler)))

    def sample_videos(self, clips: Batch, seed: int, **options: Any) -> Float[Tensor, "b t 3 h w"]:
        """Several videos in [-1, 1] at once; each is the same whatever is made beside it.

        Args:
            clips: `identity` (b, 3, h, w) uint8, `features` (b, t, d), `lengths` (b,), and `index` (b,), which the noise depends on.
            seed: of the noise.
            options: of `frame_sampler`.
        """
        clips = {key: clips[key].to(self.device) for key in ("identity", "features", "lengths", "index")}
        identity = to_signed(clips["identity"])
        generators = generators_from((seed_of(seed, i) for i in clips["index"].tolist()), "cpu")
        noises = [FrameNoise(tuple(identity.shape[1:]), generator) for generator in generators]
        sampler = self.frame_sampler(**options)
        frames = self.generate(identity, clips["features"], noises, sampler=sampler, lengths=clips["lengths"])
        return torch.stack(list(frames), dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the schedule of its learning rate."""
        return optimize(self, self.optimizer, self.lr_scheduler, self.lr_interval)
