"""The diffusion of Diffused Heads (arXiv:2301.03396, section 3.1): cosine schedule, predicted noise, variance learned within its range.

Symbols: x_0 clean sample, eps noise, t time step, i position among the time steps that a process keeps, beta_i, alpha_i = 1 - beta_i,
ab_i = alpha_0 ... alpha_i, bt_i = beta_i (1 - ab_{i-1}) / (1 - ab_i) the variance of q(x_{i-1} | x_i, x_0), nu the network's
interpolation between the logarithms of bt_i (nu = -1) and beta_i (nu = 1)  (equation 15, arXiv:2102.09672).
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from src.diffusion.gaussians import gaussian_kl, pixel_nll
from src.diffusion.losses import denoising_error
from src.errors import ConfigError

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Gaussian(NamedTuple):
    """A diagonal Gaussian over samples."""

    mean: Float[Tensor, "b c h w"]
    log_variance: Float[Tensor, "b c h w"]


class Prediction(NamedTuple):
    """What a network's output says of the sample one step back: p(x_{i-1} | x_i), and of the clean one."""

    clean: Float[Tensor, "b c h w"]  # x_0 in [-1, 1]
    step: Gaussian


class DenoisingTerms(NamedTuple):
    """Terms of the loss.

    simple: mean of (eps - eps')^2 per sample, or of `denoising_error` for other predictions.
    vlb: variational bound per sample, bits per dimension, which trains the variance alone; None if the variance is fixed.
    error: the square of `simple` per pixel, for losses within a region.
    """

    simple: Float[Tensor, " b"]
    vlb: Float[Tensor, " b"] | None
    error: Float[Tensor, "b c h w"]


def cosine_betas(n_timesteps: int) -> Float[Tensor, " t"]:
    """beta_t = min(1 - f(t+1) / f(t), 0.999) with f(t) = cos^2((t/T + 0.008) / 1.008 pi/2)  (equation 17, arXiv:2102.09672).

    In float64, then rounded to float32.
    """

    def signal(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal((t + 1) / n_timesteps) / signal(t / n_timesteps), 0.999) for t in range(n_timesteps)]
    return torch.tensor(
        betas, dtype=torch.float64, device="cpu"
    ).float()  # real ones, even for a module on the meta device


class LearnedRangeDiffusion(nn.Module):
    """Noising, its reversal step by step, and the losses of a network that predicts noise and, if it has twice the channels, nu.

    All tables are float32 and computed in float32 from float32 betas, as the original does: at the noisy end, where ab is 2e-9, that
    arithmetic is part of the published model. They follow the module to its device, stay float32 in a module of lower precision and
    are not in its state dict.

    Args:
        n_timesteps: T.
        prediction_type: what the network predicts beside nu: `epsilon` as the original, `sample` (x_0) or `v_prediction`.
        min_snr_gamma: limit of the weights of the simple loss, see `src.diffusion.losses`; None as the original.
        snr_floor: idem.
        betas: other betas than the cosine schedule's.
        timesteps: the original time step of each beta; None: 0..T-1.

    Attributes:
        timesteps: the original time step at each position, what the network is told.
        betas, alphas_cumprod: as above, per position.
    """

    timesteps: Tensor
    betas: Tensor
    alphas_cumprod: Tensor
    log_betas: Tensor
    log_posterior_variances: Tensor
    clean_from_noisy: Tensor
    clean_from_noise: Tensor
    mean_from_clean: Tensor
    mean_from_noisy: Tensor

    def __init__(
        self,
        n_timesteps: int = 1000,
        prediction_type: PredictionType = "epsilon",
        min_snr_gamma: float | None = None,
        snr_floor: float | None = None,
        betas: Float[Tensor, " t"] | None = None,
        timesteps: Int64[Tensor, " t"] | None = None,
    ) -> None:
        super().__init__()
        if n_timesteps < 2:
            raise ConfigError(f"n_timesteps={n_timesteps}: a diffusion process has at least 2 time steps.")
        if prediction_type not in get_args(PredictionType):
            raise ConfigError(
                f"prediction_type={prediction_type}: choose one of {', '.join(get_args(PredictionType))}."
            )
        self.prediction_type: PredictionType = prediction_type
        self.loss_limits = (min_snr_gamma, snr_floor)
        betas = cosine_betas(n_timesteps) if betas is None else betas.float().cpu()
        for name, table in _tables(betas).items():
            self.register_buffer(name, table, persistent=False)
        self.register_buffer(
            "timesteps",
            torch.arange(len(betas), device=betas.device) if timesteps is None else timesteps.cpu(),
            persistent=False,
        )

    def __len__(self) -> int:
        return len(self.betas)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LearnedRangeDiffusion":
        """Move the tables with the module, but never round them."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in list(self._buffers.items()):
            table = exact[name]
            if table is not None and moved is not None:
                self._buffers[name] = table.to(moved.device)
        return self

    def respaced(self, steps: int) -> "LearnedRangeDiffusion":
        """The process that keeps `steps` evenly spaced positions, the first and the last among them; this one stays as it is.

        beta'_k = 1 - ab_{s(k)} / ab_{s(k-1)} with s(k) = round(k (T - 1) / (steps - 1))  (section 4, arXiv:2102.09672), in float32.

        Raises:
            ConfigError: more steps than positions, or so few that a beta becomes 1 and erases the sample.
        """
        if not 2 <= steps <= len(self):
            raise ConfigError(f"steps={steps}: the ancestral sampler needs 2 to {len(self)} steps.")
        kept = _evenly_spaced(len(self), steps)
        alphas_cumprod = self.alphas_cumprod.cpu()[kept]
        before = torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])
        betas = 1 - alphas_cumprod / before
        if betas.max() >= 1:
            raise ConfigError(
                f"steps={steps} is too few for the ancestral sampler with {len(self)} time steps, whose last step would erase the frame: "
                f"take at least {self._fewest_steps()}, or another sampler such as ddim."
            )
        other = LearnedRangeDiffusion(
            len(self), self.prediction_type, *self.loss_limits, betas=betas, timesteps=self.timesteps.cpu()[kept]
        )
        return other.to(self.betas.device)

    def _fewest_steps(self) -> int:
        """The smallest number of steps that can be taken."""
        alphas_cumprod = self.alphas_cumprod.cpu()
        for steps in range(2, len(self)):
            kept = alphas_cumprod[_evenly_spaced(len(self), steps)]
            if (1 - kept[1:] / kept[:-1]).max() < 1:
                return steps
        return len(self)

    def at(self, table: Tensor, i: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
        """Entries of a table for a batch of samples."""
        return table[i][:, None, None, None]

    def q_sample(
        self, clean: Float[Tensor, "b c h w"], i: Int64[Tensor, " b"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """x_i = sqrt(ab_i) x_0 + sqrt(1 - ab_i) eps  (equation 2)."""
        ab = self.at(self.alphas_cumprod, i)
        return ab.sqrt() * clean + (1 - ab).sqrt() * noise

    def posterior(
        self, clean: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], i: Int64[Tensor, " b"]
    ) -> Gaussian:
        """q(x_{i-1} | x_i, x_0)  (equations 6 and 7, arXiv:2006.11239); at i = 0 with the variance of i = 1."""
        mean = self.at(self.mean_from_clean, i) * clean + self.at(self.mean_from_noisy, i) * noisy
        return Gaussian(mean, self.at(self.log_posterior_variances, i).expand_as(noisy))

    def predict(
        self, output: Float[Tensor, "b c2 h w"], noisy: Float[Tensor, "b c h w"], i: Int64[Tensor, " b"]
    ) -> Prediction:
        """The clean sample and the step that the network's output stands for; float32 whatever the network's precision.

            x_0 = clip((x_i - sqrt(1 - ab_i) eps) / sqrt(ab_i), -1, 1)
            log variance = v log beta_i + (1 - v) log bt_i,   v = (nu + 1) / 2;   log beta_i where there is no nu

        Args:
            output: eps (or what `prediction_type` says), or that and nu on the channels.
            noisy: x_i.
            i: positions.
        """
        noisy = noisy.float()
        predicted, nu = _split(output.float(), noisy.shape[1])
        clean = self._clean(predicted, noisy, i).clamp(-1, 1)
        mean, lower = self.posterior(clean, noisy, i)
        upper = self.at(self.log_betas, i).expand_as(noisy)
        if nu is None:
            return Prediction(clean, Gaussian(mean, upper))
        v = (nu + 1) / 2
        return Prediction(clean, Gaussian(mean, v * upper + (1 - v) * lower))

    def _clean(
        self, predicted: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], i: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """x_0 by what the network predicts."""
        if self.prediction_type == "epsilon":
            return self.at(self.clean_from_noisy, i) * noisy - self.at(self.clean_from_noise, i) * predicted
        if self.prediction_type == "sample":
            return predicted
        ab = self.at(self.alphas_cumprod, i)
        return ab.sqrt() * noisy - (1 - ab).sqrt() * predicted

    def terms(
        self,
        output: Float[Tensor, "b c2 h w"],
        clean: Float[Tensor, "b c h w"],
        noisy: Float[Tensor, "b c h w"],
        i: Int64[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
    ) -> DenoisingTerms:
        """L_simple and L_vlb  (section 3.1).

        The bound trains nu alone: the noise in it is detached. It is not scaled by T, as in guided-diffusion.

        Args:
            output: the network's, for `noisy`.
            clean: x_0 in [-1, 1].
            noisy: x_i = `q_sample(clean, i, noise)`.
            i: positions.
            noise: eps.
        """
        output = output.float()
        predicted, nu = _split(output, clean.shape[1])
        limits = self.loss_limits
        error = denoising_error(predicted, clean, noise, self.alphas_cumprod[i], self.prediction_type, *limits)
        if nu is None:
            return DenoisingTerms(error.mean(dim=(1, 2, 3)), None, error)
        vlb = self.vlb(torch.cat([predicted.detach(), nu], dim=1), clean, noisy, i)
        return DenoisingTerms(error.mean(dim=(1, 2, 3)), vlb, error)

    def vlb(
        self,
        output: Float[Tensor, "b c2 h w"],
        clean: Float[Tensor, "b c h w"],
        noisy: Float[Tensor, "b c h w"],
        i: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Term of the variational bound of each sample, bits per dimension.

        KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)), and at i = 0 the negative log probability of the pixels of x_0.
        """
        step = self.predict(output, noisy, i).step
        kl = gaussian_kl(*self.posterior(clean, noisy, i), *step)
        nll = pixel_nll(clean, step.mean, 0.5 * step.log_variance)
        nats = torch.where((i == 0)[:, None, None, None], nll, kl)
        return nats.mean(dim=(1, 2, 3)) / math.log(2)


def _tables(betas: Float[Tensor, " t"]) -> dict[str, Tensor]:
    """Everything that is looked up by position, in the original's float32 arithmetic."""
    alphas = 1 - betas
    ab = alphas.cumprod(dim=0)
    before = torch.cat([torch.ones_like(ab[:1]), ab[:-1]])
    variances = betas * (1 - before) / (1 - ab)
    return {
        "betas": betas,
        "alphas_cumprod": ab,
        "log_betas": betas.log(),
        "log_posterior_variances": torch.cat([variances[1:2], variances[1:]]).log(),  # the first is 0
        "clean_from_noisy": (1 / ab).sqrt(),
        "clean_from_noise": (1 / ab - 1).sqrt(),
        "mean_from_clean": betas * before.sqrt() / (1 - ab),
        "mean_from_noisy": (1 - before) * alphas.sqrt() / (1 - ab),
    }


def _evenly_spaced(n: int, steps: int) -> Int64[Tensor, " steps"]:
    """round(k (n - 1) / (steps - 1)) as the original rounds it: a running sum of the stride in float64, halves to even."""
    stride = (n - 1) / (steps - 1)
    position, kept = 0.0, []
    for _ in range(steps):
        kept.append(round(position))
        position += stride
    return torch.tensor(kept, device="cpu")


def _split(
    output: Float[Tensor, "b c2 h w"], channels: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
    """Noise and, where the network has twice the channels, nu."""
    if output.shape[1] == channels:
        return output, None
    if output.shape[1] == 2 * channels:
        noise, nu = output.chunk(2, dim=1)
        return noise, nu
    raise ValueError(
        f"{output.shape[1]} output channels for samples of {channels}: expected {channels} or {2 * channels}"
    )
