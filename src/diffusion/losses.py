"""Losses of denoising models by what the network predicts.

Symbols: x_0 clean sample, eps noise, ab_t = prod_{s<=t} (1 - beta_s), x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps  (DDPM, arXiv:2006.11239).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss


def denoising_loss(
    output: Float[Tensor, "b *shape"],
    clean: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "b *shape"],
    alphas_cumprod: Float[Tensor, " b"],
    prediction_type: str,
) -> Float[Tensor, ""]:
    """Mean squared error of the network's output over all elements, in float32.

    prediction_type   target                                    weight
    epsilon           eps                                       1              (L_simple, equation 14 of arXiv:2006.11239)
    sample            x_0                                       ab/(1-ab)      (the same loss, seen from x_0)
    v_prediction      sqrt(ab) eps - sqrt(1-ab) x_0             1              (arXiv:2202.00512, appendix D)

    Args:
        output: of the network.
        clean: x_0.
        noise: eps.
        alphas_cumprod: ab at each sample's time step.
        prediction_type: as diffusers' schedulers name it.
    """
    output = output.float()
    ab = alphas_cumprod.reshape(-1, *[1] * (clean.ndim - 1)).float()
    if prediction_type == "epsilon":
        return mse_loss(output, noise)
    if prediction_type == "sample":
        return (ab / (1 - ab) * (output - clean).square()).mean()
    if prediction_type == "v_prediction":
        return mse_loss(output, ab.sqrt() * noise - (1 - ab).sqrt() * clean)
    raise ValueError(f"prediction_type={prediction_type!r}: choose epsilon, sample or v_prediction")
