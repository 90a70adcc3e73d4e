"""The two groups into which AToM divides the 68 landmarks, and the vector of all of them (section 3.2 of arXiv:2403.19144).

A face is a vector of 204 numbers, x, y, z of point after point in the order of iBUG 300-W.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

N_POINTS = 68
N_VALUES = 3 * N_POINTS

LIP_RELATED = (*range(17), *range(48, 68))  # jaw and mouth
UNRELATED = tuple(range(17, 48))  # brows, nose and eyes


def region(faces: Float[Tensor, "b t 204"], points: tuple[int, ...]) -> Float[Tensor, "b t n"]:
    """The values of some of the points."""
    return rearrange(faces, "b t (k d) -> b t k d", d=3)[:, :, list(points)].flatten(2)


def values_of(points: tuple[int, ...]) -> Tensor:
    """Where the values of some of the points stand in a face."""
    return (3 * torch.tensor(points, device="cpu")[:, None] + torch.arange(3, device="cpu")).flatten()
