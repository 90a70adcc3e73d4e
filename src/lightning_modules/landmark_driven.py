"""Training of landmark_driven: a diffusion model of one frame, given a reference frame and two landmark pictures.

Symbols: x_0 clean target frame, eps noise, t time step, x_t noisy frame, c condition.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.diffusion.losses import denoising_error
from src.diffusion.noise import FrameNoise, NoiseMode, randn_each
from src.diffusion.pixels import to_signed, to_unit
from src.diffusion.sampling import Scheduler, SchedulerFactory, StepCallback, sample, sampler_for
from src.lightning_modules.optimization import OptimizerFactory, optimize
from src.lightning_modules.optimization import SchedulerFactory as LRSchedulerFactory
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import StepRandomness
from src.lightning_modules.validation import evaluation_is_due, row_generators
from src.metrics.images import PSNR, SSIM
from src.nn.landmark_driven import LandmarkDrivenUNet

log = logging.getLogger(__name__)

CONDITION = ("reference", "target_landmarks", "reference_landmarks")  # order of the network's condition channels

Batch = Mapping[str, Tensor]


def stack_condition(batch: Mapping[str, UInt8[Tensor, "b 3 h w"]]) -> Float[Tensor, "b 9 h w"]:
    """Reference frame, target landmark picture and reference landmark picture of a batch in [-1, 1], as the network takes them."""
    return torch.cat([to_signed(batch[key]) for key in CONDITION], dim=1)


class LandmarkDriven(pl.LightningModule):
    """Learns to denoise the target frame; samples it with any of diffusers' schedulers.

    Batches are those of `src.datamodules.landmark_driven`. Logged: `train/loss`; `val/loss` with the same noise and time steps in every
    epoch, so that the curve shows the model and not the dice; `val/ssim`, `val/psnr` and, with its weights, `val/lpips` of sampled against
    real frames. Validation sees the averaged weights where the EMA callback keeps them.

    Args:
        net: maps (x_t, c, t) to a prediction.
        noise_schedule: one of diffusers' schedulers: betas, prediction type and the sampler that the original uses (DDIM).
        optimizer: partial, called with the parameters; only training needs it.
        lr_scheduler: partial, called with `optimizer` and `num_training_steps` (optimiser steps); stepped after every optimiser step.
        min_snr_gamma: upper limit of the loss weight, see `src.diffusion.losses`; None: the original's weights.
        snr_floor: lower limit, see there.
        sampler: for sampling during validation, see `src.diffusion.sampling.sampler_for`; None: `noise_schedule` itself.
        sample_steps: of that sampler.
        eval_every_n_epochs: epochs between two evaluations of sampled frames, starting with the first; 0: never.
        eval_frames: frames of the validation set that are sampled for them; None: all, as the original does.
        seed: of the noise.
    """

    def __init__(
        self,
        net: LandmarkDrivenUNet,
        noise_schedule: Scheduler,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: LRSchedulerFactory | None = None,
        *,
        min_snr_gamma: float | None = None,
        snr_floor: float | None = None,
        sampler: str | SchedulerFactory | None = None,
        sample_steps: int = 50,
        eval_every_n_epochs: int = 5,
        eval_frames: int | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.net: LandmarkDrivenUNet = net
        self.noise_schedule = noise_schedule
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loss_limits = (min_snr_gamma, snr_floor)
        self.sampler = sampler
        self.sample_steps = sample_steps
        self.eval_every_n_epochs = eval_every_n_epochs
        self.eval_frames = eval_frames
        self.seed = seed
        self.val_loss = MeanMetric()
        self.val_ssim = SSIM()
        self.val_psnr = PSNR()
        self.val_lpips = ValidationLPIPS()

    @property
    def num_train_timesteps(self) -> int:
        """Number of noise levels."""
        return self.noise_schedule.config.num_train_timesteps

    def forward(
        self, noisy: Float[Tensor, "b 3 h w"], condition: Float[Tensor, "b 9 h w"], timestep: Tensor
    ) -> Float[Tensor, "b 3 h w"]:
        """The network's prediction for x_t at t."""
        return self.net(noisy, condition, timestep)

    def loss(
        self,
        clean: Float[Tensor, "b 3 h w"],
        condition: Float[Tensor, "b 9 h w"],
        noise: Float[Tensor, "b 3 h w"],
        timestep: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Denoising loss of given noise at given time steps  (algorithm 1, arXiv:2006.11239)."""
        noisy = self.noise_schedule.add_noise(clean, noise, timestep)
        prediction = self(noisy, condition, timestep)
        alphas_cumprod = self.noise_schedule.alphas_cumprod.to(clean.device)[timestep]
        prediction_type = self.noise_schedule.config.prediction_type
        return denoising_error(prediction, clean, noise, alphas_cumprod, prediction_type, *self.loss_limits).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss at random time steps, uniform over the noise levels."""
        clean = to_signed(batch["target"])
        randomness = StepRandomness(self, self.seed, batch_idx)
        noise = randomness.normal(clean)
        timestep = randomness.integers(self.num_train_timesteps, len(clean))
        loss = self.loss(clean, stack_condition(batch), noise, timestep)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(clean))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss`, and where it is due the measures of sampled frames."""
        clean = to_signed(batch["target"])
        generators = row_generators(self, "val/loss", batch["index"])
        timestep = torch.cat(
            [torch.randint(self.num_train_timesteps, (1,), generator=g, device=self.device) for g in generators]
        )
        noise = randn_each(generators, clean.shape[1:])
        self.val_loss.update(self.loss(clean, stack_condition(batch), noise, timestep), weight=len(clean))
        self.log("val/loss", self.val_loss, prog_bar=True)
        if evaluation_is_due(self, self.eval_every_n_epochs):
            self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> None:
        """Compare sampled with real frames, for the rows that belong to the fixed subset."""
        self.log("val/ssim", self.val_ssim, prog_bar=True)
        self.log("val/psnr", self.val_psnr, prog_bar=True)
        self.val_lpips.log_from(self, batch["target"].shape[-2:])
        if self.eval_frames is not None:
            chosen = batch["index"] < self.eval_frames
            batch = {key: value[chosen] for key, value in batch.items()}
        if len(batch["index"]) == 0:
            return
        condition = stack_condition(batch)
        generators = row_generators(self, "val/sample", batch["index"])
        noise = randn_each(generators, (3, *condition.shape[-2:]))
        generated = to_unit(self.denoise(condition, noise, generators=generators))
        self.val_ssim.update(generated, batch["target"])
        self.val_psnr.update(generated, batch["target"])
        self.val_lpips.update(generated, batch["target"])

    def denoise(
        self,
        condition: Float[Tensor, "b 9 h w"],
        noise: Float[Tensor, "b 3 h w"],
        *,
        generators: Sequence[torch.Generator] | None = None,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        step_noise: Float[Tensor, "n b c h w"] | None = None,
        callback: StepCallback | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Frames in [-1, 1] from given starting noise; arguments as of `src.diffusion.sampling.sample`."""
        frames = sample(
            lambda x, t: self.net(x, condition, t),
            noise,
            sampler_for(self.noise_schedule, sampler or self.sampler),
            self.sample_steps if steps is None else steps,
            generators=generators,
            eta=eta,
            step_noise=step_noise,
            callback=callback,
        )
        return frames.clamp(-1, 1)

    def sample(
        self,
        conditions: Mapping[str, UInt8[Tensor, "b 3 h w"]],
        generator: torch.Generator,
        *,
        noise: NoiseMode = "random",
        **options: Any,
    ) -> Float[Tensor, "b 3 h w"]:
        """Frames in [-1, 1] for the given conditions, deterministic for the state of `generator`.

        Args:
            conditions: batch with `reference`, `target_landmarks` and `reference_landmarks`; other keys are ignored.
            generator: of all noise; draws on its own device.
            noise: independent starting noise per frame, or the same for all.
            options: of `denoise`.
        """
        condition = stack_condition(conditions)
        start, generators = FrameNoise((3, *condition.shape[-2:]), generator, noise).draw(len(condition))
        return self.denoise(condition, start.to(condition.device), generators=generators, **options)

    def sample_video(
        self, conditions: Mapping[str, UInt8[Tensor, "t 3 h w"]], generator: torch.Generator, **options: Any
    ) -> Float[Tensor, "t 3 h w"]:
        """`sample` for consecutive frames: with the same noise for all, which is steadier."""
        return self.sample(conditions, generator, noise="same", **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the learning-rate schedule over all optimiser steps of the run."""
        return optimize(self, self.optimizer, self.lr_scheduler)
