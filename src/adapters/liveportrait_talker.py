"""Published files of LivePortraitTalker's networks, and this project's modules.

SadTalker_V0.0.2_256.safetensors    SadTalker's networks by prefix: `audio2exp.` (`ExpNet`), `face_3drecon.` (`FaceRegressor`),
                                    `audio2pose.` (`PoseVAE`); its own renderer, `kp_extractor.` and `generator.`, is not read
mappingnet_basic_64inp_onlylip.pt   bare state dict of `MappingNet`; a training checkpoint of the original has it below `mappingnet.`
alignment_WFLW_4HG.pth              `FAN` below the key `state_dict`
detection_Resnet50_Final.pth        bare state dict of `RetinaFace`, names perhaps below `module.`
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from src.adapters import liveportrait
from src.adapters.inert import StoredTensor, TorchArchive
from src.adapters.renaming import rename
from src.errors import CheckpointError
from src.nn.fan import FAN
from src.nn.liveportrait_talker import ExpNet, FaceRegressor, MappingNet, PoseVAE
from src.nn.retinaface import RetinaFace

Module = TypeVar("Module", bound=nn.Module)

METHOD = "liveportrait_talker"
SADTALKER_FILE = "SadTalker_V0.0.2_256.safetensors"
MAPPING_FILE = "mappingnet_basic_64inp_onlylip.pt"

EXP_NET, FACE_REGRESSOR, POSE_VAE = "audio2exp.", "face_3drecon.", "audio2pose."  # prefixes in SadTalker's file
MAPPING_NET = "mappingnet."  # prefix in a training checkpoint
_DISCRIMINATOR, _POSE_ENCODER = "netD_motion.", "netG.encoder."  # of PoseVAE, for its training alone

_CONV = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _table(
    convs: Mapping[str, str] | None = None,
    norms: Mapping[str, str] | None = None,
    bare: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Whole names for layers with weight and bias, for batch norms, and for convolutions without bias."""
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for layers, kinds in ((convs, _CONV), (norms, _NORM), (bare, ("weight",)))
        for theirs, ours in (layers or {}).items()
        for kind in kinds
    }


# --- original names -> ours; {} is the number of a layer

MAPPING_NET_TABLE = _table({"first.0": "first", "encoder{}.1": "layers.{}", "fc_exp": "head"})

EXP_NET_TABLE = _table(
    {"audio_encoder.{}.conv_block.0": "encoder.layers.{}.conv", "mapping1": "head"},
    {"audio_encoder.{}.conv_block.1": "encoder.layers.{}.norm"},
)


def _resnet(theirs: str, ours: str) -> dict[str, str]:
    """torchvision's names below both prefixes."""
    block = "layer{}.{}."
    return _table(
        norms={
            f"{theirs}{name}": f"{ours}{name}"
            for name in ("bn1", *(f"{block}bn{i}" for i in (1, 2, 3)), f"{block}downsample.1")
        },
        bare={
            f"{theirs}{name}": f"{ours}{name}"
            for name in ("conv1", *(f"{block}conv{i}" for i in (1, 2, 3)), f"{block}downsample.0")
        },
    )


FACE_REGRESSOR_TABLE = _resnet("backbone.", "backbone.") | _table({"final_layers.{}": "heads.{}"})

_POSE_BLOCKS = {
    **{f"residual_conv_{i + 1}": f"down.{i}" for i in range(2)},
    "bridge": "down.2",
    **{f"up_residual_conv{i + 1}": f"up.{i}" for i in range(3)},
}
_DECODER, _UNET, _OUR_UNET = "netG.decoder.", "netG.decoder.resunet.", "decoder.unet."
POSE_VAE_TABLE = {f"{_DECODER}classbias": "decoder.styles"} | _table(
    {"audio_encoder.audio_encoder.{}.conv_block.0": "encoder.layers.{}.conv"}
    | {f"{_DECODER}linear_audio": "decoder.audio", f"{_DECODER}pose_linear": "decoder.out"}
    | {f"{_DECODER}MLP.L0": "decoder.hidden", f"{_DECODER}MLP.L1": "decoder.poses"}
    | {f"{_UNET}input_layer.0": f"{_OUR_UNET}conv1", f"{_UNET}input_layer.3": f"{_OUR_UNET}conv2"}
    | {f"{_UNET}input_skip.0": f"{_OUR_UNET}skip_conv", f"{_UNET}output_layer.0": f"{_OUR_UNET}out"}
    | {f"{_UNET}upsample_{i + 1}.upsample": f"{_OUR_UNET}upsample.{i}" for i in range(3)}
    | {
        f"{_UNET}{theirs}.{layer}": f"{_OUR_UNET}{ours}.{name}"
        for theirs, ours in _POSE_BLOCKS.items()
        for layer, name in (("conv_block.2", "conv1"), ("conv_block.5", "conv2"), ("conv_skip.0", "skip_conv"))
    },
    {
        "audio_encoder.audio_encoder.{}.conv_block.1": "encoder.layers.{}.norm",
        f"{_UNET}input_layer.1": f"{_OUR_UNET}norm1",
    }
    | {
        f"{_UNET}{theirs}.{layer}": f"{_OUR_UNET}{ours}.{name}"
        for theirs, ours in _POSE_BLOCKS.items()
        for layer, name in (("conv_block.0", "norm1"), ("conv_block.3", "norm2"), ("conv_skip.1", "skip_norm"))
    },
)


def _fan_blocks() -> dict[str, str]:
    hourglass = {
        f"m{{}}.{theirs}_{level}": f"stacks.{{}}.hourglass.{ours}.{4 - level}"  # the original counts from the bottom
        for theirs, ours in (("b1", "beside"), ("b2", "down"), ("b3", "up"))
        for level in range(1, 5)
    }
    return hourglass | {
        "m{}.b2_plus_1": "stacks.{}.hourglass.bottom",
        "top_m_{}": "stacks.{}.block",
        **{f"conv{i}": f"blocks.{i - 2}" for i in (2, 3, 4)},
    }


FAN_TABLE = _table(
    {
        "conv1.conv": "stem.conv",
        "m{}.coordconv.conv": "stacks.{}.coordinates.conv",
        "conv_last{}": "stacks.{}.conv",
        "l{}": "stacks.{}.heatmaps",
        "bl{}": "stacks.{}.from_features",
        "al{}": "stacks.{}.from_heatmaps",
    },
    {"bn1": "norm", "bn_end{}": "stacks.{}.norm"}
    | {f"{theirs}.bn{i}": f"{ours}.norm{i}" for theirs, ours in _fan_blocks().items() for i in (1, 2, 3)}
    | {f"{theirs}.downsample.0": f"{ours}.skip.0" for theirs, ours in _fan_blocks().items()},
    {f"{theirs}.conv{i}": f"{ours}.conv{i}" for theirs, ours in _fan_blocks().items() for i in (1, 2, 3)}
    | {f"{theirs}.downsample.2": f"{ours}.skip.2" for theirs, ours in _fan_blocks().items()},
)


def _retinaface_layers() -> dict[str, str]:
    """Convolutions followed by a batch norm."""
    context = {"3X3": "3", "5X5_1": "5_1", "5X5_2": "5_2", "7X7_2": "7_2", "7x7_3": "7_3"}
    return (
        {f"fpn.output{i + 1}": f"pyramid.lateral.{i}" for i in range(3)}
        | {f"fpn.merge{i + 1}": f"pyramid.merge.{i}" for i in range(2)}
        | {f"ssh{i + 1}.conv{theirs}": f"context.{i}.conv{ours}" for i in range(3) for theirs, ours in context.items()}
    )


RETINAFACE_TABLE = _resnet("body.", "body.") | _table(
    {
        f"{theirs}Head.{{}}.conv1x1": f"{ours}.{{}}"
        for theirs, ours in (("Class", "scores"), ("Bbox", "boxes"), ("Landmark", "landmarks"))
    },
    {f"{theirs}.1": f"{ours}.1" for theirs, ours in _retinaface_layers().items()},
    {f"{theirs}.0": f"{ours}.0" for theirs, ours in _retinaface_layers().items()},
)


# --- state dicts


def from_official(state_dict: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """State dict of the module that the table is for; CheckpointError names weights that the table does not know."""
    return _with_dense_heads(rename(state_dict, table, METHOD))


def to_official(state_dict: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """The original's state dict from that of the module; inverse of `from_official`."""
    heads = {
        key: value[..., None, None] if _is_head(key) and value.ndim == 2 else value for key, value in state_dict.items()
    }
    return rename(heads, {ours: theirs for theirs, ours in table.items()}, METHOD)


def _is_head(key: str) -> bool:
    return key.startswith("heads.") and key.endswith(".weight")


def _with_dense_heads(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The face regressor's last layers, convolutions of 1x1 in the original, as linear ones."""
    return {key: value.flatten(1) if _is_head(key) else value for key, value in state_dict.items()}


def pose_vae_from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `PoseVAE`; the encoder of poses and the discriminator, which only training needs, are dropped."""
    training_only = (_POSE_ENCODER, _DISCRIMINATOR)
    kept = {key: value for key, value in state_dict.items() if not key.startswith(training_only)}
    return from_official(kept, POSE_VAE_TABLE)


# --- files


def load_official(path: str | Path, *, mapping: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration groups and state dict of `TalkingPortrait` from a folder with LivePortrait's five files, SadTalker's and MappingNet's.

    They may lie beside each other, as `tools/download_models.py` puts them, or in the folders of the original.

    Args:
        path: the folder.
        mapping: False: without the weights of MappingNet, whose file then may be missing.

    Raises:
        CheckpointError: files are missing, damaged, or of another model; all missing ones are named.
    """
    folder = Path(path)
    wanted = (SADTALKER_FILE, MAPPING_FILE) if mapping else (SADTALKER_FILE,)
    places = {name: place for name in wanted if (place := _place(folder, name))}
    renderer = [f"{name}.pth" for name in liveportrait.FILES if liveportrait.find_file(folder, name) is None]
    if missing := [*renderer, *(name for name in wanted if name not in places)]:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: fetch what is missing with python tools/download_models.py method={METHOD}, "
            "or give the folder that the files lie in."
        )
    config, state_dict = liveportrait.load_official(folder)
    parts: dict[str, nn.Module] = {
        "exp_net": load_exp_net(places[SADTALKER_FILE]),
        "face_regressor": load_face_regressor(places[SADTALKER_FILE]),
    }
    model = config["model"] | {"_target_": "src.nn.liveportrait_talker.TalkingPortrait"}
    if mapping:
        parts["mapping_net"] = load_mapping_net(places[MAPPING_FILE])
        model["mapping"] = mapping_net_arguments(parts["mapping_net"].state_dict())
    state_dict |= {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    pipeline = {"_target_": "src.pipelines.liveportrait_talker.LivePortraitTalkerPipeline"}
    return {"model": model, "pipeline": pipeline}, state_dict


def _place(folder: Path, name: str) -> Path | None:
    """Where a file lies in a folder; None where it does not."""
    return next((path for path in (folder / name, folder / "sadtalker" / name) if path.is_file()), None)


def load_exp_net(path: str | Path) -> ExpNet:
    """The network of SadTalker's file, frozen; see `read_sadtalker`."""
    return _frozen(ExpNet, from_official(read_sadtalker(path, EXP_NET), EXP_NET_TABLE), path)


def load_face_regressor(path: str | Path) -> FaceRegressor:
    """The network of SadTalker's file, frozen; see `read_sadtalker`."""
    return _frozen(FaceRegressor, from_official(read_sadtalker(path, FACE_REGRESSOR), FACE_REGRESSOR_TABLE), path)


def load_pose_vae(path: str | Path) -> PoseVAE:
    """The network of SadTalker's file, frozen; see `read_sadtalker`."""
    return _frozen(PoseVAE, pose_vae_from_official(read_sadtalker(path, POSE_VAE)), path)


def load_mapping_net(path: str | Path) -> MappingNet:
    """The network of the published file or of a training checkpoint of the original, frozen; nothing in the file is run.

    Raises:
        CheckpointError: the file is none, or holds no MappingNet.
    """
    stored = _stored_tensors(path)
    prefixed = {k.removeprefix(MAPPING_NET): v for k, v in stored.items() if k.startswith(MAPPING_NET)}
    state_dict = from_official(_loaded(prefixed or stored), MAPPING_NET_TABLE)
    return _frozen(lambda: MappingNet(**mapping_net_arguments(state_dict)), state_dict, path)


def load_fan(path: str | Path) -> FAN:
    """The network of facexlib's alignment_WFLW_4HG.pth, frozen; CheckpointError where the file is another."""
    return _frozen(FAN, from_official(_loaded(_stored_tensors(path)), FAN_TABLE), path)


def load_retinaface(path: str | Path) -> RetinaFace:
    """The network of facexlib's detection_Resnet50_Final.pth, frozen; CheckpointError where the file is another."""
    stored = {key.removeprefix("module."): value for key, value in _stored_tensors(path).items()}
    return _frozen(RetinaFace, from_official(_loaded(stored), RETINAFACE_TABLE), path)


def mapping_net_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, int]:
    """Constructor arguments of `MappingNet`, read off its weights; CheckpointError where they are none of it."""
    try:
        width, n_coefficients, _ = state_dict["first.weight"].shape
        n_key_points = len(state_dict["head.bias"]) // 3
    except (LookupError, ValueError) as error:
        raise CheckpointError("the weights are not those of a MappingNet: give the original's file.") from error
    n_layers = sum(key.startswith("layers.") and key.endswith(".weight") for key in state_dict)
    return {"n_coefficients": n_coefficients, "width": width, "n_layers": n_layers, "n_key_points": n_key_points}


def read_sadtalker(path: str | Path, prefix: str) -> dict[str, Tensor]:
    """One network of SadTalker's safetensors file, without its prefix; the others are not read.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it has not this network.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file; give SadTalker_V0.0.2_256.safetensors.")
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
            found = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file; copy or download it again.") from error
    if not found:
        raise CheckpointError(f"{path} has no weights below {prefix}: give SadTalker_V0.0.2_256.safetensors.")
    return found


def _stored_tensors(path: str | Path) -> dict[str, StoredTensor | Tensor]:
    """A PyTorch file's state dict; CheckpointError where it has none."""
    content = TorchArchive(path).content if is_zipfile(path) else _older_content(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else None
    items = state_dict.items() if isinstance(state_dict, Mapping) else ()
    tensors = {str(key): value for key, value in items if isinstance(value, StoredTensor | Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: copy or download it again.")
    return tensors


def _older_content(path: str | Path) -> Any:
    """What a file in PyTorch's form before 1.6 holds: tensors and plain values, or it is refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch file; copy or download it again.") from error


def _loaded(stored: Mapping[str, StoredTensor | Tensor]) -> dict[str, Tensor]:
    """The values, read from the file where they are not there yet."""
    lazy = {key: value for key, value in stored.items() if isinstance(value, StoredTensor)}
    ready = {key: value for key, value in stored.items() if isinstance(value, Tensor)}
    return ready | (next(iter(lazy.values())).archive.load_tensors(lazy) if lazy else {})


def _frozen(make: Callable[[], Module], state_dict: Mapping[str, Tensor], path: str | Path) -> Module:
    """A module with these weights, in eval mode, that needs no gradients; CheckpointError where weights are missing or of other sizes."""
    with torch.device("meta"):
        module = make()
    try:
        module.load_state_dict(state_dict, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {type(module).__name__}: copy or download it again."
        ) from error
    return module.eval().requires_grad_(False)
