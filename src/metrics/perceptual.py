"""LPIPS: how different two pictures look to a network that was trained to tell objects (arXiv:1801.03924).

The features are those of torchvision's VGG16, whose weights are a download (`src/model_files.py`); the weights of its channels come with
torchmetrics.
"""

import pickle
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import CheckpointError
from src.model_files import MODEL_FILES, is_complete, model_path

VGG_FILE = "vgg16-397923af.pth"
LEVELS = (
    (64, 64),
    (128, 128),
    (256,) * 3,
    (512,) * 3,
    (512,) * 3,
)  # channels of VGG16's convolutions, halved in size between levels
SLICES = (4, 9, 16, 23, 30)  # where relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 end among VGG16's layers
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's normalisation, for pictures in [-1, 1]
EPSILON = 1e-10


class PerceptualDistance(nn.Module):
    """LPIPS of pairs of pictures; without gradients of its own weights, and always in eval mode.

        d = sum over layers of the mean over pixels of  sum over channels w (x / |x| - y / |y|)^2

    The published network has dropout between the squares and their sum; it is of no use where nothing is trained, so there is none.

    Args:
        weights: file of torchvision's VGG16; None: the one in the models folder.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self._build()
        _load_vgg(self.features, Path(weights) if weights is not None else model_path(VGG_FILE))
        channels = resources.files("torchmetrics.functional.image") / "lpips_models" / "vgg.pth"
        with resources.as_file(channels) as path:
            self._load_channel_weights(torch.load(path, map_location="cpu", weights_only=True))

    def _build(self) -> None:
        self.features = _vgg_features()
        for i, level in enumerate(LEVELS):
            self.register_buffer(f"channel_weights_{i}", torch.ones(level[-1]))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_lpips(cls, state_dict: Mapping[str, Tensor]) -> "PerceptualDistance":
        """With the weights of a whole LPIPS network, as taming-transformers stores it: `net.slice*` and `lin*`."""
        distance = cls.__new__(cls)
        nn.Module.__init__(distance)
        distance._build()
        layers = {re.sub(r"^net\.slice\d\.", "", k): v for k, v in state_dict.items() if k.startswith("net.")}
        distance.features.load_state_dict(layers)
        distance._load_channel_weights(state_dict)
        return distance

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each pair of pictures in [-1, 1]; 0 where they are the same."""
        n, distance = len(x), torch.zeros(len(x), device=x.device)
        h = (torch.cat([x, y]) - self.shift) / self.scale
        start = 0
        for i, end in enumerate(SLICES):
            h = self.features[start:end](h)
            start = end
            unit = _normalised(h.float())
            squares = (unit[:n] - unit[n:]).square().mean(dim=(2, 3))
            distance = distance + (squares * self.channel_weights(i)).sum(dim=1)
        return distance

    def channel_weights(self, layer: int) -> Float[Tensor, " c"]:
        """How much each channel of a layer counts."""
        return self.get_buffer(f"channel_weights_{layer}")

    def _load_channel_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        for i in range(len(LEVELS)):
            self.channel_weights(i).copy_(state_dict[f"lin{i}.model.1.weight"].flatten())


def _vgg_features() -> nn.Sequential:
    """VGG16 up to relu5_3, with torchvision's numbers of layers."""
    layers: list[nn.Module] = []
    channels = 3
    for level in LEVELS:
        for width in level:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


def _normalised(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Unit length over the channels of every pixel."""
    squared = features.square().sum(dim=1, keepdim=True)
    return features / ((squared + EPSILON**2).sqrt() + EPSILON)  # below the root, too: its gradient is infinite at 0


def _load_vgg(features: nn.Sequential, path: Path) -> None:
    """Fill VGG16's convolutions from torchvision's file of the whole network."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the perceptual loss needs VGG16's weights; run python tools/download_models.py names=[{VGG_FILE}], "
            "or train without them: model.perceptual_weight=0."
        )
    if path.name == VGG_FILE and not is_complete(MODEL_FILES[VGG_FILE], path):
        raise CheckpointError(
            f"{path} is damaged: remove it and run python tools/download_models.py names=[{VGG_FILE}]."
        )
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
        features.load_state_dict({k: state_dict[f"features.{k}"] for k in features.state_dict()})
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold the weights of torchvision's VGG16: give {VGG_FILE}.") from error
