"""DDIM as PVDM and MoDiTalker's second stage sample (arXiv:2302.07685, arXiv:2010.02502): clean latents are clipped to [-1, 1], and
sampling may start in the middle, from a known latent with noise.

Symbols: z_0 clean, z_t noisy at time step t = 0..999, eps noise, ab_t cumulative product of 1 - beta.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from src.diffusion.noise import randn_each
from src.errors import ConfigError

Denoiser = Callable[[Float[Tensor, "b c n"], Shaped[Tensor, " b"]], Float[Tensor, "b c n"]]
"""Predicted noise of latents at their time steps."""

END = -1  # behind the last time step: no noise is left

LatentCallback = Callable[[int, Tensor, Tensor, Tensor], None]
"""Sees number, time step's latent, predicted noise and clean latent of a step."""


def ddim_times(n_timesteps: int, steps: int) -> list[int]:
    """Time steps from the noisiest on, and `END`: evenly spaced from n - 1 to -1, fractions dropped.

    Raises:
        ConfigError: no steps, or more than there are.
    """
    if not 1 <= steps <= n_timesteps:
        raise ConfigError(f"steps={steps}: give 1 to {n_timesteps}.")
    return [int(t) for t in torch.linspace(-1, n_timesteps - 1, steps + 1).tolist()][::-1]


def times_from(times: Sequence[int], n_timesteps: int, strength: float) -> tuple[int, list[int]]:
    """Where sampling starts that leaves a known latent some of its form.

    Args:
        times: of a whole sampling.
        n_timesteps: of the training.
        strength: share of the noise, between 0 and 1: near 0 the known latent stays as it is.

    Returns:
        the time step whose noise the known latent is given, and the time steps that are left. The first of these may lie a little beside
        it, where rounding puts it.

    Raises:
        ConfigError: a strength that leaves no step, or needs none of the known latent.
    """
    steps = len(times) - 1
    first = int(n_timesteps * strength)
    dropped = int(steps * (1 - strength))
    if not 0 <= first < n_timesteps or dropped >= steps:
        raise ConfigError(f"strength={strength}: give a share above 0 and below 1, or start from noise alone.")
    return first, list(times[dropped:])


def noised(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], alphas_cumprod: Float[Tensor, " t"], t: int
) -> Float[Tensor, "*shape"]:
    """sqrt(ab_t) z_0 + sqrt(1 - ab_t) eps  (equation 4 of arXiv:2006.11239)."""
    ab = alphas_cumprod[t]
    return ab.sqrt() * clean + (1 - ab).sqrt() * noise


@torch.no_grad()
def clipped_ddim(
    denoiser: Denoiser,
    start: Float[Tensor, "b c n"],
    alphas_cumprod: Float[Tensor, " t"],
    times: Sequence[int],
    *,
    eta: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
    step_noise: Float[Tensor, "m b c n"] | None = None,
    callback: LatentCallback | None = None,
) -> Float[Tensor, "b c n"]:
    """Latents in [-1, 1] that `denoiser` makes of `start`. For two time steps a > b that follow each other:

        z_0 = clip((z_a - sqrt(1 - ab_a) eps) / sqrt(ab_a), -1, 1);  eps stays what the network said
        sigma = eta sqrt((1 - ab_a / ab_b) (1 - ab_b) / (1 - ab_a))
        z_b = sqrt(ab_b) z_0 + sqrt(1 - ab_b - sigma^2) eps + sigma noise        (equation 12 of arXiv:2010.02502); z_0 at the end

    Args:
        denoiser: the network with its conditions.
        start: latents at the first time step.
        alphas_cumprod: ab of the training.
        times: time steps, noisiest first, `END` at the end.
        eta: 0 is deterministic, 1 as random as DDPM.
        generators: of the steps' noise, one per sample, so that the batch size changes nothing; needed for eta > 0.
        step_noise: given noise of the steps instead; the last one needs none.
        callback: called in every step.

    Raises:
        ValueError: noise is needed, but neither given nor generated.
    """
    ab, z = alphas_cumprod.to(start.device), start
    for i, (here, there) in enumerate(pairwise(times)):
        eps = denoiser(z, torch.full((len(z),), here, device=z.device)).to(z.dtype)
        clean = (z / ab[here].sqrt() - (1 / ab[here] - 1).sqrt() * eps).clamp(-1, 1)
        if callback is not None:
            callback(i, z, eps, clean)
        if there == END:
            return clean
        sigma = eta * ((1 - ab[here] / ab[there]) * (1 - ab[there]) / (1 - ab[here])).sqrt()
        z = ab[there].sqrt() * clean + (1 - ab[there] - sigma**2).sqrt() * eps
        if eta > 0:
            z = z + sigma * _noise(i, start, generators, step_noise)
    return z


def _noise(
    i: int, like: Tensor, generators: Sequence[torch.Generator] | None, given: Tensor | None
) -> Float[Tensor, "b c n"]:
    if given is not None:
        return given[i]
    if generators is None:
        raise ValueError("eta > 0 needs generators or given noise")
    return randn_each(generators, like.shape[1:]).to(like)
