"""Motion frames: the frames just before the one that is generated, as a network sees them.

Training has real motion frames, sampling generated ones, and the difference makes long videos drift (Diffused Heads, arXiv:2301.03396,
names this limit). What is taken away from real motion frames (colour, sharpness) or added to them (noise) can no longer be relied on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, rgb_to_grayscale

from src.errors import ConfigError

BLUR_KERNEL = 5  # pixels
BLUR_SIGMA = 2.0
MAX_SIGMA = 4.0  # pixels, of the augmentation: its kernel of 4 sigma must stay smaller than a picture


def motion_transform(
    frames: Float[Tensor, "*b 3 h w"], *, grayscale: bool = False, blur: bool = False
) -> Float[Tensor, "*b c h w"]:
    """Motion frames in the form in which the network gets them, in training and in sampling alike.

    Args:
        frames: RGB in [-1, 1].
        grayscale: 0.2989 R + 0.587 G + 0.114 B of these values, one channel.
        blur: first, 5x5 Gaussian of sigma 2 with reflected borders.
    """
    if blur:
        frames = gaussian_blur(frames, [BLUR_KERNEL, BLUR_KERNEL], [BLUR_SIGMA, BLUR_SIGMA])
    return rgb_to_grayscale(frames, num_output_channels=1) if grayscale else frames


@dataclass(frozen=True)
class MotionAugmentation:
    """Makes real motion frames, and the identity frame, as imperfect as generated ones: against drift, for training alone.

    Each sample draws its own strength, uniform in the range; all motion frames of a sample share it. The published models were
    trained without (all zero, the default).

    Args:
        motion_blur: range of the sigma of a Gaussian on the motion frames, pixels.
        motion_noise: range of the standard deviation of Gaussian noise on them, in units of [-1, 1].
        motion_dropout: probability that all motion frames are the identity frame, as they are before the first frame of a video.
        identity_noise: range of the standard deviation of noise on the identity frame.
        motion_noise_octaves: 1: white noise. Through white noise the coarse structure of a frame can still be read, and so a network that
            trusts it lets slow errors of colour and light grow; with n octaves, n noises of equal variance, each of half the resolution of
            the one before, are added.

    Raises:
        ConfigError: a range that is not ascending or leaves what makes sense.
    """

    motion_blur: Sequence[float | int] = (0.0, 0.0)
    motion_noise: Sequence[float | int] = (0.0, 0.0)
    motion_dropout: float | int = 0.0
    identity_noise: Sequence[float | int] = (0.0, 0.0)
    motion_noise_octaves: int = 1

    def __post_init__(self) -> None:
        largest = {"motion_blur": MAX_SIGMA, "motion_noise": 1.0, "identity_noise": 1.0}
        for name, limit in largest.items():
            values = tuple(getattr(self, name))
            if len(values) != 2 or not 0 <= values[0] <= values[1] <= limit:
                raise ConfigError(f"{name}={list(values)}: give a lower and an upper end between 0 and {limit:g}.")
        if self.motion_noise_octaves < 1:
            raise ConfigError(f"motion_noise_octaves={self.motion_noise_octaves}: give 1 or more.")
        if not 0 <= self.motion_dropout < 1:
            raise ConfigError(f"motion_dropout={self.motion_dropout}: give a probability of at least 0 and below 1.")

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        ranges = (self.motion_blur, self.motion_noise, self.identity_noise)
        return self.motion_dropout > 0 or any(max(ends) > 0 for ends in ranges)

    def __call__(
        self, motion: Float[Tensor, "b m 3 h w"], identity: Float[Tensor, "b 3 h w"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b m 3 h w"], Float[Tensor, "b 3 h w"]]:
        """Augmented copies of RGB frames in [-1, 1]; noise may leave this range, as a sampler's rounding does.

        Args:
            motion: oldest first, before `motion_transform`.
            identity: the picture of the person.
            generator: on the frames' device; the same state gives the same result.
        """
        if self.motion_dropout > 0 and motion.shape[1]:
            dropped = self._uniform(motion, (0.0, 1.0), generator) < self.motion_dropout
            motion = torch.where(dropped[:, None, None, None, None], identity[:, None], motion)
        if max(self.motion_blur) > 0:
            motion = blur_each(motion, self._uniform(motion, self.motion_blur, generator))
        return (
            self._add_noise(motion, self.motion_noise, generator, self.motion_noise_octaves),
            self._add_noise(identity, self.identity_noise, generator),
        )

    def _add_noise(
        self,
        frames: Float[Tensor, "b *shape"],
        deviation: Sequence[float],
        generator: torch.Generator,
        octaves: int = 1,
    ) -> Float[Tensor, "b *shape"]:
        if max(deviation) == 0:
            return frames
        strength = self._uniform(frames, deviation, generator).view(-1, *[1] * (frames.ndim - 1))
        return frames + strength * octave_noise(frames, octaves, generator)

    @staticmethod
    def _uniform(
        frames: Float[Tensor, "b *shape"], ends: Sequence[float | int], generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """A number per sample between the ends."""
        unit = torch.rand(len(frames), generator=generator, device=frames.device, dtype=frames.dtype)
        return ends[0] + (ends[1] - ends[0]) * unit


def octave_noise(like: Float[Tensor, "*b h w"], octaves: int, generator: torch.Generator) -> Float[Tensor, "*b h w"]:
    """Gaussian noise of unit variance: the sum of white noises at full, half, quarter, ... resolution, enlarged by repeating pixels.

    Args:
        like: gives shape, dtype and device; the generator's is the same.
        octaves: how many; those below one pixel are left out.
    """
    height, width = like.shape[-2:]
    total, count = torch.zeros_like(like), 0
    for octave in range(octaves):
        cell = 2**octave
        size = (-(-height // cell), -(-width // cell))
        noise = torch.randn((*like.shape[:-2], *size), generator=generator, device=like.device, dtype=like.dtype)
        total = total + noise.repeat_interleave(cell, -2).repeat_interleave(cell, -1)[..., :height, :width]
        count += 1
        if max(size) == 1:
            break
    return total / count**0.5


def blur_each(frames: Float[Tensor, "b m c h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b m c h w"]:
    """Gaussian blur with a sigma (pixels) of its own for every sample; borders reflected, sigma 0 changes nothing."""
    reach = min(int(2 * sigma.max().item() + 0.5), *(side - 1 for side in frames.shape[-2:]))
    if reach == 0 or frames.numel() == 0:
        return frames
    offsets = torch.arange(-reach, reach + 1, device=frames.device, dtype=frames.dtype)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)  # b k
    b, m, c = frames.shape[:3]
    weight = kernels.repeat_interleave(m * c, dim=0)[:, None]  # one kernel per picture and channel
    pictures = rearrange(frames, "b m c h w -> 1 (b m c) h w")
    pictures = F.pad(pictures, (reach,) * 4, mode="reflect")
    pictures = F.conv2d(pictures, weight[:, :, None, :], groups=len(weight))
    pictures = F.conv2d(pictures, weight[:, :, :, None], groups=len(weight))
    return rearrange(pictures, "1 (b m c) h w -> b m c h w", b=b, m=m)
