"""What a batch of diffused_heads holds, and which frames it is made of."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.datamodules.diffused_heads import (
    DiffusedHeadsDataModule,
    DiffusedHeadsDataset,
    audio_indices,
    draw_frames,
    motion_indices,
    resized_size,
)
from src.datamodules.store import Clip, ClipStore, StoreWriter, forget_open_files, samples_of
from src.errors import ConfigError, StoreError
from src.face.landmarks import mouth_points, rescaled
from tests.stores import write_pattern_store

N_FRAMES, DIM = 12, 3
FEATURES = SimpleNamespace(name="numbers", dim=DIM)


def write_features(root: Path, change: int = 0, dim: int = DIM) -> Path:
    """Row i of a clip is (i, i, ...): what is read tells where it was read. Clip 0 has `change` rows more."""
    (root / "features" / "numbers").mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(ClipStore(root)):
        rows = np.repeat(np.arange(clip.n_frames + (change if number == 0 else 0), dtype=np.float32)[:, None], dim, 1)
        np.save(root / "features" / "numbers" / f"{clip.id}.npy", rows)
    forget_open_files()
    return root


def write_numbered_store(root: Path, n_clips: int = 6, size: tuple[int, int] = (32, 32), **options) -> Path:
    """Frame i of every clip is grey level 20 * i: a picture tells which frame it is."""
    with StoreWriter(root, size) as writer:
        for number in range(n_clips):
            frames = (
                np.full((N_FRAMES, *size, 3), 0, np.uint8)
                + np.arange(N_FRAMES, dtype=np.uint8)[:, None, None, None] * 20
            )
            points = np.random.default_rng(number).uniform(0, 31, (N_FRAMES, 478, 3)).astype(np.float32)
            writer.add(
                f"clip{number}",
                f"person{number}",
                [frames],
                points,
                np.zeros((N_FRAMES, 52), np.float32),
                audio=np.zeros(samples_of(N_FRAMES, 25.0), np.float32),
                split=("train", "validation")[number % 2],
                **options,
            )
        writer.finish()
    return write_features(root)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_numbered_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def clips(root) -> list[Clip]:
    return ClipStore(root, "train").clips


def datamodule(root: Path, **options) -> DiffusedHeadsDataModule:
    module = DiffusedHeadsDataModule(root, options.pop("features", FEATURES), 32, 2, **options)
    module.setup("fit")
    return module


def frame_numbers(pictures: torch.Tensor) -> list[int]:
    """Which frames of a numbered clip the pictures (..., 3, h, w) are."""
    return (pictures.float().mean(dim=(-3, -2, -1)) / 20).round().int().flatten().tolist()


# --- which frames


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
def test_motion_frames_are_those_before_the_target_and_the_identity_before_the_clip(target, identity, m):
    frames = motion_indices(target, identity, m)
    assert frames == [identity] * max(0, m - target) + list(range(max(0, target - m), target))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.data())
def test_the_audio_window_is_centred_and_repeats_the_ends(n_frames, reach, data):
    target = data.draw(st.integers(0, n_frames - 1))
    rows = audio_indices(target, reach, n_frames)
    assert len(rows) == 2 * reach + 1
    assert rows[reach] == target
    assert rows.tolist() == [min(max(target + i, 0), n_frames - 1) for i in range(-reach, reach + 1)]


def test_random_draws_are_uniform_pairs_of_different_frames():
    rng, frames = np.random.default_rng(0), np.array([0, 1, 3])
    counts = Counter(draw_frames(frames, "random", rng) for _ in range(6000))
    assert set(counts) == {(a, b) for a in (0, 1, 3) for b in (0, 1, 3) if a != b}
    assert min(counts.values()) > 850  # of 1000 expected


def test_with_the_first_frame_for_the_person_it_is_never_the_target():
    rng, frames = np.random.default_rng(0), np.array([2, 3, 5])
    assert {draw_frames(frames, "first", rng) for _ in range(100)} == {(3, 2), (5, 2)}


# --- items


def test_a_batch_holds_what_the_contract_says(root):
    batch = next(iter(datamodule(root, n_motion_frames=3, audio_radius=1).train_dataloader()))
    shapes = {
        "target": (2, 3, 32, 32),
        "identity": (2, 3, 32, 32),
        "motion": (2, 3, 3, 32, 32),
        "audio": (2, 3, DIM),
        "lips": (2, 20, 2),
        "index": (2,),
    }
    assert {key: tuple(value.shape) for key, value in batch.items()} == shapes
    assert [batch[key].dtype for key in shapes] == [torch.uint8] * 3 + [torch.float32] * 2 + [torch.int64]


def test_an_item_is_made_of_the_frames_that_were_drawn(clips):
    dataset = DiffusedHeadsDataset(clips, FEATURES, 32, draws_per_clip=8)
    for index in range(len(dataset)):
        item = dataset[index]
        target, identity = frame_numbers(item["target"])[0], frame_numbers(item["identity"])[0]
        assert target != identity
        assert frame_numbers(item["motion"]) == motion_indices(target, identity, 2)
        assert item["audio"][:, 0].tolist() == audio_indices(target, 2, N_FRAMES).tolist()
        clip = clips[index % len(clips)]
        np.testing.assert_allclose(item["lips"], mouth_points(clip.landmarks[target])[:, :2], atol=1e-4)
        assert item["index"] == index


def test_frames_are_decoded_in_one_call_and_none_twice(clips, monkeypatch):
    calls: list[list[int]] = []
    read = Clip.frames
    monkeypatch.setattr(Clip, "frames", lambda clip, indices: calls.append(list(indices)) or read(clip, indices))
    item = DiffusedHeadsDataset(clips, FEATURES, 32, n_motion_frames=4).item(clips[0], 2, 7)
    assert calls == [[0, 1, 2, 7]]
    assert frame_numbers(item["motion"]) == [7, 7, 0, 1]


def test_a_draw_follows_from_seed_epoch_and_row_alone(clips):
    one, two, other = (DiffusedHeadsDataset(clips, FEATURES, 32, draws_per_clip=9, seed=s) for s in (3, 3, 4))
    draws = range(5 * len(one), 6 * len(one))
    targets = [[frame_numbers(dataset[i]["target"])[0] for i in draws] for dataset in (one, two, other)]
    assert targets[0] == targets[1]
    assert targets[0] != targets[2]
    assert targets[0] != [frame_numbers(one[i]["target"])[0] for i in range(len(one))]


def test_rows_of_all_clips_take_turns(clips):
    dataset = DiffusedHeadsDataset(clips, FEATURES, 32, draws_per_clip=2)
    assert len(dataset) == 2 * len(clips)
    lips = [dataset.item(clip, 5, 0)["lips"] for clip in clips]
    assert not torch.equal(lips[0], lips[1])  # clips differ in their landmarks
    for row in range(len(dataset)):
        item = dataset[row]
        expected = dataset.item(clips[row % len(clips)], frame_numbers(item["target"])[0], 0)["lips"]
        assert torch.equal(item["lips"], expected)


def test_frames_without_a_detected_face_are_neither_target_nor_identity(tmp_path):
    valid = np.isin(np.arange(N_FRAMES), [0, 1, 4])
    clips = ClipStore(write_numbered_store(tmp_path / "store", 2, valid=valid), "train").clips
    dataset = DiffusedHeadsDataset(clips, FEATURES, 32, draws_per_clip=40)
    items = [dataset[i] for i in range(40)]
    assert {frame_numbers(item[key])[0] for item in items for key in ("target", "identity")} == {0, 1, 4}


def test_lips_follow_a_frame_that_is_resized():
    lips = np.array([[-0.5, -0.5], [39.5, 19.5]], np.float32)  # the corners of the picture
    np.testing.assert_allclose(rescaled(lips, (20, 40), (10, 10)), [[-0.5, -0.5], [9.5, 9.5]])


def test_the_original_s_lips_are_those_of_the_identity_with_height_and_width_exchanged(tmp_path):
    clips = ClipStore(write_numbered_store(tmp_path / "store", 2, (32, 48)), "train").clips
    item = DiffusedHeadsDataset(clips, FEATURES, 16, original_lip_landmarks=True).item(clips[0], 3, 8)
    expected = mouth_points(clips[0].landmarks[8])[:, :2] / np.array([32 / 16, 48 / 16])
    np.testing.assert_allclose(item["lips"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "aspect", "resized"),
    [((363, 273), "kept", (170, 128)), ((48, 40), "kept", (153, 128)), ((40, 48), "square", (128, 128))],
)
def test_sizes_after_resizing(size, aspect, resized):
    assert resized_size(size, 128, aspect) == resized


# --- loaders


def test_several_workers_give_the_same_batches(root):
    alone = list(datamodule(root, draws_per_clip=2).train_dataloader())
    several = list(datamodule(root, draws_per_clip=2, num_workers=2, persistent_workers=False).train_dataloader())
    for one, other in zip(alone, several, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_resumed_run_sees_the_same_samples_as_one_that_never_stopped(root):
    whole = datamodule(root, draws_per_clip=2).train_dataloader()
    whole.sampler.set_epoch(3)
    resumed = datamodule(root, draws_per_clip=2)
    resumed.load_state_dict({"epoch": 3, "position": 4, "batches": 20})
    for one, other in zip(list(whole)[2:], list(resumed.train_dataloader()), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_epochs_differ_in_training_and_not_in_validation(root):
    module = datamodule(root, draws_per_clip=4, val_draws_per_clip=4)
    batches = []
    for loader in (module.train_dataloader(), module.val_dataloader()):
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            items = sorted(
                (i, *frame_numbers(t[None]))
                for b in loader
                for i, t in zip(b["index"].tolist(), b["target"], strict=True)
            )
            batches.append(items)
    assert batches[0] != batches[1]
    assert batches[2] == batches[3]
    assert [row for row, _ in batches[2]] == list(range(len(module.val_dataset)))


def test_validation_shows_the_person_by_the_first_frame(root):
    dataset = datamodule(root, val_draws_per_clip=5).val_dataset
    assert {frame_numbers(dataset[i]["identity"])[0] for i in range(len(dataset))} == {0}


def test_previews_never_change(root):
    module = datamodule(root)
    assert torch.equal(module.preview(2)["target"], module.preview(2)["target"])
    video = module.preview_video(7)
    assert frame_numbers(video["target"]) == list(range(7))
    assert frame_numbers(video["identity"]) == [0]
    assert video["features"][:, 0].tolist() == list(range(7))
    assert video["lips"].shape == (7, 20, 2)


def test_previews_of_several_clips_are_padded(root, tmp_path):
    module = datamodule(root)
    videos = module.preview_videos(2, 5)
    assert videos["target"].shape == (2, 5, 3, 32, 32)
    assert videos["lengths"].tolist() == [5, 5]
    assert videos["index"].tolist() == [0, 1]
    for key, value in module.preview_video(5).items():
        assert torch.equal(videos[key][0], value)


# --- features that do not fit, and other mistakes


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_features_may_be_one_row_longer_or_shorter(tmp_path, change):
    root = write_features(write_numbered_store(tmp_path / "store", 2), change)
    clip = ClipStore(root, "train").clips[0]
    dataset = DiffusedHeadsDataset([clip], FEATURES, 32)
    assert dataset.frames_of(clip).tolist() == list(range(min(N_FRAMES, N_FRAMES + change)))


@pytest.mark.parametrize(
    ("change", "dim", "says"),
    [
        (2, DIM, r"numbers features do not fit 1 of 1 clips \(first: clip clip0 has 14 rows but 12 frames\)"),
        (-2, DIM, "clip clip0 has 10 rows but 12 frames"),
        (0, 5, "clip clip0 has float32 12 x 5, not float32 rows of 3"),
    ],
)
def test_features_that_do_not_fit_are_an_error_that_names_the_clip(tmp_path, change, dim, says):
    root = write_features(write_numbered_store(tmp_path / "store", 2), change, dim)
    with pytest.raises(StoreError, match=says):
        datamodule(root)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"val_split": "test"}, StoreError, "no clips of split 'test'"),
        (
            {"features": SimpleNamespace(name="others", dim=2)},
            StoreError,
            "None of the 3 train clips of .* has others features",
        ),
        ({"identity_frame": "last"}, ConfigError, "identity_frame=last: choose random or first"),
        ({"aspect": "wide"}, ConfigError, "choose square or kept"),
        ({"n_motion_frames": -1}, ConfigError, "give 0 or more"),
        ({"draws_per_clip": 0}, ConfigError, "give 1 or more"),
    ],
)
def test_mistakes_are_named(root, change, error, says):
    with pytest.raises(error, match=says):
        datamodule(root, **change)


def test_clips_without_features_are_left_out(tmp_path):
    root = write_numbered_store(tmp_path / "store")
    (root / "features" / "numbers" / "clip2.npy").unlink()
    assert [clip.id for clip in datamodule(root).train_dataset.clips] == ["clip0", "clip4"]


def test_a_store_without_features_is_an_error(tmp_path):
    with StoreWriter(tmp_path, 16) as writer:
        black = np.zeros((5, 16, 16, 3), np.uint8)
        writer.add("a", "a", [black], np.zeros((5, 478, 3)), np.zeros((5, 52)), split="train")
        writer.finish()
    with pytest.raises(StoreError, match=r"None of the 1 train clips of .* has numbers features"):
        datamodule(tmp_path)


@pytest.mark.parametrize("resolution", [64, 128])
def test_an_item_takes_a_few_milliseconds(tmp_path, resolution):
    """8 ms were measured for four frames of 128x128: one worker makes 130 items in a second. Processor time, for machines under load."""
    root = write_features(write_pattern_store(tmp_path / "store", n_clips=4, n_frames=50, size=128))
    dataset = DiffusedHeadsDataset(ClipStore(root).clips, FEATURES, resolution, draws_per_clip=20)
    dataset[0]
    start = time.process_time()
    for row in range(len(dataset)):
        dataset[row]
    assert (time.process_time() - start) / len(dataset) < 0.04
