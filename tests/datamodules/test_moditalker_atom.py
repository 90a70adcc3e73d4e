"""Windows of motion out of a clip store."""

import numpy as np
import pytest
import torch

from src.audio.log_mel import LogMel
from src.datamodules.moditalker_atom import AToMDataModule, frontal_motion
from src.datamodules.store import ClipStore
from src.datamodules.tables import save_array
from src.errors import StoreError
from tests.motion_stores import speaking_landmarks, write_speaking_store

FEATURES = LogMel(4, 2, "mel")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_speaking_store(tmp_path_factory.mktemp("atom") / "store")


def datamodule(root, window=12, **options) -> AToMDataModule:
    made = AToMDataModule(root, FEATURES, window=window, batch_size=2, **options)
    made.prepare_data()
    made.setup()
    return made


def test_a_batch_is_as_documented(root):
    batch = datamodule(root).train_dataset.batch([0, 1])
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    assert shapes == {
        "motion": ((2, 12, 204), torch.float32),
        "reference": ((2, 204), torch.float32),
        "audio": ((2, 12, 8), torch.float32),
        "valid": ((2, 12), torch.bool),
        "index": ((2,), torch.int64),
    }


def test_motion_is_counted_from_the_reference(root):
    dataset = datamodule(root).train_dataset
    clip = dataset.clips[0]
    item, faces = dataset.item(clip, 7, 2), frontal_motion(np.array(clip.landmarks))
    np.testing.assert_allclose(item["reference"], faces[2])
    np.testing.assert_allclose(item["motion"] + item["reference"], faces[7:19], atol=1e-6)
    np.testing.assert_array_equal(item["audio"], clip.features("mel")[7:19])


def test_head_motion_is_no_motion():
    opening = np.linspace(0, 1, 10)
    np.testing.assert_allclose(
        frontal_motion(speaking_landmarks(opening, turn=0.5)), frontal_motion(speaking_landmarks(opening, turn=0.0)), atol=1e-3
    )  # fmt: skip
    lower_lip = frontal_motion(speaking_landmarks(opening)).reshape(-1, 68, 3)[:, 57, 1]
    np.testing.assert_allclose(lower_lip - lower_lip[0], -opening, atol=1e-3)  # centimetres


def test_what_is_short_is_padded(root):
    item = datamodule(root, window=40).train_dataset[0]
    assert item["valid"].tolist() == [True] * 30 + [False] * 10
    assert not item["motion"][30:].any()
    assert not item["audio"][30:].any()


def test_frames_without_a_face_do_not_count_and_are_nobody(root):
    dataset = datamodule(root, window=30).val_dataset
    assert dataset[0]["valid"].tolist() == [i not in (3, 4) for i in range(30)]
    rng = np.random.default_rng(0)
    dataset.reference = "random"
    assert not {3, 4} & {dataset.reference_of(dataset.clips[0], 0, rng) for _ in range(200)}
    dataset.reference = "first"
    assert dataset.reference_of(dataset.clips[0], 3, rng) == 5


def test_draws_depend_on_seed_epoch_and_row_alone(root):
    first, second = datamodule(root, draws_per_clip=2).train_dataset, datamodule(root, draws_per_clip=2).train_dataset
    assert all(torch.equal(first[9]["motion"], second[9]["motion"]) for _ in range(2))
    assert not torch.equal(first[1]["motion"], first[1 + len(first)]["motion"])
    val = datamodule(root).val_dataset
    assert torch.equal(val[1]["motion"], val[1 + len(val)]["motion"])
    assert not val[1]["motion"][0].any()  # counted from the window's first frame


def test_stored_motion_is_taken_as_it_is(root):
    clips = ClipStore(root).clips
    for clip in clips:
        save_array(root / "features" / "idexp" / f"{clip.id}.npy", np.full((30, 204), 0.5, np.float32))
        save_array(root / "features" / "wrong" / f"{clip.id}.npy", np.zeros((30, 60), np.float32))
    dataset = datamodule(root, motion="idexp").train_dataset
    assert dataset[0]["reference"].eq(0.5).all()
    with pytest.raises(StoreError, match=r"datamodule\.motion=wrong.*30 x 60"):
        datamodule(root, motion="wrong").train_dataset[0]


def test_a_whole_clip_for_evaluation(root):
    clip = datamodule(root).preview_clips(1)[0]
    assert (clip["faces"].shape, clip["audio"].shape) == ((30, 204), (30, 8))
    assert torch.equal(clip["reference"], clip["faces"][0])
