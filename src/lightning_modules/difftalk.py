"""Training of DiffTalk: a diffusion model of a frame's latent whose lower face is hidden, given a voice, a reference frame and landmarks.

Symbols: z_0 clean latent of the whole frame, z_m latent of the masked frame, z_r of the reference frame, eps noise, t time step, m mask.
Source: Shen et al., arXiv:2301.03786; latent diffusion: Rombach et al., arXiv:2112.10752.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.diffusion.inpainting import ddim_schedule, inpaint, published_ddim
from src.diffusion.losses import denoising_error
from src.diffusion.noise import FrameNoise, NoiseMode, randn_each
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas
from src.diffusion.pixels import to_signed, to_unit
from src.diffusion.regions import boxed_loss, mouth_box
from src.diffusion.sampling import SAMPLERS, Scheduler, SchedulerFactory, sampler_for, takes_eta
from src.errors import ConfigError, require_least
from src.face.repainting import MaskRule, latent_masks
from src.lightning_modules.difftalk_first_stage import check_batch, check_latents, take_over
from src.lightning_modules.optimization import OptimizerFactory, optimize
from src.lightning_modules.optimization import SchedulerFactory as LRSchedulerFactory
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import StepRandomness
from src.lightning_modules.validation import evaluation_is_due, row_generators
from src.metrics.images import PSNR, SSIM
from src.nn.difftalk import DiffTalkNet, VQAutoencoder

CONSTANT = 1e-6  # deviation of a latent channel below which it carries nothing
PUBLISHED = "published"  # the original's masked DDIM

LIP_MARGIN = 1  # cells around the lips

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditions:
    """What the network is told of frames, and what is known of the result.

    Attributes:
        masked: z_m.
        reference: z_r.
        tokens: voice and landmarks.
        known: z_0 where it is kept; None: nothing is.
        kept: cells of the latent that are kept, in {0, 1}.
    """

    masked: Float[Tensor, "b c h w"]
    reference: Float[Tensor, "b c h w"]
    tokens: Float[Tensor, "b m e"]
    known: Float[Tensor, "b c h w"] | None = None
    kept: Float[Tensor, "b 1 h w"] | None = None


class DiffTalk(pl.LightningModule):
    """Learns to denoise the latent of a frame; samples it with the kept part of the frame held fast.

    Batches are those of `src.datamodules.difftalk`, with pictures or with latents that were computed before. Logged: `train/loss`;
    `val/loss` with the same noise and time steps in every epoch; `val/psnr`, `val/ssim` and, with its weights, `val/lpips` of sampled
    frames against the real ones, and `val/psnr_repainted` within the repainted part alone.

    Args:
        net: maps (z_t, t, z_m, z_r, voice, landmarks) to a prediction.
        first_stage: frames to latents and back; frozen.
        noise_schedule: one of diffusers' schedulers: betas and prediction type.
        optimizer: partial, called with the network's parameters; only training needs it.
        lr_scheduler: partial, called with `optimizer` (and `num_training_steps` where it takes that).
        mask: what is repainted; that of the data.
        first_stage_ckpt: checkpoint of `DiffTalkAutoencoder` that a new training begins with: a file, or `last:RUN`, the newest of the
            runs of that name; `untrained` leaves it random, for trials of the code. A DiffTalk checkpoint brings its first stage along.
        runs: folder of the runs that `last:RUN` looks at.
        base_lr: where given, the learning rate is `base_lr` x processes x batch size x accumulated batches, as the original has it.
        normalise_latents: measure mean and deviation of the first stage's latents before training, and work on normalised ones. The
            published first stage has latents near the unit scale and takes them as they are.
        lip_weight: of the error around the lips, beside that of the whole latent; 0: none, as the original.
        kept_weight: of the error where the frame is kept, relative to the repainted part; 1: as the original.
        min_snr_gamma: upper limit of the loss weight, see `src.diffusion.losses`; None: the original's weights.
        snr_floor: lower limit, see there.
        sampler: for sampling: `published`, or see `src.diffusion.sampling.sampler_for`.
        sample_steps: of that sampler.
        eval_every_n_epochs: epochs between two evaluations of sampled frames, starting with the first; 0: never.
        eval_frames: validation frames that are sampled for them.
        seed: of the noise.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        net: DiffTalkNet,
        first_stage: VQAutoencoder,
        noise_schedule: Scheduler,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: LRSchedulerFactory | None = None,
        *,
        mask: MaskRule | None = None,
        first_stage_ckpt: str | Path | None = None,
        runs: str | Path = "logs",
        base_lr: float | None = None,
        normalise_latents: bool = False,
        lip_weight: float | int = 0.0,
        kept_weight: float | int = 1.0,
        min_snr_gamma: float | None = None,
        snr_floor: float | None = None,
        sampler: str | SchedulerFactory | None = "ddim",
        sample_steps: int = 50,
        eval_every_n_epochs: int = 5,
        eval_frames: int = 16,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.net: DiffTalkNet = net
        self.first_stage: VQAutoencoder = first_stage.requires_grad_(False).eval()
        self.noise_schedule = noise_schedule
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.mask = mask or MaskRule()
        self.first_stage_ckpt = first_stage_ckpt
        self.runs = Path(runs)
        self.base_lr = base_lr
        self.normalise_latents = normalise_latents
        self.lip_weight = lip_weight
        self.kept_weight = kept_weight
        self.loss_limits = (min_snr_gamma, snr_floor)
        self.sampler = sampler
        require_least("model.sample_steps", sample_steps, 1)
        require_least("model.eval_frames", eval_frames, 1)
        self.sample_steps = sample_steps
        self.eval_every_n_epochs = eval_every_n_epochs
        self.eval_frames = eval_frames
        self.seed = seed
        self._resumed = False
        channels = first_stage.latent_channels
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.val_loss = MeanMetric()
        self.val_psnr = PSNR()
        self.val_ssim = SSIM()
        self.val_lpips = ValidationLPIPS()
        self.val_psnr_repainted = MeanMetric()

    @property
    def num_train_timesteps(self) -> int:
        """Number of noise levels."""
        return self.noise_schedule.config.num_train_timesteps

    def train(self, mode: bool = True) -> "DiffTalk":
        """As every module, but that the first stage stays as it is."""
        super().train(mode)
        self.first_stage.eval()
        return self

    def forward(
        self, noisy: Float[Tensor, "b c h w"], timestep: Int64[Tensor, " b"], conditions: Conditions
    ) -> Float[Tensor, "b c h w"]:
        """The network's prediction for z_t at t."""
        return self.net.denoise(noisy, timestep, conditions.masked, conditions.reference, conditions.tokens)

    # --- the first stage

    def setup(self, stage: str) -> None:
        """ConfigError where speech features or pictures of the data are not those of the network, or `sampler` cannot sample it."""
        self.check_sampler(None)  # now, not at the first evaluation
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        check_batch(datamodule.preview(1), self.net, self.first_stage)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is resumed brings its first stage along, and the scale of its latents."""
        self._resumed = True

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """A new training takes over the first stage, and measures its latents where they are to be normalised."""
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        if not self._resumed:
            take_over(self.first_stage, self.first_stage_ckpt, self.runs)
        check_latents(datamodule.train_dataset, self.first_stage)
        if self.normalise_latents and not self._resumed:
            self._measure_latents(datamodule.preview(64)["target"])

    def _measure_latents(self, frames: UInt8[Tensor, "b 3 h w"]) -> None:
        """Mean and deviation of the frames' latents, encoded a few at a time; a channel that never changes keeps its scale."""
        latents = torch.cat([self.first_stage.encode(to_signed(part.to(self.device))) for part in frames.split(8)])
        self.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        deviation = latents.std(dim=(0, 2, 3))
        self.latent_std.copy_(torch.where(deviation > CONSTANT, deviation, 1.0))

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Latents, as the network sees them, of frames in [-1, 1]."""
        return self._normalised(self.first_stage.encode(frames))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        """Frames in [-1, 1] of latents as the network makes them."""
        return self.first_stage.decode(self._denormalised(latents)).clamp(-1, 1)

    @torch.no_grad()
    def quantise(self, latents: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b c h2 w2"]:
        """Latents, as the network makes them, moved to the nearest entries of the first stage's codebook."""
        return self._normalised(self.first_stage.quantise(self._denormalised(latents)).latent)

    def _denormalised(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def _normalised(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (latents - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def latents_of(self, batch: Batch, names: Sequence[str] = ("target", "masked", "reference")) -> list[Tensor]:
        """Latents (b, c, h, w) of the target, masked or reference frames of a batch: given ones, or encoded in one pass."""
        return [self._normalised(latents) for latents in self._raw_latents(batch, names)]

    @torch.no_grad()
    def _raw_latents(self, batch: Batch, names: Sequence[str]) -> list[Tensor]:
        cached = {"target": "latent", "masked": "masked_latent", "reference": "reference_latent"}
        if "latent" in batch:
            return [batch[cached[name]].float() for name in names]
        frames = {name: to_signed(batch[name]) for name in ("target", "reference") if name in batch}
        if "masked" in names:
            frames["masked"] = frames["target"].masked_fill(~batch["kept"], -1.0)
        return list(self.first_stage.encode(torch.cat([frames[name] for name in names])).chunk(len(names)))

    # --- training

    def loss(
        self, batch: Batch, noise: Float[Tensor, "b c h w"], timestep: Int64[Tensor, " b"], latents: Sequence[Tensor]
    ) -> Float[Tensor, ""]:
        """Denoising error of given noise at given time steps; `latents` are z_0, z_m, z_r of the batch."""
        clean, masked, reference = latents
        noisy = self.noise_schedule.add_noise(clean, noise, timestep)
        output = self.net(noisy, timestep, masked, reference, batch["audio"], batch["landmarks"])
        alphas_cumprod = self.noise_schedule.alphas_cumprod.to(clean.device)[timestep]
        prediction_type = self.noise_schedule.config.prediction_type
        error = denoising_error(output, clean, noise, alphas_cumprod, prediction_type, *self.loss_limits)
        loss = self._weighted(error, batch["kept"])
        if self.lip_weight:
            height, width = error.shape[-2:]
            boxes = mouth_box(batch["lips"] / self.first_stage.factor, (height, width), margin=LIP_MARGIN)
            loss = loss + self.lip_weight * boxed_loss(error, boxes)
        return loss

    def _weighted(self, error: Float[Tensor, "b c h w"], kept: Bool[Tensor, "b 1 h2 w2"]) -> Float[Tensor, ""]:
        """Mean error; a cell counts as repainted where any of its pixels is."""
        if self.kept_weight == 1:
            return error.mean()
        repainted = F.max_pool2d((~kept).float(), self.first_stage.factor)
        weight = repainted + self.kept_weight * (1 - repainted)
        return (error * weight).sum() / (weight.sum().clamp(min=1) * error.shape[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss at random time steps, uniform over the noise levels."""
        latents = self.latents_of(batch)
        randomness = StepRandomness(self, self.seed, batch_idx)
        noise = randomness.normal(latents[0])
        timestep = randomness.integers(self.num_train_timesteps, len(noise))
        loss = self.loss(batch, noise, timestep, latents)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(noise))
        return loss

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss`, and where it is due the measures of sampled frames."""
        latents = self.latents_of(batch)
        generators = row_generators(self, "val/loss", batch["index"])
        timestep = torch.cat(
            [torch.randint(self.num_train_timesteps, (1,), generator=g, device=self.device) for g in generators]
        )
        noise = randn_each(generators, latents[0].shape[1:])
        self.val_loss.update(self.loss(batch, noise, timestep, latents), weight=len(noise))
        self.log("val/loss", self.val_loss, prog_bar=True)
        if batch_idx == 0 and evaluation_is_due(self, self.eval_every_n_epochs):
            self._evaluate()

    def _evaluate(self) -> None:
        """Compare sampled with real frames of a fixed subset; each process takes its share."""
        for name in ("psnr", "ssim", "psnr_repainted"):
            self.log(f"val/{name}", getattr(self, f"val_{name}"), prog_bar=name != "ssim")
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        mine = slice(self.global_rank, None, self.trainer.world_size)
        batch = {key: value[mine].to(self.device) for key, value in datamodule.preview(self.eval_frames).items()}
        self.val_lpips.log_from(self, batch["target"].shape[-2:])
        if not len(batch["index"]):
            return
        generators = row_generators(self, "val/sample", batch["index"])
        conditions = self.conditions(batch)
        noise = randn_each(generators, conditions.masked.shape[1:])
        frames = self.decode(self.repaint(conditions, noise, generators=generators))
        generated = to_unit(composite(frames, to_signed(batch["target"]), batch["kept"]))
        self.val_psnr.update(generated, batch["target"])
        self.val_ssim.update(generated, batch["target"])
        self.val_lpips.update(generated, batch["target"])
        error = (generated - batch["target"] / 255).square() * ~batch["kept"]
        per_frame = error.sum(dim=(1, 2, 3)) / (3 * (~batch["kept"]).sum(dim=(1, 2, 3))).clamp(min=1)
        self.val_psnr_repainted.update(-10 * per_frame.clamp(min=1e-10).log10())

    # --- sampling

    def conditions(self, batch: Batch, *, hold: bool = True) -> Conditions:
        """Conditions of the frames of a batch, computed once for all steps.

        Args:
            batch: `target` (what is kept of it), `kept`, `reference`, `audio`, `landmarks`; or latents.
            hold: hold the kept part of the latent fast while sampling.
        """
        known, masked, reference = self.latents_of(batch)
        with torch.no_grad():
            tokens = self.net.tokens(batch["audio"], batch["landmarks"])
        conditions = Conditions(masked, reference, tokens)
        return replace(conditions, known=known, kept=self.kept_cells(batch["kept"])) if hold else conditions

    def kept_cells(self, kept: Bool[Tensor, "b 1 h w"], rule: MaskRule | None = None) -> Float[Tensor, "b 1 h2 w2"]:
        """Cells of the latent that are kept, in {0, 1}; `rule` is what `kept` was made by, None: the model's own."""
        cells = latent_masks(kept[:, 0].cpu().numpy(), self.first_stage.factor, rule or self.mask)
        return torch.from_numpy(cells[:, None]).to(self.device, torch.float32)

    @torch.no_grad()
    def repaint(
        self,
        conditions: Conditions,
        noise: Float[Tensor, "b c h w"],
        *,
        generators: Sequence[torch.Generator] | None = None,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        quantize_x0: bool = False,
    ) -> Float[Tensor, "b c h w"]:
        """Latents of whole frames from given starting noise.

        Args:
            conditions: of the frames.
            noise: z_T.
            generators: of all other noise, one per frame.
            sampler: `published`: the original's DDIM, or one of diffusers', whose kept part ends as the frame's own latent; None: the
                model's own.
            steps: of it.
            eta: 0 is deterministic, 1 as random as DDPM; DDIM only.
            temperature: factor of the noise of each step; `published` only, as the following ones.
            noise_dropout: share of that noise that is set to zero, 0 to 1.
            quantize_x0: move every step's clean latent to the codebook.
        """
        sampler = sampler or self.sampler
        steps = self.sample_steps if steps is None else steps
        options: dict[str, Any] = {
            "known": conditions.known,
            "kept": conditions.kept,
            "generators": generators,
            "eta": eta,
        }

        def denoise(noisy: Tensor, timestep: Tensor) -> Float[Tensor, "b c h w"]:
            return self(noisy, timestep, conditions)

        if sampler == PUBLISHED:
            options |= {"temperature": temperature, "noise_dropout": noise_dropout}
            options["quantize"] = self.quantise if quantize_x0 else None
            return published_ddim(denoise, noise, self._exact_alphas_cumprod(), steps, **options)
        return inpaint(denoise, noise, sampler_for(self.noise_schedule, sampler), steps, **options)

    def _exact_alphas_cumprod(self) -> Float[Tensor, " n"]:
        """As the original computes them, in float64; the scheduler's own differ by 1e-6."""
        config = self.noise_schedule.config
        if config.beta_schedule != "scaled_linear" or config.trained_betas is not None:
            return self.noise_schedule.alphas_cumprod
        betas = scaled_linear_betas(config.num_train_timesteps, config.beta_start, config.beta_end)
        return noise_tables(betas)["alphas_cumprod"]

    def evaluations(self, sampler: str | SchedulerFactory | None = None, steps: int | None = None) -> int:
        """How often the network looks at a frame: `steps`, or a few more where `published` cannot divide the time steps by them."""
        steps = self.sample_steps if steps is None else steps
        return (
            len(ddim_schedule(self._exact_alphas_cumprod(), steps)) if (sampler or self.sampler) == PUBLISHED else steps
        )

    def check_sampler(self, sampler: str | SchedulerFactory | None, eta: float = 0.0) -> None:
        """ConfigError where there is no such sampler, it cannot sample this model, or it has no `eta`."""
        sampler = sampler or self.sampler
        if sampler == PUBLISHED:
            if self.noise_schedule.config.prediction_type != "epsilon":
                raise ConfigError("sampler=published is for models that predict the noise: choose ddim or another.")
            return
        if isinstance(sampler, str) and sampler not in SAMPLERS:
            raise ConfigError(f"sampler={sampler}: choose one of {', '.join((PUBLISHED, *SAMPLERS))}.")
        if eta and not takes_eta(sampler_for(self.noise_schedule, sampler)):
            raise ConfigError(f"eta={eta} is for sampler=ddim or published: set eta=0 or choose one of them.")

    def sample(
        self, conditions: Batch, generator: torch.Generator, *, noise: NoiseMode = "random", **options: Any
    ) -> Float[Tensor, "b 3 h w"]:
        """Frames in [-1, 1] whose kept part is the target's, deterministic for the state of `generator`.

        Args:
            conditions: batch with pictures.
            generator: of all noise.
            noise: independent starting noise per frame, or the same for all.
            options: of `repaint`.
        """
        latents = self.conditions(conditions)
        start, generators = FrameNoise(tuple(latents.masked.shape[1:]), generator, noise).draw(len(latents.masked))
        frames = self.decode(self.repaint(latents, start.to(self.device), generators=generators, **options))
        return composite(frames, to_signed(conditions["target"]), conditions["kept"])

    def sample_video(self, conditions: Batch, generator: torch.Generator, **options: Any) -> Float[Tensor, "t 3 h w"]:
        """`sample` for consecutive frames: with the same noise for all, which is steadier; `reference` is one frame (3, h, w)."""
        reference = conditions["reference"].expand(len(conditions["target"]), -1, -1, -1)
        return self.sample({**conditions, "reference": reference}, generator, noise="same", **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the learning-rate schedule over all optimiser steps of the run."""
        return optimize(self, self.optimizer, self.lr_scheduler, base_lr=self.base_lr)


def composite(
    generated: Float[Tensor, "b 3 h w"], known: Float[Tensor, "b 3 h w"], kept: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Generated frames with the kept pixels put back."""
    return torch.where(kept, known, generated)
