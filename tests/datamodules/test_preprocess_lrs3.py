"""LRS3's binary files become a clip store that AToM trains on."""

import pickle

import numpy as np
import pytest

from src.audio.hubert_pairs import HubertPairs
from src.datamodules.moditalker_atom import AToMDataModule
from src.datamodules.preprocessing.lrs3 import LRS3Binary
from src.datamodules.store import ClipStore
from src.errors import ConfigError, StoreError
from src.face.moditalker_atom import fit_heads

HEADER = 512
FEATURES = HubertPairs(hidden_size=6)


def item(number: int, n_frames: int) -> dict:
    rng = np.random.default_rng(number)
    coefficients = np.zeros((n_frames, 257), np.float32)
    coefficients[:, 225] = 0.2  # turned about the vertical axis
    return {
        "item_id": f"spk{number}_clip",
        "spk_id": f"spk{number}",
        "hubert": rng.standard_normal((2 * n_frames - 1, 6)).astype(np.float32),
        "coeff": coefficients,
        "idexp_lm3d": 0.2 * rng.standard_normal((n_frames, 68, 3)).astype(np.float32),
    }


def write_file(path, items) -> None:
    contents = [pickle.dumps(one) for one in items]
    offsets = np.cumsum([HEADER, *map(len, contents)]).tolist()
    index = pickle.dumps({"offsets": offsets, "id2pos": {}, "meta": {"chunk_begin": [0], "gzip": False}})
    path.write_bytes((len(index).to_bytes(32, "little") + index).ljust(HEADER, b"\0") + b"".join(contents))


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_file(folder / "train.data", [item(0, 9), item(1, 14)])
    write_file(folder / "val.data", [item(2, 10)])
    return folder


def test_rows_are_taken_over_as_they_are(raw, tmp_path):
    root = tmp_path / "store"
    dataset = LRS3Binary(features=FEATURES)
    assert dataset.write_store(raw, root) == 3
    assert dataset.write_store(raw, root) == 0  # nothing is missing
    store = ClipStore(root)
    store.verify()
    assert [(clip.id, clip.identity, clip.split, clip.n_frames) for clip in store] == [
        ("spk0_clip", "spk0", "train", 9), ("spk1_clip", "spk1", "train", 14), ("spk2_clip", "spk2", "validation", 10),
    ]  # fmt: skip
    rows, expected = store[0].features("hubert_pairs"), item(0, 9)["hubert"]
    np.testing.assert_array_equal(rows.reshape(-1, 6)[:17], expected)
    assert not rows.reshape(-1, 6)[17:].any()
    np.testing.assert_array_equal(store[0].features("idexp_lm3d"), item(0, 9)["idexp_lm3d"].reshape(9, 204))


def test_its_landmarks_are_posed_as_the_coefficients_say(raw, tmp_path):
    items = [item(0, 9) | {"idexp_lm3d": np.zeros((9, 68, 3), np.float32)}]
    write_file(raw / "train.data", items)
    LRS3Binary(features=FEATURES).write_store(raw, tmp_path / "store")
    heads = fit_heads(np.array(ClipStore(tmp_path / "store")[0].landmarks))
    np.testing.assert_allclose(heads.scale, 32, rtol=1e-4)  # half the video's side per decimetre
    np.testing.assert_allclose(np.degrees(np.arccos((np.trace(heads.rotation[0]) - 1) / 2)), np.degrees(0.2), atol=1e-3)


def test_training_takes_the_rows(raw, tmp_path):
    root = tmp_path / "store"
    LRS3Binary(features=FEATURES).write_store(raw, root)
    datamodule = AToMDataModule(root, FEATURES, window=12, batch_size=2, motion="idexp_lm3d")
    datamodule.prepare_data()
    datamodule.setup()
    batch = datamodule.preview(1)
    np.testing.assert_allclose(batch["reference"][0], item(2, 10)["idexp_lm3d"][0].reshape(-1))
    assert batch["audio"].shape == (1, 12, 12)
    assert batch["valid"].sum() == 10


def test_what_is_missing_is_told(raw, tmp_path):
    with pytest.raises(ConfigError, match=r"neither train\.data nor val\.data"):
        LRS3Binary(features=FEATURES).write_store(tmp_path, tmp_path / "store")
    incomplete = item(0, 9)
    del incomplete["coeff"]
    write_file(raw / "train.data", [incomplete])
    with pytest.raises(StoreError, match="item 0 lacks coeff"):
        LRS3Binary(features=FEATURES).write_store(raw, tmp_path / "store")
