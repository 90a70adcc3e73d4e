"""I3D's weights out of files that are not plain tensors, such as `i3d_torchscript.pt`: read, never run.

Both public files hold the same network with the names of its end points. In a TorchScript archive these may lie inside other modules,
whose names come before all of them; counters of batches, which only training uses, may be missing.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.adapters.inert import Inert, StoredTensor, TorchArchive, module_tensors
from src.errors import CheckpointError
from src.nn.i3d import I3D

FIRST = "Conv3d_1a_7x7.conv3d.weight"
COUNTER = "num_batches_tracked"


def read_i3d(path: str | Path) -> dict[str, Tensor]:
    """State dict of `src.nn.i3d.I3D` from a TorchScript archive or a checkpoint.

    Raises:
        CheckpointError: it is damaged, or does not hold exactly this network.
    """
    archive = TorchArchive(path)
    stored = _stored(archive.content)
    prefix = next((name.removesuffix(FIRST) for name in stored if name.endswith(FIRST)), None)
    if prefix is None:
        raise CheckpointError(
            f"{path} has no {FIRST} among its {len(stored)} tensors: give the I3D of FVD, with the names of its end points."
        )
    found = archive.load_tensors(
        {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    )
    return _exactly(found, path)


def _stored(content: object) -> dict[str, StoredTensor]:
    """The file's tensors by name."""
    if isinstance(content, Inert):
        return dict(module_tensors(content))
    if isinstance(content, Mapping):
        inner = content.get("state_dict", content)
        items = inner.items() if isinstance(inner, Mapping) else ()
        return {str(name): value for name, value in items if isinstance(value, StoredTensor)}
    return {}


def _exactly(found: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Single-precision tensors in the network's order; all of them, and no other."""
    with torch.device("meta"):
        expected = I3D().state_dict()
    complete = {name: torch.zeros((), dtype=torch.int64) for name in expected if name.endswith(COUNTER)} | dict(found)
    wrong = [name for name in expected if name not in complete or complete[name].shape != expected[name].shape]
    if wrong or (wrong := sorted(complete.keys() - expected.keys())):
        raise CheckpointError(
            f"{path} does not hold the weights of I3D ({len(wrong)} tensors are missing, too many or of another shape, first {wrong[0]})."
        )
    return {name: complete[name].to(expected[name].dtype) for name in expected}
