"""Training of AToM, MoDiTalker's first stage: a diffusion model of facial motion, given a voice and a reference face.

Source: Kim et al., arXiv:2403.19144, section 3.2. Faces are vectors of 204 numbers, 68 landmarks without head pose in network units
(`src.face.moditalker_atom`); the model's variable is their residual to the reference face.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from src.diffusion.motion import MotionDiffusion, MotionStep, guided, join_windows, window_starts
from src.diffusion.noise import generators_from, randn_each
from src.errors import ConfigError, require_least
from src.face.landmarks import mouth_opening
from src.face.moditalker_atom import NETWORK_UNIT, from_network, neutral_face
from src.lightning_modules.optimization import OptimizerFactory, SchedulerFactory, optimize
from src.lightning_modules.randomness import StepRandomness, seed_of
from src.lightning_modules.validation import evaluation_is_due, row_generators
from src.media.curves import pearson
from src.nn.moditalker_atom import LIP_RELATED, MotionDecoder, PublishedMotionDecoder
from src.nn.moditalker_atom.regions import values_of

Batch = Mapping[str, Tensor]

MM_PER_NETWORK_UNIT = 100 / NETWORK_UNIT  # a decimetre has 100 mm


class AToM(pl.LightningModule):
    """Learns to predict clean motion from noisy motion; makes motion of any length for a voice.

    Batches are those of `src.datamodules.moditalker_atom`. Logged: `train/loss` and its parts `loss_position`, `loss_velocity`; `val/loss`
    with the same noise and time steps in every epoch; of motion that is made for whole validation clips, `val/mouth_correlation` of the
    mouth's opening with the real one, mean over clips, and `val/landmark_error`, mean distance of the points in millimetres.

    Args:
        net: maps (noisy residuals, t, reference, voice) to clean residuals.
        diffusion: noise levels, loss and sampler.
        optimizer: partial, called with the network's parameters; only training needs it.
        lr_scheduler: partial, called with `optimizer` (and `num_training_steps` where it takes that).
        window: frames that are made at once; longer motion is joined from windows that overlap by half. That of the training.
        condition_dropout: share of the training samples that hear nothing and know nobody, for guidance.
        lip_weight: factor of the loss of jaw and mouth relative to the rest; 1: as the original.
        guidance: weight of classifier-free guidance in sampling.
        sample_steps: of DDIM.
        eta: randomness of its steps; 1: as the original, 0: none.
        batch_windows: windows that pass the network at a time: memory and speed, not the result.
        eval_every_n_epochs: epochs between two evaluations of made motion, starting with the first; 0: never.
        eval_clips: validation clips that motion is made for.
        seed: of the noise.

    Raises:
        ConfigError: a window that the network does not have.
    """

    point_weights: Tensor

    def __init__(
        self,
        net: MotionDecoder | PublishedMotionDecoder,
        diffusion: MotionDiffusion,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        window: int = 156,
        condition_dropout: float | int = 0.25,
        lip_weight: float | int = 1.0,
        guidance: float | int = 2.0,
        sample_steps: int = 50,
        eta: float | int = 1.0,
        batch_windows: int = 8,
        eval_every_n_epochs: int = 5,
        eval_clips: int = 8,
        seed: int = 42,
    ) -> None:
        super().__init__()
        require_least("model.window", window, 2)
        require_least("model.batch_windows", batch_windows, 1)
        if net.n_frames not in (None, window) or window % 2:
            wanted = f"has windows of {net.n_frames} frames" if net.n_frames else "is joined from halves"
            raise ConfigError(f"model.window={window}: give an even number; the network's motion {wanted}.")
        self.net: MotionDecoder | PublishedMotionDecoder = net
        self.diffusion: MotionDiffusion = diffusion
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.window = window
        self.condition_dropout = condition_dropout
        self.guidance = guidance
        self.sample_steps = sample_steps
        self.eta = eta
        self.batch_windows = batch_windows
        self.eval_every_n_epochs = eval_every_n_epochs
        self.eval_clips = eval_clips
        self.seed = seed
        weights = torch.ones(204, device="cpu")
        weights[values_of(LIP_RELATED)] = float(lip_weight)
        self.register_buffer("point_weights", (weights / weights.mean()).sqrt(), persistent=False)
        self.val_loss = MeanMetric()
        self.val_mouth_correlation = MeanMetric()
        self.val_landmark_error = MeanMetric()

    def forward(
        self,
        noisy: Float[Tensor, "b t 204"],
        timestep: Int64[Tensor, " b"],
        reference: Float[Tensor, "b 204"],
        audio: Float[Tensor, "b t d"],
        keep: Bool[Tensor, " b"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t 204"]:
        """The network's clean residuals for noisy ones at t."""
        return self.net(noisy, timestep, reference, audio, keep, valid)

    def setup(self, stage: str) -> None:
        """ConfigError where speech features or windows of the data are not those of the model."""
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        n_frames, dim = datamodule.preview(1)["audio"].shape[1:]
        if dim != self.net.audio_dim:
            raise ConfigError(
                f"net.audio_dim={self.net.audio_dim}: the speech features of the data have {dim} numbers per frame; "
                f"give net.audio_dim={dim}, or other features."
            )
        if n_frames != self.window:
            raise ConfigError(f"model.window={self.window}: the data have windows of {n_frames} frames; give the same.")

    # --- training

    def terms(
        self, batch: Batch, noise: Float[Tensor, "b t 204"], timestep: Int64[Tensor, " b"], keep: Bool[Tensor, " b"]
    ):
        """The loss and its parts for given noise, time steps and samples that keep their conditions."""
        clean, valid = batch["motion"], batch["valid"]
        noisy = self.diffusion.q_sample(clean, timestep, noise)
        predicted = self(noisy, timestep, batch["reference"], batch["audio"], keep, valid)
        return self.diffusion.terms(predicted * self.point_weights, clean * self.point_weights, timestep, valid)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss at random time steps, uniform over the noise levels, with conditions dropped at random."""
        clean = batch["motion"]
        randomness = StepRandomness(self, self.seed, batch_idx)
        noise = randomness.normal(clean)
        timestep = randomness.integers(len(self.diffusion), len(clean))
        keep = randomness.integers(10_000, len(clean)) >= round(10_000 * self.condition_dropout)
        terms = self.terms(batch, noise, timestep, keep)
        parts = {"loss": terms.total, "loss_position": terms.position, "loss_velocity": terms.velocity}
        for name, value in parts.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", sync_dist=True, batch_size=len(clean))
        return terms.total

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss`, and where it is due the measures of made motion."""
        if batch_idx == 0 and evaluation_is_due(self, self.eval_every_n_epochs):
            self._evaluate()
        shape, n = batch["motion"].shape[1:], len(batch["motion"])
        generators = row_generators(self, "val/loss", batch["index"])
        timestep = torch.cat(
            [torch.randint(len(self.diffusion), (1,), generator=g, device=self.device) for g in generators]
        )
        keep = torch.ones(n, dtype=torch.bool, device=self.device)
        self.val_loss.update(self.terms(batch, randn_each(generators, shape), timestep, keep).total, weight=n)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def _evaluate(self) -> None:
        """Make motion for a few whole validation clips and compare it with the real one; each process takes its share."""
        datamodule: Any = self.trainer.datamodule  # ty: ignore[missing-attribute]
        clips = datamodule.preview_clips(self.eval_clips)
        for number in range(self.global_rank, len(clips), self.trainer.world_size):
            clip = {name: value.to(self.device) for name, value in clips[number].items()}
            made = self.generate(clip["reference"], clip["audio"], seed_of(self.seed, "val/motion", number))
            correlation = mouth_correlation(made, clip["faces"])
            if np.isfinite(correlation):
                self.val_mouth_correlation.update(correlation)
            distance = (made - clip["faces"]).unflatten(-1, (-1, 3)).norm(dim=-1).mean()
            self.val_landmark_error.update(MM_PER_NETWORK_UNIT * distance)
        self.log("val/mouth_correlation", self.val_mouth_correlation, prog_bar=True)
        self.log("val/landmark_error", self.val_landmark_error)

    # --- sampling

    @torch.no_grad()
    def generate(
        self,
        reference: Float[Tensor, "204"],
        audio: Float[Tensor, "n d"],
        seed: int = 1,
        *,
        guidance: float | int | None = None,
        steps: int | None = None,
        eta: float | int | None = None,
        callback: MotionStep | None = None,
    ) -> Float[Tensor, "n 204"]:
        """Faces in network units, one per row of speech features, however many there are.

        What is shorter than a window is padded; longer motion is made in windows that overlap by half and are sampled together, so
        that they agree where they overlap, and then fade into each other.

        Args:
            reference: the person.
            audio: speech features.
            seed: of all noise: each window has its own, whatever is made beside it.
            guidance: see the class; None: the model's own.
            steps: idem.
            eta: idem.
            callback: see `MotionDiffusion.sample`.
        """
        starts = window_starts(len(audio), self.window)
        rows = torch.zeros((starts[-1] + self.window, audio.shape[1]), device=audio.device)
        rows[: len(audio)] = audio
        there = torch.arange(len(rows), device=audio.device) < len(audio)
        windows = torch.stack([rows[start : start + self.window] for start in starts])
        valid = torch.stack([there[start : start + self.window] for start in starts])
        generators = generators_from(seed_of(seed, "window", number) for number in range(len(starts)))
        made = self.diffusion.sample(
            self._denoiser(reference, windows, valid),
            randn_each(generators, (self.window, len(reference))).to(audio.device),
            self.sample_steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
            windows=len(starts) > 1,
            eta=self.eta if eta is None else eta,
            generators=generators,
            callback=callback,
        )
        return join_windows(made, len(audio)) + reference

    def _denoiser(self, reference: Float[Tensor, "204"], audio: Float[Tensor, "b t d"], valid: Bool[Tensor, "b t"]):
        """The guided network for these windows, `batch_windows` at a time."""

        def denoise(x: Tensor, timestep: Tensor, weight: float) -> Tensor:
            parts = []
            for some in torch.arange(len(x), device=x.device).split(self.batch_windows):

                def predict(keep: Tensor, some: Tensor = some) -> Tensor:
                    twice = some.repeat(len(keep) // len(some))
                    people = reference.expand(len(twice), -1)
                    return self(x[twice], timestep[twice], people, audio[twice], keep, valid[twice])

                parts.append(guided(predict, len(some), weight, x.device))
            return torch.cat(parts)

        return denoise

    def sample(self, conditions: Batch, generator: torch.Generator, **options: Any) -> Float[Tensor, "b t 204"]:
        """Residuals for conditions of a batch, deterministic for the state of `generator`; options as of `generate`."""
        made: Sequence[Tensor] = [
            self.generate(reference, audio, int(torch.randint(2**62, (1,), generator=generator)), **options) - reference
            for reference, audio in zip(conditions["reference"], conditions["audio"], strict=True)
        ]
        return torch.stack(list(made))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the learning-rate schedule over all optimiser steps of the run."""
        return optimize(self, self.optimizer, self.lr_scheduler)


def mouth_correlation(made: Float[Tensor, "t 204"], real: Float[Tensor, "t 204"]) -> float:
    """Pearson's correlation of the mouths' openings over time; NaN where one does not move."""
    openings = [mouth_opening(from_network(faces.cpu().numpy(), neutral_face())) for faces in (made, real)]
    return pearson(*openings)
