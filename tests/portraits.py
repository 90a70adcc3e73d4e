"""A `LivePortrait` and a `TalkingPortrait` small enough for tests, with weights that make something of their input."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from src.adapters import liveportrait
from src.adapters.liveportrait_talker import (
    EXP_NET,
    EXP_NET_TABLE,
    FACE_REGRESSOR,
    FACE_REGRESSOR_TABLE,
    MAPPING_FILE,
    MAPPING_NET_TABLE,
    SADTALKER_FILE,
    to_official,
)
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


def wild_portrait(seed: int = 0) -> LivePortrait:
    """The same size, with weights that make little differences large: what half precision does to a frame is then seen."""
    torch.manual_seed(seed)
    model = LivePortrait(**SIZES, input_size=64)
    model.generator.fold_spectral_norm()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return model.eval().requires_grad_(False)


def tiny_talker(seed: int = 0) -> TalkingPortrait:
    """The same size; the expression is that of a ResNet's stand-in, the lips follow the voice."""
    torch.manual_seed(seed)
    model = TalkingPortrait(mapping=MAPPING, **SIZES, input_size=64)
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    model.face_regressor.backbone = torch.nn.Sequential(pooled, torch.nn.Linear(48, FEATURES))
    for head in model.face_regressor.heads:
        torch.nn.init.normal_(head.weight, std=0.02)
    return _awake(model)


def write_published(folder: Path) -> TalkingPortrait:
    """The seven published files, of a small renderer that sees 256 x 256 pixels and makes 512 x 512; the networks that are in them."""
    torch.manual_seed(0)
    model = _awake(TalkingPortrait(mapping=MAPPING, **SIZES))
    own = ("exp_net.", "face_regressor.", "mapping_net.")
    renderer = {key: value for key, value in model.state_dict().items() if not key.startswith(own)}
    for name, content in liveportrait.to_official(renderer).items():
        torch.save(content, folder / f"{name}.pth")
    sadtalker = {
        f"{prefix}{key}": value
        for prefix, net, table in (
            (EXP_NET, model.exp_net, EXP_NET_TABLE),
            (FACE_REGRESSOR, model.face_regressor, FACE_REGRESSOR_TABLE),
        )
        for key, value in to_official(net.state_dict(), table).items()
    }
    save_file({key: value.contiguous() for key, value in sadtalker.items()}, folder / SADTALKER_FILE)
    torch.save(to_official(model.mapping_net.state_dict(), MAPPING_NET_TABLE), folder / MAPPING_FILE)
    return model


def _awake(model: Any) -> Any:
    for net in (model.stitching, model.lip, model.eyes):
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(False)
