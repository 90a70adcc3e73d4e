"""Training of MToV's autoencoders: clips of faces, or of drawn landmarks, to three planes and back (PVDM, arXiv:2302.07685).

Symbols: x clip, x' its reconstruction, D2 and D3 the discriminators of frames and of clips.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.diffusion.pixels import to_signed, to_uint8, to_unit
from src.diffusion.regions import boxed_loss, mouth_box
from src.errors import ConfigError, require_choice, require_least
from src.lightning_modules.optimization import (
    OptimizerFactory,
    SchedulerFactory,
    make_optimizer,
    uncounted,
    with_schedule,
)
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import StepRandomness
from src.lightning_modules.stages import fill_from_stage
from src.metrics.frechet import FrechetDistance, VideoFeatures
from src.metrics.images import PSNR, SSIM
from src.metrics.perceptual import PerceptualDistance
from src.metrics.weights import i3d
from src.nn.adversarial import discriminator_loss, feature_matching, generator_loss
from src.nn.i3d import MIN_FRAMES
from src.nn.moditalker_mtov import ClipDiscriminator, TriplaneAutoencoder

METHOD = "moditalker_mtov_autoencoder"
LIP_MARGIN = 2  # pixels around the lips that count with them

Batch = Mapping[str, Tensor]
Clips = Float[Tensor, "b t 3 h w"]
Phase = Literal["autoencoder", "discriminator"]
Reconstruction = Literal["l1", "l2"]


def phase_of(batch: int, disc_start: int, accumulate: int = 1) -> Phase:
    """Which networks learn from the n-th batch of a training.

    Groups of `accumulate` batches make an optimiser step. The autoencoder has all groups up to number `disc_start`; from then on the
    discriminators have every second one. Below 0 they have none.
    """
    after = batch // accumulate - disc_start
    return "discriminator" if disc_start >= 0 and after > 0 and after % 2 else "autoencoder"


class MToVAutoencoder(pl.LightningModule):
    """Learns to bring clips through three small planes.

    L_autoencoder   = reconstruction_weight mean |x - x'| + perceptual_weight LPIPS(one frame)
                      + f (-(mean D2(frame of x') + mean D3(x')) + feature_weight (FM2 + FM3))
    L_discriminator = f (hinge(D2) + hinge(D3))

    FM compares what a discriminator's stages make of x and x'. f is 0 until `disc_start` optimiser steps are done, then 1. The networks
    learn in turns, see `phase_of`. Batches have `target` (b, t, 3, h, w) uint8, be it faces or drawn landmarks. Logged: `train/*` with all
    terms, `val/loss` (reconstruction), `val/psnr`, `val/ssim`, `val/lpips_vgg` where the loss loads
    LPIPS, and `val/lpips` where the weights of AlexNet are there.

    Args:
        net: the autoencoder.
        frame_discriminator: D2.
        clip_discriminator: D3.
        optimizer: partial, called with the autoencoder's parameters; only training needs it.
        disc_optimizer: of both discriminators; None: `optimizer`.
        lr_scheduler: partial, of the autoencoder's learning rate over its steps; None: constant, as the original.
        reconstruction_weight: see above.
        reconstruction: `l1`, see above, or `l2`, mean (x - x')^2: the median of a pixel that a dot seldom covers is black, its mean is not.
        lip_weight: of the error around the lips, beside that of the whole clip; 0: none, as the original. Small pictures have few pixels
            of them.
        perceptual_weight: of LPIPS; 0: trains without its weights.
        feature_weight: see above.
        disc_start: optimiser steps before the discriminators count and learn; -1: never.
        accumulate: batches per optimiser step. The original has 3.
        clip_norm: largest norm of the autoencoder's gradient; None: no limit, as the original.
        disc_clip_norm: largest norm of the gradient of each discriminator; None: no limit.
        perceptual_weights: file of the VGG16 weights; None: in the models folder.
        init_ckpt: checkpoint of another autoencoder to begin with, or `last:RUN`, the newest of the runs of that name.
        runs: folder of the runs.
        freeze_decoder: keep the decoder's transformer as it begins: how the original makes the autoencoder of landmarks from that of faces.
        eval_clips: validation clips that are measured; None: all.
        eval_fvd: also `val/fvd`, of these clips and their reconstructions; needs the weights of I3D and windows of 9 frames or more.
        seed: of the drawn frames.
    """

    def __init__(
        self,
        net: TriplaneAutoencoder,
        frame_discriminator: ClipDiscriminator | None = None,
        clip_discriminator: ClipDiscriminator | None = None,
        optimizer: OptimizerFactory | None = None,
        disc_optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        reconstruction_weight: float = 4.0,
        reconstruction: Reconstruction = "l1",
        lip_weight: float | int = 0.0,
        perceptual_weight: float = 4.0,
        feature_weight: float = 4.0,
        disc_start: int = -1,
        accumulate: int = 1,
        clip_norm: float | None = None,
        disc_clip_norm: float | None = 1.0,
        perceptual_weights: str | None = None,
        init_ckpt: str | Path | None = None,
        runs: str | Path = "logs",
        freeze_decoder: bool = False,
        eval_clips: int | None = 64,
        eval_fvd: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        if eval_fvd and net.frames < MIN_FRAMES:
            raise ConfigError(
                f"model.eval_fvd=true: FVD needs windows of {MIN_FRAMES} frames, these have {net.frames}."
            )
        require_least("model.accumulate", accumulate, 1)
        require_choice("model.reconstruction", reconstruction, get_args(Reconstruction))
        self.automatic_optimization = False
        self.net: TriplaneAutoencoder = net
        self.frame_discriminator = frame_discriminator
        self.clip_discriminator = clip_discriminator
        if disc_start >= 0 and (frame_discriminator is None or clip_discriminator is None):
            raise ConfigError(f"model.disc_start={disc_start} needs model.frame_discriminator and clip_discriminator.")
        self.optimizer = optimizer
        self.disc_optimizer = disc_optimizer or optimizer
        self.lr_scheduler = lr_scheduler
        self.reconstruction_weight = reconstruction_weight
        self.reconstruction: Reconstruction = reconstruction
        self.lip_weight = lip_weight
        self.perceptual_weight = perceptual_weight
        self.feature_weight = feature_weight
        self.disc_start = disc_start
        self.accumulate = accumulate
        self.clip_norm, self.disc_clip_norm = clip_norm, disc_clip_norm
        self.perceptual_weights = perceptual_weights
        self.init_ckpt = init_ckpt
        self.runs = Path(runs)
        self.eval_clips = eval_clips
        self.eval_fvd = eval_fvd
        self.seed = seed
        if freeze_decoder:
            self.net.decoder.requires_grad_(False)
        # No children: their weights do not belong to the checkpoint, and they never leave eval mode.
        self._perceptual: tuple[PerceptualDistance, ...] = ()
        self._fvd: tuple[FrechetDistance, ...] = ()
        self.val_loss, self.val_lpips_vgg = MeanMetric(), MeanMetric()
        self.val_psnr, self.val_ssim, self.val_lpips = PSNR(), SSIM(), ValidationLPIPS()

    def forward(self, video: Clips) -> Clips:
        """Reconstructions."""
        return self.net(video)

    def setup(self, stage: str) -> None:
        """Load LPIPS, I3D and the weights to begin with, where they are asked for.

        Raises:
            ConfigError: the precision cannot train two networks.
            CheckpointError: weights are missing or do not fit.
        """
        if self.trainer.precision == "16-mixed":
            raise ConfigError("trainer.precision=16-mixed: two optimisers train in bf16-mixed or 32-true; choose one.")
        if self.perceptual_weight and stage == "fit":
            self._perceptual = (PerceptualDistance(self.perceptual_weights),)
        if self.eval_fvd:
            self._fvd = (FrechetDistance(VideoFeatures(i3d(), "cropped")),)
        if self.init_ckpt is not None and stage == "fit":
            load_autoencoder(self.net, self.init_ckpt, self.runs, "model.init_ckpt")

    def on_fit_start(self) -> None:
        """By now the module is where it trains."""
        self._perceptual = tuple(distance.to(self.device) for distance in self._perceptual)

    def on_validation_start(self) -> None:
        """The real side of FVD is the same in every validation and kept."""
        self._fvd = tuple(metric.to(self.device) for metric in self._fvd)
        self._real_is_new = all(int(metric.real_features_num_samples) == 0 for metric in self._fvd)

    # --- losses

    def reconstruction_terms(
        self, video: Clips, reconstructed: Clips, chosen: Int64[Tensor, " b"]
    ) -> dict[str, Tensor]:
        """Weighted `rec`, and `perceptual` of one frame per clip where LPIPS is loaded.

        Args:
            video: x in [-1, 1].
            reconstructed: x'.
            chosen: number of the frame that LPIPS sees.
        """
        terms = {"rec": self._reconstruction_error(video, reconstructed)}
        for distance in self._perceptual:
            pair = distance(_frame(video, chosen), _frame(reconstructed, chosen))
            terms["perceptual"] = self.perceptual_weight * pair.mean()
        return terms

    def _reconstruction_error(self, video: Clips, reconstructed: Clips) -> Float[Tensor, ""]:
        """Weighted mean error over all values."""
        error = F.l1_loss if self.reconstruction == "l1" else F.mse_loss
        return self.reconstruction_weight * error(reconstructed, video)

    def lip_error(self, video: Clips, reconstructed: Clips, lips: Float[Tensor, "b t 20 2"]) -> Float[Tensor, ""]:
        """Weighted mean error within the boxes around the lips of all frames; 0 where no frame has any.

        Args:
            video: x in [-1, 1].
            reconstructed: x'.
            lips: outlines, (x, y) in pixels of the frames; NaN where there is no face.
        """
        error = (reconstructed - video).abs() if self.reconstruction == "l1" else (reconstructed - video).square()
        boxes = mouth_box(lips.flatten(0, 1), (video.shape[-2], video.shape[-1]), LIP_MARGIN)
        return self.lip_weight * boxed_loss(error.flatten(0, 1), boxes)

    def generator_terms(self, video: Clips, reconstructed: Clips, chosen: Int64[Tensor, " b"]) -> dict[str, Tensor]:
        """`gen`, what the discriminators say, and `features`, weighted, how differently they see x and x'."""
        adversarial, matching = [], []
        for discriminator, real, generated in self._judged(video, reconstructed, chosen):
            seen, wanted = discriminator(generated), discriminator(real)
            adversarial.append(generator_loss(seen[-1]))
            matching.append(feature_matching(seen[:-1], wanted[:-1]))
        return {
            "gen": sum(adversarial[1:], adversarial[0]),
            "features": self.feature_weight * sum(matching[1:], matching[0]),
        }

    def discriminator_terms(self, video: Clips, reconstructed: Clips, chosen: Int64[Tensor, " b"]) -> dict[str, Tensor]:
        """`disc`, the hinge losses of both discriminators, and the mean logits."""
        losses, logits = [], {"real": [], "fake": []}
        for discriminator, real, generated in self._judged(video, reconstructed.detach(), chosen):
            of_real, of_generated = discriminator(real)[-1], discriminator(generated)[-1]
            losses.append(discriminator_loss(of_real, of_generated))
            logits["real"].append(of_real.mean())
            logits["fake"].append(of_generated.mean())
        means = {f"logits_{name}": torch.stack(values).mean() for name, values in logits.items()}
        return {"disc": sum(losses[1:], losses[0]), **means}

    def _judged(
        self, video: Clips, reconstructed: Clips, chosen: Int64[Tensor, " b"]
    ) -> list[tuple[ClipDiscriminator, Tensor, Tensor]]:
        """Each discriminator with what it sees of x and x'; its features of either are made in a pass of their own."""
        assert self.frame_discriminator is not None
        assert self.clip_discriminator is not None
        return [
            (self.frame_discriminator, _frame(video, chosen), _frame(reconstructed, chosen)),
            (self.clip_discriminator, video.transpose(1, 2), reconstructed.transpose(1, 2)),
        ]

    # --- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A batch of the network whose turn it is."""
        video = to_signed(batch["target"])
        chosen = StepRandomness(self, self.seed, batch_idx).integers(video.shape[1], len(video))
        seen = self.trainer.fit_loop.epoch_loop.total_batch_idx
        optimizer, *others = cast(list[LightningOptimizer], _as_list(self.optimizers()))
        if phase_of(seen, self.disc_start, self.accumulate) == "autoencoder":
            self._learn(optimizer, seen, self._autoencoder_terms(video, chosen, seen, batch.get("lips")), "loss")
        else:
            with torch.no_grad():
                reconstructed = self.net(video)
            self._learn(uncounted(others[0]), seen, self.discriminator_terms(video, reconstructed, chosen), "disc")

    def _autoencoder_terms(
        self, video: Clips, chosen: Int64[Tensor, " b"], seen: int, lips: Float[Tensor, "b t 20 2"] | None
    ) -> dict[str, Tensor]:
        """All terms and their sum, `loss`."""
        reconstructed = self.net(video)
        terms = self.reconstruction_terms(video, reconstructed, chosen)
        if self.lip_weight:
            if lips is None:
                raise ConfigError(f"model.lip_weight={self.lip_weight}: batches have no lips; set it to 0.")
            terms["lips"] = self.lip_error(video, reconstructed, lips)
        if self.disc_start >= 0 and seen // self.accumulate >= self.disc_start:
            terms |= self.generator_terms(video, reconstructed, chosen)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _learn(self, optimizer: LightningOptimizer, seen: int, terms: Mapping[str, Tensor], wanted: str) -> None:
        """Backward pass, and a step at the end of a group."""
        self.toggle_optimizer(optimizer)
        self.manual_backward(terms[wanted] / self.accumulate)
        if seen % self.accumulate == self.accumulate - 1:
            self._clip(wanted)
            optimizer.step()
            optimizer.zero_grad()
            scheduler = self.lr_schedulers()
            if wanted == "loss" and isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
                scheduler.step()
        self.untoggle_optimizer(optimizer)
        names = {name: "train/loss" if name == "loss" else f"train/loss_{name}" for name in terms}
        for name, value in terms.items():
            self.log(names[name], value.detach(), prog_bar=name == "loss", sync_dist=True, batch_size=1)

    def _clip(self, wanted: str) -> None:
        """Limit the gradients of the networks that are about to step, each by itself."""
        autoencoder = wanted == "loss"
        limit = self.clip_norm if autoencoder else self.disc_clip_norm
        for network in (self.net,) if autoencoder else (self.frame_discriminator, self.clip_discriminator):
            if limit is not None and network is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), limit)

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Reconstructions against the clips; a fixed subset, where `eval_clips` says so."""
        for name in ("loss", "psnr", "ssim", *(["lpips_vgg"] if self._perceptual else [])):
            self.log(f"val/{name}", getattr(self, f"val_{name}"), prog_bar=name in ("loss", "psnr"))
        video = batch["target"]
        self.val_lpips.log_from(self, video.shape[-2:])
        if self.eval_clips is not None:
            video = video[batch["index"] < self.eval_clips]
        if not len(video):
            return
        signed = to_signed(video)
        reconstructed = self.net(signed)
        self.val_loss.update(self._reconstruction_error(signed, reconstructed), weight=len(video))
        made, real = to_unit(reconstructed).flatten(0, 1), video.flatten(0, 1)
        self.val_psnr.update(made, real)
        self.val_ssim.update(made, real)
        self.val_lpips.update(made, real)
        for distance in self._perceptual:
            self.val_lpips_vgg.update(distance(signed.flatten(0, 1), reconstructed.flatten(0, 1)))
        for metric in self._fvd if not self.trainer.sanity_checking else ():
            metric.update(to_uint8(to_unit(reconstructed)), real=False)
            if self._real_is_new:
                metric.update(video, real=True)

    def on_validation_epoch_end(self) -> None:
        """`val/fvd` of all processes' clips."""
        for metric in self._fvd if not self.trainer.sanity_checking else ():
            self.log("val/fvd", metric.compute().float(), prog_bar=True)
            metric.reset()

    @torch.no_grad()
    def sample(
        self, conditions: Batch, generator: torch.Generator | None = None, **options: Any
    ) -> Float[Tensor, "b 3 h w"]:
        """Reconstructions, in [-1, 1], of the middle frames of `clip` (b, t, 3, h, w); nothing is random."""
        return self(to_signed(conditions["clip"]))[:, self.net.frames // 2].clamp(-1, 1)

    @torch.no_grad()
    def sample_video(
        self, conditions: Batch, generator: torch.Generator | None = None, **options: Any
    ) -> Float[Tensor, "t 3 h w"]:
        """Reconstruction of `target` (t, 3, h, w), window by window."""
        clips = to_signed(conditions["target"]).unflatten(0, (-1, self.net.frames))
        return torch.cat([self(clip[None])[0] for clip in clips]).clamp(-1, 1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser for the autoencoder and, where they take part, one for both discriminators."""
        made = make_optimizer(self, self.net.parameters(), self.optimizer)
        first = with_schedule(self, made, self.lr_scheduler)
        if self.disc_start < 0:
            return first
        assert self.frame_discriminator is not None
        assert self.clip_discriminator is not None
        both = [*self.frame_discriminator.parameters(), *self.clip_discriminator.parameters()]
        second = make_optimizer(self, both, self.disc_optimizer)
        # Lightning takes several optimisers of which some have a schedule as dictionaries alone.
        return [first if isinstance(first, dict) else {"optimizer": first}, {"optimizer": second}]


def load_autoencoder(net: TriplaneAutoencoder, choice: str | Path | None, runs: Path, setting: str) -> None:
    """Fill an autoencoder from a checkpoint of `MToVAutoencoder`.

    Args:
        net: to be filled.
        choice: a file, `last:RUN`, or `untrained`: as it is.
        runs: folder of the runs.
        setting: its name, for errors.

    Raises:
        ConfigError: there is no checkpoint.
        CheckpointError: it is of another method or another network.
    """
    how = "train an autoencoder with experiment=moditalker_mtov_...autoencoder_..."
    fill_from_stage(net, choice, runs, setting, METHOD, how)


def _frame(video: Clips, chosen: Int64[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """One frame of each clip."""
    return video[torch.arange(len(video), device=video.device), chosen]


def _as_list(optimizers: Any) -> list[Any]:
    return optimizers if isinstance(optimizers, list) else [optimizers]
