"""What balances the losses of the first stage (VQ-GAN, arXiv:2012.09841, section 3.2); they are in `src.nn.adversarial`."""

import torch
from jaxtyping import Float
from torch import Tensor

MAX_WEIGHT = 1e4


def adaptive_weight(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """What balances the two losses' gradients at the decoder's last layer (equation 7), without a gradient of its own:

        |grad reconstruction| / (|grad adversarial| + 1e-4),  at most 10 000

    Both graphs are kept for the backward pass that follows.
    """
    wanted = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    present = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (wanted / (present + 1e-4)).clamp(0, MAX_WEIGHT).detach()
