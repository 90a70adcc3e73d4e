"""The layout of MoDiTalker's original training, taken over into a clip store."""

import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest
from PIL import Image

from src.cli import CONF_DIR
from src.datamodules.preprocessing.archives import AsStored, open_frames
from src.datamodules.preprocessing.moditalker import MoDiTalkerLayout
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.preprocessing.worker import ClipOptions
from src.datamodules.store import ClipStore
from src.errors import ConfigError
from src.media import write_wav
from tests.datamodules.preprocess_fakes import disc_frames, record, use_discs

SIDE, N_FRAMES = 96, 30
CLIPS = ("RD_Radio31_000", "WDA_NancyPelosi3_000", "WDA_NancyPelosi3_001")


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three clips, the first with the sound of a video, the second with that of a file; the first is in the list of the test."""
    raw = tmp_path / "HDTF"
    for clip in CLIPS:
        (raw / "frames" / clip).mkdir(parents=True)
        for number, frame in enumerate(disc_frames(N_FRAMES, size=(SIDE, SIDE))):
            Image.fromarray(frame).save(raw / "frames" / clip / f"{number:05d}.jpg", quality=95)
    record(raw / "videos" / f"{CLIPS[0]}.mp4", N_FRAMES)
    write_wav(raw / "videos" / f"{CLIPS[1]}.wav", np.zeros(N_FRAMES * 640, np.float32))
    (raw / "train_id.txt").write_text(f"{CLIPS[0]}.mp4")
    return raw


def layout(*overrides: str) -> MoDiTalkerLayout:
    """As `tools/preprocess.py` makes it."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("preprocess", ["root=store", "dataset=moditalker", *overrides])
    return hydra.utils.instantiate(cfg.dataset, _convert_="all")


def test_clips_are_the_folders_of_frames(raw):
    recordings, failures = layout(f"dataset.split_lists.test={raw / 'train_id.txt'}").scan(raw)
    assert not failures
    assert [(r.id, r.identity, r.split) for r in recordings] == [
        (CLIPS[0], "RD_Radio31", "test"),
        (CLIPS[1], "WDA_NancyPelosi", ""),
        (CLIPS[2], "WDA_NancyPelosi", ""),
    ]
    assert recordings[0].source == "frames/RD_Radio31_000/00000.jpg"
    assert [r.audio and r.audio.name for r in recordings] == [f"{CLIPS[0]}.mp4", f"{CLIPS[1]}.wav", None]


def test_sound_may_lie_elsewhere(raw, tmp_path, caplog):
    shutil.move(raw / "videos", tmp_path / "original")
    assert [r.audio for r in layout().scan(raw)[0]] == [None] * 3
    assert "3 of 3 clips have no sound" in caplog.text
    assert layout(f"dataset.sound={tmp_path / 'original'}").scan(raw)[0][0].audio is not None


def test_folders_that_are_no_clip_are_told(raw):
    (raw / "frames" / CLIPS[0] / "00007.jpg").unlink()
    (raw / "frames" / CLIPS[1] / "00029.jpg").rename(raw / "frames" / CLIPS[1] / "29.jpg")
    shutil.copytree(raw / "frames" / CLIPS[2], raw / "frames" / "someone")
    (raw / "frames" / "WDA_Empty_000").mkdir()
    recordings, failures = layout().scan(raw)
    assert [r.id for r in recordings] == [CLIPS[2]]
    reasons = {failure.source: failure.reason for failure in failures}
    assert (
        reasons["frames/RD_Radio31_000"]
        == "lacks pictures between its first and its last one, 1 in all: copy them from number 7 on."
    )
    assert "as 00000.jpg" in reasons["frames/WDA_NancyPelosi3_000"]
    assert "such as WDA_NancyPelosi3_000" in reasons["frames/someone"]
    assert "holds no picture" in reasons["frames/WDA_Empty_000"]


def test_a_folder_of_another_layout_is_told(raw):
    with pytest.raises(ConfigError, match=r"holds no frames/CLIP/00000\.jpg"):
        layout().scan(raw / "frames")


def test_padded_numbers_are_counted_through(raw):
    frames = open_frames(raw / "frames" / CLIPS[0] / "00008.jpg", 25.0)
    assert len(frames) == N_FRAMES - 8  # 00008, 00009, 00010, ...
    with Image.open(raw / "frames" / CLIPS[0] / "00011.jpg") as picture:
        np.testing.assert_array_equal(frames.read([3])[0], np.asarray(picture))


def test_the_layout_becomes_a_store(raw, tmp_path, monkeypatch):
    use_discs(monkeypatch)
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    source = layout(f"dataset.split_lists.test={raw / 'train_id.txt'}")
    Preprocessing(source, AsStored(SIDE), ClipOptions(), raw, tmp_path / "store", fractions, workers=0).run()
    assert [(clip.id, clip.split, clip.n_frames, clip.has_audio) for clip in ClipStore(tmp_path / "store")] == [
        (f"{CLIPS[0]}-0000", "test", N_FRAMES, True),
        (f"{CLIPS[1]}-0000", "train", N_FRAMES, True),
        (f"{CLIPS[2]}-0000", "train", N_FRAMES, False),
    ]
