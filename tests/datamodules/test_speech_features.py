"""Speech features of a store: what is missing is made, what fails is listed, what does not fit is refused."""

import json
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from src.audio import ImportedFeatures, LogMel
from src.datamodules.speech_features import ensure_features, write_features
from src.datamodules.store import ClipStore, StoreWriter, read_clips
from src.datamodules.tables import read_rows
from src.errors import CheckpointError, ConfigError, FeatureError, StoreError
from tests.stores import write_pattern_store


@pytest.fixture
def store(tmp_path):
    return write_pattern_store(tmp_path / "store")


class Counting(LogMel):
    """Counts the clips that it is asked for; fails for those named."""

    def __init__(self, fail: Callable[[int], bool] = lambda call: False, **options) -> None:
        super().__init__(**options)
        self.calls, self.fail = 0, fail

    def __call__(self, samples, n_frames=None):
        self.calls += 1
        if self.fail(self.calls):
            raise FeatureError(f"call {self.calls} was told to fail.")
        return super().__call__(samples, n_frames)


def test_every_clip_gets_rows_of_its_own_sound(store):
    result = write_features(store, LogMel())
    assert (result.present, result.written, result.failures) == (0, 4, {})
    for clip in ClipStore(store):
        rows = clip.features("log_mel")
        assert rows.dtype == np.float32
        assert np.array_equal(rows, LogMel()(clip.audio(), clip.n_frames))


def test_only_what_is_missing_is_made(store):
    write_features(store, LogMel())
    (store / "features" / "log_mel" / "clip2.npy").unlink()
    extractor = Counting()
    assert write_features(store, extractor).written == 1
    assert write_features(store, extractor).present == 4
    assert extractor.calls == 1


def test_an_interrupted_run_goes_on_where_it_stopped(store):
    def stop(call: int) -> bool:
        if call == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        write_features(store, Counting(stop))
    names = sorted(p.name for p in (store / "features" / "log_mel").iterdir())
    assert names == ["clip0.npy", "clip1.npy", "settings.json"]
    extractor = Counting()
    ensure_features(store, extractor)
    assert extractor.calls == 2


def test_features_older_than_the_sound_or_of_another_length_are_made_again(store):
    write_features(store, LogMel())
    folder = store / "features" / "log_mel"
    os.utime(folder / "clip0.npy", (0, 0))
    np.save(folder / "clip1.npy", np.zeros((3, 320), np.float32))
    (folder / "clip2.npy").write_bytes(b"damaged")
    assert write_features(store, LogMel()).written == 3
    assert all(len(clip.features("log_mel")) == clip.n_frames for clip in ClipStore(store))


def test_a_clip_that_fails_is_listed_and_the_rest_goes_on(store):
    result = write_features(store, Counting(lambda call: call == 2))
    assert result.written == 3
    assert read_rows(store / "features" / "log_mel" / "failures.csv") == [
        {"id": "clip1", "reason": "call 2 was told to fail."}
    ]
    assert write_features(store, LogMel()).written == 1
    assert not (store / "features" / "log_mel" / "failures.csv").exists()


def test_a_clip_without_sound_is_listed(tmp_path, store):
    add_mute_clip(store)
    result = write_features(store, LogMel())
    assert result.written == 4
    assert "has no sound" in result.failures["mute"]


def test_clips_without_sound_do_not_load_the_encoder_again(store):
    class Unloadable(LogMel):
        @property
        def dim(self) -> int:
            raise CheckpointError("the encoder was loaded.")

    add_mute_clip(store)
    write_features(store, LogMel())
    table = store / "features" / "log_mel" / "failures.csv"
    stamp = table.stat().st_mtime_ns
    result = write_features(store, Unloadable())
    assert (result.present, result.written, list(result.failures)) == (4, 0, ["mute"])
    assert [row["id"] for row in read_rows(table)] == ["mute"]
    assert table.stat().st_mtime_ns == stamp


def test_imported_features_of_a_clip_without_sound_are_taken(tmp_path, store):
    add_mute_clip(store)
    folder = tmp_path / "embeddings"
    folder.mkdir()
    np.save(folder / "mute.npy", np.ones((24, 6), np.float32))
    assert write_features(store, ImportedFeatures(folder)).written == 1
    assert {clip.id: clip for clip in ClipStore(store)}["mute"].features("imported").shape == (24, 6)


def add_mute_clip(root) -> None:
    clip = next(iter(ClipStore(root)))
    with StoreWriter(root, clip.size) as writer:
        writer.add("mute", "nobody", [clip.frames()], clip.landmarks, clip.blendshapes, split="train")
        writer.finish()


def test_a_store_of_which_no_clip_gets_features_is_an_error(store):
    with pytest.raises(StoreError, match=r"Not one of the 4 clips of .* got log_mel features \(clip clip0: call 1"):
        write_features(store, Counting(lambda call: True))


def test_other_settings_are_refused_until_they_have_a_name_of_their_own(store):
    write_features(store, LogMel())
    with pytest.raises(StoreError, match=r"made with n_mels=80, this run has n_mels=40: give .* another name"):
        write_features(store, LogMel(n_mels=40))
    write_features(store, LogMel(n_mels=40, name="log_mel_40"))
    assert json.loads((store / "features" / "log_mel_40" / "settings.json").read_text())["n_mels"] == 40


def test_features_stay_in_a_folder_of_their_own(store):
    with pytest.raises(ConfigError, match=r"features\.name=\.\./elsewhere"):
        write_features(store, LogMel(8, 2, name="../elsewhere"), progress=False)
    assert not (store / "elsewhere").exists()


def test_an_encoder_that_does_not_load_is_no_clips_fault(store):
    class Broken(LogMel):
        @property
        def dim(self) -> int:
            raise CheckpointError("no encoder.")

    with pytest.raises(CheckpointError, match="no encoder"):
        write_features(store, Broken(name="broken"))
    assert not (store / "features").exists()


def test_other_frame_rates_are_refused(tmp_path, store):
    clip = next(iter(ClipStore(store)))
    with StoreWriter(tmp_path / "fast", clip.size, fps=30.0) as writer:
        writer.add("clip", "person", [clip.frames()], clip.landmarks, clip.blendshapes, split="train")
        writer.finish()
    with pytest.raises(StoreError, match=r"30 frames per second; speech features are made for 25"):
        write_features(tmp_path / "fast", LogMel())


def test_imported_features_are_found_by_clip_and_checked(tmp_path, store):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    lengths = {"clip0": 24, "clip1": 25, "clip2": 30}  # clip3 has none; clips have 24 frames
    for id, length in lengths.items():
        torch.save(torch.full((length, 6), 1.5), folder / f"{id}.pth")
    result = write_features(store, ImportedFeatures(folder))
    assert result.written == 2
    assert "30 rows of speech features for 24 video frames" in result.failures["clip2"]
    assert "has no features of clip clip3" in result.failures["clip3"]
    by_id = {clip.id: clip for clip in read_clips(store)}
    assert by_id["clip1"].features("imported").shape == (24, 6)
