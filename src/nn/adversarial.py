"""Losses of networks that are trained against discriminators (hinge form of arXiv:1705.02894)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real: Float[Tensor, "b 1 *cells"], generated: Float[Tensor, "b 1 *cells"]) -> Float[Tensor, ""]:
    """(mean max(0, 1 - D(x)) + mean max(0, 1 + D(x'))) / 2, of the logits of real pictures or clips and of generated ones."""
    return 0.5 * ((1 - real).relu().mean() + (1 + generated).relu().mean())


def generator_loss(generated: Float[Tensor, "b 1 *cells"]) -> Float[Tensor, ""]:
    """-mean D(x'), of the logits of generated pictures or clips."""
    return -generated.mean()


def feature_matching(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over a discriminator's stages of the mean |difference| of their outputs; the real ones are fixed (arXiv:1711.11585, equation 4).

    Args:
        generated: outputs of the stages for generated pictures or clips, logits excluded.
        real: idem, for the real ones.
    """
    return sum(
        (F.l1_loss(ours, theirs.detach()) for ours, theirs in zip(generated, real, strict=True)),
        start=generated[0].new_zeros(()),
    )
