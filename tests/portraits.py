"""A `LivePortrait` and a `TalkingPortrait` small enough for tests, with weights that make something of their input."""

from typing import Any

import torch

from src.nn.liveportrait import LivePortrait
from src.nn.liveportrait_talker import TalkingPortrait
from src.nn.liveportrait_talker.face_regressor import FEATURES

SIZES: dict[str, Any] = {
    "appearance": {
        "block_expansion": 4, "max_features": 16, "reshape_channel": 4, "reshape_depth": 4, "num_resblocks": 1,
    },
    "motion": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "warping": {
        "block_expansion": 4, "max_features": 16, "reshape_channel": 4,
        "dense_motion_params": {
            "block_expansion": 4, "max_features": 8, "num_blocks": 2, "reshape_depth": 4, "compress": 2,
        },
    },
    "generator": {"block_expansion": 4, "max_features": 16, "out_channels": 4},
    "stitching": {"hidden_sizes": [8]},
    "lip": {"hidden_sizes": [8]},
    "eyes": {"hidden_sizes": [8]},
}  # fmt: skip


MAPPING: dict[str, Any] = {"width": 8}


def tiny_portrait(seed: int = 0) -> LivePortrait:
    """Sees 64 x 64 pixels and makes 128 x 128."""
    torch.manual_seed(seed)
    return _awake(LivePortrait(**SIZES, input_size=64))


def tiny_talker(seed: int = 0) -> TalkingPortrait:
    """The same size; the expression is that of a ResNet's stand-in, the lips follow the voice."""
    torch.manual_seed(seed)
    model = TalkingPortrait(mapping=MAPPING, **SIZES, input_size=64)
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    model.face_regressor.backbone = torch.nn.Sequential(pooled, torch.nn.Linear(48, FEATURES))
    for head in model.face_regressor.heads:
        torch.nn.init.normal_(head.weight, std=0.02)
    return _awake(model)


def _awake(model: Any) -> Any:
    for net in (model.stitching, model.lip, model.eyes):
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(False)
