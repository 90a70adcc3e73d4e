"""LivePortrait with a voice: every network from a sound to a frame, in one module."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from src.nn.liveportrait import LivePortrait
from src.nn.liveportrait_talker.exp_net import ExpNet
from src.nn.liveportrait_talker.face_regressor import FaceRegressor, part
from src.nn.liveportrait_talker.mapping_net import MappingNet, coefficient_windows

CHUNK = 256  # frames at a time: memory, not the result


class TalkingPortrait(LivePortrait):
    """The renderer and what moves its lips; the defaults are the published sizes, 167 million parameters.

    Args:
        mapping: arguments of `MappingNet`.
        **renderer: arguments of `LivePortrait`.
    """

    def __init__(self, mapping: Mapping[str, Any] | None = None, **renderer: Any) -> None:
        super().__init__(**renderer)
        self.exp_net = ExpNet()
        self.face_regressor = FaceRegressor()
        self.mapping_net = MappingNet(**(mapping or {}))

    def expression(self, faces: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 64"]:
        """Expression coefficients of RGB faces in [0, 1], aligned for `FaceRegressor`."""
        return part(self.face_regressor(faces), "expression")

    def lips(self, mels: Float[Tensor, "t 80 16"], reference: Float[Tensor, "1 64"]) -> Float[Tensor, "t k 3"]:
        """Expression of LivePortrait's lip key points, frame by frame.

        Args:
            mels: windows of `src.audio.sadtalker_mel`, one per frame.
            reference: expression coefficients of the source face.
        """
        spoken = torch.cat(
            [self.exp_net(chunk[None], reference.expand(1, len(chunk), -1))[0] for chunk in mels.split(CHUNK)]
        )
        windows = coefficient_windows(spoken)
        return torch.cat([self.mapping_net(chunk) for chunk in windows.split(CHUNK)])
