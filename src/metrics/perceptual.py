"""LPIPS: how different two pictures look to a network that was trained to tell objects (arXiv:1801.03924).

The features are those of torchvision's AlexNet (what tables report) or VGG16 (the usual training loss), whose weights are downloads
(`src/model_files.py`); the weights of their channels come with torchmetrics.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import CheckpointError
from src.metrics.images import ImageMean, Images, unit_range
from src.model_files import MODEL_FILES, how_to_get, is_complete, model_path

VGG_FILE, ALEX_FILE = "vgg16-397923af.pth", "alexnet-owt-7be5be79.pth"
LEVELS = (
    (64, 64),
    (128, 128),
    (256,) * 3,
    (512,) * 3,
    (512,) * 3,
)  # channels of VGG16's convolutions, halved in size between levels
ALEX_LAYERS = (
    (64, 11, 4, 2),
    (192, 5, 1, 2),
    (384, 3, 1, 1),
    (256, 3, 1, 1),
    (256, 3, 1, 1),
)  # width, kernel, stride, padding
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's normalisation, for pictures in [-1, 1]
EPSILON = 1e-10


@dataclass(frozen=True)
class Backbone:
    """A network whose features are compared.

    Attributes:
        title: its name in sentences.
        file: published weights, in the models folder.
        channel_file: of torchmetrics: how much each channel counts.
        ends: where the compared features end among its layers, which have torchvision's numbers.
        widths: their channels.
        smallest: side of the smallest pictures, in pixels.
    """

    title: str
    file: str
    channel_file: str
    ends: tuple[int, ...]
    widths: tuple[int, ...]
    smallest: int


BACKBONES = {
    "vgg": Backbone("VGG16", VGG_FILE, "vgg.pth", (4, 9, 16, 23, 30), tuple(level[-1] for level in LEVELS), 16),
    "alex": Backbone("AlexNet", ALEX_FILE, "alex.pth", (2, 5, 8, 10, 12), tuple(layer[0] for layer in ALEX_LAYERS), 31),
}


class PerceptualDistance(nn.Module):
    """LPIPS of pairs of pictures; without gradients of its own weights, and always in eval mode.

        d = sum over layers of the mean over pixels of  sum over channels w (x / |x| - y / |y|)^2

    The published network has dropout between the squares and their sum; it is of no use where nothing is trained, so there is none.

    Args:
        weights: file of torchvision's network; None: the one in the models folder.
        backbone: `vgg` or `alex`.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path | None = None, backbone: str = "vgg") -> None:
        super().__init__()
        self._build(backbone)
        _load_features(self.features, self.backbone, Path(weights) if weights is not None else None)
        channels = resources.files("torchmetrics.functional.image") / "lpips_models" / self.backbone.channel_file
        with resources.as_file(channels) as path:
            self._load_channel_weights(torch.load(path, map_location="cpu", weights_only=True))

    def _build(self, backbone: str) -> None:
        self.backbone = BACKBONES[backbone]
        self.features = _vgg_features() if backbone == "vgg" else _alex_features()
        for i, width in enumerate(self.backbone.widths):
            self.register_buffer(f"channel_weights_{i}", torch.ones(width))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def untrained(cls, backbone: str = "vgg") -> "PerceptualDistance":
        """With random features of which all channels count alike: for checks of the mechanism."""
        distance = cls.__new__(cls)
        nn.Module.__init__(distance)
        distance._build(backbone)
        return distance

    @classmethod
    def from_lpips(cls, state_dict: Mapping[str, Tensor], backbone: str = "vgg") -> "PerceptualDistance":
        """With the weights of a whole LPIPS network, as its package and taming-transformers store it: `net.slice*` and `lin*`."""
        distance = cls.untrained(backbone)
        layers = {re.sub(r"^net\.slice\d\.", "", k): v for k, v in state_dict.items() if k.startswith("net.")}
        distance.features.load_state_dict(layers)
        distance._load_channel_weights(state_dict)
        return distance

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of each pair of pictures in [-1, 1]; 0 where they are the same."""
        return self.per_layer(x, y).sum(dim=1)

    def per_layer(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 5"]:
        """What each of the five layers adds to the distance."""
        h = (torch.cat([x, y]) - self.shift) / self.scale
        distances, start = [], 0
        for i, end in enumerate(self.backbone.ends):
            h = self.features[start:end](h)
            start = end
            unit = _normalised(h.float())
            squares = (unit[: len(x)] - unit[len(x) :]).square().mean(dim=(2, 3))
            distances.append((squares * self.channel_weights(i)).sum(dim=1))
        return torch.stack(distances, dim=1)

    def channel_weights(self, layer: int) -> Float[Tensor, " c"]:
        """How much each channel of a layer counts."""
        return self.get_buffer(f"channel_weights_{layer}")

    def _load_channel_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        for i in range(len(self.backbone.ends)):
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


def _alex_features() -> nn.Sequential:
    """AlexNet's convolutions, with torchvision's numbers of layers."""
    layers: list[nn.Module] = []
    channels = 3
    for i, (width, kernel, stride, padding) in enumerate(ALEX_LAYERS):
        layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
        if i < 2:
            layers.append(nn.MaxPool2d(3, stride=2))
        channels = width
    return nn.Sequential(*layers)


def _normalised(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Unit length over the channels of every pixel."""
    squared = features.square().sum(dim=1, keepdim=True)
    return features / ((squared + EPSILON**2).sqrt() + EPSILON)  # below the root, too: its gradient is infinite at 0


def _load_features(features: nn.Sequential, backbone: Backbone, given: Path | None) -> None:
    """Fill the convolutions from torchvision's file of the whole network."""
    path = given or model_path(backbone.file)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: LPIPS needs {backbone.title}'s weights, {how_to_get(MODEL_FILES[backbone.file])}, "
            "or do without: model.perceptual_weight=0 in training."
        )
    if path.name == backbone.file and not is_complete(MODEL_FILES[backbone.file], path):
        raise CheckpointError(f"{path} is damaged: remove it; {how_to_get(MODEL_FILES[backbone.file])}.")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
        features.load_state_dict({k: state_dict[f"features.{k}"] for k in features.state_dict()})
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of torchvision's {backbone.title}: give {backbone.file}."
        ) from error


class LPIPS(ImageMean):
    """Learned perceptual distance, 0 for equal pictures, lower is better: per image, then the mean over images.

    Args:
        distance: with the published weights (`PerceptualDistance(backbone="alex")`); name the backbone beside the number.
    """

    higher_is_better = False

    def __init__(self, distance: PerceptualDistance) -> None:
        super().__init__()
        self.distance = distance

    def update(self, generated: Images, reference: Images) -> None:
        """Add a batch of image pairs, uint8 or float in [0, 1]; other floats are refused."""
        self._add(self.values(generated, reference))

    @torch.no_grad()
    def values(self, generated: Images, reference: Images) -> Float[Tensor, " b"]:
        """The distance of each pair of images."""
        smallest = min(generated.shape[-2:])
        if smallest < self.distance.backbone.smallest:
            raise ValueError(
                f"LPIPS by {self.distance.backbone.title} needs {self.distance.backbone.smallest} pixels a side."
            )
        x, y = (unit_range(images).to(self.distance.shift) * 2 - 1 for images in (generated, reference))
        return self.distance(x, y)
