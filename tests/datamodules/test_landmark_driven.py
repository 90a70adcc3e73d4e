"""What a batch of landmark_driven holds, and which frames it is made of."""

from pathlib import Path

import numpy as np
import pytest
import torch

import src.datamodules.store.reading as store_module
from src.datamodules.landmark_driven import LandmarkDrivenDataModule, LandmarkDrivenDataset, landmark_picture
from src.datamodules.store import Clip, ClipStore, StoreWriter
from src.errors import ConfigError, StoreError
from src.face.drawing import draw_landmarks
from src.face.landmarks import simplified
from tests.stores import write_pattern_store

N_FRAMES = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=6, n_frames=N_FRAMES)


@pytest.fixture(scope="module")
def clips(root) -> list[Clip]:
    return ClipStore(root, "train").clips


def datamodule(root: Path, **options) -> LandmarkDrivenDataModule:
    module = LandmarkDrivenDataModule(root, 32, 4, **options)
    module.setup("fit")
    return module


def channels_last(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_a_batch_holds_what_the_contract_says(root):
    batch = next(iter(datamodule(root).train_dataloader()))
    pictures = ("target", "reference", "target_landmarks", "reference_landmarks")
    assert set(batch) == {*pictures, "index"}
    assert all(batch[name].shape == (4, 3, 32, 32) and batch[name].dtype == torch.uint8 for name in pictures)
    assert (batch["index"].shape, batch["index"].dtype) == ((4,), torch.int64)


def test_an_item_is_a_kept_frame_with_frame_0_of_its_clip(clips):
    dataset = LandmarkDrivenDataset(clips, 32)
    for index in range(0, len(dataset), 5):
        number, frame = dataset.items[index]
        item, clip = dataset[index], clips[number]
        assert frame in clip.selection("landmark_driven")
        np.testing.assert_array_equal(channels_last(item["target"]), clip.frames([frame])[0])
        np.testing.assert_array_equal(channels_last(item["reference"]), clip.frames([0])[0])
        drawn = draw_landmarks(simplified(clip.landmarks)[..., :2], 32)
        np.testing.assert_array_equal(channels_last(item["target_landmarks"]), drawn[frame])
        np.testing.assert_array_equal(channels_last(item["reference_landmarks"]), drawn[0])
        assert item["index"] == index


def test_every_kept_frame_is_one_item_and_clips_take_turns(clips):
    dataset = LandmarkDrivenDataset(clips, 32)
    kept = {(i, frame) for i, clip in enumerate(clips) for frame in clip.selection("landmark_driven")}
    assert {tuple(item) for item in dataset.items.tolist()} == kept
    assert dataset.items[: len(clips), 0].tolist() == list(range(len(clips)))


def test_selection_all_keeps_every_frame_but_the_reference(clips):
    dataset = LandmarkDrivenDataset(clips[:1], 32, selection="all")
    assert dataset.items[:, 1].tolist() == list(range(1, N_FRAMES))


def test_frames_per_clip_spreads_them_evenly(clips):
    dataset = LandmarkDrivenDataset(clips[:1], 32, selection="all", frames_per_clip=3)
    assert dataset.items[:, 1].tolist() == [1, 12, N_FRAMES - 1]


def test_frames_are_resized_and_landmarks_with_them(clips):
    item = LandmarkDrivenDataset(clips, 64)[0]
    assert item["target"].shape == item["target_landmarks"].shape == (3, 64, 64)
    # The upper left edge of the picture, -0.5 in pixels, is what resizing keeps in place.
    points = (simplified(clips[0].landmarks[[0]])[..., :2] + 0.5) * 2 - 0.5
    np.testing.assert_array_equal(channels_last(item["reference_landmarks"]), draw_landmarks(points, 64)[0])


def test_a_picture_of_the_crop_s_own_size_is_drawn_from_the_stored_points(clips):
    points = np.random.default_rng(0).uniform(-5, 40, (2, 478, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        landmark_picture(points, (32, 32), 32), draw_landmarks(simplified(points)[..., :2], 32)
    )


def test_random_references_change_from_epoch_to_epoch_and_are_never_the_target(clips):
    dataset = LandmarkDrivenDataset(clips, 32, reference="random", selection="all", seed=3)
    chosen = np.array(
        [
            [dataset._reference_frame(clips[number], frame, epoch * len(dataset) + index) for epoch in range(4)]
            for index, (number, frame) in enumerate(dataset.items.tolist())
        ]
    )
    assert (chosen != dataset.items[:, 1:]).all()
    assert len(np.unique(chosen)) > N_FRAMES // 2
    assert (chosen[:, 0] != chosen[:, 1]).mean() > 0.8
    draw = 2 * len(dataset) + 5
    assert torch.equal(dataset[draw]["reference"], dataset[draw]["reference"])
    assert torch.equal(dataset[draw]["target"], dataset[5]["target"])
    assert dataset[draw]["index"] == 5


def test_a_video_is_opened_once_for_many_items(root, clips, monkeypatch):
    opened: list[Path] = []
    reader = store_module.VideoReader
    monkeypatch.setattr(store_module, "VideoReader", lambda path: opened.append(path) or reader(path))
    store_module._open_video.cache_clear()
    dataset = LandmarkDrivenDataset(clips, 32)
    for index in range(len(dataset)):
        dataset[index]
    assert len(opened) == len(clips)


def test_the_loader_of_several_workers_gives_the_same_batches(root):
    alone = [batch["index"].tolist() for batch in datamodule(root).train_dataloader()]
    module = datamodule(root, num_workers=2, persistent_workers=False)
    for batch, expected in zip(module.train_dataloader(), alone, strict=True):
        assert batch["index"].tolist() == expected
        assert torch.equal(batch["target"][0], module.train_dataset[expected[0]]["target"])


def test_validation_is_in_order_and_whole(root):
    module = datamodule(root)
    indices = [i for batch in module.val_dataloader() for i in batch["index"].tolist()]
    assert indices == list(range(len(module.val_dataset)))


def test_previews_never_change(root):
    module = datamodule(root)
    assert torch.equal(module.preview(3)["target"], module.preview(3)["target"])
    video = module.preview_video(7)
    assert video["target"].shape == (7, 3, 32, 32)
    assert torch.equal(video["target"][0], video["reference"][0])  # frame 0 is its own reference
    assert torch.equal(video["target_landmarks"][0], video["reference_landmarks"][6])


def write_clips(root: Path, n_frames: int, split: str = "train", valid: np.ndarray | None = None) -> Path:
    with StoreWriter(root, 16) as writer:
        options = {} if valid is None else {"valid": valid}
        writer.add(
            "clip",
            "person",
            [np.zeros((n_frames, 16, 16, 3), np.uint8)],
            np.zeros((n_frames, 478, 3), np.float32),
            np.zeros((n_frames, 52), np.float32),
            split=split,
            **options,
        )
        writer.finish()
    return root


def test_frames_without_a_detected_face_are_left_out(tmp_path):
    valid = np.ones(30, bool)
    valid[[5, 9, 12]] = False
    clips = ClipStore(write_clips(tmp_path, 30, valid=valid)).clips
    assert LandmarkDrivenDataset(clips, 16).items[:, 1].tolist() == [7, 11, 13, 15, 17, 19, 21, 23]


def test_clips_that_are_too_short_are_an_error_in_one_sentence(tmp_path):
    root = write_clips(tmp_path, 10)
    with pytest.raises(StoreError, match=r"keeps no frame of the 1 clips \(the longest has 10 frames\)"):
        datamodule(root)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"val_split": "test"}, StoreError, "no clips of split 'test'"),
        ({"train_split": "training"}, StoreError, "no split 'training'"),
        ({"root": "nowhere"}, StoreError, "is no clip store"),
        ({"selection": "mine"}, StoreError, "mine.csv is missing"),
        ({"reference": "last"}, ConfigError, "choose first or random"),
    ],
)
def test_mistakes_are_named(root, change, error, says):
    options = {"root": root} | change
    with pytest.raises(error, match=says):
        datamodule(**options)
