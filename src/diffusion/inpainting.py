"""Sampling of latents of which a part is known and the rest is to be painted.

`inpaint` works with any of diffusers' schedulers and ends at the known part itself. `published_ddim` and `ancestral_inpaint` are the
samplers of the original (https://github.com/sstzal/DiffTalk, a fork of latent-diffusion, arXiv:2112.10752).

Symbols: x_0 clean, x_t noisy at time step t = 0..999, eps noise, ab_t cumulative product of 1 - beta  (DDPM, arXiv:2006.11239);
m mask, 1 where a latent is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from src.diffusion.noise import randn_each
from src.diffusion.sampling import Denoiser, Scheduler, StepCallback, step_options
from src.errors import ConfigError

Kept = Bool[Tensor, "b 1 h w"] | Float[Tensor, "b 1 h w"]
"""True or 1 where a latent is known, False or 0 where it is to be painted; fractions mix."""

NextNoise = Callable[[int], Tensor]
"""Noise (b, c, h, w) of a step."""

Quantize = Callable[[Tensor], Tensor]
"""Latents (b, c, h, w) moved to the nearest entries of a codebook."""


def blend(known: Float[Tensor, "b c h w"], painted: Float[Tensor, "b c h w"], kept: Kept) -> Float[Tensor, "b c h w"]:
    """m known + (1 - m) painted."""
    m = kept.to(painted.dtype)
    return known * m + (1 - m) * painted


@torch.no_grad()
def inpaint(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    scheduler: Scheduler,
    steps: int,
    *,
    known: Float[Tensor, "b c h w"] | None = None,
    kept: Kept | None = None,
    generators: Sequence[torch.Generator] | None = None,
    eta: float = 0.0,
    callback: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents that `denoiser` makes of `noise` around what is known.

    Before each step the known part is brought to the step's noise level, x = m x_t(known) + (1 - m) x; after the last one the known part
    takes its place as it is.

    Args:
        denoiser: the network with its conditions.
        noise: standard normal starting noise; its device is where the sampling runs.
        scheduler: noise schedule and solver; a fresh copy is used, so its own state stays as it is.
        steps: number of network evaluations (of a first-order solver).
        known: clean latents; None: everything is painted.
        kept: where they are known; needed with `known`.
        generators: of fresh noise for the known part in every step and of random steps, one per sample, so that the batch size changes
            nothing; None: the known part keeps the noise that it starts with, and steps are to have no randomness.
        eta: 0 is deterministic, 1 as random as DDPM; DDIM only.
        callback: called after every step.

    Raises:
        ConfigError: the scheduler cannot take as many steps.
        ValueError: only one of `known` and `kept`, or `eta` with a scheduler that has none.
    """
    _check_known(known, kept)
    scheduler = _prepared(scheduler, steps)
    options = step_options(scheduler, eta, generators)
    x = noise * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        times = t.to(x.device).expand(len(x))
        if known is not None and kept is not None:
            fresh = noise if generators is None else randn_each(generators, noise.shape[1:]).to(noise)
            x = blend(scheduler.add_noise(known, fresh, times), x, kept)
        output = denoiser(scheduler.scale_model_input(x, t), times).to(x.dtype)
        x = scheduler.step(output, t, x, **options, return_dict=False)[0]
        if callback is not None:
            callback(i, output, x)
    return x if known is None or kept is None else blend(known, x, kept)


def _prepared(scheduler: Scheduler, steps: int) -> Scheduler:
    """A fresh scheduler with its time steps chosen; the offset of the training's schedule does not push the last one over the end."""
    config: Any = scheduler.config
    if not 1 <= steps <= config.num_train_timesteps:
        raise ConfigError(f"steps={steps}: give 1 to {config.num_train_timesteps}.")
    prepared = type(scheduler).from_config(config)
    try:
        prepared.set_timesteps(steps)  # on the CPU: steps then never wait for the GPU
        if prepared.timesteps.max() >= config.num_train_timesteps:
            prepared = type(scheduler).from_config(config, steps_offset=0)
            prepared.set_timesteps(steps)
    except (ValueError, IndexError) as error:
        raise ConfigError(f"steps={steps}: {type(scheduler).__name__} cannot take as many; choose fewer.") from error
    return prepared


def _check_known(known: Tensor | None, kept: Tensor | None) -> None:
    if (known is None) != (kept is None):
        raise ValueError("known latents and the mask that says where belong together")


# --- DDIM as published


@dataclass(frozen=True)
class DDIMSchedule:
    """Time steps of the published DDIM, least noisy first, with ab, its value at the next less noisy step, and the deviation of noise."""

    timesteps: Int64[Tensor, " n"]
    alphas: Float[Tensor, " n"]
    alphas_prev: Float[Tensor, " n"]
    sigmas: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.timesteps)


def ddim_schedule(alphas_cumprod: Float[Tensor, " t"], steps: int, eta: float = 0.0) -> DDIMSchedule:
    """The published time steps 1, 1 + c, 1 + 2c, ... with c = T // steps; the last target is ab_0, not 1.

        sigma = eta sqrt((1 - ab_prev) / (1 - ab)) sqrt(1 - ab / ab_prev)        (equation 16 of arXiv:2010.02502)

    Where `steps` does not divide T there are more of them than asked for; the original fails where the last one lies beyond T - 1, here
    it is T - 1.

    Raises:
        ConfigError: no steps, or more than there are.
    """
    n_timesteps = len(alphas_cumprod)
    if not 1 <= steps <= n_timesteps:
        raise ConfigError(f"steps={steps}: give 1 to {n_timesteps}.")
    timesteps = torch.arange(0, n_timesteps, n_timesteps // steps).add(1).clamp(max=n_timesteps - 1).unique()
    ab = alphas_cumprod.detach().cpu().double()
    alphas = ab[timesteps]
    alphas_prev = torch.cat([ab[:1], alphas[:-1]])
    sigmas = eta * ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).sqrt()
    return DDIMSchedule(timesteps, alphas.float(), alphas_prev.float(), sigmas.float())


def ddim_step(
    x: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    schedule: DDIMSchedule,
    k: int,
    noise: Float[Tensor, "b c h w"] | None = None,
    quantize: Quantize | None = None,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """The sample at the next less noisy step, and x_0, of position k of the schedule  (equation 12 of arXiv:2010.02502).

    x_0 = quantize((x - sqrt(1 - ab) eps) / sqrt(ab))
    x_prev = sqrt(ab_prev) x_0 + sqrt(1 - ab_prev - sigma^2) eps + sigma z
    """
    alpha, alpha_prev, sigma = schedule.alphas[k], schedule.alphas_prev[k], schedule.sigmas[k]
    clean = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    if quantize is not None:
        clean = quantize(clean)
    before = alpha_prev.sqrt() * clean + (1 - alpha_prev - sigma**2).sqrt() * eps
    return (before if noise is None else before + sigma * noise), clean


@torch.no_grad()
def published_ddim(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    alphas_cumprod: Float[Tensor, " t"],
    steps: int,
    *,
    eta: float = 0.0,
    known: Float[Tensor, "b c h w"] | None = None,
    kept: Kept | None = None,
    generators: Sequence[torch.Generator] | None = None,
    known_noise: Float[Tensor, "n b c h w"] | None = None,
    step_noise: Float[Tensor, "n b c h w"] | None = None,
    temperature: float = 1.0,
    noise_dropout: float = 0.0,
    quantize: Quantize | None = None,
    callback: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents as the original samples them: the known part is mixed in before each step, not after the last one.

    What is kept is therefore made anew, too, and lies at the noise level ab_0. In each step the original draws noise for the known part,
    if there is one, and then, always, of the step: a generator per sample does the same for that sample.

    Args:
        denoiser: the network with its conditions.
        noise: standard normal starting noise, x_T.
        alphas_cumprod: ab of the training.
        steps: as the original counts them, see `ddim_schedule`.
        eta: 0 is deterministic, 1 as random as DDPM.
        known: clean latents; None: everything is painted.
        kept: where they are known; needed with `known`.
        generators: of all noise, one per sample, so that the batch size changes nothing.
        known_noise: given noise of the known part instead, in the order of the steps, noisiest first.
        step_noise: given noise of the steps instead.
        temperature: factor of the steps' noise.
        noise_dropout: share of the steps' noise that is set to zero, the rest growing as much; drawn by `generators`.
        quantize: of x_0 in every step; None: x_0 stays as it is.
        callback: called after every step.

    Raises:
        ConfigError: no steps, or more than there are.
        ValueError: noise is needed, but neither given nor generated; or only one of `known` and `kept`.
    """
    _check_known(known, kept)
    schedule = ddim_schedule(alphas_cumprod, steps, eta)
    x, n = noise, len(schedule)
    for i, k in enumerate(reversed(range(n))):
        if known is not None and kept is not None:
            e = _noise_of(i, noise, generators, known_noise)
            alpha = schedule.alphas[k]
            x = blend(alpha.sqrt() * known + (1 - alpha).sqrt() * e, x, kept)
        eps = denoiser(x, schedule.timesteps[k].to(x.device).expand(len(x))).to(x.dtype)
        random = eta > 0 or generators is not None  # drawn for eta = 0, too, so that what follows is the same
        z = temperature * _noise_of(i, noise, generators, step_noise) if random else None
        if z is not None and noise_dropout > 0:
            z = _dropped(z, noise_dropout, generators)
        x, _ = ddim_step(x, eps, schedule, k, z, quantize)
        if callback is not None:
            callback(i, eps, x)
    return x


def _noise_of(
    i: int, like: Tensor, generators: Sequence[torch.Generator] | None, given: Tensor | None
) -> Float[Tensor, "b c h w"]:
    if given is not None:
        return given[i]
    if generators is None:
        raise ValueError("this sampling needs generators or given noise")
    return randn_each(generators, like.shape[1:]).to(like)


def _dropped(z: Tensor, share: float, generators: Sequence[torch.Generator] | None) -> Float[Tensor, "b c h w"]:
    if generators is None:
        raise ValueError("noise_dropout needs generators")
    uniform = torch.stack([torch.rand(z.shape[1:], generator=g, device=g.device).to(z) for g in generators])
    return torch.where(uniform < share, 0.0, z / (1 - share))


# --- ancestral sampling as published


def ancestral_step(
    x: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    t: int,
    tables: Mapping[str, Float[Tensor, " t"]],
    noise: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """x_{t-1}, and x_0 from the noise that the network saw, not clipped  (algorithm 2 of arXiv:2006.11239, with the posterior's variance).

    Args:
        x: x_t.
        eps: the network's prediction.
        t: time step; at 0 no noise is added.
        tables: of `src.diffusion.noise_tables.noise_tables`.
        noise: standard normal.
    """
    clean = tables["sqrt_recip_alphas_cumprod"][t] * x - tables["sqrt_recipm1_alphas_cumprod"][t] * eps
    mean = tables["posterior_mean_coef1"][t] * clean + tables["posterior_mean_coef2"][t] * x
    if t == 0:
        return mean, clean
    return mean + (0.5 * tables["posterior_log_variance_clipped"][t]).exp() * noise, clean


@torch.no_grad()
def ancestral_inpaint(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    tables: Mapping[str, Float[Tensor, " t"]],
    *,
    first: int | None = None,
    known: Float[Tensor, "b c h w"] | None = None,
    kept: Kept | None = None,
    generators: Sequence[torch.Generator] | None = None,
    known_noise: Float[Tensor, "n b c h w"] | None = None,
    step_noise: Float[Tensor, "n b c h w"] | None = None,
    callback: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents by every time step of the training, slow; the original looks at its progress that way.

    The known part is mixed in after each step, at the level that the step started from.

    Args:
        denoiser: the network with its conditions.
        noise: what the first step starts from.
        tables: of `src.diffusion.noise_tables.noise_tables`.
        first: time step to start at; None: the noisiest.
        known, kept, generators, known_noise, step_noise, callback: as `published_ddim` has them.
    """
    _check_known(known, kept)
    x, last = noise, len(tables["betas"]) - 1 if first is None else first
    for i, t in enumerate(range(last, -1, -1)):
        eps = denoiser(x, _times(t, x)).to(x.dtype)
        x, _ = ancestral_step(x, eps, t, tables, _noise_of(i, noise, generators, step_noise))
        if known is not None and kept is not None:
            e = _noise_of(i, noise, generators, known_noise)
            level, spread = tables["sqrt_alphas_cumprod"][t], tables["sqrt_one_minus_alphas_cumprod"][t]
            x = blend(level * known + spread * e, x, kept)
        if callback is not None:
            callback(i, eps, x)
    return x


def _times(t: int, x: Tensor) -> Shaped[Tensor, " b"]:
    return torch.full((len(x),), t, device=x.device)
