"""From noise to samples with any of diffusers' schedulers."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from jaxtyping import Float, Shaped
from torch import Tensor

from src.errors import ConfigError

Denoiser = Callable[[Float[Tensor, "b c h w"], Shaped[Tensor, " b"]], Float[Tensor, "b c h w"]]
"""Network output for noisy samples at their time steps."""

StepCallback = Callable[[int, Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]], None]
"""Sees the number of a step, the network's output and the sample after the step."""


@runtime_checkable
class Scheduler(Protocol):
    """What this project uses of diffusers' schedulers."""

    config: Any
    alphas_cumprod: Tensor
    timesteps: Tensor
    init_noise_sigma: Any

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the time steps of the sampling."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The sample as the network wants it."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool) -> tuple[Tensor, ...]:
        """The sample at the next time step, first of a tuple."""
        ...

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps."""
        ...

    @classmethod
    def from_config(cls, config: Any, **replaced: Any) -> "Scheduler":
        """A scheduler with the settings of another one."""
        ...


SchedulerFactory = Callable[..., Scheduler]

# Presets by name. Few steps have to start at the noisiest time step ("trailing"); where a solver can clip x_0 to [-1, 1], it does, unless
# the schedule of the training says that clean samples have no such limits (`clip_sample: false`: latents).
_FEW_STEPS = {"timestep_spacing": "trailing"}
_CLIPPED = {"thresholding": True, "sample_max_value": 1.0}
SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm_solver": partial(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", **_CLIPPED, **_FEW_STEPS),
    "unipc": partial(UniPCMultistepScheduler, **_CLIPPED, **_FEW_STEPS),
    "euler": partial(EulerDiscreteScheduler, **_FEW_STEPS),
    "euler_ancestral": partial(EulerAncestralDiscreteScheduler, **_FEW_STEPS),
}


def sampler_for(schedule: Scheduler, sampler: str | SchedulerFactory | None = None) -> Scheduler:
    """The scheduler that samples a model trained with `schedule`.

    Args:
        schedule: noise schedule of the training; lends betas and prediction type.
        sampler: name of a preset, scheduler class, or a `functools.partial` of one whose keywords replace settings; None samples with
            `schedule` itself.

    Raises:
        ConfigError: there is no such preset, or the object is no scheduler class.
    """
    if sampler is None:
        return schedule
    preset = isinstance(sampler, str)
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ConfigError(
                f"sampler={sampler}: choose one of {', '.join(SAMPLERS)}, or a scheduler class of diffusers."
            )
        sampler = SAMPLERS[sampler]
    kind: Any = sampler.func if isinstance(sampler, partial) else sampler
    options: dict[str, Any] = dict(sampler.keywords) if isinstance(sampler, partial) else {}
    if not (isinstance(kind, type) and hasattr(kind, "from_config")):
        raise ConfigError(
            f"sampler={sampler!r}: choose one of {', '.join(SAMPLERS)}, or a scheduler class of diffusers."
        )
    if kind is EulerAncestralDiscreteScheduler and schedule.config.prediction_type == "sample":
        raise ConfigError("sampler=euler_ancestral has no version for prediction_type=sample: choose another sampler.")
    if preset and not schedule.config.get("clip_sample", True):
        options = {key: value for key, value in options.items() if key not in _CLIPPED}
    return kind.from_config(schedule.config, **options)


def takes_eta(scheduler: Scheduler) -> bool:
    """Whether the randomness of its steps can be chosen, as that of DDIM."""
    return "eta" in inspect.signature(scheduler.step).parameters


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c h w"],
    scheduler: Scheduler,
    steps: int,
    *,
    generators: Sequence[torch.Generator] | None = None,
    eta: float = 0.0,
    step_noise: Float[Tensor, "n b c h w"] | None = None,
    callback: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """Samples that `denoiser` makes of `noise`; no argument is changed.

    With diffusers' `DDIMScheduler` (clipped x_0, unclipped eps, leading time steps) this is, for r = 1000 // steps,
    t = (steps-1) r, ..., r, 0 and p = t - r  (equation 12, arXiv:2010.02502):

        x_0 = clip((x_t - sqrt(1 - ab_t) eps) / sqrt(ab_t), -1, 1)
        x_p = sqrt(ab_p) x_0 + sqrt(1 - ab_p - sigma^2) eps + sigma z,   sigma = eta sqrt((1 - ab_p) / (1 - ab_t)) sqrt(1 - ab_t / ab_p)

    Args:
        denoiser: the network with its condition.
        noise: standard normal starting noise; its device is where the sampling runs.
        scheduler: noise schedule and solver; a fresh copy is used, so its own state stays as it is.
        steps: number of network evaluations (of a first-order solver).
        generators: of the noise of stochastic steps, one per sample, so that the batch size changes nothing. Needed where steps are
            random (eta > 0, ancestral solvers).
        eta: 0 is deterministic, 1 as random as DDPM; DDIM only.
        step_noise: given noise of the n steps instead of `generators`; DDIM and DPM-Solver only.
        callback: called after every step.

    Raises:
        ValueError: the scheduler has no `eta` or takes no given noise.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)  # on the CPU: steps then never wait for the GPU
    options = step_options(scheduler, eta, generators)
    if step_noise is not None and "variance_noise" not in inspect.signature(scheduler.step).parameters:
        raise ValueError(f"{type(scheduler).__name__} draws its own step noise; give generators instead")
    x = noise * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        output = denoiser(scheduler.scale_model_input(x, t), t.to(x.device).expand(len(x))).to(x.dtype)
        if step_noise is not None:
            options["variance_noise"] = step_noise[i]
        x = scheduler.step(output, t, x, **options, return_dict=False)[0]
        if callback is not None:
            callback(i, output, x)
    return x


def step_options(scheduler: Scheduler, eta: float, generators: Sequence[torch.Generator] | None) -> dict[str, Any]:
    """Keyword arguments that `scheduler.step` understands."""
    understood = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "eta" in understood:
        options["eta"] = eta
    elif eta:
        raise ValueError(f"eta={eta} is for DDIM; {type(scheduler).__name__} has no such setting")
    if generators is not None and "generator" in understood:
        options["generator"] = list(generators)
    return options
