"""Training of DiffTalk's first stage: an autoencoder with a codebook, against a patch discriminator (VQ-GAN, arXiv:2012.09841).

Symbols: x frame, x' its reconstruction, z latent, D discriminator.
"""

from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, UInt8
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from src.diffusion.pixels import to_signed, to_unit
from src.errors import ConfigError
from src.lightning_modules.optimization import OptimizerFactory, make_optimizer, uncounted
from src.lightning_modules.perceptual import ValidationLPIPS
from src.lightning_modules.randomness import seed_of
from src.metrics.images import PSNR, SSIM
from src.metrics.perceptual import PerceptualDistance
from src.nn.adversarial import discriminator_loss, generator_loss
from src.nn.difftalk import PatchDiscriminator, VQAutoencoder
from src.nn.difftalk.losses import adaptive_weight

Batch = Mapping[str, Tensor]


class CodebookPerplexity(Metric):
    """exp(entropy) of how often each entry is used: 1 where one entry stands for everything, `n_codes` where all are used alike."""

    counts: Tensor

    def __init__(self, n_codes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(n_codes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, indices: Int64[Tensor, "b h w"]) -> None:
        """Count entries that were used."""
        self.counts += torch.bincount(indices.flatten(), minlength=len(self.counts))

    def compute(self) -> Float[Tensor, ""]:
        """Perplexity over all that was counted."""
        share = self.counts / self.counts.sum()
        return torch.special.entr(share).sum().exp().float()


class DiffTalkAutoencoder(pl.LightningModule):
    """Learns to bring frames through a small latent with entries of a codebook.

    L_autoencoder   = mean |x - x'| + perceptual_weight LPIPS(x, x') + codebook_weight L_codebook + f d disc_weight (-mean D(x'))
    L_discriminator = f / 2 (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x')))

    f is 0 until `disc_start` batches have been seen, then 1; d balances the gradients at the decoder's last layer (equation 7). Batches
    have `target` (b, 3, h, w) uint8. Logged: `train/*` with all terms and the perplexity of the codebook; `val/loss` (reconstruction),
    `val/psnr`, `val/ssim`, `val/perplexity` and, with its weights, `val/lpips`; the reconstructions by the `LogSamples` callback.

    Args:
        net: the autoencoder.
        discriminator: tells patches of frames from patches of reconstructions.
        optimizer: partial, called with the parameters of either network; only training needs it.
        disc_optimizer: of the discriminator; None: `optimizer`.
        base_lr: where given, both learning rates are `base_lr` x processes x batch size, as the original has it.
        perceptual_weight: of LPIPS; 0: trains without its weights.
        codebook_weight: of the codebook's loss.
        disc_weight: of the discriminator's judgement.
        restart_codes_every: batches after which entries of the codebook that none of them used are put where latents are (random restarts,
            section 3.1 of arXiv:2005.00341); 0: never, as the original, which leaves most of a new codebook unused for long.
        disc_start: batches before it counts; the discriminator itself learns from then on, too. -1: never.
        perceptual_weights: file of the VGG16 weights; None: in the models folder.
        eval_frames: validation frames that PSNR, SSIM and perplexity are computed of; None: all.
        seed: of the restarts.
    """

    uses: Tensor

    def __init__(
        self,
        net: VQAutoencoder,
        discriminator: PatchDiscriminator,
        optimizer: OptimizerFactory | None = None,
        disc_optimizer: OptimizerFactory | None = None,
        *,
        base_lr: float | None = None,
        perceptual_weight: float = 1.0,
        codebook_weight: float = 1.0,
        restart_codes_every: int = 0,
        disc_weight: float = 0.75,
        disc_start: int = 0,
        perceptual_weights: str | None = None,
        eval_frames: int | None = 256,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net: VQAutoencoder = net
        self.discriminator: PatchDiscriminator = discriminator
        self.optimizer = optimizer
        self.disc_optimizer = disc_optimizer or optimizer
        self.base_lr = base_lr
        self.perceptual_weight = perceptual_weight
        self.codebook_weight = codebook_weight
        self.restart_codes_every = restart_codes_every
        self.disc_weight = disc_weight
        self.disc_start = disc_start
        self.perceptual_weights = perceptual_weights
        self.eval_frames = eval_frames
        self.seed = seed
        # Not a child: neither its weights nor its place in the average belong to the checkpoint, and it never leaves eval mode.
        self._perceptual: tuple[PerceptualDistance, ...] = ()
        if restart_codes_every:
            self.register_buffer("uses", torch.zeros(net.n_codes, dtype=torch.int64))  # since the last restart
        self.train_perplexity = CodebookPerplexity(net.n_codes)
        self.val_loss = MeanMetric()
        self.val_psnr = PSNR()
        self.val_ssim = SSIM()
        self.val_lpips = ValidationLPIPS()
        self.val_perplexity = CodebookPerplexity(net.n_codes)

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Reconstructions."""
        return self.net(frames)[0]

    def setup(self, stage: str) -> None:
        """Load LPIPS, where it is asked for.

        Raises:
            ConfigError: the precision cannot train two networks, or the autoencoder does not divide the frames.
            CheckpointError: the weights of LPIPS are missing.
        """
        if self.trainer.precision == "16-mixed":
            raise ConfigError("trainer.precision=16-mixed: two optimisers train in bf16-mixed or 32-true; choose one.")
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        side = datamodule.preview(1)["target"].shape[-1]
        if side % self.net.factor:
            raise ConfigError(
                f"datamodule.resolution={side}: the autoencoder divides frames into cells; give a multiple of {self.net.factor}."
            )
        if self.perceptual_weight and stage == "fit":
            self._perceptual = (PerceptualDistance(self.perceptual_weights).to(self.device),)

    def on_fit_start(self) -> None:
        """By now the module is where it trains."""
        self._perceptual = tuple(distance.to(self.device) for distance in self._perceptual)

    # --- training

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator counts already; batches are counted, not optimiser steps."""
        return self.disc_weight > 0 and 0 <= self.disc_start <= self.global_step

    def reconstruction_loss(
        self, frames: Float[Tensor, "b 3 h w"], reconstructed: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """mean |x - x'| + perceptual_weight LPIPS(x, x')."""
        loss = (frames - reconstructed).abs().mean()
        for distance in self._perceptual:
            loss = loss + self.perceptual_weight * distance(frames, reconstructed).mean()
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the autoencoder, then one of the discriminator on the same reconstructions."""
        frames = to_signed(batch["target"])
        optimizer, disc_optimizer = cast(list[LightningOptimizer], self.optimizers())
        uncounted(disc_optimizer)  # a step of this training is a step of the autoencoder
        adversarial = self.adversarial

        self.toggle_optimizer(optimizer)
        reconstructed, quantised = self.net(frames)
        logged = {"loss_rec": self.reconstruction_loss(frames, reconstructed), "loss_codebook": quantised.loss}
        loss = logged["loss_rec"] + self.codebook_weight * quantised.loss
        if adversarial:
            logged["loss_gen"] = generator_loss(self.discriminator(reconstructed))
            weight = adaptive_weight(logged["loss_rec"], logged["loss_gen"], self.net.last_layer) * self.disc_weight
            logged["disc_weight"] = weight
            loss = loss + weight * logged["loss_gen"]
        self.manual_backward(loss)
        _step(optimizer)
        self.untoggle_optimizer(optimizer)

        if adversarial:
            self.toggle_optimizer(disc_optimizer)
            real, fake = self.discriminator(frames), self.discriminator(reconstructed.detach())
            logged |= {
                "logits_real": real.mean(),
                "logits_fake": fake.mean(),
                "loss_disc": discriminator_loss(real, fake),
            }
            self.manual_backward(logged["loss_disc"])
            _step(disc_optimizer)
            self.untoggle_optimizer(disc_optimizer)

        if self.restart_codes_every:
            self._restart_codes(frames, quantised.indices, batch_idx)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(frames), sync_dist=True)
        self.log_dict({f"train/{key}": value.detach() for key, value in logged.items()}, batch_size=len(frames))
        self.train_perplexity(quantised.indices)
        self.log("train/perplexity", self.train_perplexity)

    @torch.no_grad()
    def _restart_codes(self, frames: Float[Tensor, "b 3 h w"], indices: Int64[Tensor, "b h w"], batch_idx: int) -> None:
        """Count uses; when it is time, move unused entries onto latents of this batch, on every process onto the same ones."""
        # Of all processes, in every step: between two steps the first process's buffers replace those of the others.
        counts = self._gathered(torch.bincount(indices.flatten(), minlength=len(self.uses)))
        self.uses += counts.reshape(-1, len(self.uses)).sum(dim=0)
        if self.global_step % self.restart_codes_every:
            return
        vectors = self._gathered(self.net.encode(frames)).movedim(-3, -1).reshape(-1, self.net.latent_channels).float()
        unused = (self.uses == 0).nonzero().flatten()
        seed = seed_of(self.seed, "restart", self.current_epoch, batch_idx)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(vectors), (len(unused),), generator=generator).to(self.device)
        self.net.entries[unused] = vectors[chosen]
        self.uses.zero_()

    def _gathered(self, tensor: Tensor) -> Tensor:
        """The tensor of every process, along a new first axis where there are several."""
        gathered = self.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Reconstructions against the frames; a fixed subset, where `eval_frames` says so."""
        for name in ("loss", "psnr", "ssim", "perplexity"):
            self.log(f"val/{name}", getattr(self, f"val_{name}"), prog_bar=name in ("loss", "psnr"))
        frames = batch["target"]
        self.val_lpips.log_from(self, frames.shape[-2:])
        if self.eval_frames is not None:
            frames = frames[batch["index"] < self.eval_frames]
        if not len(frames):
            return
        reconstructed, quantised = self.net(to_signed(frames))
        self.val_loss.update(self.reconstruction_loss(to_signed(frames), reconstructed), weight=len(frames))
        self.val_psnr.update(to_unit(reconstructed), frames)
        self.val_ssim.update(to_unit(reconstructed), frames)
        self.val_lpips.update(to_unit(reconstructed), frames)
        self.val_perplexity.update(quantised.indices)

    @torch.no_grad()
    def sample(
        self,
        conditions: Mapping[str, UInt8[Tensor, "b 3 h w"]],
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, "b 3 h w"]:
        """Reconstructions of `target` in [-1, 1]; nothing is random."""
        return self(to_signed(conditions["target"])).clamp(-1, 1)

    sample_video = sample

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for the autoencoder, one for the discriminator."""
        return [
            make_optimizer(self, network.parameters(), factory, self.base_lr)
            for network, factory in ((self.net, self.optimizer), (self.discriminator, self.disc_optimizer))
        ]


def _step(optimizer: LightningOptimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()
