"""Terms of the variational bound between diagonal Gaussians, element by element, in nats (DDPM, arXiv:2006.11239, section 3)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_kl(
    mean1: Float[Tensor, "*shape"],
    log_variance1: Float[Tensor, "*shape"],
    mean2: Float[Tensor, "*shape"],
    log_variance2: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """KL(N(mean1, variance1) || N(mean2, variance2))."""
    return 0.5 * (
        -1
        + (log_variance2 - log_variance1)
        + (log_variance1 - log_variance2).exp()
        + (mean1 - mean2).square() * (-log_variance2).exp()
    )


def normal_cdf(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Distribution function of the standard normal, (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2; off by at most 2e-4.

    The approximation that guided-diffusion and its descendants train with; the tails matter for the bound.
    """
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def pixel_nll(
    x: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"], log_std: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Negative log probability of 8-bit pixels in [-1, 1] under a Gaussian  (equation 13, arXiv:2006.11239).

    A grey level is the interval x -+ 1/255; those of black and white (beyond -+0.999) reach to infinity. Probabilities below 1e-12
    count as 1e-12.
    """
    inverse_std, centred = (-log_std).exp(), x - mean
    below_upper = normal_cdf((centred + 1 / 255) * inverse_std)
    below_lower = normal_cdf((centred - 1 / 255) * inverse_std)
    probability = torch.where(
        x < -0.999, below_upper, torch.where(x > 0.999, 1 - below_lower, below_upper - below_lower)
    )
    return -probability.clamp(min=1e-12).log()
