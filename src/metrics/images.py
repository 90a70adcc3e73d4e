"""How close a generated frame is to the real one: PSNR and SSIM of RGB images, one value per image, then the mean over images.

Images are uint8 (0..255) or float in [0, 1]. The states are sums, so that ranks and chunks of a video can be merged in any order.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torchmetrics import Metric

from src.metrics.byte_ssim import byte_ssim

PSNR_CAP = 100.0  # dB; identical images would give infinity
SSIM_RADIUS = 5  # pixels; the window of Wang et al. 2004 has 11x11 pixels ...
SSIM_SIGMA = 1.5  # ... with Gaussian weights of this standard deviation
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2

Images = UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]


def psnr(generated: Images, reference: Images) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(1 / MSE) over pixels and channels, at most 100."""
    if generated.dtype == reference.dtype == torch.uint8:
        mse = (generated.int() - reference.int()).square().sum(dim=(1, 2, 3)).double() / generated[0].numel() / 255**2
    else:
        mse = (unit_range(generated) - unit_range(reference)).square().double().mean(dim=(1, 2, 3))
    return (-10 * mse.log10()).clamp(max=PSNR_CAP).float()


def ssim(
    generated: Images, reference: Images, border: Literal["reflected", "left_out"] = "reflected"
) -> Float[Tensor, " b"]:
    """Structural similarity of each image, Gaussian 11x11 window, mean over pixels and channels.

    SSIM = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2))   (Wang et al. 2004, equation 13)

    The value of torchmetrics' `structural_similarity_index_measure(data_range=1.0)`, four times as fast on a CPU, of uint8 images many
    times: the window is separable, and only the sum of the two variances is needed. Variances are differences of large numbers: neither
    autocast nor TF32 may touch them.

    Args:
        border: `left_out` counts only pixels whose window lies inside the picture, as MATLAB and scikit-image do: 0.01 more.
    """
    if min(generated.shape[-2:]) <= SSIM_RADIUS:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_RADIUS + 1} pixels a side, found {tuple(generated.shape[-2:])}."
        )
    if border == "left_out" and min(generated.shape[-2:]) <= 2 * SSIM_RADIUS:
        raise ValueError(f"SSIM without the border needs at least {2 * SSIM_RADIUS + 1} pixels a side.")
    if generated.dtype == reference.dtype == torch.uint8 and generated.device.type == "cpu":
        margin = SSIM_RADIUS if border == "left_out" else 0
        constants = SSIM_C1 * 255**2, SSIM_C2 * 255**2
        values = byte_ssim(generated.numpy(), reference.numpy(), window_weights()[SSIM_RADIUS:], constants, margin)
        return torch.from_numpy(values).float()
    x, y = unit_range(generated), unit_range(reference)
    if x.is_cuda:
        x, y = x.double(), y.double()
    with torch.autocast(x.device.type, enabled=False):
        mu_x, mu_y = _window_mean(x), _window_mean(y)
        mu_xy, mu_xx_yy = mu_x * mu_y, mu_x.square() + mu_y.square()
        covariance = _window_mean(x * y) - mu_xy
        variances = (_window_mean(x.square() + y.square()) - mu_xx_yy).clamp(min=0)
    similarity = (2 * mu_xy + SSIM_C1) * (2 * covariance + SSIM_C2) / ((mu_xx_yy + SSIM_C1) * (variances + SSIM_C2))
    if border == "left_out":
        similarity = similarity[..., SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]
    return similarity.double().mean(dim=(1, 2, 3)).float()


def unit_range(images: Images) -> Float[Tensor, "b c h w"]:
    """Images as float in [0, 1]; a ValueError for floats of another range, which would give plausible but wrong scores."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    low, high = images.aminmax()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true for NaN
        raise ValueError(f"metrics of images take uint8 or floats in [0, 1], found [{low:.3f}, {high:.3f}].")
    return images.float() if images.dtype != torch.float64 else images


def window_weights() -> Float64[np.ndarray, " 11"]:
    """Weights of a column or a row of the window, sum 1."""
    offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return weights / weights.sum()


def _window_mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Gaussian-weighted mean around each pixel: a column, then a row of weights, over mirrored borders."""
    b, c, h, w = x.shape
    weights = torch.from_numpy(window_weights()).to(x)
    # All images as the channels of one: oneDNN's depthwise kernel then works on contiguous vectors of channels.
    planes = x.reshape(1, b * c, h, w).contiguous(memory_format=torch.channels_last)
    planes = F.pad(planes, 4 * [SSIM_RADIUS], mode="reflect")
    planes = F.conv2d(planes, weights.view(1, 1, -1, 1).expand(b * c, 1, -1, 1), groups=b * c)
    planes = F.conv2d(planes, weights.view(1, 1, 1, -1).expand(b * c, 1, 1, -1), groups=b * c)
    return planes.reshape(b, c, h, w)


class ImageMean(Metric):
    """Mean over all images of a value per image."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Float[Tensor, " b"]) -> None:
        self.total += values.double().sum()
        self.count += values.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the images seen; NaN before the first."""
        return (self.total / self.count).float()


class PSNR(ImageMean):
    """Peak signal-to-noise ratio in dB, higher is better: per image, capped at 100 dB, then the mean over images."""

    higher_is_better = True

    def update(self, generated: Images, reference: Images) -> None:
        """Add a batch of image pairs, uint8 or float in [0, 1]."""
        self._add(psnr(generated, reference))


class SSIM(ImageMean):
    """Structural similarity, at most 1, higher is better: per image, then the mean over images."""

    higher_is_better = True

    def update(self, generated: Images, reference: Images) -> None:
        """Add a batch of image pairs, uint8 or float in [0, 1]."""
        self._add(ssim(generated, reference))
