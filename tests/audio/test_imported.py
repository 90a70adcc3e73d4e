"""Features of other programs: found, checked, fitted."""

import numpy as np
import pytest
import torch

from src.audio import ImportedFeatures, read_embeddings
from src.errors import ConfigError, FeatureError

ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.npy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_files_of_every_kind_are_read(tmp_path, name, dtype):
    save(tmp_path / name, ROWS.astype(dtype))
    rows = read_embeddings(tmp_path / name, 4)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, ROWS)


def save(path, rows: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows) if path.suffix == ".npy" else torch.save(torch.from_numpy(rows), path)


def test_parameters_and_legacy_files_are_read(tmp_path):
    torch.save(torch.nn.Parameter(torch.from_numpy(ROWS)), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert np.array_equal(read_embeddings(tmp_path / "a.pth"), ROWS)


def test_a_clip_is_found_by_its_id(tmp_path):
    save(tmp_path / "clip0.npy", ROWS)
    assert np.array_equal(ImportedFeatures(tmp_path).read("clip0", 10), ROWS)


@pytest.mark.parametrize("n_frames", [9, 11])
def test_one_row_more_or_less_is_fitted(tmp_path, n_frames):
    save(tmp_path / "clip0.pth", ROWS)
    assert len(ImportedFeatures(tmp_path).read("clip0", n_frames)) == n_frames


def test_a_clip_is_found_by_its_recording_and_cut_out_of_it(tmp_path):
    save(tmp_path / "s15" / "1015_DFA_ANG_XX.pth", ROWS)
    rows = ImportedFeatures(tmp_path).read("1015_DFA_ANG_XX-0", 4, "s15/1015_DFA_ANG_XX.mp4", start=0.12)
    assert np.array_equal(rows, ROWS[3:7])


def test_width_is_that_of_the_first_file_unless_given(tmp_path):
    save(tmp_path / "a.npy", ROWS)
    assert ImportedFeatures(tmp_path).dim == 4
    assert ImportedFeatures(tmp_path, dim=7).dim == 7


# --- bad input


@pytest.mark.parametrize("n_frames", [8, 12])
def test_a_length_that_differs_by_more_than_a_frame_is_refused(tmp_path, n_frames):
    save(tmp_path / "clip0.pth", ROWS)
    with pytest.raises(FeatureError, match=f"10 rows of speech features for {n_frames} video frames"):
        ImportedFeatures(tmp_path).read("clip0", n_frames)


def test_a_recording_that_ends_before_its_clip_is_refused(tmp_path):
    save(tmp_path / "long.pth", ROWS)
    with pytest.raises(FeatureError, match="2 rows of speech features for 5 video frames"):
        ImportedFeatures(tmp_path).read("long-0", 5, "long.mp4", start=0.32)


def test_another_width_names_both(tmp_path):
    save(tmp_path / "clip0.pth", ROWS)
    with pytest.raises(FeatureError, match="rows of 4 numbers but 256 are expected"):
        ImportedFeatures(tmp_path, dim=256).read("clip0", 10)


def test_a_clip_without_a_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(
        FeatureError, match=r"has no features of clip clip0 \(looked for clip0 and x/long with .pth, .pt, .npy\)"
    ):
        ImportedFeatures(tmp_path, dim=4).read("clip0", 10, "x/long.mp4")


@pytest.mark.parametrize(
    "rows",
    [np.zeros(4, np.float32), np.zeros((2, 3, 4), np.float32), np.zeros((0, 4), np.float32), np.zeros((4, 4), int)],
)
@pytest.mark.parametrize("name", ["a.npy", "a.pth"])
def test_other_shapes_and_types_are_refused(tmp_path, rows, name):
    save(tmp_path / name, rows)
    with pytest.raises(FeatureError, match=r"not floating point rows \(frames, width\)"):
        read_embeddings(tmp_path / name)


def test_rows_that_are_not_finite_are_refused(tmp_path):
    save(tmp_path / "a.npy", np.full((3, 4), np.nan, np.float32))
    with pytest.raises(FeatureError, match="not finite"):
        read_embeddings(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.pth"])
def test_damaged_files_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY no")
    with pytest.raises(FeatureError, match=name):
        read_embeddings(tmp_path / name)


def test_a_file_cannot_run_code(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return marker.touch, ()

    torch.save(Malicious(), tmp_path / "a.pth")
    np.save(tmp_path / "b.npy", np.array([Malicious()], object), allow_pickle=True)
    with pytest.raises(FeatureError, match="refused for safety"):
        read_embeddings(tmp_path / "a.pth")
    with pytest.raises(FeatureError, match="no array of numbers"):
        read_embeddings(tmp_path / "b.npy")
    assert not marker.exists()


def test_a_dictionary_is_no_tensor(tmp_path):
    torch.save({"emb": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(FeatureError, match="holds a dict, not a tensor"):
        read_embeddings(tmp_path / "a.pth")


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(FeatureError, match=r"a.npy: there is no such file"):
        read_embeddings(tmp_path / "a.npy")
    with pytest.raises(ConfigError, match=r"read from .pth, .pt, .npy files"):
        read_embeddings(tmp_path / "a.txt")
    with pytest.raises(FeatureError, match=r"there are no .pth, .pt, .npy files; give their folder"):
        _ = ImportedFeatures(tmp_path / "nothing").dim
