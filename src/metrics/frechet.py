"""How far two sets of pictures or clips lie apart: FID, KID and FVD.

Features of a network are compared as two normal distributions (Frechet distance, arXiv:1706.08500) or by a polynomial kernel (KID,
arXiv:1801.01401). The Frechet distance of few samples is far too large: below as many samples as features it says next to nothing, and
values compare only at equal numbers of samples.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from src.nn.i3d import INPUT_SIZE

CLIP_FRAMES = 16
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


def frechet_distance(
    mean_a: Float[Tensor, " d"], cov_a: Float[Tensor, "d d"], mean_b: Float[Tensor, " d"], cov_b: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """|m1 - m2|^2 + Tr(C1) + Tr(C2) - 2 Tr((C1 C2)^(1/2)) in float64; the last trace is the sum of the eigenvalues' square roots."""
    roots = torch.linalg.eigvals(cov_a.double() @ cov_b.double()).sqrt().real.sum()
    return (mean_a - mean_b).double().square().sum() + cov_a.double().trace() + cov_b.double().trace() - 2 * roots


class FrechetDistance(FrechetInceptionDistance):
    """Frechet distance of the features that a network gives real and generated samples, 0 or more, lower is better.

    torchmetrics' sums, which merge over processes; the result stays float64, is never below 0, and is NaN with fewer than two samples a
    side. `reset` keeps the real side.

    Args:
        network: samples (n, ...) -> features (n, d); has `num_features`. `nn.Identity`-like ones take features as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(feature=network, reset_real_features=False)

    @torch.no_grad()
    def update(self, imgs: Tensor, real: bool) -> None:
        """Add samples of one side."""
        if len(imgs):
            super().update(imgs, real)

    def compute(self) -> Float[Tensor, ""]:
        """The distance of what was added."""
        if min(self.real_features_num_samples, self.fake_features_num_samples) < 2:
            return torch.tensor(float("nan"), dtype=torch.float64)
        self.orig_dtype = torch.float64
        return super().compute().clamp(min=0)


class Features(nn.Module):
    """Takes features for samples, so that they can be made elsewhere and kept.

    Args:
        num_features: their number.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The features."""
        return features


class KernelDistance(KernelInceptionDistance):
    """KID of features: mean over 100 random subsets of the squared maximum mean discrepancy; unbiased, so that few samples will do.

    Subsets have 1000 samples, or as many as the smaller side has, and are drawn from `seed`: the same features give the same value.
    """

    def __init__(self, network: nn.Module, subset_size: int = KID_SUBSET_SIZE, seed: int = 0) -> None:
        super().__init__(feature=network, subsets=KID_SUBSETS, subset_size=subset_size)
        self._largest = subset_size
        self.seed = seed

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the subsets; NaN with fewer than two samples a side."""
        smaller = min(sum(len(part) for part in side) for side in (self.real_features, self.fake_features))
        if smaller < 2:
            return torch.tensor(float("nan")), torch.tensor(float("nan"))
        self.subset_size = min(self._largest, smaller)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return super().compute()


class VideoFeatures(nn.Module):
    """Clips -> I3D's logits, with the preparation of one of the two public implementations.

    Args:
        network: `src.nn.i3d.I3D` with the published weights.
        variant: `squeezed` brings frames to 224x224 whatever their shape (Diffused Heads); `cropped` scales the shorter side and cuts
            the middle out (PVDM, MoDiTalker). Square frames are the same to both.
    """

    num_features = 400

    def __init__(self, network: nn.Module, variant: str = "squeezed") -> None:
        super().__init__()
        self.network = network
        self.prepare = {"squeezed": squeezed_clips, "cropped": cropped_clips}[variant]

    def forward(self, clips: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b 400"]:
        """Logits of clips of 9 frames or more."""
        device = next(self.network.parameters()).device
        return self.network(self.prepare(clips.to(device)))


def cropped_clips(clips: UInt8[Tensor, "b t 3 h w"], side: int = INPUT_SIZE) -> Float[Tensor, "b 3 t side side"]:
    """RGB in [-1, 1]: the shorter side brought to `side`, bilinearly without antialiasing, the middle cut out."""
    b, t, _, height, width = clips.shape
    scale = side / min(height, width)
    size = (side, _ceil(width * scale)) if height < width else (_ceil(height * scale), side)
    frames = F.interpolate(clips.flatten(0, 1).float() / 255, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    frames = frames[:, :, top : top + side, left : left + side]
    return (frames - 0.5).unflatten(0, (b, t)).transpose(1, 2) * 2


def _ceil(size: float) -> int:
    return -int(-size // 1)


def squeezed_clips(
    clips: UInt8[Tensor, "b t 3 h w"], side: int = INPUT_SIZE, resize: int | None = None, antialias: bool = False
) -> Float[Tensor, "b 3 t side side"]:
    """RGB in [-1, 1]: every frame brought to a square of `side`, bilinearly without antialiasing.

    Args:
        resize: side of squares that frames pass through before.
        antialias: in that first step; the original's version had none, newer ones of its library have.
    """
    levels = grey_levels(clips, resize, antialias)
    b, t = clips.shape[:2]
    frames = levels.transpose(1, 2).flatten(0, 1) / 127.5 - 1
    frames = F.interpolate(frames, (side, side), mode="bilinear", align_corners=False)
    return frames.unflatten(0, (b, t)).transpose(1, 2)


def grey_levels(
    clips: UInt8[Tensor, "b t 3 h w"], resize: int | None = None, antialias: bool = False
) -> Float[Tensor, "b 3 t h2 w2"]:
    """Clips in [0, 255], as Diffused Heads' evaluation hands them to its detector; the caller's clips stay as they are."""
    b, t = clips.shape[:2]
    frames = clips.flatten(0, 1).float() / 255
    if resize is not None:
        frames = F.interpolate(frames, (resize, resize), mode="bilinear", align_corners=False, antialias=antialias)
    return (frames * 255).clamp(0, 255).unflatten(0, (b, t)).transpose(1, 2)


def consecutive_clips(frames: UInt8[Tensor, "t 3 h w"], length: int = CLIP_FRAMES) -> UInt8[Tensor, "n length 3 h w"]:
    """A video as clips that do not overlap; what is left at its end is dropped."""
    n_clips = len(frames) // length
    return (
        frames[: n_clips * length].unflatten(0, (n_clips, length))
        if n_clips
        else frames.new_empty((0, length, *frames.shape[1:]))
    )
