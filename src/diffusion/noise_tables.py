"""The tables of a diffusion with given noise levels, under the names that latent-diffusion's checkpoints give them.

Symbols: alpha = 1 - beta, ab = cumulative product of alpha  (DDPM, arXiv:2006.11239). Index t = 0 is the least noise.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_VARIANCE = 1e-20  # where its logarithm is needed: the last step has no noise


def scaled_linear_betas(
    n_timesteps: int = 1000, start: float = 0.0015, end: float = 0.0195
) -> Float[Tensor, " n_timesteps"]:
    """Betas whose square roots grow linearly, float64 (latent-diffusion, arXiv:2112.10752, calls them linear)."""
    return torch.linspace(start**0.5, end**0.5, n_timesteps, dtype=torch.float64).square()


def noise_tables(betas: Float[Tensor, " n"], precision: torch.dtype = torch.float64) -> dict[str, Float[Tensor, " n"]]:
    """Float32 tables of x_t given x_0, of x_0 given noise, and of the posterior q(x_{t-1} | x_t, x_0).

        posterior_variance = beta (1 - ab_prev) / (1 - ab)                                    (equation 7)
        posterior_mean = posterior_mean_coef1 x_0 + posterior_mean_coef2 x_t

    Args:
        betas: of all time steps.
        precision: of the computation.
    """
    betas = betas.to(precision)
    alphas = 1 - betas
    ab = alphas.cumprod(0)
    ab_prev = torch.cat([ab.new_ones(1), ab[:-1]])
    variance = betas * (1 - ab_prev) / (1 - ab)
    tables = {
        "betas": betas,
        "alphas_cumprod": ab,
        "alphas_cumprod_prev": ab_prev,
        "sqrt_alphas_cumprod": ab.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - ab).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - ab).log(),
        "sqrt_recip_alphas_cumprod": (1 / ab).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / ab - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=LEAST_VARIANCE).log(),
        "posterior_mean_coef1": betas * ab_prev.sqrt() / (1 - ab),
        "posterior_mean_coef2": (1 - ab_prev) * alphas.sqrt() / (1 - ab),
    }
    return {name: table.float() for name, table in tables.items()}


def vlb_weights(betas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Weights of the squared error of the noise in the variational bound (equation 12 of arXiv:2006.11239).

    beta^2 / (2 posterior_variance alpha (1 - ab))        at t = 0, where the variance is zero, the value at t = 1
    """
    tables = noise_tables(betas)
    weights = tables["betas"].square() / (
        2 * tables["posterior_variance"] * (1 - betas).float() * (1 - tables["alphas_cumprod"])
    )
    weights[0] = weights[1]
    return weights
