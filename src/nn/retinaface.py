"""Face detection: RetinaFace with a ResNet-50 (Deng et al., CVPR 2020, arXiv:1905.00641), as in facexlib."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import nms

MEAN = (104.0, 117.0, 123.0)  # of the training data in the order blue, green, red; the original subtracts it from RGB
STRIDES = (8, 16, 32)
ANCHORS = ((16, 32), (64, 128), (256, 512))  # sides in pixels, per stride
_CHANNELS = (512, 1024, 2048)
_WIDTH = 256
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_PER_CELL = 2  # anchors


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class FeaturePyramid(nn.Module):
    """Three resolutions, to the finer two of which the coarser are added."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv_norm(channels, _WIDTH, 1) for channels in _CHANNELS)
        self.merge = nn.ModuleList(_conv_norm(_WIDTH, _WIDTH, 3) for _ in _CHANNELS[1:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps of 256 channels, finest first."""
        fine, middle, coarse = (
            lateral(feature).relu() for lateral, feature in zip(self.lateral, features, strict=True)
        )
        middle = self.merge[1](middle + F.interpolate(coarse, size=middle.shape[2:], mode="nearest")).relu()
        fine = self.merge[0](fine + F.interpolate(middle, size=fine.shape[2:], mode="nearest")).relu()
        return [fine, middle, coarse]


class ContextModule(nn.Module):
    """Convolutions of 3x3, 5x5 and 7x7, the larger ones as chains of small ones, side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _WIDTH // 2, _WIDTH // 4
        self.conv3 = _conv_norm(_WIDTH, half, 3)
        self.conv5_1 = _conv_norm(_WIDTH, quarter, 3)
        self.conv5_2 = _conv_norm(quarter, quarter, 3)
        self.conv7_2 = _conv_norm(quarter, quarter, 3)
        self.conv7_3 = _conv_norm(quarter, quarter, 3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same size."""
        shared = self.conv5_1(x).relu()
        wide = self.conv7_3(self.conv7_2(shared).relu())
        return torch.cat([self.conv3(x), self.conv5_2(shared), wide], dim=1).relu()


class RetinaFace(nn.Module):
    """Pictures -> for every anchor its offset, scores and five landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet50(weights=None)
        self.body.fc = nn.Identity()
        self.pyramid = FeaturePyramid()
        self.context = nn.ModuleList(ContextModule() for _ in STRIDES)
        self.scores, self.boxes, self.landmarks = (
            nn.ModuleList(nn.Conv2d(_WIDTH, _PER_CELL * numbers, 1) for _ in STRIDES) for numbers in (2, 4, 10)
        )

    def forward(
        self, pictures: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b a 4"], Float[Tensor, "b a 2"], Float[Tensor, "b a 10"]]:
        """Offsets of boxes, probabilities of (no face, face), offsets of landmarks; anchors finest first, then row, column, size.

        Args:
            pictures: grey levels 0 to 255 less `MEAN`.
        """
        body = self.body
        x = body.maxpool(body.bn1(body.conv1(pictures)).relu())
        features = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            features.append(x)
        maps = [context(x) for context, x in zip(self.context, self.pyramid(features[1:]), strict=True)]
        boxes, scores, landmarks = (
            torch.cat([_per_anchor(head(x)) for head, x in zip(heads, maps, strict=True)], dim=1)
            for heads in (self.boxes, self.scores, self.landmarks)
        )
        return boxes, scores.softmax(dim=-1), landmarks


def _per_anchor(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b a n"]:
    """Rows for (row, column, anchor) of a head's map."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1] // _PER_CELL)


def anchors(height: int, width: int) -> Float[Tensor, "a 4"]:
    """Centre x, y, width and height of every anchor, in fractions of the picture."""
    levels = []
    for stride, sides in zip(STRIDES, ANCHORS, strict=True):
        y = (torch.arange(-(-height // stride)) + 0.5) * stride / height
        x = (torch.arange(-(-width // stride)) + 0.5) * stride / width
        side = torch.tensor(sides, dtype=torch.float32)
        grid = torch.meshgrid(y, x, side, indexing="ij")
        levels.append(torch.stack([grid[1], grid[0], grid[2] / width, grid[2] / height], dim=-1).view(-1, 4))
    return torch.cat(levels)


@dataclass(frozen=True)
class Detections:
    """Faces of one picture, best first: boxes (left, top, right, bottom) and landmarks in pixels, scores in [0, 1]."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    landmarks: Float[Tensor, "n 5 2"]


def detections(
    boxes: Float[Tensor, "a 4"],
    scores: Float[Tensor, "a 2"],
    landmarks: Float[Tensor, "a 10"],
    size: tuple[int, int],
    *,
    least_score: float = 0.97,
    overlap: float = 0.4,
) -> Detections:
    """The faces that the outputs for one picture tell of.

    Args:
        boxes, scores, landmarks: outputs of `RetinaFace`.
        size: height and width of the picture in pixels.
        least_score: of a face; 0.97 is SadTalker's.
        overlap: intersection over union from which the worse of two boxes is dropped.
    """
    height, width = size
    prior = anchors(height, width).to(boxes)
    scale = boxes.new_tensor([width, height])
    centres = prior[:, :2] + _CENTRE_VARIANCE * boxes[:, :2] * prior[:, 2:]
    sizes = prior[:, 2:] * (_SIZE_VARIANCE * boxes[:, 2:]).exp()
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1) * scale.repeat(2)
    points = prior[:, None, :2] + _CENTRE_VARIANCE * landmarks.unflatten(1, (5, 2)) * prior[:, None, 2:]
    found = scores[:, 1] > least_score
    corners, face_scores, points = corners[found], scores[found, 1], points[found] * scale
    kept = nms(corners, face_scores, overlap)
    return Detections(corners[kept], face_scores[kept], points[kept])
