"""AToM's published checkpoint (https://github.com/cvlab-kaist/MoDiTalker, atom.pt) and this project's `AToM`.

atom.pt          `model_state_dict` and `ema_state_dict` of the motion decoder, `optimizer_state_dict`
epoch_20.pth     below `net_recon`, the regressor of the 3D morphable face model, from Deep3DFaceRecon
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import torch
from torch import Tensor

from src.adapters.inert import StoredTensor, TorchArchive
from src.adapters.liveportrait_talker import FACE_REGRESSOR_TABLE
from src.adapters.liveportrait_talker import from_official as _module_from_official
from src.adapters.renaming import rename
from src.errors import CheckpointError
from src.nn.liveportrait_talker import FaceRegressor
from src.nn.moditalker_atom.published import TOKENS_PER_FRAME

METHOD = "moditalker_atom"

LAST, AVERAGE = "model_state_dict", "ema_state_dict"
N_HEADS = 8  # leave no trace in the weights
ABSOLUTE_POSITIONS = "abs_pos_encoding.pe"

_KINDS = ("weight", "bias")
_SUMMARY = ("0", "1", "3")
_ENCODER_LAYER = {
    "self_attn.out_proj": "attention.attention.out_proj",
    "linear1": "feed_forward.first",
    "linear2": "feed_forward.second",
    "norm1": "norm1",
    "norm2": "norm2",
}
_DECODER_LAYER = {
    "self_attn.out_proj": "self_attention.attention.out_proj",
    "multihead_attn.out_proj": "cross_attention.attention.out_proj",
    "linear3": "out",
    **{f"norm{i}": f"norm{i}" for i in (1, 2, 3)},
    **{f"film{i}.block.1": f"film{i}.linear" for i in (1, 2, 3)},
}
_LAYERS = {
    "time_mlp.1": "time_hidden",
    "to_time_cond.0": "time_condition",
    "to_time_tokens.0": "time_tokens",
    "norm_cond": "memory_norm",
    "input_projection_lip": "lip_in",
    "input_projection_wo_lip": "unrelated_in",
    "cond_projection": "audio_in",
    "face_projection": "reference_in",
    "final_layer": "out",
    **{f"non_attn_cond_projection.{i}": f"audio_summary.{i}" for i in _SUMMARY},
    **{f"non_attn_face_projection.{i}": f"reference_summary.{i}" for i in _SUMMARY},
    **{f"cond_encoder.{{}}.{theirs}": f"audio_layers.{{}}.{ours}" for theirs, ours in _ENCODER_LAYER.items()},
    **{f"face_encoder.{{}}.{theirs}": f"reference_layers.{{}}.{ours}" for theirs, ours in _ENCODER_LAYER.items()},
    **{f"seqTransDecoder.stack.{{}}.{theirs}": f"layers.{{}}.{ours}" for theirs, ours in _DECODER_LAYER.items()},
}
_PACKED_ATTENTIONS = {
    "cond_encoder.{}.self_attn": "audio_layers.{}.attention.attention",
    "face_encoder.{}.self_attn": "reference_layers.{}.attention.attention",
    "seqTransDecoder.stack.{}.self_attn": "layers.{}.self_attention.attention",
    "seqTransDecoder.stack.{}.multihead_attn": "layers.{}.cross_attention.attention",
}

# Original names -> those of `PublishedMotionDecoder`; {} is the number of a layer.
TABLE = (
    {
        "null_cond_embed": "null_audio",
        "null_cond_hidden": "null_audio_summary",
        "face_null_cond_embed": "null_reference",
    }
    | {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _LAYERS.items() for kind in _KINDS}
    | {
        f"{theirs}.in_proj_{kind}": f"{ours}.in_proj_{kind}"
        for theirs, ours in _PACKED_ATTENTIONS.items()
        for kind in _KINDS
    }
)

# Dropped on purpose: tables that are computed here, and parameters that the original has but never uses (a quarter of them).
DROPPED = re.compile(
    r"(.*\.)?rotary\.freqs|abs_pos_encoding\.pe"
    r"|(face_mlp|to_face_cond|to_face_tokens)\.0\.\w+|(input|pos)_projection\.\w+|non_attn_pos_projection\.\d\.\w+"
    r"|pos_encoder\..*|seqTransDecoder\.stack\.\d+\.linear[12]\.\w+"
)


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `PublishedMotionDecoder`; CheckpointError lists keys that the original does not have."""
    return rename({key: value for key, value in state_dict.items() if not DROPPED.fullmatch(key)}, TABLE, METHOD)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict without what it never uses; inverse of `from_official`."""
    return rename(state_dict, {ours: theirs for theirs, ours in TABLE.items()}, METHOD)


def net_arguments(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of `PublishedMotionDecoder`, read off the original's weights; CheckpointError where they are none of it."""
    try:
        n_frames, dim = official["face_null_cond_embed"].shape[1:]
        ff_dim = len(official["cond_encoder.0.linear1.bias"])
        audio_dim = TOKENS_PER_FRAME * official["cond_projection.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            "the weights are not those of AToM's motion decoder: give the original's atom.pt."
        ) from error
    layers = {match[1] for key in official if (match := re.match(r"seqTransDecoder\.stack\.(\d+)\.", key))}
    return {
        "n_frames": n_frames,
        "dim": dim,
        "ff_dim": ff_dim,
        "n_layers": len(layers),
        "n_heads": N_HEADS,
        "audio_dim": audio_dim,
        "rotary": ABSOLUTE_POSITIONS not in official,
    }


def release_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration groups that rebuild `AToM` around the original's weights, with HuBERT large as it was used."""
    net = {"_target_": "src.nn.moditalker_atom.PublishedMotionDecoder", "_convert_": "all", **net_arguments(official)}
    model = {
        "_target_": "src.lightning_modules.moditalker_atom.AToM",
        "net": net,
        "diffusion": {"_target_": "src.diffusion.motion.MotionDiffusion"},
        "window": net["n_frames"],
    }
    features = {"_target_": "src.audio.hubert_pairs.HubertPairs"}
    return {"model": model, "datamodule": {"features": features}}


def load_official(
    path: str | Path, weights: Literal["ema", "last"] = "ema"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `AToM` from atom.pt or a checkpoint of the original's training; nothing in it is run.

    Args:
        path: of the file.
        weights: the average, or the last weights, which the original samples with.

    Raises:
        CheckpointError: the file is none.
    """
    archive = TorchArchive(path)
    content = archive.content
    stored = content.get(AVERAGE if weights == "ema" else LAST) if isinstance(content, Mapping) else None
    tensors = {str(k): v for k, v in (stored or {}).items() if isinstance(v, StoredTensor)}
    if not tensors:
        raise CheckpointError(f"{path} has no {AVERAGE} and {LAST}: give the original's atom.pt.")
    official = {key.removeprefix("module."): value for key, value in archive.load_tensors(tensors).items()}
    return release_config(official), {f"net.{key}": value for key, value in from_official(official).items()}


def load_face_regressor(path: str | Path) -> FaceRegressor:
    """The network of epoch_20.pth, frozen; CheckpointError where the file is another."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file; give epoch_20.pth of Deep3DFaceRecon.")
    if not is_zipfile(path):
        raise CheckpointError(f"{path} is damaged or no PyTorch file; copy or download it again.")
    archive = TorchArchive(path)
    stored = archive.content.get("net_recon") if isinstance(archive.content, Mapping) else None
    tensors = {str(k): v for k, v in (stored or {}).items() if isinstance(v, StoredTensor)}
    with torch.device("meta"):
        regressor = FaceRegressor()
    try:
        regressor.load_state_dict(
            _module_from_official(archive.load_tensors(tensors), FACE_REGRESSOR_TABLE), strict=True, assign=True
        )
    except RuntimeError as error:
        raise CheckpointError(f"{path} is not epoch_20.pth of Deep3DFaceRecon: copy or download it again.") from error
    return regressor.eval().requires_grad_(False)
