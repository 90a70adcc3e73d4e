"""All networks of LivePortrait in one module: a portrait, and the same portrait with moved key points."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.nn.liveportrait.appearance import AppearanceFeatureExtractor
from src.nn.liveportrait.generator import SPADEDecoder
from src.nn.liveportrait.keypoints import Motion, shifted, stacked
from src.nn.liveportrait.layers import not_bfloat16
from src.nn.liveportrait.motion_extractor import MotionExtractor
from src.nn.liveportrait.retargeting import KeypointMLP
from src.nn.liveportrait.warping import WarpingModule

INPUT_SIZE = 256  # side of the pictures that the published weights were trained on

# Inputs, widths and outputs of the small networks, as published.
STITCHING: dict[str, Any] = {"input_size": 126, "hidden_sizes": (128, 128, 64), "output_size": 65}
LIP: dict[str, Any] = {"input_size": 65, "hidden_sizes": (128, 128, 64), "output_size": 63}
EYES: dict[str, Any] = {"input_size": 66, "hidden_sizes": (256, 256, 128, 128, 64), "output_size": 63}

Arguments = Mapping[str, Any] | None


class LivePortrait(nn.Module):
    """F, M, W, G, S and R; the defaults are the published sizes, 130 million parameters.

    Args:
        appearance: arguments of `AppearanceFeatureExtractor`.
        motion: arguments of `MotionExtractor`.
        warping: arguments of `WarpingModule`.
        generator: arguments of `SPADEDecoder`.
        stitching: arguments of `KeypointMLP`.
        lip: arguments of `KeypointMLP`.
        eyes: arguments of `KeypointMLP`.
        input_size: side of the pictures that it sees.
    """

    def __init__(
        self,
        appearance: Arguments = None,
        motion: Arguments = None,
        warping: Arguments = None,
        generator: Arguments = None,
        stitching: Arguments = None,
        lip: Arguments = None,
        eyes: Arguments = None,
        input_size: int = INPUT_SIZE,
    ) -> None:
        super().__init__()
        self.appearance = AppearanceFeatureExtractor(**(appearance or {}))
        self.motion_extractor = MotionExtractor(**(motion or {}))
        self.warping = WarpingModule(**(warping or {}))
        self.generator = SPADEDecoder(**(generator or {}))
        self.stitching = KeypointMLP(**STITCHING | dict(stitching or {}))
        self.lip = KeypointMLP(**LIP | dict(lip or {}))
        self.eyes = KeypointMLP(**EYES | dict(eyes or {}))
        self.input_size = input_size

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def output_size(self) -> int:
        """Side of the frames that it makes."""
        return self.input_size // 2 ** len(self.appearance.down_blocks) * 4 * self.generator.upscale

    def volume(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c d h2 w2"]:
        """f_s, the features of portraits in [0, 1]."""
        with not_bfloat16(image.device):
            return self.appearance(image)

    def motion(self, image: Float[Tensor, "b 3 h w"]) -> Motion:
        """Key points and motion of portraits in [0, 1]."""
        return self.motion_extractor.motion(image)

    def render(
        self,
        volume: Float[Tensor, "#b c d h w"],
        kp_source: Float[Tensor, "#b k 3"],
        kp_driving: Float[Tensor, "b k 3"],
    ) -> Float[Tensor, "b 3 h2 w2"]:
        """Frames in [0, 1]: the source, one or one per frame, with its key points moved to the driving ones."""
        n = len(kp_driving)
        with not_bfloat16(volume.device):
            warped = self.warping(volume.expand(n, -1, -1, -1, -1), kp_source.expand(n, -1, -1), kp_driving)
        return self.generator(warped.features).float()

    def stitch(self, kp_source: Float[Tensor, "#b k 3"], kp_driving: Float[Tensor, "b k 3"]) -> Float[Tensor, "b k 3"]:
        """Driving key points corrected so that the borders of the frame stay where they are (section 3.4 of the paper)."""
        return shifted(kp_driving, self._correction(self.stitching, kp_source, kp_driving.flatten(1)))

    def eye_correction(
        self, kp_source: Float[Tensor, "#b k 3"], ratios: Float[Tensor, "#b 3"]
    ) -> Float[Tensor, "b2 k 3"]:
        """Shifts that open the eyes as wide as asked: ratios of the source's left and right eye, and the one that both are to have."""
        return self._correction(self.eyes, kp_source, ratios).unflatten(1, (-1, 3))

    def lip_correction(
        self, kp_source: Float[Tensor, "#b k 3"], ratios: Float[Tensor, "#b 2"]
    ) -> Float[Tensor, "b2 k 3"]:
        """Shifts that open the lips as wide as asked: the source's ratio, and the one that they are to have."""
        return self._correction(self.lip, kp_source, ratios).unflatten(1, (-1, 3))

    def _correction(self, net: nn.Module, kp: Tensor, others: Tensor) -> Tensor:
        """In float32: the corrections are small beside the key points."""
        with torch.autocast(kp.device.type, enabled=False):
            return net(stacked(kp.float(), others.float()))
