"""The published networks behind metrics: read safely from the models folder, complete and unaltered or not at all.

A metric whose weights are missing is not computed; nothing takes their place.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from src.errors import CheckpointError
from src.metrics.perceptual import BACKBONES, PerceptualDistance
from src.model_files import MODEL_FILES, how_to_get, is_complete, model_path
from src.nn.arcface import IResNet
from src.nn.fid_inception import FIDInception
from src.nn.i3d import I3D
from src.nn.s3fd import S3FD
from src.nn.syncnet import SyncNet

SYNCNET, S3FD_FILE = "syncnet_v2.model", "sfd_face.pth"
INCEPTION, I3D_FILE = "weights-inception-2015-12-05-6726825d.pth", "i3d_pretrained_400.pt"
ARCFACE = {50: "arcface_r50.pth", 100: "arcface_r100.pth"}
LPIPS = {name: backbone.file for name, backbone in BACKBONES.items()}

Network = TypeVar("Network", bound=nn.Module)


def missing(*names: str) -> str:
    """Why a metric cannot be computed, with the command that helps; empty when all these files are there."""
    lacking = [name for name in names if not model_path(name).is_file()]
    if not lacking:
        return ""
    return f"needs {' and '.join(lacking)}, {'; '.join(how_to_get(MODEL_FILES[name]) for name in lacking)}"


def present() -> dict[str, tuple[int, int]]:
    """Size and time of change of the weight files that are there, by name."""
    names = (SYNCNET, S3FD_FILE, INCEPTION, I3D_FILE, *ARCFACE.values(), *LPIPS.values())
    found = {name: model_path(name).stat() for name in names if model_path(name).is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a published file by name; a wrapping `state_dict` and the prefix of data-parallel training are taken off.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors.
    """
    if path.name in MODEL_FILES and path.is_file() and not is_complete(MODEL_FILES[path.name], path):
        raise CheckpointError(f"{path} is damaged: remove it; {how_to_get(MODEL_FILES[path.name])}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file; {_advice(path)}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} is no file of plain tensors; {_advice(path)}.") from error
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is no file of plain tensors; {_advice(path)}.")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _advice(path: Path) -> str:
    file = MODEL_FILES.get(path.name)
    return how_to_get(file) if file else "give the published file"


def load_network(network: Network, path: Path) -> Network:
    """The network with the file's weights, in eval mode, without gradients.

    Raises:
        CheckpointError: the file does not hold exactly this network.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {type(network).__name__}; {_advice(path)}."
        ) from error
    network.requires_grad_(False)
    return network.eval()


def syncnet() -> SyncNet:
    """SyncNet, from the models folder."""
    return load_network(SyncNet(), model_path(SYNCNET))


def face_detector() -> S3FD:
    """S3FD, from the models folder."""
    return load_network(S3FD(), model_path(S3FD_FILE))


def inception(antialias: bool = True) -> FIDInception:
    """The network of FID and KID, from the models folder."""
    return load_network(FIDInception(antialias), model_path(INCEPTION))


def i3d() -> I3D:
    """The network of FVD, from the models folder."""
    return load_network(I3D(), model_path(I3D_FILE))


def arcface(depth: int = 50) -> IResNet:
    """The network of CSIM, from the models folder."""
    return load_network(IResNet(depth), model_path(ARCFACE[depth]))


def lpips(backbone: str = "alex") -> PerceptualDistance:
    """LPIPS, from the models folder."""
    return PerceptualDistance(backbone=backbone)
