"""Training of MToV: a diffusion model of a clip's three planes, given landmarks, masked frames and a picture of the person.

Symbols: z_0 clean latent of the clip, z_l of its drawn landmarks, z_m of the frames without the lower face, z_r of the still picture,
z_p of the clip before, eps noise, t time step.
Source: Kim et al., arXiv:2403.19144; latents and network: PVDM, Yu et al., arXiv:2302.07685.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.datamodules.latents import fingerprint_of
from src.diffusion.clipped_ddim import clipped_ddim, ddim_times, noised, times_from
from src.diffusion.losses import denoising_error
from src.diffusion.noise import generators_from, randn_each
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.diffusion.pixels import to_signed, to_unit
from src.diffusion.regions import mouth_box
from src.diffusion.sampling import SAMPLERS, Scheduler, SchedulerFactory, sample, sampler_for, takes_eta
from src.errors import ConfigError, StoreError
from src.lightning_modules.moditalker_mtov_autoencoder import LIP_MARGIN, load_autoencoder
from src.lightning_modules.optimization import OptimizerFactory, optimize
from src.lightning_modules.optimization import SchedulerFactory as LRSchedulerFactory
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import StepRandomness
from src.lightning_modules.stages import UNTRAINED, fill_from_stage
from src.lightning_modules.validation import evaluation_is_due, row_generators
from src.metrics.images import PSNR, SSIM
from src.nn.moditalker_mtov import MToVUNet, TriplaneAutoencoder

METHOD = "moditalker_mtov"
PUBLISHED = "published"  # the original's DDIM, with clipped clean latents and noise in every step

Batch = Mapping[str, Tensor]
Video = UInt8[Tensor, "b t 3 h w"]


@dataclass(frozen=True)
class Conditions:
    """What the network is told of clips.

    Attributes:
        clips: z_l, z_m and, where the network takes it, z_p, side by side on the channels.
        person: z_r, all of it or the first plane.
    """

    clips: Float[Tensor, "b k n"]
    person: Float[Tensor, "b c m"]


class MToV(pl.LightningModule):
    """Learns to predict the noise of a clip's latent; both autoencoders are frozen.

    Loss: mean |prediction - eps|^2 over all values, or what `prediction_type` and the limits of the weights make of it. Batches: see
    `src.datamodules.moditalker_mtov`. Logged: `train/loss`, `val/loss` (without `lip_weight`, on time steps and noise that never change),
    and, of sampled clips, `val/psnr`, `val/ssim` and, with its weights, `val/lpips`; the clips themselves by the `LogSamples` callback.

    Args:
        net: the network; with `n_conditions=3` it also sees the clip before.
        autoencoder: of faces.
        landmark_autoencoder: of drawn landmarks.
        noise_schedule: betas and prediction type, one of diffusers' schedulers.
        optimizer: partial, called with the network's parameters; only training needs it.
        lr_scheduler: partial, see `src.lightning_modules.optimization.optimize`.
        autoencoder_ckpt: checkpoint of the first autoencoder, or `last:RUN`, the newest of the runs of that name; needed for training.
        landmark_autoencoder_ckpt: of the second one.
        init_ckpt: of another MToV, whose network to begin with; None: random weights.
        runs: folder of the runs.
        previous_dropout: share of the clips that are trained without the clip before although there is one: the first clip of a video has
            none.
        lip_weight: of the error at the positions of the planes that see the lips, beside that of all; 0: none, as the original.
        min_snr_gamma: see `src.diffusion.losses.denoising_error`.
        snr_floor: idem.
        sampler: `published`, or see `src.diffusion.sampling.sampler_for`.
        sample_steps: of it.
        eta: 0 is deterministic, 1 as random as DDPM; `published` and DDIM only.
        eval_every_n_epochs: epochs between two measurements of sampled clips; 0: never.
        eval_clips: how many.
        seed: of all noise.

    Raises:
        ConfigError: the sizes of net and autoencoders do not fit together.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        net: MToVUNet,
        autoencoder: TriplaneAutoencoder,
        landmark_autoencoder: TriplaneAutoencoder,
        noise_schedule: Scheduler,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: LRSchedulerFactory | None = None,
        *,
        autoencoder_ckpt: str | Path | None = None,
        landmark_autoencoder_ckpt: str | Path | None = None,
        init_ckpt: str | Path | None = None,
        runs: str | Path = "logs",
        previous_dropout: float = 0.3,
        lip_weight: float | int = 0.0,
        min_snr_gamma: float | None = None,
        snr_floor: float | None = None,
        sampler: str | SchedulerFactory = PUBLISHED,
        sample_steps: int = 100,
        eta: float = 1.0,
        eval_every_n_epochs: int = 5,
        eval_clips: int = 4,
        seed: int = 42,
    ) -> None:
        super().__init__()
        for name, part in (("autoencoder", autoencoder), ("landmark_autoencoder", landmark_autoencoder)):
            if part.shape != net.shape or part.latent_channels != net.latent_channels:
                raise ConfigError(
                    f"model.{name} makes latents of {part.latent_channels} channels for {part.shape}, model.net takes "
                    f"{net.latent_channels} for {net.shape}: set net.size, net.frames and net.latent_channels alike."
                )
        self.net: MToVUNet = net
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.landmark_autoencoder = landmark_autoencoder.eval().requires_grad_(False)
        self.noise_schedule = noise_schedule
        self.num_train_timesteps: int = noise_schedule.config.num_train_timesteps
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.autoencoder_ckpt = autoencoder_ckpt
        self.landmark_autoencoder_ckpt = landmark_autoencoder_ckpt
        self.init_ckpt = init_ckpt
        self.runs = Path(runs)
        self.previous_dropout = previous_dropout
        self.lip_weight = lip_weight
        self.loss_limits = (min_snr_gamma, snr_floor)
        self.sampler = sampler
        self.sample_steps = sample_steps
        self.eta = eta
        self.eval_every_n_epochs = eval_every_n_epochs
        self.eval_clips = eval_clips
        self.seed = seed
        self.register_buffer("alphas_cumprod", _exact_alphas_cumprod(noise_schedule), persistent=False)
        self.check_sampler(None, sample_steps)
        self.val_loss = MeanMetric()
        self.val_psnr, self.val_ssim, self.val_lpips = PSNR(), SSIM(), ValidationLPIPS()

    @property
    def sees_previous(self) -> bool:
        """Whether the network is told of the clip before."""
        return self.net.n_conditions > 2

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.autoencoder.frames

    @property
    def resolution(self) -> int:
        """Height and width of the frames."""
        return self.autoencoder.resolution

    def train(self, mode: bool = True) -> "MToV":
        """The autoencoders stay in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        self.landmark_autoencoder.eval()
        return self

    def setup(self, stage: str) -> None:
        """Load the autoencoders, and the weights to begin with, where they are asked for.

        Raises:
            ConfigError, CheckpointError: there are none that fit.
            StoreError: the latents of the data were made by others.
        """
        if stage != "fit":
            return
        for net, choice, setting in (
            (self.autoencoder, self.autoencoder_ckpt, "model.autoencoder_ckpt"),
            (self.landmark_autoencoder, self.landmark_autoencoder_ckpt, "model.landmark_autoencoder_ckpt"),
        ):
            load_autoencoder(net, choice, self.runs, setting)
        if self.init_ckpt is not None:
            how = "train one with experiment=moditalker_mtov_..."
            fill_from_stage(self.net, self.init_ckpt, self.runs, "model.init_ckpt", METHOD, how)
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        self._check_data(datamodule)

    def _check_data(self, datamodule: Any) -> None:
        """The data has the network's sizes, and its latents are of these autoencoders."""
        if (datamodule.resolution, datamodule.frames) != (self.resolution, self.frames):
            raise ConfigError(
                f"datamodule.resolution={datamodule.resolution} and frames={datamodule.frames}: the autoencoders take "
                f"{self.frames} frames of {self.resolution}x{self.resolution}; set them alike."
            )
        stored = getattr(datamodule.train_dataset, "latents", None)
        if stored is None or UNTRAINED in (self.autoencoder_ckpt, self.landmark_autoencoder_ckpt):
            return
        for name, net in (("autoencoder", self.autoencoder), ("landmark_autoencoder", self.landmark_autoencoder)):
            if stored.settings.get(name) != fingerprint_of(net):
                raise StoreError(
                    f"{stored.folder} was made by another {name} ({stored.settings.get(name)}) than model.{name}_ckpt "
                    f"({fingerprint_of(net)}): make latents of another name with tools/preprocess.py."
                )

    # --- latents

    @torch.no_grad()
    def encode(self, video: Video) -> Float[Tensor, "b c n"]:
        """Latents of clips of faces."""
        return self.autoencoder.encode(to_signed(video))

    @torch.no_grad()
    def encode_picture(self, picture: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c m"]:
        """First plane of the latents of still clips."""
        still = picture[:, None].expand(-1, self.frames, -1, -1, -1)
        return self.encode(still)[..., : self.net.shape.picture]

    @torch.no_grad()
    def encode_landmarks(self, pictures: Video) -> Float[Tensor, "b c n"]:
        """Latents of clips of drawn landmarks."""
        return self.landmark_autoencoder.encode(to_signed(pictures))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c n"]) -> Float[Tensor, "b t 3 h w"]:
        """Clips in [-1, 1]."""
        return self.autoencoder.decode(latents).clamp(-1, 1)

    def conditions(self, batch: Batch) -> Conditions:
        """Conditions of the clips of a batch with pictures or latents; a batch without a clip before has none."""
        if "landmark_latent" in batch:
            parts = [batch["landmark_latent"].float(), batch["masked_latent"].float()]
            person = batch["reference_latent"].float()
        else:
            parts = [self.encode_landmarks(batch["landmarks"]), self.encode(batch["masked"])]
            person = self.encode_picture(batch["reference"])
        if self.sees_previous:
            parts.append(self._previous(batch, parts[0]))
        return Conditions(torch.cat(parts, dim=1), person)

    def _previous(self, batch: Batch, like: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """z_p, zero where there is none."""
        if "has_previous" not in batch:
            return torch.zeros_like(like)
        there = batch["has_previous"].view(-1, 1, 1)
        latent = batch["previous_latent"] if "previous_latent" in batch else self.encode(batch["previous"])
        return latent.float() * there

    # --- training

    def loss(
        self,
        clean: Float[Tensor, "b c n"],
        conditions: Conditions,
        noise: Float[Tensor, "b c n"],
        timestep: Int64[Tensor, " b"],
        lips: Float[Tensor, "b t 20 2"] | None = None,
    ) -> Float[Tensor, ""]:
        """Denoising error of given noise at given time steps.

        Args:
            clean: z_0.
            conditions: of the clips.
            noise: eps.
            timestep: t.
            lips: outlines in pixels of the frames; given, the positions that see them count once more, by `lip_weight`.
        """
        ab = self.alphas_cumprod[timestep]
        level = ab.view(-1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        output = self.net(noisy, timestep, conditions.clips, conditions.person)
        prediction_type = self.noise_schedule.config.prediction_type
        error = denoising_error(output, clean, noise, ab, prediction_type, *self.loss_limits)
        if lips is None or not self.lip_weight:
            return error.mean()
        boxes = mouth_box(lips.flatten(0, 1), (self.resolution, self.resolution), LIP_MARGIN)
        seen = self.net.shape.seen_in(boxes.unflatten(0, lips.shape[:2]), self.autoencoder.patch)[:, None]
        on_lips = (error * seen).sum() / (error.shape[1] * seen.sum()).clamp(min=1)
        return error.mean() + self.lip_weight * on_lips

    def _clean(self, batch: Batch) -> Float[Tensor, "b c n"]:
        return batch["latent"].float() if "latent" in batch else self.encode(batch["target"])

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss at random time steps, uniform over the noise levels."""
        clean = self._clean(batch)
        randomness = StepRandomness(self, self.seed, batch_idx)
        noise = randomness.normal(clean)
        timestep = randomness.integers(self.num_train_timesteps, len(noise))
        if "has_previous" in batch:
            kept = randomness.integers(1000, len(noise)) >= 1000 * self.previous_dropout
            batch = {**batch, "has_previous": batch["has_previous"] & kept}
        if self.lip_weight and "lips" not in batch:
            raise ConfigError(f"model.lip_weight={self.lip_weight}: batches have no lips; set it to 0.")
        loss = self.loss(clean, self.conditions(batch), noise, timestep, batch.get("lips"))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(noise))
        return loss

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss`, and where it is due the measures of sampled clips."""
        clean = self._clean(batch)
        generators = row_generators(self, "val/loss", batch["index"])
        timestep = torch.cat(
            [torch.randint(self.num_train_timesteps, (1,), generator=g, device=self.device) for g in generators]
        )
        noise = randn_each(generators, clean.shape[1:])
        self.val_loss.update(self.loss(clean, self.conditions(batch), noise, timestep), weight=len(noise))
        self.log("val/loss", self.val_loss, prog_bar=True)
        if batch_idx == 0 and evaluation_is_due(self, self.eval_every_n_epochs):
            self._evaluate()

    def _evaluate(self) -> None:
        """Compare sampled with real clips of a fixed subset; each process takes its share."""
        for name in ("psnr", "ssim"):
            self.log(f"val/{name}", getattr(self, f"val_{name}"), prog_bar=name == "psnr")
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        mine = slice(self.global_rank, None, self.trainer.world_size)
        batch = {key: value[mine].to(self.device) for key, value in datamodule.preview(self.eval_clips).items()}
        self.val_lpips.log_from(self, batch["target"].shape[-2:])
        if not len(batch["index"]):
            return
        generators = row_generators(self, "val/sample", batch["index"])
        generated = to_unit(self.decode(self.denoise(self.conditions(batch), generators))).flatten(0, 1)
        real = batch["target"].flatten(0, 1)
        self.val_psnr.update(generated, real)
        self.val_ssim.update(generated, real)
        self.val_lpips.update(generated, real)

    # --- sampling

    @torch.no_grad()
    def denoise(
        self,
        conditions: Conditions,
        generators: Sequence[torch.Generator],
        *,
        start: Float[Tensor, "b c n"] | None = None,
        strength: float | None = None,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float | None = None,
    ) -> Float[Tensor, "b c n"]:
        """Latents of clips.

        Args:
            conditions: of the clips.
            generators: of all noise, one per clip.
            start: latents that the sampling starts from, with noise; `published` only. None: noise alone.
            strength: share of that noise, see `src.diffusion.clipped_ddim.times_from`.
            sampler: `published`, or see `src.diffusion.sampling.sampler_for`; None: the model's own.
            steps: of it; None: the model's own.
            eta: 0 is deterministic, 1 as random as DDPM; None: the model's own where the sampler has it.
        """
        sampler = sampler or self.sampler
        steps = self.sample_steps if steps is None else steps
        c, n = self.net.latent_channels, self.net.shape.length
        noise = randn_each(generators, (c, n)).to(conditions.clips)

        def predict(noisy: Tensor, timestep: Tensor) -> Float[Tensor, "b c n"]:
            return self.net(noisy, timestep, conditions.clips, conditions.person)

        if sampler == PUBLISHED:
            times = ddim_times(self.num_train_timesteps, steps)
            if start is not None and strength is not None:
                first, times = times_from(times, self.num_train_timesteps, strength)
                noise = noised(start, noise, self.alphas_cumprod, first)
            eta = self.eta if eta is None else eta
            return clipped_ddim(predict, noise, self.alphas_cumprod, times, eta=eta, generators=generators)
        scheduler = sampler_for(self.noise_schedule, sampler)
        randomness = (self.eta if eta is None else eta) if takes_eta(scheduler) else 0.0
        # Diffusers' samplers know pictures: the planes are a picture of one row.
        made = sample(
            lambda x, t: predict(x[:, :, 0], t)[:, :, None], noise[:, :, None], scheduler, steps, generators=generators, eta=randomness
        )  # fmt: skip
        return made[:, :, 0]

    def check_sampler(
        self, sampler: str | SchedulerFactory | None, steps: int | None = None, eta: float | None = None
    ) -> None:
        """ConfigError where there is no such sampler, it cannot sample this model in so many steps, or it has no `eta`."""
        sampler = sampler or self.sampler
        if steps is not None and not 1 <= steps <= self.num_train_timesteps:
            raise ConfigError(f"steps={steps}: give 1 to {self.num_train_timesteps}.")
        if sampler == PUBLISHED:
            if self.noise_schedule.config.prediction_type != "epsilon":
                raise ConfigError("sampler=published is for models that predict the noise: choose ddim or another.")
            return
        if isinstance(sampler, str) and sampler not in SAMPLERS:
            raise ConfigError(f"sampler={sampler}: choose one of {', '.join((PUBLISHED, *SAMPLERS))}.")
        if eta and not takes_eta(sampler_for(self.noise_schedule, sampler)):
            raise ConfigError(f"eta={eta} is for sampler=ddim or published: set eta=0 or choose one of them.")

    def check_strength(self, strength: float, steps: int | None = None) -> None:
        """ConfigError where sampling cannot start with so little, or so much, noise."""
        times = ddim_times(self.num_train_timesteps, self.sample_steps if steps is None else steps)
        times_from(times, self.num_train_timesteps, strength)

    def sample(self, conditions: Batch, generator: torch.Generator, **options: Any) -> Float[Tensor, "b 3 h w"]:
        """The middle frames of clips, in [-1, 1], deterministic for the state of `generator`.

        Args:
            conditions: batch with pictures.
            generator: of all noise.
            options: of `denoise`.
        """
        return self.sample_clips(conditions, generator, **options)[:, self.frames // 2]

    def sample_clips(self, conditions: Batch, generator: torch.Generator, **options: Any) -> Float[Tensor, "b t 3 h w"]:
        """Clips in [-1, 1], see `sample`."""
        seeds = torch.randint(2**62, (len(conditions["reference"]),), generator=generator).tolist()
        latents = self.denoise(self.conditions(conditions), generators_from(seeds, self.device), **options)
        return self.decode(latents)

    def sample_video(self, conditions: Batch, generator: torch.Generator, **options: Any) -> Float[Tensor, "t 3 h w"]:
        """A video of whole clips, each of which is told of the one before where the network takes that; `reference` is one frame."""
        n_clips = len(conditions["landmarks"]) // self.frames
        clips: list[Tensor] = []
        before: dict[str, Tensor] = {}
        for i in range(n_clips):
            window = slice(i * self.frames, (i + 1) * self.frames)
            batch = {name: conditions[name][window][None] for name in ("landmarks", "masked")}
            batch |= {"reference": conditions["reference"][None], **before}
            seeds = torch.randint(2**62, (1,), generator=generator).tolist()
            latent = self.denoise(self.conditions(batch), generators_from(seeds, self.device), **options)
            clips.append(self.decode(latent)[0])
            before = {"previous_latent": latent, "has_previous": torch.ones(1, dtype=torch.bool, device=self.device)}
        return torch.cat(clips)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the learning-rate schedule over all optimiser steps of the run."""
        return optimize(self, self.optimizer, self.lr_scheduler)


def _exact_alphas_cumprod(schedule: Scheduler) -> Float[Tensor, " n"]:
    """As the original computes them, in float64; the scheduler's own differ by 1e-6."""
    config = schedule.config
    if config.beta_schedule != "scaled_linear" or config.trained_betas is not None:
        return schedule.alphas_cumprod.clone()
    betas = scaled_linear_betas(config.num_train_timesteps, config.beta_start, config.beta_end)
    return noise_tables(betas)["alphas_cumprod"]
