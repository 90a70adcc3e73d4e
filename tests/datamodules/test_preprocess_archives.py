"""Clips that landmark_driven's original stored are taken over, and cannot run anything."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from src.datamodules.preprocessing.archives import ArchivedClip, AsStored
from src.datamodules.preprocessing.recordings import Dataset
from src.datamodules.preprocessing.worker import ClipOptions, Outcome, Worker
from src.errors import FaceError, MediaError
from tests.datamodules.preprocess_fakes import disc_frames, find_disc, use_discs


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def archive(path: Path, n: int = 30, **more: object) -> np.ndarray:
    """A `.pt` file as the original writes it, and its frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = disc_frames(n, size=(128, 128))
    landmarks = np.full((n, 135, 2), 7.0)
    landmarks[3] = np.nan
    torch.save({"video": frames, "landmark": landmarks, "landmark_figure": frames.copy()} | more, path)
    return frames


def work(raw: Path, root: Path, size: int = 128) -> list[Outcome]:
    recordings, _ = Dataset("pt", suffixes=[".pt"]).scan(raw)
    return [Worker(root, AsStored(size), ClipOptions())(recording) for recording in recordings]


def test_frames_come_back_exactly(tmp_path):
    frames = archive(tmp_path / "a.pt")
    clip = ArchivedClip(tmp_path / "a.pt")
    assert (len(clip), clip.info.width, clip.info.height, clip.info.has_audio) == (30, 128, 128, False)
    np.testing.assert_array_equal(clip.read(range(30)), frames)


@pytest.mark.parametrize("legacy", [False, True])
def test_names_of_numpy_1_and_2_are_known(tmp_path, legacy):
    """A file that was written with NumPy 1 names its functions otherwise."""
    frames = archive(tmp_path / "a.pt")
    if legacy:
        contents = (tmp_path / "a.pt").read_bytes()
        old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
        torch.save({"video": frames}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        contents = (tmp_path / "a.pt").read_bytes()
        (tmp_path / "a.pt").write_bytes(contents.replace(new, old))
        assert old in (tmp_path / "a.pt").read_bytes()
    np.testing.assert_array_equal(ArchivedClip(tmp_path / "a.pt").read([5]), frames[[5]])


def test_nothing_that_is_pickled_runs(tmp_path):
    archive(tmp_path / "a.pt", landmark=Attack(tmp_path / "owned"))
    with pytest.raises(MediaError, match=r"a.pt is no clip of landmark_driven's original, or holds more than arrays"):
        ArchivedClip(tmp_path / "a.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("contents", [[1, 2], {"video": 3}, {"video": np.zeros((2, 4, 4, 3))}, {}])
def test_other_contents_are_one_sentence(tmp_path, contents):
    torch.save(contents, tmp_path / "a.pt")
    with pytest.raises(MediaError, match=r"a.pt holds no .*: leave it out"):
        ArchivedClip(tmp_path / "a.pt")


@pytest.mark.parametrize("contents", [b"", b"no archive", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_archive_are_one_sentence(tmp_path, contents):
    (tmp_path / "a.pt").write_bytes(contents)
    with pytest.raises(MediaError, match=r"a.pt is no clip"):
        ArchivedClip(tmp_path / "a.pt")


def test_a_folder_of_archives_becomes_clips(tmp_path, monkeypatch):
    use_discs(monkeypatch)
    frames = archive(tmp_path / "raw/1082_ITS_HAP_XX.pt")
    (tmp_path / "raw/1082_ITS_SAD_XX.pt").write_text("no archive")
    good, bad = work(tmp_path / "raw", tmp_path / "store")
    assert bad.clips == []
    assert "is no clip of landmark_driven's original" in bad.failures[0].reason
    (clip,) = good.clips
    clip.verify()
    assert (clip.size, clip.n_frames, clip.has_audio) == ((128, 128), 30, False)
    np.testing.assert_allclose(clip.landmarks[4], find_disc(frames[4]).landmarks, atol=1e-3)
    assert np.abs(clip.frames([4])[0].astype(int) - frames[4]).mean() < 2


def test_frames_of_another_size_are_one_line(tmp_path, monkeypatch):
    use_discs(monkeypatch)
    archive(tmp_path / "raw/a.pt")
    (outcome,) = work(tmp_path / "raw", tmp_path / "store", size=64)
    assert outcome.failures[0].reason == "its frames are 128x128 pixels: give their side as alignment.size."
    with pytest.raises(FaceError):
        AsStored(64).fit(np.zeros((2, 478, 3)), (64, 65))
