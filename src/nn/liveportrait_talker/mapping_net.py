"""MappingNet: expression coefficients around a frame -> how LivePortrait's lip key points move (mkara44/liveportrait_talker).

The temporal network of PIRenderer (Ren et al., ICCV 2021, arXiv:2109.08379, section 3.1), whose time axis is shortened by unpadded
convolutions and then averaged, so that windows of 25 frames or more, of any length, can be given.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait.keypoints import LIP

LOWER_UPPER_LIP = (4, 5)  # rows of MappingNet's output: key points 19 and 20

# Frames before and after a window's own: training's windows are one longer than those of the published inference.
TRAINING_WINDOW = (14, 14)
INFERENCE_WINDOW = (14, 13)
SADTALKER_WINDOW = (13, 13)

_SLOPE = 0.1  # of the leaky ReLU


class MappingNet(nn.Module):
    """Windows of coefficients -> offsets of key points as LivePortrait's motion extractor gives its raw expression.

    Args:
        n_coefficients: per frame.
        width: channels.
        n_layers: residual layers behind the first convolution.
        n_key_points: that move.
    """

    def __init__(
        self, n_coefficients: int = 64, width: int = 1024, n_layers: int = 3, n_key_points: int = len(LIP)
    ) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_coefficients, width, kernel_size=7)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel_size=3, dilation=3) for _ in range(n_layers))
        self.head = nn.Linear(width, 3 * n_key_points)

    @property
    def least_frames(self) -> int:
        """The shortest window."""
        return 7 + 6 * len(self.layers)

    def forward(self, windows: Float[Tensor, "b c t"]) -> Float[Tensor, "b k 3"]:
        """Offsets of the key points, x, y and z in LivePortrait's canonical unit.

        Args:
            windows: coefficients in the order of time, not normalised; `coefficient_windows` makes them.
        """
        x = self.first(windows)
        for layer in self.layers:
            x = layer(F.leaky_relu(x, _SLOPE)) + x[..., 3:-3]
        return self.head(x.mean(dim=-1)).unflatten(-1, (-1, 3))


def coefficient_windows(
    coefficients: Float[Tensor, "t c"], reach: tuple[int, int] = INFERENCE_WINDOW
) -> Float[Tensor, "t c n"]:
    """The window of every frame; beyond the ends the first and the last frame are repeated.

    Args:
        coefficients: per frame.
        reach: frames before and after a window's own.
    """
    n_frames = len(coefficients)
    before, after = reach
    offsets = torch.arange(-before, after + 1, device=coefficients.device)
    frames = torch.arange(n_frames, device=coefficients.device)
    return coefficients[(frames[:, None] + offsets).clamp(0, n_frames - 1)].transpose(1, 2)


def lip_loss(offsets: Float[Tensor, "b k 3"], expression: Float[Tensor, "b 63"]) -> Float[Tensor, ""]:
    """Mean absolute error against the lip key points of the motion extractor's raw expression, neither scaled nor rotated.

    Args:
        offsets: of MappingNet.
        expression: of the frame in the middle of the window.
    """
    return F.l1_loss(offsets, lip_targets(expression))


def lip_targets(expression: Float[Tensor, "b 63"]) -> Float[Tensor, "b 6 3"]:
    """The lip key points' rows of LivePortrait's raw expression."""
    return expression.unflatten(-1, (-1, 3))[:, list(LIP)]
