"""From noise to frames with a network that was trained with `LearnedRangeDiffusion`."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from src.diffusion.learned_range import LearnedRangeDiffusion
from src.diffusion.noise import randn_each
from src.diffusion.sampling import SAMPLERS, Denoiser, Scheduler, SchedulerFactory, StepCallback, sample, sampler_for
from src.errors import ConfigError

ANCESTRAL = "ancestral"

# Signal-to-noise below which a time step tells a solver nothing: at the end of the cosine schedule ab is 2e-9, and an error of the
# network is multiplied by 20000 on its way to the clean sample.
LEAST_SIGNAL = 1e-3


class FrameSampler:
    """Samples with the published ancestral sampler or with one of diffusers' solvers; build it once, call it per frame.

    Example:
        >>> sampler = FrameSampler(diffusion, "ddim", steps=20)
        >>> frame = sampler(lambda x, t: net(x, t, identity, motion, audio), noise)

    Args:
        diffusion: the process of the training.
        sampler: None or "ancestral": the reversed process on evenly spaced time steps, with the network's variance, as published
            (100 or 200 steps); or a preset of `src.diffusion.sampling.SAMPLERS`, a scheduler class or partial, which ignores the
            variance and works at 10 to 25 steps (`dpm_solver` and `unipc` best).
        steps: network evaluations per frame; None: every time step of the process.
        eta: 0 is deterministic, 1 as random as DDPM; DDIM only.

    Raises:
        ConfigError: there is no such sampler, or it cannot take as many steps, or it has no `eta`.
    """

    def __init__(
        self,
        diffusion: LearnedRangeDiffusion,
        sampler: str | SchedulerFactory | None = None,
        steps: int | None = None,
        eta: float = 0.0,
    ) -> None:
        if isinstance(sampler, str) and sampler not in (ANCESTRAL, *SAMPLERS):
            raise ConfigError(f"sampler={sampler}: choose one of {', '.join((ANCESTRAL, *SAMPLERS))}.")
        if eta and not self._takes_eta(sampler):
            raise ConfigError(f"eta={eta} is for sampler=ddim: set eta=0 or choose ddim.")
        self.steps = len(diffusion) if steps is None else steps
        self.eta = eta
        self.scheduler: Scheduler | None = None
        if sampler is None or sampler == ANCESTRAL:
            self.diffusion = diffusion if steps is None else diffusion.respaced(steps)
            return
        kept = solver_positions(diffusion, self.steps)
        self.timesteps = diffusion.timesteps[kept]
        schedule: Any = _schedule(diffusion.alphas_cumprod[kept], diffusion.prediction_type)
        self.scheduler = sampler_for(schedule, sampler)
        self._check_positions()

    @staticmethod
    def _takes_eta(sampler: str | SchedulerFactory | None) -> bool:
        chosen: Any = SAMPLERS.get(sampler) if isinstance(sampler, str) else sampler
        kind = chosen.func if isinstance(chosen, partial) else chosen
        return hasattr(kind, "step") and "eta" in inspect.signature(kind.step).parameters

    def _check_positions(self) -> None:
        """Settings such as `use_karras_sigmas` choose noise levels between the positions, at which the network cannot be asked."""
        scheduler = cast(Scheduler, self.scheduler)
        scheduler = type(scheduler).from_config(scheduler.config)
        scheduler.set_timesteps(self.steps)
        if scheduler.timesteps.tolist() != list(range(self.steps - 1, -1, -1)):
            raise ConfigError(
                f"sampler={type(scheduler).__name__} with these settings chooses time steps of its own: take a preset, or a solver with "
                "one network evaluation per step and its default spacing."
            )

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Float[Tensor, "b c h w"],
        *,
        generators: Sequence[torch.Generator] | None = None,
        step_noise: Float[Tensor, "n b c h w"] | None = None,
        callback: StepCallback | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Frames in [-1, 1].

        Args:
            denoiser: the network with its conditions: (x_t, original time steps) -> noise, or noise and nu.
            noise: standard normal starting noise, x_T.
            generators: of the noise of the steps, one per sample, so that the batch size changes nothing.
            step_noise: given noise of the steps instead; the last step of the ancestral sampler needs none.
            callback: sees the number of a step, the network's output and the sample after the step.
        """
        if self.scheduler is None:
            return ancestral(denoiser, noise, self.diffusion, generators, step_noise, callback)
        timesteps = self.timesteps.to(noise.device)

        def prediction(x: Float[Tensor, "b c h w"], position: Shaped[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
            return denoiser(x, timesteps[position.long()])[:, : x.shape[1]]

        frames = sample(
            prediction,
            noise,
            self.scheduler,
            self.steps,
            generators=generators,
            eta=self.eta,
            step_noise=step_noise,
            callback=callback,
        )
        return frames.clamp(-1, 1)


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    diffusion: LearnedRangeDiffusion,
    generators: Sequence[torch.Generator] | None = None,
    step_noise: Float[Tensor, "n b c h w"] | None = None,
    callback: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """x_{i-1} = mean + exp(log variance / 2) z at every position of the process, z = 0 in the last  (algorithm 2, arXiv:2006.11239).

    Arguments as those of `FrameSampler`; either `generators` or `step_noise` is needed.
    """
    x, last = noise, len(diffusion) - 1
    for k, i in enumerate(range(last, -1, -1)):
        position = torch.full((len(x),), i, device=x.device)
        output = denoiser(x, diffusion.timesteps[position])
        x, log_variance = diffusion.predict(output, x, position).step
        if i:
            z = _step_noise(k, noise.shape[1:], generators, step_noise)
            x = x + (0.5 * log_variance).exp() * z.to(x)
        if callback is not None:
            callback(k, output, x)
    return x


def _step_noise(
    k: int, shape: Sequence[int], generators: Sequence[torch.Generator] | None, given: Tensor | None
) -> Float[Tensor, "b c h w"]:
    if given is not None:
        return given[k]
    if generators is None:
        raise ValueError("the ancestral sampler needs generators or given noise for its steps")
    return randn_each(generators, shape)


def solver_positions(diffusion: LearnedRangeDiffusion, steps: int) -> Int64[Tensor, " steps"]:
    """Positions of a solver's steps, least noisy first, at even distances in log(ab / (1 - ab)); the step after the first is x_0.

    Even distances in t, as the ancestral sampler has them, leave most of the way from fine noise to none to a single step, which
    smooths away detail: of a deviation of 0.1 in [-1, 1], 20 steps keep 73 % with even time steps and all of it with these.

    Raises:
        ConfigError: fewer than 2 steps, or more than there are positions with a signal.
    """
    ab = diffusion.alphas_cumprod.cpu().double()
    ab = ab[ab >= LEAST_SIGNAL]
    if not 2 <= steps <= len(ab):
        raise ConfigError(f"steps={steps}: this sampler takes 2 to {len(ab)} steps.")
    log_snr = torch.logit(ab)
    wanted = torch.linspace(log_snr[0].item(), log_snr[-1].item(), steps, dtype=torch.float64)
    nearest = (log_snr[None] - wanted[:, None]).abs().argmin(dim=1)
    order = torch.arange(steps)  # no position twice, none beyond the last
    return ((nearest - order).cummax(dim=0).values + order).minimum(len(ab) - steps + order)


def _schedule(alphas_cumprod: Float[Tensor, " t"], prediction_type: str) -> DDIMScheduler:
    """A schedule of diffusers with exactly these noise levels, so that its time steps are positions among them.

    Solvers of diffusers assume time steps at equal distances; handing them only the levels that are used makes every choice exact.
    """
    ab = alphas_cumprod.cpu().double()
    betas = 1 - ab / torch.cat([torch.ones(1, dtype=torch.float64), ab[:-1]])
    settings: dict[str, Any] = {"prediction_type": prediction_type, "timestep_spacing": "trailing"}
    return DDIMScheduler(num_train_timesteps=len(ab), trained_betas=betas.tolist(), **settings)
