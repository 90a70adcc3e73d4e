"""The layout of Diffused Heads' original training is taken over: lists, splits, sound from a parallel tree, embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.audio.imported import ImportedFeatures
from src.datamodules.diffused_heads import DiffusedHeadsDataModule
from src.datamodules.preprocessing.archives import AsStored
from src.datamodules.preprocessing.diffused_heads import DiffusedHeadsLayout, read_file_list
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.preprocessing.worker import ClipOptions
from src.datamodules.store import ClipStore
from src.errors import ConfigError
from src.media import write_wav
from tests.datamodules.preprocess_fakes import record, use_discs

SIZE = (128, 128)


def tone(seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 16000)) / 16000)).astype(np.float32)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Three clips of 30 frames: two for training, one for testing; one that no list names, one that is missing."""
    raw = tmp_path_factory.mktemp("crema")
    for name in ("s1/a", "s1/b", "s2/c", "s3/unlisted"):
        record(raw / "video" / f"{name}.mp4", 30, sound=0, size=SIZE)
        (raw / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(raw / "audio" / f"{name}.wav", tone(30 / 25))
        (raw / "embeddings" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.arange(31.0)[:, None].repeat(1, 4), raw / "embeddings" / f"{name}.pth")
    (raw / "file_list_train.txt").write_text("./s1/a.mp4\n./s1/b.mp4\n./s9/gone.mp4\n")
    (raw / "file_list_test.txt").write_text("./s2/c.mp4")  # no final newline
    return raw


def scan(raw: Path, **options):
    recordings, failures = DiffusedHeadsLayout(**options).scan(raw)
    return {r.source: r for r in recordings}, {f.source: f.reason for f in failures}


@pytest.mark.parametrize("text", ["./s1/a.mp4\n./s1/b.mp4\n", "./s1/a.mp4\n./s1/b.mp4", "s1/a.mp4\r\ns1/b.mp4\r\n\r\n"])
def test_lists_are_read_whatever_ends_their_lines(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert read_file_list(tmp_path / "list.txt") == ["s1/a", "s1/b"]


def test_lists_decide_the_split_and_sound_comes_from_the_other_tree(raw):
    recordings, failures = scan(raw)
    assert {source: r.split for source, r in recordings.items()} == {
        "s1/a.mp4": "train",
        "s1/b.mp4": "train",
        "s2/c.mp4": "test",
    }
    assert recordings["s2/c.mp4"].audio == raw / "audio" / "s2" / "c.wav"
    assert recordings["s2/c.mp4"].identity == "s2"
    assert failures == {
        "s3/unlisted.mp4": "is in neither list: add it to one to keep it.",
        "s9/gone": "is in file_list_train.txt but not below video: copy it there.",
    }


def test_the_training_list_can_give_the_validation_split_too(raw):
    recordings, _ = scan(raw, hold_out=True)
    assert {r.split for r in recordings.values()} == {"", "test"}
    assert DiffusedHeadsLayout(hold_out=True).given_splits == {"test"}


def test_without_a_training_list_everything_else_is_for_training(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "video" / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "file_list_test.txt").write_text("b.mp4\n")
    recordings, failures = scan(tmp_path, identity="stem")
    assert {source: r.split for source, r in recordings.items()} == {"a.mp4": "train", "b.mp4": "test"}
    assert not failures
    assert recordings["a.mp4"].audio is None


@pytest.mark.parametrize(
    ("name", "video", "audio", "identity"),
    [
        ("vox", "videos/train/id7/x/1.mp4", "audio/train/id7/x/1.mp3", "id7"),
        ("avspeech", "cropped_videos/clip.mp4", "audio/clip.wav", "clip"),
    ],
)
def test_folders_with_names_of_their_own(tmp_path, name, video, audio, identity):
    raw = tmp_path / name
    for path in (video, audio):
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(b"")
    listed = video.removeprefix("videos/train/").removeprefix("cropped_videos/")
    (raw / "file_list_train_new.txt").write_text(f"./{listed}\n")
    recordings, failures = scan(raw)
    assert not failures
    assert recordings[listed].audio == raw / audio
    assert recordings[listed].identity == identity


@pytest.mark.parametrize("missing", ["video", "lists"])
def test_a_folder_of_another_layout_is_an_error(tmp_path, missing):
    if missing == "video":
        (tmp_path / "file_list_test.txt").write_text("a.mp4")
    with pytest.raises(ConfigError, match="lacks the folder video" if missing == "video" else "holds neither of"):
        DiffusedHeadsLayout().scan(tmp_path)


def test_the_layout_becomes_a_store_that_trains(raw, tmp_path, monkeypatch):
    use_discs(monkeypatch)
    root = tmp_path / "store"
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    Preprocessing(DiffusedHeadsLayout(), AsStored(128), ClipOptions(), raw, root, fractions, workers=0).run()
    store = ClipStore(root)
    assert [(clip.source, clip.split, clip.n_frames, clip.has_audio) for clip in store] == [
        ("s1/a.mp4", "train", 30, True),
        ("s1/b.mp4", "train", 30, True),
        ("s2/c.mp4", "test", 30, True),
    ]
    np.testing.assert_allclose(store[0].audio(), tone(30 / 25), atol=1e-3)
    module = DiffusedHeadsDataModule(root, ImportedFeatures(raw / "embeddings"), 64, 2, val_split="test")
    module.prepare_data()
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["target"].shape == (2, 3, 64, 64)
    assert batch["audio"].shape == (2, 5, 4)
    assert (batch["audio"].diff(dim=1) >= 0).all()
