"""Containers of pickles: arrays come out of them, programs do not run."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from src.adapters.indexed_dataset import IndexedDataset
from src.errors import StoreError

HEADER = 512


class Program:
    """What a malicious file would hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def item(i: int) -> dict:
    return {"mel": np.full((i + 2, 3), i, np.float32), "item_id": f"spk_{i}", "spk_idx": i, "old": np.float64(0.5)}


def write(path: Path, items: list[bytes], *, chunks: int = 1, zipped: bool = False, index: bytes | None = None) -> Path:
    """A set of items, shared out to files of as many items each."""
    stored = [gzip.compress(content, 1) if zipped else content for content in items]
    per_file = -(-len(stored) // chunks)
    offsets, begins, files = [HEADER], [0], [b""]
    for i, content in enumerate(stored):
        if i and i % per_file == 0:
            begins.append(offsets[-1])
            files.append(b"")
        files[-1] += content
        offsets.append(offsets[-1] + len(content))
    meta = {"chunk_begin": begins, "gzip": zipped}
    index = pickle.dumps({"offsets": offsets, "id2pos": {}, "meta": meta}) if index is None else index
    header = (len(index).to_bytes(32, "little") + index).ljust(HEADER, b"\0")
    for k, content in enumerate(files):
        name = f"{path.name}.{k}.data" if k else f"{path.name}.data"
        path.with_name(name).write_bytes((b"" if k else header) + content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("chunks", [1, 2])
def test_items_come_back(tmp_path, zipped, chunks):
    written = write(tmp_path / "train", [pickle.dumps(item(i)) for i in range(3)], chunks=chunks, zipped=zipped)
    for path in (written, tmp_path / "train.data"):
        dataset = IndexedDataset(path)
        assert len(dataset) == 3
        for i, found in enumerate(dataset):
            np.testing.assert_array_equal(found["mel"], item(i)["mel"])
            assert (found["item_id"], found["old"]) == (f"spk_{i}", 0.5)


def test_an_index_beside_the_file_is_read_where_its_own_is_damaged(tmp_path):
    write(tmp_path / "train", [pickle.dumps(item(0))], index=b"nonsense")
    size = len(pickle.dumps(item(0)))
    with (tmp_path / "train.idx").open("wb") as file:
        np.save(file, np.array({"offsets": [HEADER, HEADER + size], "id2pos": {}}, object), allow_pickle=True)
    assert IndexedDataset(tmp_path / "train")[0]["item_id"] == "spk_0"


@pytest.mark.parametrize("where", ["item", "index"])
def test_a_program_is_refused_and_not_run(tmp_path, where):
    program = pickle.dumps(Program(tmp_path / "made"))
    if where == "item":
        write(tmp_path / "train", [program])
        with pytest.raises(StoreError, match="refused for safety"):
            IndexedDataset(tmp_path / "train")[0]
    else:
        write(tmp_path / "train", [pickle.dumps(item(0))], index=program)
        with pytest.raises(StoreError, match="refused for safety"):
            IndexedDataset(tmp_path / "train")
    assert not (tmp_path / "made").exists()


def test_damaged_files_are_told(tmp_path):
    with pytest.raises(StoreError, match="there is no such file"):
        IndexedDataset(tmp_path / "train")
    path = write(tmp_path / "train", [pickle.dumps(item(0))])
    dataset = IndexedDataset(path)
    data = tmp_path / "train.data"
    data.write_bytes(data.read_bytes()[:-9])
    with pytest.raises(StoreError, match="cut off"):
        dataset[0]
    data.write_bytes(data.read_bytes()[:3])
    with pytest.raises(StoreError, match=r"cut off|damaged"):
        IndexedDataset(path)
