"""The diffusion of AToM: clean residuals of landmarks are predicted, sampled by DDIM, and joined from windows that overlap.

Symbols: x_0 clean sample, x noisy one, eps noise, t time step, p the next less noisy one, ab cumulative product of 1 - beta. Source: AToM,
arXiv:2403.19144, section 3.2, after EDGE (Tseng et al., arXiv:2211.10658); DDIM, arXiv:2010.02502.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from src.diffusion.learned_range import cosine_betas
from src.diffusion.noise import randn_each
from src.diffusion.noise_tables import noise_tables
from src.errors import ConfigError

MotionDenoiser = Callable[[Float[Tensor, "b t d"], Int64[Tensor, " b"], float], Float[Tensor, "b t d"]]
"""x_0 for noisy samples at their time steps under guidance of that weight."""

MotionStep = Callable[[int, Float[Tensor, "b t d"], Float[Tensor, "b t d"]], None]
"""Sees the number of a step, x before it and the clipped x_0."""


class MotionTerms(NamedTuple):
    """The loss and its parts, already weighted."""

    total: Float[Tensor, ""]
    position: Float[Tensor, ""]
    velocity: Float[Tensor, ""]


class MotionDiffusion(nn.Module):
    """Noise levels of a cosine schedule, the loss of a network that predicts x_0, and DDIM.

    The tables are float32 and computed in float32 from float32 betas, as the original does: at the noisy end, where ab is 2e-9, that
    arithmetic is part of the published model. They are not in the state dict.

    Args:
        n_timesteps: T.
        position_weight: of the squared error.
        velocity_weight: of the squared error of differences between neighbouring frames.
        p2_gamma: exponent of the weights (1 + ab / (1 - ab))^-gamma of noise levels (arXiv:2204.00227); 0: none.
        clip: largest magnitude of a clean sample; the original's 1 does not let a jaw drop by more than a centimetre.

    Raises:
        ConfigError: fewer than two time steps.
    """

    alphas_cumprod: Tensor
    p2_loss_weight: Tensor

    def __init__(
        self,
        n_timesteps: int = 1000,
        position_weight: float | int = 7.5,
        velocity_weight: float | int = 1.5,
        p2_gamma: float | int = 0.0,
        clip: float | int = 1.0,
    ) -> None:
        super().__init__()
        if n_timesteps < 2:
            raise ConfigError(f"n_timesteps={n_timesteps}: a diffusion process has at least 2 time steps.")
        self.position_weight, self.velocity_weight = position_weight, velocity_weight
        self.clip = clip
        tables = noise_tables(cosine_betas(n_timesteps), torch.float32)
        ab = tables["alphas_cumprod"]
        tables["p2_loss_weight"] = (1 + ab / (1 - ab)) ** -p2_gamma
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def q_sample(
        self, clean: Float[Tensor, "b t d"], timestep: Int64[Tensor, " b"], noise: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        """sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps."""
        signal, disturbance = (
            self.get_buffer(name)[timestep][:, None, None]
            for name in ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")
        )
        return signal * clean + disturbance * noise

    def terms(
        self,
        predicted: Float[Tensor, "b t d"],
        clean: Float[Tensor, "b t d"],
        timestep: Int64[Tensor, " b"],
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> MotionTerms:
        """Mean squared errors of positions and of their first differences, over the frames that count.

        Args:
            predicted: x_0 by the network.
            clean: x_0.
            timestep: of each sample.
            valid: False for padding; None: all frames count.
        """
        valid = torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device) if valid is None else valid
        weight = self.p2_loss_weight[timestep]
        position = _masked_error(predicted, clean, valid, weight)
        both = valid[:, 1:] & valid[:, :-1]
        velocity = _masked_error(predicted.diff(dim=1), clean.diff(dim=1), both, weight)
        position, velocity = self.position_weight * position, self.velocity_weight * velocity
        return MotionTerms(position + velocity, position, velocity)

    def ddim_times(self, steps: int) -> list[tuple[int, int]]:
        """Pairs (t, p) from the noisiest time step down to (.., -1), which stands for x_0.

        Raises:
            ConfigError: no steps, or more than there are.
        """
        if not 1 <= steps <= len(self):
            raise ConfigError(f"steps={steps}: give 1 to {len(self)}.")
        times = torch.linspace(-1, len(self) - 1, steps + 1).int().tolist()[::-1]
        return list(pairwise(times))

    @torch.no_grad()
    def sample(
        self,
        denoise: MotionDenoiser,
        noise: Float[Tensor, "b t d"],
        steps: int = 50,
        *,
        guidance: float | int = 2.0,
        windows: bool = False,
        eta: float | int = 1.0,
        generators: Sequence[torch.Generator] | None = None,
        step_noise: Float[Tensor, "n b t d"] | None = None,
        callback: MotionStep | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Clean samples by DDIM; no argument is changed.

            x_0 = clip(denoise(x, t), -c, c),   eps = (sqrt(1 / ab_t) x - x_0) / sqrt(1 / ab_t - 1)
            sigma = eta sqrt((1 - ab_t / ab_p) (1 - ab_p) / (1 - ab_t))
            x <- sqrt(ab_p) x_0 + sqrt(1 - ab_p - sigma^2) eps + sigma z,   in the last step x <- x_0

        Args:
            denoise: the network with its conditions.
            noise: starting noise.
            steps: of the sampling.
            guidance: weight of classifier-free guidance.
            windows: the samples are consecutive windows of one motion, each half a window after the one before: after every step but the
                last, the first half of a window becomes the second half of the one before, and guidance rises from 0 to its weight
                over the first half of the steps (EDGE's long sampling).
            eta: 0 is deterministic, 1 as random as DDPM.
            generators: of the noise z, one per sample, so that the batch size changes nothing.
            step_noise: given noise of all steps but the last, instead.
            callback: called in every step.

        Raises:
            ConfigError: a number of steps that there is not.
            ValueError: noise is needed, but neither given nor generated.
        """
        weights = guidance_weights(guidance, steps, rising=windows)
        x, half = noise, noise.shape[1] // 2
        for i, (t, p) in enumerate(self.ddim_times(steps)):
            clean = (
                denoise(x, torch.full((len(x),), t, device=x.device), weights[i])
                .to(x.dtype)
                .clamp(-self.clip, self.clip)
            )
            if callback is not None:
                callback(i, x, clean)
            if p < 0:
                return clean
            z = None if eta == 0 else _step_noise(i, x, generators, step_noise)
            x = self._less_noisy(x, clean, t, p, eta, z)
            if windows and len(x) > 1:
                x = torch.cat([x[:1], torch.cat([x[:-1, half:], x[1:, half:]], dim=1)])
        raise AssertionError("the last pair of time steps ends the sampling")

    def _less_noisy(
        self,
        x: Float[Tensor, "b t d"],
        clean: Float[Tensor, "b t d"],
        t: int,
        p: int,
        eta: float | int,
        z: Tensor | None,
    ) -> Float[Tensor, "b t d"]:
        ab, ab_next = self.alphas_cumprod[t], self.alphas_cumprod[p]
        eps = ((1 / ab).sqrt() * x - clean) / (1 / ab - 1).sqrt()
        sigma = eta * ((1 - ab / ab_next) * (1 - ab_next) / (1 - ab)).sqrt()
        mean = clean * ab_next.sqrt() + (1 - ab_next - sigma**2).clamp(min=0).sqrt() * eps  # rounding may leave -1e-8
        return mean if z is None else mean + sigma * z


def guidance_weights(weight: float | int, steps: int, *, rising: bool) -> list[float]:
    """The weight of guidance in every step; `rising`: min(2 weight i / (steps - 1), weight) in step i."""
    ramp = torch.linspace(0, 2 * weight, steps).clamp(max=weight)
    return ramp.tolist() if rising else [float(weight)] * steps


def guided(
    predict: Callable[[Bool[Tensor, " b"]], Float[Tensor, "b t d"]], n: int, weight: float | int, device: torch.device
) -> Float[Tensor, "n t d"]:
    """Classifier-free guidance: u + weight (c - u), with (c) and without (u) conditions (arXiv:2207.12598).

    Args:
        predict: the prediction of the samples twice over, conditioned where True.
        n: samples.
        weight: of the conditions; 1 is no guidance and 0 no condition, each of them at half the cost.
        device: of the samples.
    """
    if weight in (0.0, 1.0):
        return predict(torch.full((n,), weight == 1.0, device=device))
    conditioned, unconditioned = predict(torch.arange(2 * n, device=device) < n).chunk(2)
    return unconditioned + weight * (conditioned - unconditioned)


def window_starts(n_frames: int, window: int) -> list[int]:
    """First frames of windows half a window apart that cover a motion; the last one may reach beyond its end."""
    return list(range(0, max(n_frames - window, 0) + window // 2, window // 2)) if n_frames > window else [0]


def join_windows(windows: Float[Tensor, "b t d"], n_frames: int) -> Float[Tensor, "n d"]:
    """One motion from windows half a window apart: in their common frames one fades linearly into the next (EDGE).

    Args:
        windows: in order; t is even unless there is only one.
        n_frames: how much of it is wanted.
    """
    half = windows.shape[1] // 2
    if len(windows) == 1:
        return windows[0, :n_frames]
    fade = torch.linspace(1, 0, half, device=windows.device, dtype=windows.dtype)[:, None]
    crossed = windows[:-1, half:] * fade + windows[1:, :half] * (1 - fade)
    return torch.cat([windows[0, :half], crossed.flatten(0, 1), windows[-1, half:]])[:n_frames]


def _masked_error(
    predicted: Float[Tensor, "b t d"],
    clean: Float[Tensor, "b t d"],
    valid: Bool[Tensor, "b t"],
    weight: Float[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Mean over samples of their weighted mean squared errors."""
    per_frame = (predicted - clean).square().mean(dim=-1)
    per_sample = (per_frame * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return (per_sample * weight).mean()


def _step_noise(
    i: int, x: Float[Tensor, "b t d"], generators: Sequence[torch.Generator] | None, given: Tensor | None
) -> Float[Tensor, "b t d"]:
    if given is not None:
        return given[i]
    if generators is None:
        raise ValueError("random steps need generators or given noise")
    return randn_each(generators, x.shape[1:]).to(x.device)
