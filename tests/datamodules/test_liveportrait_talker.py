"""Windows and clips for MappingNet."""

import numpy as np
import pytest
import torch

from src.audio.log_mel import LogMel
from src.datamodules.liveportrait_talker import LIP_TARGETS, THREEDMM, LivePortraitTalkerDataModule
from src.datamodules.store import ClipStore
from src.errors import ConfigError, StoreError
from src.nn.liveportrait_talker import coefficient_windows
from tests.stores import write_pattern_store

N_FRAMES = 20


def write_rows(root, name, width):
    """Rows that tell which clip and frame they belong to."""
    folder = root / "features" / name
    folder.mkdir(parents=True)
    for number, clip in enumerate(ClipStore(root)):
        rows = np.arange(N_FRAMES, dtype=np.float32) + 100 * number
        shape = (width,) if isinstance(width, int) else width
        np.save(folder / f"{clip.id}.npy", np.broadcast_to(rows.reshape(-1, *[1] * len(shape)), (N_FRAMES, *shape)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=4, n_frames=N_FRAMES)
    write_rows(made, THREEDMM, 70)
    write_rows(made, LIP_TARGETS, (6, 3))
    return made


def module(root, **options) -> LivePortraitTalkerDataModule:
    made = LivePortraitTalkerDataModule(root, 3, **options)
    made.prepare_data()
    made.setup("fit")
    return made


def test_a_window_surrounds_its_frame_and_holds_the_ends(root):
    made = module(root, draws_per_clip=10, window=(2, 1))
    for index in range(len(made.train_dataset)):
        item = made.train_dataset[index]
        frame = item["lips"][0, 0].item()
        low = 100 * (frame // 100)
        expected = (torch.arange(frame - 2, frame + 2)).clamp(low, low + N_FRAMES - 1)
        assert item["coefficients"].shape == (64, 4)
        assert torch.equal(item["coefficients"], expected.expand(64, 4).float())


def test_windows_are_those_of_the_network(root):
    made = module(root, draws_per_clip=4)
    item = made.train_dataset[5]
    clip = made.train_clips[5 % 2]
    all_windows = coefficient_windows(torch.tensor(np.array(clip.coefficients)), (14, 14))
    assert torch.equal(item["coefficients"], all_windows[int(item["lips"][0, 0]) % 100])


def test_epochs_draw_other_frames_and_repeat_themselves(root):
    data = module(root, draws_per_clip=20).train_dataset
    first, second = ([data[epoch * len(data) + i]["lips"][0, 0].item() for i in range(len(data))] for epoch in (0, 1))
    assert first != second
    assert first == [data[i]["lips"][0, 0].item() for i in range(len(data))]


def test_validation_shows_whole_clips(root):
    batches = list(module(root).val_dataloader())
    assert len(batches) == 2
    assert batches[0]["coefficients"].shape == (1, N_FRAMES, 64)
    assert batches[0]["lips"].shape == (1, N_FRAMES, 6, 3)


def test_mean_lips_are_those_of_the_training_clips(root):
    made = module(root)
    expected = np.mean([clip.lips for clip in made.train_clips], axis=(0, 1))
    assert torch.equal(made.mean_lips(), torch.from_numpy(expected.astype(np.float32)))


def test_speech_features_and_landmarks_need_no_stage(tmp_path):
    root = write_pattern_store(tmp_path / "store", n_clips=2, n_frames=N_FRAMES)
    made = module(root, features=LogMel(n_mels=8, hops=2), n_coefficients=16, lips="landmarks")
    batch = next(iter(made.train_dataloader()))
    assert batch["coefficients"].shape == (1, 16, 29)
    assert batch["lips"].shape == (1, 6, 3)


def test_frames_without_a_face_are_never_drawn(root):
    clip = ClipStore(root, "train")[0]
    valid = np.arange(N_FRAMES) >= 15
    path = clip.array_path("valid")
    before = path.read_bytes()
    try:
        np.save(path, valid)
        from src.datamodules.store.reading import forget_open_files

        forget_open_files()
        data = module(root, draws_per_clip=40).train_dataset
        drawn = {data[i]["lips"][0, 0].item() % 100 for i in range(0, len(data), 2)}
        assert drawn == {15.0, 16.0, 17.0, 18.0, 19.0}
    finally:
        path.write_bytes(before)
        forget_open_files()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": [14]}, ConfigError, r"datamodule.window=\[14\]"),
        ({"draws_per_clip": 0}, ConfigError, "give 1 or more"),
        ({"lips": "guessed"}, ConfigError, "choose extracted or landmarks"),
        ({"n_coefficients": 71}, StoreError, "expected are 20 of 71 or more"),
        ({"val_split": "test"}, StoreError, "no clips of split 'test'"),
    ],
)
def test_settings_that_cannot_be(root, options, error, message):
    with pytest.raises(error, match=message):
        _ = module(root, **options).val_dataset[0]


def test_a_store_without_the_stages_is_told(tmp_path):
    root = write_pattern_store(tmp_path / "store", n_clips=2, n_frames=N_FRAMES)
    with pytest.raises(StoreError, match="has threedmm features"):
        module(root)
