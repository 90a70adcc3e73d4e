"""The published files of LivePortrait (https://huggingface.co/KwaiVGI/LivePortrait) and this project's `LivePortrait`.

Five files, one network each but for the last, whose three lie in dictionaries of their own:

appearance_feature_extractor.pth, motion_extractor.pth, warping_module.pth, spade_generator.pth
stitching_retargeting_module.pth    `retarget_shoulder` stitches, `retarget_mouth` and `retarget_eye` open lips and eyes
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from src.errors import CheckpointError
from src.nn.liveportrait.motion_extractor import MotionExtractor

METHOD = "liveportrait"

# Official file -> part of `LivePortrait`; "" is the file of the three small networks.
SMALL_FILE = "stitching_retargeting_module"
MOTION_FILE = MOTION = "motion_extractor"
FILES = {
    "appearance_feature_extractor": "appearance",
    MOTION_FILE: MOTION,
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


# --- files


def load_official(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `LivePortrait` from a folder with the five files, `.pth` or `.safetensors`.

    They may lie in `base_models` and `retargeting_models`, as published, or beside each other.

    Raises:
        CheckpointError: files are missing, damaged, or of another model; all missing ones are named.
    """
    folder = Path(path)
    found = {file: find_file(folder, file) for file in FILES}
    if missing := [file for file, place in found.items() if place is None]:
        raise CheckpointError(
            f"{folder}: LivePortrait consists of five files, of which {', '.join(f'{name}.pth' for name in missing)} "
            f"cannot be found: fetch them with python tools/download_models.py method={METHOD}, or give the folder they lie in."
        )
    files = {file: _read(place) for file, place in found.items() if place is not None}
    state_dict = from_official(files)
    model = {"_target_": "src.nn.liveportrait.LivePortrait", "_convert_": "all", **model_arguments(state_dict)}
    return {"model": model, "pipeline": {"_target_": "src.pipelines.liveportrait.LivePortraitPipeline"}}, state_dict


def load_motion_extractor(path: str | Path) -> MotionExtractor:
    """The motion extractor alone, frozen, from its file or from the folder that this lies in.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    place = find_file(Path(path), MOTION_FILE) if Path(path).is_dir() else Path(path)
    if place is None or not place.is_file():
        raise CheckpointError(
            f"{path} has no {MOTION_FILE}.pth: fetch it with python tools/download_models.py method={METHOD}, or give its path."
        )
    weights = network_from_official(MOTION, _read(place))
    try:
        shapes = {f"{MOTION}.{key}": tuple(value.shape) for key, value in weights.items()}
        net = MotionExtractor(**_motion_arguments(shapes))
        net.load_state_dict(weights)
    except (LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{place} does not hold LivePortrait's motion extractor: give {MOTION_FILE}.pth."
        ) from error
    return net.eval().requires_grad_(False)


def find_file(folder: Path, file: str) -> Path | None:
    """Where one of `FILES` lies in a folder; None where it does not."""
    below = ("", "base_models", "retargeting_models", "liveportrait/base_models", "liveportrait/retargeting_models")
    places = (folder / sub / f"{file}{suffix}" for sub in below for suffix in (".pth", ".safetensors"))
    return next((place for place in places if place.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    """Contents of a file: tensors by name, or dictionaries of them; nothing else is unpickled."""
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or holds more than weights: download it again.") from error
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no weights: give the original's file.")
    if path.suffix == ".safetensors" and path.stem == SMALL_FILE:
        return {name: _below(content, f"{name}_module.") for name in SMALL}
    return dict(content)


def model_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of `LivePortrait` for its weights; CheckpointError where they are none."""
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    try:
        appearance = _appearance_arguments(shapes)
        common = {name: appearance[name] for name in ("block_expansion", "max_features", "num_down_blocks")}
        return {
            "appearance": appearance,
            "motion": _motion_arguments(shapes),
            "warping": common | _warping_arguments(shapes, appearance),
            "generator": common | _generator_arguments(shapes),
            **{part: _mlp_arguments(shapes, part) for part in SMALL.values()},
        }
    except LookupError as error:
        raise CheckpointError(f"the weights are not those of LivePortrait: {error} is missing.") from error


Shapes = Mapping[str, tuple[int, ...]]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern finds in the keys."""
    return max((int(match[1]) for key in shapes if (match := re.match(pattern, key))), default=-1) + 1


def _appearance_arguments(shapes: Shapes) -> dict[str, int]:
    block_expansion, image_channel = shapes["appearance.first.conv.weight"][:2]
    max_features = shapes["appearance.second.weight"][0]
    reshape_channel = shapes["appearance.resblocks_3d.3dr0.conv1.weight"][0]
    return {
        "image_channel": image_channel,
        "block_expansion": block_expansion,
        "num_down_blocks": _count(shapes, r"appearance\.down_blocks\.(\d+)\."),
        "max_features": max_features,
        "reshape_channel": reshape_channel,
        "reshape_depth": max_features // reshape_channel,
        "num_resblocks": _count(shapes, r"appearance\.resblocks_3d\.3dr(\d+)\."),
    }


def _motion_arguments(shapes: Shapes) -> dict[str, Any]:
    first = "motion_extractor.downsample_layers.0.0.weight"
    n_stages = _count(shapes, r"motion_extractor\.stages\.(\d+)\.")
    return {
        "num_kp": shapes["motion_extractor.fc_kp.bias"][0] // 3,
        "num_bins": shapes["motion_extractor.fc_pitch.bias"][0],
        "in_chans": shapes[first][1],
        "depths": [_count(shapes, rf"motion_extractor\.stages\.{i}\.(\d+)\.") for i in range(n_stages)],
        "dims": [shapes[f"motion_extractor.stages.{i}.0.norm.bias"][0] for i in range(n_stages)],
    }


def _warping_arguments(shapes: Shapes, appearance: Mapping[str, int]) -> dict[str, Any]:
    dense = "warping.dense_motion_network"
    num_blocks = _count(shapes, rf"{re.escape(dense)}\.hourglass\.encoder\.down_blocks\.(\d+)\.")
    widths = [shapes[f"{dense}.hourglass.encoder.down_blocks.{i}.conv.bias"][0] for i in range(num_blocks)]
    return {
        "num_kp": shapes[f"{dense}.mask.bias"][0] - 1,
        "reshape_channel": appearance["reshape_channel"],
        "estimate_occlusion_map": f"{dense}.occlusion.bias" in shapes,
        "dense_motion_params": {
            "block_expansion": shapes[f"{dense}.hourglass.decoder.up_blocks.{num_blocks - 1}.conv.bias"][0],
            "max_features": max(widths),
            "num_blocks": num_blocks,
            "reshape_depth": appearance["reshape_depth"],
            "compress": shapes[f"{dense}.compress.bias"][0],
        },
    }


def _generator_arguments(shapes: Shapes) -> dict[str, int]:
    shuffled = "generator.conv_img.0.weight"
    last = shuffled if shuffled in shapes else "generator.conv_img.weight"
    return {"upscale": round((shapes[last][0] / 3) ** 0.5), "out_channels": shapes[last][1]}


def _mlp_arguments(shapes: Shapes, part: str) -> dict[str, Any]:
    layers = range(0, _count(shapes, rf"{part}\.mlp\.(\d+)\."), 2)
    widths = [shapes[f"{part}.mlp.{i}.bias"][0] for i in layers]
    return {
        "input_size": shapes[f"{part}.mlp.0.weight"][1],
        "hidden_sizes": widths[:-1],
        "output_size": widths[-1],
    }
