"""Losses on key points that train LivePortrait's renderer; no official training code was published.

The paper names the terms (section 3.2 of arXiv:2407.03168) and takes most of them from arXiv:2011.15126; definitions and numbers are
those of an unofficial trainer (liutaocode/LivePortrait-Train).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]

MIN_SQUARED_DISTANCE = 0.1  # between two key points
MEAN_DEPTH = 0.33  # of the key points
CONTROL_POINTS = 5  # per side of a random warp's grid
AFFINE_STD, CONTROL_STD = 0.05, 0.005

# Of 68 landmarks those that lead the first ten key points: three of each eye, four of the mouth.
GUIDE_LANDMARKS = (36, 39, 37, 42, 45, 43, 48, 54, 51, 57)


def keypoint_prior(
    kp: Float[Tensor, "b k 3"], min_squared: float = MIN_SQUARED_DISTANCE, depth: float = MEAN_DEPTH
) -> Scalar:
    """What keeps key points apart and their depth centred, L_L:

    mean over faces of sum_(i != j) max(0, `min_squared` - |x_i - x_j|^2) + |mean z - `depth`|
    """
    squared = (kp[:, :, None] - kp[:, None]).square().sum(dim=-1)  # b k k
    crowded = F.relu(min_squared - squared).sum(dim=(1, 2)) - kp.shape[1] * min_squared  # without those of i = j
    return (crowded + (kp[..., 2].mean(dim=1) - depth).abs()).mean()


def deformation_prior(exp: Float[Tensor, "b k 3"]) -> Scalar:
    """Mean |d|: expressions are small, L_Delta."""
    return exp.abs().mean()


def head_pose_loss(predicted: Float[Tensor, "b 3"], target: Float[Tensor, "b 3"]) -> Scalar:
    """Mean |difference| of pitch, yaw and roll in degrees, L_H."""
    return (predicted - target).abs().mean()


def wing_loss(
    predicted: Float[Tensor, "b n 2"], target: Float[Tensor, "b n 2"], omega: float = 10.0, epsilon: float = 2.0
) -> Scalar:
    """Wing loss of landmarks (equation 5 of arXiv:1711.06753), mean over coordinates.

    omega ln(1 + |x| / epsilon) below omega, |x| - C above, where C joins the two.
    """
    distance = (predicted - target).abs()
    offset = omega - omega * math.log1p(omega / epsilon)
    return torch.where(distance < omega, omega * torch.log1p(distance / epsilon), distance - offset).mean()


def guide_loss(
    kp: Float[Tensor, "b k 3"], landmarks: Float[Tensor, "b 68 2"], omega: float = 0.1, epsilon: float = 0.01
) -> Scalar:
    """Wing loss between the first ten key points and landmarks of eyes and mouth, L_guide (equation 3).

    Args:
        kp: x_s or x_d.
        landmarks: of the same faces, in [0, 1].
        omega: see `wing_loss`.
        epsilon: see `wing_loss`.
    """
    led = (kp[:, : len(GUIDE_LANDMARKS), :2] + 1) / 2
    return wing_loss(led, landmarks[:, list(GUIDE_LANDMARKS)], omega, epsilon)


def generator_loss(generated: Float[Tensor, "b *cells"]) -> Scalar:
    """Mean softplus(-D(x')), of the logits of generated frames; the non-saturating form of arXiv:1406.2661."""
    return F.softplus(-generated).mean()


def discriminator_loss(real: Float[Tensor, "b *cells"], generated: Float[Tensor, "b *cells"]) -> Scalar:
    """Mean softplus(-D(x)) + mean softplus(D(x')), of the logits of real and generated frames."""
    return F.softplus(-real).mean() + F.softplus(generated).mean()


@dataclass(frozen=True)
class RandomWarp:
    """A smooth deformation of frames, T: an affine map and a thin-plate spline; coordinates (x, y) in [-1, 1].

    Attributes:
        affine: of (x, y, 1).
        control: weights of the spline's control points, row after row, which lie on a square grid from corner to corner.
    """

    affine: Float[Tensor, "b 2 3"]
    control: Float[Tensor, "b n"]

    @classmethod
    def draw(cls, n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> "RandomWarp":
        """`n` deformations near the identity."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, *shape, generator=generator, device=device)

        affine = torch.eye(2, 3, device=device) + AFFINE_STD * normal(2, 3)
        return cls(affine, CONTROL_STD * normal(CONTROL_POINTS**2))

    def points(self, points: Float[Tensor, "b m 2"]) -> Float[Tensor, "b m 2"]:
        """T(points); the spline's distance is |dx| + |dy|, and it moves x and y alike."""
        side = round(self.control.shape[1] ** 0.5)
        distance = (points[:, :, None] - _grid(side, side, points)).abs().sum(dim=-1)  # b m n
        bent = (distance.square() * torch.log(distance + 1e-6) * self.control[:, None]).sum(dim=-1, keepdim=True)
        return points @ self.affine[:, :, :2].mT + self.affine[:, None, :, 2] + bent

    def frames(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Frames whose pixel at p shows what lay at T(p); beyond the border they are mirrored."""
        height, width = frames.shape[2:]
        pixels = _grid(height, width, frames).expand(len(frames), -1, -1)
        looked_up = self.points(pixels).unflatten(1, (height, width))
        return F.grid_sample(frames, looked_up, padding_mode="reflection", align_corners=True)


def equivariance_loss(kp: Float[Tensor, "b k 3"], kp_of_warped: Float[Tensor, "b k 3"], warp: RandomWarp) -> Scalar:
    """Mean |x_d - T(x_T)| in the plane, L_E: the key points of the warped frame, warped as well, are those of the frame."""
    return F.l1_loss(kp[..., :2], warp.points(kp_of_warped[..., :2]))


def _grid(height: int, width: int, like: Tensor) -> Float[Tensor, "n 2"]:
    """Coordinates of a frame's pixels, row after row, the first at -1 and the last at 1."""
    axes = (torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in (height, width))
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
