"""Face detection: S3FD (Zhang et al., ICCV 2017, arXiv:1708.05237), the detector in front of SyncNet.

Names of weights are those of the published file (`sfd_face.pth`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import nms

MEAN = (123.0, 117.0, 104.0)  # of the training data, in the order red, green, blue
CHANNELS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512, "M")
SOURCES = (16, 23, 30, 35)  # where relu3_3, relu4_3, relu5_3 and relu7 end among the layers of `vgg`
SOURCE_CHANNELS = (256, 512, 512, 1024, 512, 256)
NORMS = ((256, 10.0), (512, 8.0), (512, 5.0))  # channels and initial length of the first three sources
STRIDES = (4, 8, 16, 32, 64, 128)
SIDES = (16, 32, 64, 128, 256, 512)  # pixels of the square priors
VARIANCES = (0.1, 0.2)  # of centres and sizes
CANDIDATES, KEPT = 5000, 750
LEAST_SCORE, OVERLAP = 0.05, 0.3


class L2Norm(nn.Module):
    """Unit length over the channels of every cell, times a weight per channel."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalised features."""
        return self.weight[:, None, None] * x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


class S3FD(nn.Module):
    """Pictures -> for every prior the offset of a box and how likely it holds a face."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = nn.ModuleList(_vgg_layers())
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = (L2Norm(*norm) for norm in NORMS)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, stride=2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, stride=2, padding=1),
            ]
        )
        self.loc = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=1) for channels in SOURCE_CHANNELS)
        # The finest source has three kinds of background, of which the likeliest counts: it sees most false faces.
        self.conf = nn.ModuleList(
            nn.Conv2d(channels, 4 if i == 0 else 2, 3, padding=1) for i, channels in enumerate(SOURCE_CHANNELS)
        )

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b p 4"], Float[Tensor, "b p 2"]]:
        """Offsets of boxes, probabilities of (no face, face); priors as `priors` lists them.

        Args:
            pictures: RGB, grey levels 0 to 255 less `MEAN`.
        """
        sources = self._sources(pictures)
        loc = [head(x) for head, x in zip(self.loc, sources, strict=True)]
        conf = [head(x) for head, x in zip(self.conf, sources, strict=True)]
        conf[0] = torch.cat([conf[0][:, :3].amax(dim=1, keepdim=True), conf[0][:, 3:]], dim=1)
        offsets, scores = (
            torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in heads], dim=1) for heads in (loc, conf)
        )
        return offsets, scores.softmax(dim=-1)

    def _sources(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps with strides of 4, 8, ..., 128 pixels."""
        sources = []
        for number, layer in enumerate(self.vgg, start=1):
            x = layer(x)
            if number in SOURCES:
                sources.append(x)
        norms = (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3)
        sources[:3] = [norm(source) for norm, source in zip(norms, sources[:3], strict=True)]
        for number, layer in enumerate(self.extras):
            x = layer(x).relu()
            if number % 2:
                sources.append(x)
        return sources


def _vgg_layers() -> list[nn.Module]:
    """VGG16 without its head; the fully connected layers became a dilated and a 1x1 convolution."""
    layers: list[nn.Module] = []
    channels = 3
    for width in CHANNELS:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, ceil_mode=width == "C"))
    return [
        *layers,
        nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
        nn.ReLU(),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(),
    ]


def network_input(picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 3 h w"]:
    """What the network sees of an RGB picture of 0 to 255."""
    return (picture - picture.new_tensor(MEAN)[:, None, None])[None]


def priors(height: int, width: int) -> Float[Tensor, "p 4"]:
    """Centre x, y, width and height of every prior in fractions of the picture: sources finest first, then row, then column."""
    levels = []
    rows, cols = height, width
    for stride, side in zip(STRIDES, SIDES, strict=True):
        rows, cols = _cells(rows, cols, stride)
        y = (torch.arange(rows, dtype=torch.float32) + 0.5) * stride / height
        x = (torch.arange(cols, dtype=torch.float32) + 0.5) * stride / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        sizes = torch.tensor([side / width, side / height]).expand(grid_x.numel(), 2)
        levels.append(torch.cat([grid_x.reshape(-1, 1), grid_y.reshape(-1, 1), sizes], dim=1))
    return torch.cat(levels)


def _cells(rows: int, cols: int, stride: int) -> tuple[int, int]:
    """Rows and columns of the source of this stride, from those of the one before: how its layers round."""
    if stride == STRIDES[0]:  # two pools that round down
        return rows // 4, cols // 4
    if stride in (8, 64, 128):  # a pool that rounds up; strided convolutions do, too
        return -(-rows // 2), -(-cols // 2)
    return rows // 2, cols // 2


def decode(offsets: Float[Tensor, "p 4"], prior: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
    """Boxes (left, top, right, bottom) in fractions of the picture."""
    centres = prior[:, :2] + offsets[:, :2] * VARIANCES[0] * prior[:, 2:]
    sizes = prior[:, 2:] * (offsets[:, 2:] * VARIANCES[1]).exp()
    corners = centres - sizes / 2
    return torch.cat([corners, corners + sizes], dim=1)


def detections(
    offsets: Float[Tensor, "p 4"], scores: Float[Tensor, "p 2"], size: tuple[int, int]
) -> Float[Tensor, "n 5"]:
    """Score and box (left, top, right, bottom; fractions of the picture) of the faces, best first, at most 750.

    Args:
        offsets, scores: outputs of `S3FD` for one picture.
        size: its height and width in pixels.
    """
    boxes = decode(offsets, priors(*size).to(offsets))
    face = scores[:, 1]
    likely = face.gt(LEAST_SCORE).nonzero().squeeze(1)
    best = likely[face[likely].argsort(descending=True, stable=True)[:CANDIDATES]]
    kept = best[nms(boxes[best], face[best], OVERLAP)[:KEPT]]
    return torch.cat([face[kept, None], boxes[kept]], dim=1)
