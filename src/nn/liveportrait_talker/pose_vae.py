"""SadTalker's PoseVAE (arXiv:2211.12194, section 3.3): head poses for a voice, sampled; the part that is needed without training."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.nn.liveportrait_talker.speech_encoder import EMBEDDING, SpeechEncoder

POSE = 6  # angle (3) and translation (3) of the 3D morphable model
CHUNK = 32  # frames that are made at once
_LATENT, _HIDDEN, _STYLES = 64, 128, 46
_WIDTHS = (32, 64, 128, 256)


class ResidualBlock(nn.Module):
    """Two pre-activated convolutions beside a normalised one; `stride` acts on time."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        strides = (stride, 1)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, strides, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip_conv = nn.Conv2d(inputs, outputs, 3, strides, padding=1)
        self.skip_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b c t d"]) -> Float[Tensor, "b c2 t2 d"]:
        """The block's features."""
        y = self.conv1(self.norm1(x).relu())
        y = self.conv2(self.norm2(y).relu())
        return y + self.skip_norm(self.skip_conv(x))


class PoseUNet(nn.Module):
    """A residual U-Net over a picture of poses: time by the pose's numbers (Zhang et al., arXiv:1711.10684)."""

    def __init__(self) -> None:
        super().__init__()
        first = _WIDTHS[0]
        self.conv1 = nn.Conv2d(1, first, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, first, 3, padding=1)
        self.skip_conv = nn.Conv2d(1, first, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(narrow, wide, stride=2) for narrow, wide in pairwise(_WIDTHS))
        deep = (_WIDTHS[-1], *_WIDTHS[-2:0:-1])  # channels that come up from below
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(width, width, (2, 1), (2, 1)) for width in deep)
        # Each meets the features of the same length and leaves with half of the width from below, but for the first.
        self.up = nn.ModuleList(
            ResidualBlock(width + skip, after)
            for width, skip, after in zip(deep, _WIDTHS[-2::-1], (*deep[1:], first), strict=True)
        )
        self.out = nn.Conv2d(first, 1, 1)

    def forward(self, poses: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Poses in [0, 1], of a length that three halvings divide."""
        x = poses.unsqueeze(1)  # b 1 t d
        features = [self.conv2(self.norm1(self.conv1(x)).relu()) + self.skip_conv(x)]
        for block in self.down:
            features.append(block(features[-1]))
        y = features.pop()
        for upsample, block in zip(self.upsample, self.up, strict=True):
            y = block(torch.cat([upsample(y), features.pop()], dim=1))
        return self.out(y).sigmoid().squeeze(1)


class PoseDecoder(nn.Module):
    """Noise, a voice and a first pose -> how the pose changes over 32 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.styles = nn.Parameter(torch.randn(_STYLES, _LATENT))
        self.audio = nn.Linear(EMBEDDING, POSE)
        self.hidden = nn.Linear(POSE + _LATENT + CHUNK * POSE, _HIDDEN)
        self.poses = nn.Linear(_HIDDEN, CHUNK * POSE)
        self.unet = PoseUNet()
        self.out = nn.Linear(POSE, POSE)

    def forward(
        self,
        embeddings: Float[Tensor, "b 32 512"],
        reference: Float[Tensor, "b 6"],
        noise: Float[Tensor, "b 64"],
        style: Int[Tensor, " b"],
    ) -> Float[Tensor, "b 32 6"]:
        """Offsets from the reference pose, frame by frame.

        Args:
            embeddings: of the voice.
            reference: first pose.
            noise: standard normal.
            style: 0 to 45, one per speaker of its training data.
        """
        latent = noise + self.styles[style]
        x = torch.cat([reference, latent, self.audio(embeddings).flatten(1)], dim=1)
        poses = self.poses(self.hidden(x).relu()).sigmoid()
        return self.out(self.unet(poses.unflatten(1, (CHUNK, POSE))))


class PoseVAE(nn.Module):
    """Mel windows and a first pose -> a sequence of poses of any length; its encoder, which only training needs, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SpeechEncoder()
        self.decoder = PoseDecoder()

    @staticmethod
    def n_chunks(n_frames: int) -> int:
        """Draws of noise that `n_frames` frames need."""
        return -(-(n_frames - 1) // CHUNK)

    def forward(
        self,
        mels: Float[Tensor, "b t 80 16"],
        reference: Float[Tensor, "b 6"],
        noise: Float[Tensor, "n b 64"],
        style: int = 0,
    ) -> Float[Tensor, "b t 6"]:
        """Poses, the first of which is the reference; 32 frames at a time, the last of them from the last 32 windows.

        Args:
            mels: one window per frame; the first frame's is not used.
            reference: angle and translation of the source face.
            noise: standard normal, `n_chunks` draws.
            style: of moving, 0 to 45.
        """
        b, n_frames = mels.shape[:2]
        if len(noise) != self.n_chunks(n_frames):
            raise ValueError(
                f"{n_frames} frames need {self.n_chunks(n_frames)} draws of noise, {len(noise)} were given"
            )
        embeddings = self.encoder(mels[:, 1:])
        styles = torch.full((b,), style, device=mels.device)
        offsets = [torch.zeros_like(reference)[:, None]]
        for i, draw in enumerate(noise):
            start = i * CHUNK
            length = min(CHUNK, n_frames - 1 - start)
            chunk = embeddings[:, start : start + CHUNK] if length == CHUNK else _last_chunk(embeddings)
            offsets.append(self.decoder(chunk, reference, draw, styles)[:, CHUNK - length :])
        return reference[:, None] + torch.cat(offsets, dim=1)


def _last_chunk(embeddings: Float[Tensor, "b t d"]) -> Float[Tensor, "b 32 d"]:
    """The last 32 embeddings; where there are fewer, the first one is repeated before them."""
    missing = max(0, CHUNK - embeddings.shape[1])
    return torch.cat([embeddings[:, :1].expand(-1, missing, -1), embeddings[:, -CHUNK:]], dim=1)
