"""Identity embeddings: ArcFace's improved residual network (Deng et al., CVPR 2019, arXiv:1801.07698), as in insightface's `arcface_torch`.

Names of weights are those of the published files (`backbone.pth`).
"""

from jaxtyping import Float
from torch import Tensor, nn

SIDE = 112  # pixels of the aligned faces
DIM = 512  # of an embedding
CHANNELS = (64, 128, 256, 512)
BLOCKS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}  # per stage, by the depth that the network is named after


class IBlock(nn.Module):
    """Two convolutions, the second one halving the size where `stride` is 2, and a shortcut; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The block's features."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        residual = self.bn3(self.conv2(residual))
        return residual + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Aligned faces -> embeddings whose directions tell people apart.

    Args:
        depth: 50 or 100.
    """

    def __init__(self, depth: int = 50) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.prelu = nn.PReLU(CHANNELS[0])
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _stage(CHANNELS[0], CHANNELS[0], first)
        self.layer2 = _stage(CHANNELS[0], CHANNELS[1], second)
        self.layer3 = _stage(CHANNELS[1], CHANNELS[2], third)
        self.layer4 = _stage(CHANNELS[2], CHANNELS[3], fourth)
        self.bn2 = nn.BatchNorm2d(CHANNELS[3])
        self.fc = nn.Linear(CHANNELS[3] * (SIDE // 16) ** 2, DIM)
        self.features = nn.BatchNorm1d(DIM)

    def forward(self, faces: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 512"]:
        """Embeddings, not of unit length.

        Args:
            faces: RGB in [-1, 1], aligned by five points (`src.face.arcface_crop`).
        """
        x = self.prelu(self.bn1(self.conv1(faces)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Blocks of one size; the first one halves it."""
    return nn.Sequential(IBlock(inputs, outputs, 2), *(IBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
