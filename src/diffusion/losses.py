"""Losses of denoising models by what the network predicts.

Symbols: x_0 clean sample, eps noise, ab_t = prod_{s<=t} (1 - beta_s), x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps  (DDPM, arXiv:2006.11239).
"""

from jaxtyping import Float
from torch import Tensor


def denoising_error(
    output: Float[Tensor, "b *shape"],
    clean: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "b *shape"],
    alphas_cumprod: Float[Tensor, " b"],
    prediction_type: str,
    min_snr_gamma: float | None = None,
    snr_floor: float | None = None,
) -> Float[Tensor, "b *shape"]:
    """Weighted squared error of the network's output, per element, in float32.

    prediction_type   target                                    weight
    epsilon           eps                                       1              (L_simple, equation 14 of arXiv:2006.11239)
    sample            x_0                                       ab/(1-ab)      (the same loss, seen from x_0)
    v_prediction      sqrt(ab) eps - sqrt(1-ab) x_0             1              (arXiv:2202.00512, appendix D)

    With `min_snr_gamma` or `snr_floor` the error of x_0 weighs ab/(1-ab) within these limits, whatever the network predicts. Equal limits
    of 1 with `sample` are the plain error of x_0.

    Args:
        output: of the network.
        clean: x_0.
        noise: eps.
        alphas_cumprod: ab at each sample's time step.
        prediction_type: as diffusers' schedulers name it.
        min_snr_gamma: upper limit, which keeps the almost clean time steps from ruling the training (Min-SNR, equation 8 of
            arXiv:2303.09556, 5 there); None: no limit.
        snr_floor: lower limit, which keeps time steps of almost pure noise, where only the condition tells anything, from counting for
            nothing (truncated SNR, section 4 of arXiv:2202.00512, 1 there); None: no limit.
    """
    output = output.float()
    ab = alphas_cumprod.reshape(-1, *[1] * (clean.ndim - 1)).float()
    snr = ab / (1 - ab)
    limited = None
    if min_snr_gamma is not None or snr_floor is not None:
        limited = snr.clamp(min=snr_floor, max=min_snr_gamma)  # weight of the error of x_0
    if prediction_type == "epsilon":
        weight, error = 1.0 if limited is None else limited / snr, output - noise
    elif prediction_type == "sample":
        weight, error = snr if limited is None else limited, output - clean
    elif prediction_type == "v_prediction":
        weight, error = (
            1.0 if limited is None else limited / (snr + 1),
            output - ab.sqrt() * noise + (1 - ab).sqrt() * clean,
        )
    else:
        raise ValueError(f"prediction_type={prediction_type!r}: choose epsilon, sample or v_prediction")
    return weight * error.square()
