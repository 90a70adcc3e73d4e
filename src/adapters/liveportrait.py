"""The published files of LivePortrait (https://huggingface.co/KwaiVGI/LivePortrait) and this project's `LivePortrait`.

Five files, one network each but for the last, whose three lie in dictionaries of their own:

appearance_feature_extractor.pth, motion_extractor.pth, warping_module.pth, spade_generator.pth
stitching_retargeting_module.pth    `retarget_shoulder` stitches, `retarget_mouth` and `retarget_eye` open lips and eyes
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from src.errors import CheckpointError

METHOD = "liveportrait"

# Official file -> part of `LivePortrait`; "" is the file of the three small networks.
SMALL_FILE = "stitching_retargeting_module"
FILES = {
    "appearance_feature_extractor": "appearance",
    "motion_extractor": "motion_extractor",
    "warping_module": "warping",
    "spade_generator": "generator",
    SMALL_FILE: "",
}
SMALL = {"retarget_shoulder": "stitching", "retarget_mouth": "lip", "retarget_eye": "eyes"}

DETECTOR = "detector."  # stands before the keys of the motion extractor
PARALLEL = "module."  # left before those of the small networks by their training on several devices

# Spectral norm: official name -> PyTorch's parametrisation, behind a convolution's name.
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}

StateDict = Mapping[str, Tensor]


def network_from_official(part: str, state_dict: StateDict) -> dict[str, Tensor]:
    """State dict of a part of `LivePortrait` from the original's."""
    if part == "motion_extractor":
        return {key.removeprefix(DETECTOR): value for key, value in state_dict.items()}
    if part == "generator":
        return {_renamed(key, _SPECTRAL): value for key, value in state_dict.items()}
    return {key.removeprefix(PARALLEL): value for key, value in state_dict.items()}


def network_to_official(part: str, state_dict: StateDict) -> dict[str, Tensor]:
    """The original's state dict from that of a part of `LivePortrait`, without the prefix of the small networks."""
    if part == "motion_extractor":
        return {f"{DETECTOR}{key}": value for key, value in state_dict.items()}
    if part == "generator":
        names = {new: old for old, new in _SPECTRAL.items()}
        return {_renamed(key, names): value for key, value in state_dict.items()}
    return dict(state_dict)


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with the ending that the table gives it; others stay."""
    for old, new in names.items():
        if key.endswith(f".{old}"):
            return f"{key.removesuffix(old)}{new}"
    return key


def from_official(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """State dict of `LivePortrait` from the contents of the five files, by their names without ending.

    Raises:
        CheckpointError: a file, or a network in it, is missing.
    """
    if absent := sorted(FILES.keys() - files.keys()):
        raise CheckpointError(f"LivePortrait consists of five files: {', '.join(absent)} missing.")
    parts = {part: network_from_official(part, files[file]) for file, part in FILES.items() if part}
    small = files[SMALL_FILE]
    if lacking := sorted(SMALL.keys() - small.keys()):
        raise CheckpointError(f"{SMALL_FILE}.pth has no {lacking[0]}: give the original's file.")
    parts |= {part: network_from_official(part, small[name]) for name, part in SMALL.items()}
    return {f"{part}.{key}": value for part, state_dict in parts.items() for key, value in state_dict.items()}


def to_official(state_dict: StateDict) -> dict[str, dict[str, Any]]:
    """Contents of the five files from the state dict of `LivePortrait`; inverse of `from_official`."""
    files: dict[str, dict[str, Any]] = {
        file: network_to_official(part, _below(state_dict, f"{part}.")) for file, part in FILES.items() if part
    }
    files[SMALL_FILE] = {
        name: {f"{PARALLEL}{key}": value for key, value in _below(state_dict, f"{part}.").items()}
        for name, part in SMALL.items()
    }
    return files


def _below(state_dict: StateDict, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
