"""SyncNet (Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV-W 2016): lips and sound in one space.

Names of weights are those of the published file (`syncnet_v2.model`).
"""

from jaxtyping import Float
from torch import Tensor, nn

EMBEDDING = 1024
LIP_FRAMES, LIP_SIDE = 5, 224  # of a window of pictures
MFCC_FRAMES, MFCC_COEFFICIENTS = 20, 13  # of a window of sound: 0.2 s, as the five pictures


class SyncNet(nn.Module):
    """A tower for windows of lips and one for windows of sound; distances between their embeddings tell whether they belong together.

    Args:
        embedding: length of an embedding.
    """

    def __init__(self, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_unit2d(1, 64, 3, padding=1),
            nn.MaxPool2d(1),
            *_unit2d(64, 192, 3, padding=1),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_unit2d(192, 384, 3, padding=1),
            *_unit2d(384, 256, 3, padding=1),
            *_unit2d(256, 256, 3, padding=1),
            nn.MaxPool2d(3, stride=2),
            *_unit2d(256, 512, (5, 4)),
        )
        self.netcnnlip = nn.Sequential(
            *_unit3d(3, 96, (5, 7, 7), stride=(1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_unit3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *(layer for _ in range(3) for layer in _unit3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_unit3d(256, 512, (1, 6, 6)),
        )
        self.netfcaud, self.netfclip = _head(embedding), _head(embedding)

    def embed_audio(self, mfcc: Float[Tensor, "b 1 13 20"]) -> Float[Tensor, "b d"]:
        """Embeddings of windows of sound, as `src.audio.syncnet_mfcc` gives them; not of unit length."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def embed_lips(self, frames: Float[Tensor, "b 3 5 224 224"]) -> Float[Tensor, "b d"]:
        """Embeddings of windows of lips; not of unit length.

        Args:
            frames: blue, green, red in 0 to 255, as they are.
        """
        return self.netfclip(self.lip_features(frames))

    def lip_features(self, frames: Float[Tensor, "b 3 5 224 224"]) -> Float[Tensor, "b 512"]:
        """What the lips' tower says before its head."""
        return self.netcnnlip(frames).flatten(1)


def _unit2d(
    inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int = 0
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()


def _unit3d(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> tuple[nn.Conv3d, nn.BatchNorm3d, nn.ReLU]:
    return nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.BatchNorm3d(outputs), nn.ReLU()


def _head(embedding: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, embedding))
