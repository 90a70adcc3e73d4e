"""GeneFace's container of pickled items, in which LRS3 is published for AToM; read without running anything that it names.

    bytes 0-31           length L of the index, little endian
    bytes 32 to 32 + L   pickle of {offsets, id2pos, meta: {chunk_begin, gzip}}
    offsets[i] on        pickle of item i, up to offsets[i + 1]; gzip where `meta.gzip` says so

A pickle is a program. Here only arrays, numbers, strings and containers come out of one: any other name in it is refused.
"""

import gzip
import io
import pickle
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import StoreError

LENGTH_BYTES = 32
MAX_ITEM_BYTES = 2**30  # of an item, unpacked: a small file must not fill the memory

# What arrays are pickled as, under numpy's names of before and after version 2, and bytes in Python's old protocols.
_ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
# What reading a damaged or malicious file may end in, beside what the file system says.
_DAMAGES = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError, zlib.error, gzip.BadGzipFile,
)  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The named object, if it only builds arrays."""
        if (module_name, global_name) not in _ALLOWED:
            raise _RefusedError(f"{module_name}.{global_name}")
        return super().find_class(module_name, global_name)


class _RefusedError(pickle.UnpicklingError):
    """The pickle names what does not belong into data."""


class IndexedDataset:
    """The items of `<path>.data`, and of `<path>.1.data` and so on where the set has several files.

    Args:
        path: with or without the ending `.data`.

    Raises:
        StoreError: there is no such file, it is damaged, or its pickles name what is no data.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).with_suffix("") if str(path).endswith(".data") else Path(path)
        index = self._read_index()
        try:
            self.offsets = [int(offset) for offset in index["offsets"]]
            meta = index.get("meta", {})
            self.chunk_begin = [int(begin) for begin in meta.get("chunk_begin", [0])]
            self.gzip = bool(meta.get("gzip", False))
        except (*_DAMAGES,) as error:
            raise StoreError(f"{self._file(0)} is damaged: its index has no offsets; copy it again.") from error
        if self.offsets != sorted(self.offsets) or self.chunk_begin[:1] != [0] or min(self.offsets, default=0) < 0:
            raise StoreError(f"{self._file(0)} is damaged: its index is out of order; copy it again.")

    def __len__(self) -> int:
        return max(len(self.offsets) - 1, 0)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """Item `index`: for LRS3 a dictionary of arrays and strings."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        start, stop = self.offsets[index], self.offsets[index + 1]
        chunk = bisect_right(self.chunk_begin, start) - 1
        content = self._read(self._file(chunk), start - self.chunk_begin[chunk], stop - start)
        return _unpickled(self._file(chunk), self._unpacked(content) if self.gzip else content)

    def _unpacked(self, content: bytes) -> bytes:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            try:
                return file.read(MAX_ITEM_BYTES)
            except (OSError, *_DAMAGES) as error:
                raise StoreError(f"{self._file(0)} is damaged: copy it again.") from error

    def _file(self, chunk: int) -> Path:
        return self.path.with_name(f"{self.path.name}{f'.{chunk}' if chunk else ''}.data")

    def _read(self, path: Path, start: int, length: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                content = file.read(length)
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror or error}): copy it again.") from error
        if len(content) < length:
            raise StoreError(f"{path} is cut off: copy it again.")
        return content

    def _read_index(self) -> Mapping[str, Any]:
        """The index at the beginning of the file, else the one beside it."""
        path, beside = self._file(0), self.path.with_name(f"{self.path.name}.idx")
        if not path.is_file():
            raise StoreError(f"{path}: there is no such file; give the folder of train.data and val.data.")
        length = int.from_bytes(self._read(path, 0, LENGTH_BYTES), "little")
        try:
            index = _unpickled(path, self._read(path, LENGTH_BYTES, min(length, path.stat().st_size)))
        except StoreError as error:
            if not beside.is_file() or isinstance(error.__cause__, _RefusedError):
                raise
            index = _numpy_object(beside)
        if not isinstance(index, Mapping):
            raise StoreError(f"{path} is damaged: its index is no dictionary; copy it again.")
        return index


def _numpy_object(path: Path) -> Any:
    """What `numpy.save` wrote as an array of one object."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(
                file
            )
        except ValueError as error:
            raise StoreError(f"{path} is damaged: copy it again.") from error
        held = _unpickled(path, file.read())
    return held.item() if isinstance(held, np.ndarray) and held.shape == () else held


def _unpickled(path: Path, content: bytes) -> Any:
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _RefusedError as error:
        raise StoreError(
            f"{path} wants to call {error}, which is no data, and was refused for safety: get the file from another place."
        ) from error
    except _DAMAGES as error:
        raise StoreError(f"{path} is damaged: copy it again.") from error
