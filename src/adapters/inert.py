"""PyTorch files of unknown origin, read without running or importing anything that they name.

A pickle is a program: it names classes and functions and calls them. Here every name becomes an inert stand-in that only notes what it
was called with, except tensors, whose recipe is followed by code of ours. That also reads what `weights_only=True` refuses: Lightning
checkpoints whose hyper-parameters hold objects of other libraries, and the weights of TorchScript archives.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.errors import CheckpointError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """Stands for an object of a class, or the result of a function, that the file names; holds what the file put into it."""

    origin = ""  # module.name in the file

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """An object with the arguments that the file called for."""
        stand_in = super().__new__(cls)
        stand_in.args, stand_in.kwargs = args, kwargs
        stand_in.state, stand_in.items, stand_in.entries = None, [], {}
        return stand_in

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """`__new__` has noted them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any
    items: list[Any]
    entries: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Note an item of a list-like object."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Note items of a list-like object."""
        self.items.extend(items)


@dataclass(frozen=True)
class StoredTensor:
    """Where the values of a tensor lie in the file."""

    archive: "TorchArchive" = field(repr=False, compare=False)
    key: str  # of the storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """The tensor; ValueError if the file is too short for it."""
        if min(self.size, default=1) == 0:
            return torch.empty(self.size, dtype=self.dtype)
        values = torch.frombuffer(self.archive.storage(self.key), dtype=self.dtype)
        reach = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        count = math.prod(self.size)  # more values than the storage has would be a small file that fills the memory
        if self.offset < 0 or min(self.stride, default=0) < 0 or max(reach + 1, count) > len(values):
            raise ValueError(f"a tensor of {count} values reaches beyond its storage of {len(values)}")
        return values.as_strided(self.size, self.stride, self.offset).clone()


class TorchArchive:
    """A file of `torch.save` or `torch.jit.save`.

    Raises:
        CheckpointError: it is none, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as file:
                names = [name for name in file.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
                self._root = names[0].removesuffix("data.pkl")
                with file.open(names[0]) as data:
                    self.content = _InertUnpickler(data, self).load()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error
        except _DAMAGES as error:
            raise CheckpointError(f"{path} is damaged or no PyTorch file; copy or download it again.") from error

    def storage(self, key: str) -> bytearray:
        """The bytes of a storage."""
        with zipfile.ZipFile(self.path) as file:
            return bytearray(file.read(f"{self._root}data/{key}"))

    def load_tensors(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """The values; CheckpointError if the file is too short for them."""
        try:
            return {name: tensor.load() for name, tensor in tensors.items()}
        except (OSError, *_DAMAGES) as error:
            raise CheckpointError(f"{self.path} is damaged: copy or download it again.") from error


# What reading a damaged or malicious pickle may end in, beside what the file system says.
_DAMAGES = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _InertUnpickler(pickle.Unpickler):
    """Resolves names by the table of harmless ones or to stand-ins, never by importing."""

    def __init__(self, file: Any, archive: TorchArchive) -> None:
        super().__init__(file, encoding="utf-8")
        self._archive = archive
        self._stand_ins: dict[str, type[Inert]] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What a name in the file stands for."""
        origin = f"{module_name}.{global_name}"
        if origin in _HARMLESS:
            return _HARMLESS[origin]
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        if origin not in self._stand_ins:
            self._stand_ins[origin] = type("Inert", (Inert,), {"origin": origin})
        return self._stand_ins[origin]

    def persistent_load(self, pid: Any, /) -> tuple[TorchArchive, str, torch.dtype]:
        """A storage, by the name of its record."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        return self._archive, key, dtype


def _stored_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> StoredTensor:
    archive, key, dtype = storage
    return StoredTensor(archive, key, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _first(value: Any, *_: Any) -> Any:
    return value


_HARMLESS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _stored_tensor,
    "torch._utils._rebuild_parameter": _first,  # without its flags
    "torch.Size": tuple,
    "torch.jit._pickle.restore_type_tag": _first,  # a list or dictionary and the name of its type
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
}


def plain(value: Any) -> Any:
    """Plain values as they are, OmegaConf's lists, dictionaries and nodes as what they hold, of other objects the stand-in."""
    if isinstance(value, Inert):
        if value.origin.startswith("omegaconf.") and isinstance(value.state, dict):
            held = value.state.get("_content", value.state.get("_val"))
            return plain(held)
        return {key: plain(entry) for key, entry in value.entries.items()} if value.entries else value
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def module_tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
    """Names and tensors of a TorchScript module, as its state dict would have them."""
    for name, value in (module.state if isinstance(module.state, dict) else {}).items():
        if isinstance(value, StoredTensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Inert):
            yield from module_tensors(value, f"{prefix}{name}.")
