"""Face landmarks by stacked hourglasses: "Adaptive Wing Loss" (Wang, Bo, Li, ICCV 2019, arXiv:1904.07399), with its 98 WFLW points.

SadTalker's 3D morphable face coefficients were made on faces aligned by this network's landmarks.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

N_LANDMARKS = 98
INPUT_SIZE, HEATMAP_SIZE = 256, 64
_WIDTH, _DEPTH, _STACKS = 256, 4, 4
_BOUNDARY_LEVEL = 0.05  # of the heat map of the face's contours, above which a cell lies on one


class CoordConv(nn.Module):
    """A convolution that also sees where it is: row, column and distance from the centre; rows and columns of contours where given."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, boundary: bool = False) -> None:
        super().__init__()
        extra = 5 if boundary else 3
        self.conv = nn.Conv2d(inputs + extra, outputs, kernel, stride, padding=kernel // 2)

    def forward(
        self, x: Float[Tensor, "b c h w"], boundary: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b d h2 w2"]:
        """Features; `boundary` is the heat map of contours of the stack before."""
        b, _, height, width = x.shape
        rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
        cols = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
        radius = (rows.square() + cols.square()).sqrt()
        maps = [rows.expand(b, 1, height, width), cols.expand(b, 1, height, width)]
        near = [] if boundary is None else [m * (boundary.clamp(0, 1) > _BOUNDARY_LEVEL) for m in maps]
        return self.conv(torch.cat([x, *maps, (radius / radius.max()).expand(b, 1, height, width), *near], dim=1))


class ConvBlock(nn.Module):
    """Three pre-activated convolutions, each on the one before, side by side, and the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, half, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.skip = None
        if inputs != outputs:
            self.skip = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The block's features."""
        first = self.conv1(self.norm1(x).relu())
        second = self.conv2(self.norm2(first).relu())
        third = self.conv3(self.norm3(second).relu())
        return torch.cat([first, second, third], dim=1) + (x if self.skip is None else self.skip(x))


class Hourglass(nn.Module):
    """Four halvings of the resolution and back, with a block beside each."""

    def __init__(self) -> None:
        super().__init__()
        self.beside, self.down, self.up = (
            nn.ModuleList(ConvBlock(_WIDTH, _WIDTH) for _ in range(_DEPTH)) for _ in range(3)
        )
        self.bottom = ConvBlock(_WIDTH, _WIDTH)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same size."""
        skips = []
        for beside, down in zip(self.beside, self.down, strict=True):
            skips.append(beside(x))
            x = down(F.avg_pool2d(x, 2))
        x = self.bottom(x)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = skip + F.interpolate(up(x), scale_factor=2, mode="nearest")
        return x


class Stack(nn.Module):
    """One hourglass and its heat maps; all but the last hand their findings on."""

    def __init__(self, *, first: bool, last: bool) -> None:
        super().__init__()
        self.coordinates = CoordConv(_WIDTH, _WIDTH, 1, boundary=not first)
        self.hourglass = Hourglass()
        self.block = ConvBlock(_WIDTH, _WIDTH)
        self.conv = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.heatmaps = nn.Conv2d(_WIDTH, N_LANDMARKS + 1, 1)
        self.from_features = None if last else nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.from_heatmaps = None if last else nn.Conv2d(N_LANDMARKS + 1, _WIDTH, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], boundary: Float[Tensor, "b 1 h w"] | None
    ) -> tuple[Float[Tensor, "b 99 h w"], Float[Tensor, "b c h w"]]:
        """Heat maps, and the next stack's input."""
        y = self.block(self.hourglass(self.coordinates(x, boundary)))
        features = self.norm(self.conv(y)).relu()
        heatmaps = self.heatmaps(features)
        if self.from_features is None or self.from_heatmaps is None:
            return heatmaps, x
        return heatmaps, x + self.from_features(features) + self.from_heatmaps(heatmaps)


class FAN(nn.Module):
    """Faces -> heat maps of 98 landmarks and of the face's contours, by every one of four stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = CoordConv(3, 64, 7, stride=2)
        self.norm = nn.BatchNorm2d(64)
        self.blocks = nn.ModuleList([ConvBlock(64, 128), ConvBlock(128, 128), ConvBlock(128, _WIDTH)])
        self.stacks = nn.ModuleList(Stack(first=i == 0, last=i == _STACKS - 1) for i in range(_STACKS))

    def forward(self, faces: Float[Tensor, "b 3 256 256"]) -> Float[Tensor, "b 4 99 64 64"]:
        """Heat maps of pictures of one face each, in [0, 1], **channels in the order blue, green, red**; the last stack's are the best."""
        x = self.norm(self.stem(faces)).relu()
        x = F.avg_pool2d(self.blocks[0](x), 2)
        for block in self.blocks[1:]:
            x = block(x)
        boundary, maps = None, []
        for stack in self.stacks:
            heatmaps, x = stack(x, boundary)
            boundary = heatmaps[:, -1:]
            maps.append(heatmaps)
        return torch.stack(maps, dim=1)


def heatmap_peaks(heatmaps: Float[Tensor, "b n h w"]) -> Float64[Tensor, "b n 2"]:
    """Landmarks (x, y) in cells of the heat maps, whose edges lie at integers: the highest cell, a quarter towards its higher neighbours.

    As in the original, when any peak of a face lies in the last row, the neighbour below of all of its landmarks is the map's last
    cell, and when any lies in the first, the neighbour above is the first cell.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    peaks = flat.argmax(dim=2)  # b n
    last = height * width - 1
    below, above = peaks + width, peaks - width
    below = torch.where((below > last).any(dim=1, keepdim=True), last, below)
    above = torch.where((above <= 0).any(dim=1, keepdim=True), 0, above)
    right, left = (peaks + 1).clamp(max=last), (peaks - 1).clamp(min=0)
    shift_x = (_at(flat, right) - _at(flat, left)).sign()
    shift_y = (_at(flat, below) - _at(flat, above)).sign()
    cells = torch.stack([peaks % width, peaks // width], dim=-1)
    return cells.double() + 0.25 * torch.stack([shift_x, shift_y], dim=-1) + 0.5


def _at(flat: Float[Tensor, "b n p"], index: Tensor) -> Float[Tensor, "b n"]:
    return flat.gather(2, index.unsqueeze(-1)).squeeze(-1)
