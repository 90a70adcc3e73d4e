"""DiffTalk's batches: which frames, which reference, which sound, and that a resumed run sees what it would have seen."""

import logging

import numpy as np
import pytest
import torch

from src.audio.log_mel import LogMel
from src.audio.windows import audio_windows
from src.datamodules.difftalk import DiffTalkDataModule, DiffTalkDataset, reference_candidates
from src.datamodules.difftalk_autoencoder import DiffTalkAutoencoderDataModule
from src.datamodules.speech_features import ensure_features
from src.datamodules.store import ClipStore
from src.errors import ConfigError, StoreError
from src.face.landmarks import mouth_points, rescaled, to_ibug68
from src.face.repainting import CONDITION_POINTS, MaskRule, kept_masks
from tests.stores import write_pattern_store

FEATURES = LogMel(n_mels=5, hops=2)
RESOLUTION = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four clips of 24 frames; of clip 0, in training, the face is not seen in the frames 3 ... 9."""
    root = write_pattern_store(tmp_path_factory.mktemp("store"))
    path = ClipStore(root)[0].array_path("valid")
    valid = np.load(path)
    valid[3:10] = False
    np.save(path, valid)
    table = (root / "clips.csv").read_text().splitlines()
    column = table[0].split(",").index("n_valid")
    cells = table[1].split(",")
    cells[column] = "17"
    (root / "clips.csv").write_text("\n".join([table[0], ",".join(cells), *table[2:]]) + "\n")
    ensure_features(root, FEATURES)
    return root


def dataset(root, **options) -> DiffTalkDataset:
    options = {"reference_gap": 6, **options}
    return DiffTalkDataset(ClipStore(root, "train").clips, FEATURES, RESOLUTION, **options)


def module(root, **options) -> DiffTalkDataModule:
    made = DiffTalkDataModule(root, FEATURES, RESOLUTION, 2, **options)
    made.prepare_data()
    made.setup()
    return made


def test_an_item_is_what_the_clip_holds(root):
    data = dataset(root)
    clip = data.clips[1]
    item = data.item(clip, 5, 20)
    assert item["target"].shape == item["reference"].shape == (3, RESOLUTION, RESOLUTION)
    assert item["target"].dtype == torch.uint8
    points = (to_ibug68(clip.landmarks[5])[CONDITION_POINTS, :2] + 0.5) * (256 / 32) - 0.5
    np.testing.assert_allclose(item["landmarks"], points, rtol=1e-5)
    lips = rescaled(mouth_points(clip.landmarks[5])[:, :2], clip.size, (RESOLUTION, RESOLUTION))
    np.testing.assert_allclose(item["lips"], lips, rtol=1e-5)
    half = (clip.landmarks[5:6, :, :2].astype(np.float64) + 0.5) / 2 - 0.5
    np.testing.assert_array_equal(item["kept"], kept_masks(half, (RESOLUTION, RESOLUTION)))
    np.testing.assert_array_equal(item["audio"], clip.features("log_mel")[1:9])


def test_landmarks_do_not_depend_on_the_resolution(root):
    clips = ClipStore(root, "train").clips
    small, large = (DiffTalkDataset(clips, FEATURES, size).item(clips[0], 0, 1) for size in (8, 32))
    torch.testing.assert_close(small["landmarks"], large["landmarks"])
    assert small["kept"].shape == (1, 8, 8)


def test_windows_of_sound_are_zero_or_repeated_beyond_the_ends():
    rows = np.arange(1, 6, dtype=np.float32)[:, None]
    assert audio_windows(rows, (-2, 1), "zero")[:, :, 0].tolist() == [
        [0, 0, 1, 2],
        [0, 1, 2, 3],
        [1, 2, 3, 4],
        [2, 3, 4, 5],
        [3, 4, 5, 0],
    ]
    assert audio_windows(rows, (-2, 1), "repeat", [0, 4])[:, :, 0].tolist() == [[1, 1, 1, 2], [3, 4, 5, 5]]
    assert audio_windows(rows, (7, 8), "zero").sum() == 0


@pytest.mark.parametrize("offsets", [(3, -4), (1,), ()])
def test_windows_that_end_before_they_begin(root, offsets):
    with pytest.raises(ConfigError, match="audio_offsets"):
        dataset(root, audio_offsets=offsets)


def test_references_are_far_away():
    frames = np.arange(200)
    for target in (0, 70, 199):
        candidates, kept = reference_candidates(target, frames, 60)
        assert kept
        assert set(candidates.tolist()) == {f for f in range(200) if abs(f - target) >= 60}


def test_in_a_short_clip_references_are_of_the_farther_half():
    candidates, kept = reference_candidates(2, np.arange(10), 60)
    assert not kept
    assert candidates.tolist() == [5, 6, 7, 8, 9]
    assert reference_candidates(0, np.array([0, 1]), 60)[0].tolist() == [1]


def test_short_clips_are_told_once(root, caplog):
    with caplog.at_level(logging.INFO):
        data = dataset(root, reference_gap=60)
        data.batch(range(4))
    assert caplog.text.count("2 of 2 clips are too short for references 60 frames away") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        dataset(root, reference_gap=6)
    assert "too short" not in caplog.text


def test_frames_without_a_face_are_not_used(root):
    data = dataset(root, draws_per_clip=200)
    used = {
        frame for i in range(len(data)) for clip, *frames in [data.draw(i)] if clip.id == "clip0" for frame in frames
    }
    assert used == set(range(24)) - set(range(3, 10))


def test_random_references_change_with_every_access_fixed_ones_with_the_target_alone(root):
    chosen = {}
    for reference in ("random", "fixed", "first"):
        data = dataset(root, reference=reference, draws_per_clip=100)
        pairs = {}
        for i in range(3 * len(data)):
            clip, target, shown = data.draw(i)
            pairs.setdefault((clip.id, target), set()).add(shown)
            assert abs(target - shown) >= 6 or reference == "first"
        chosen[reference] = max(map(len, pairs.values()))
    assert chosen["random"] > 3
    assert chosen["fixed"] == chosen["first"] == 1


def test_a_draw_depends_on_seed_epoch_and_row_alone(root):
    one, other, seeded = dataset(root), dataset(root), dataset(root, seed=1)
    assert [one.draw(i)[1:] for i in range(20)] == [other.draw(i)[1:] for i in range(20)]
    assert [one.draw(i)[1:] for i in range(20)] != [seeded.draw(i)[1:] for i in range(20)]
    still = dataset(root, redraw=False)
    assert still.draw(0) == still.draw(len(still)) == still.draw(7 * len(still))


def test_the_mask_rule_is_passed_on(root):
    clip = ClipStore(root, "train")[1]
    rows = dataset(root, mask=MaskRule("nose_tip")).item(clip, 0, 9)["kept"][0]
    assert (rows == rows[:, :1]).all()


def test_loaders_previews_and_resuming(root):
    made = module(root, reference_gap=6, draws_per_clip=5, audio_offsets=[-1, 1])
    batches = list(made.train_dataloader())
    assert sum(len(batch["index"]) for batch in batches) == 10
    assert batches[0]["audio"].shape == (2, 3, 10)
    made.load_state_dict({"epoch": 0, "position": 4, "batches": 2})
    rest = list(made.train_dataloader())
    for ours, theirs in zip(rest, batches[2:], strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    preview = made.preview(3)
    assert {key: tuple(value.shape) for key, value in preview.items()} == {
        "target": (2, 3, 16, 16),
        "reference": (2, 3, 16, 16),
        "kept": (2, 1, 16, 16),
        "audio": (2, 3, 10),
        "landmarks": (2, 39, 2),
        "lips": (2, 20, 2),
        "index": (2,),
    }
    video = made.preview_video(7)
    assert video["target"].shape == (7, 3, 16, 16)
    assert video["kept"].shape == (7, 1, 16, 16)
    assert video["audio"].shape == (7, 3, 10)
    assert video["landmarks"].shape == (7, 39, 2)
    assert torch.equal(video["reference"], video["target"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "last"}, "reference=last: choose random, fixed or first"),
        ({"reference_gap": 0}, "reference_gap=0"),
        ({"audio_edges": "mirror"}, "audio_edges=mirror"),
        ({"draws_per_clip": 0}, "draws_per_clip=0"),
    ],
)
def test_settings_that_cannot_be(root, options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(root, **options)


def test_latents_that_are_not_there(root):
    with pytest.raises(StoreError, match="holds no latents"):
        dataset(root, latents="none")


def test_single_frames_for_the_first_stage(root):
    made = DiffTalkAutoencoderDataModule(root, RESOLUTION, 3, draws_per_clip=4)
    made.setup()
    batches = list(made.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
    assert batches[0]["target"].shape == (3, 3, RESOLUTION, RESOLUTION)
    assert batches[0]["target"].dtype == torch.uint8
    again = list(made.train_dataloader())
    assert torch.equal(batches[1]["target"], again[1]["target"])
    later = [made.train_dataset[i + 8]["target"] for i in range(8)]
    assert not all(torch.equal(made.train_dataset[i]["target"], later[i]) for i in range(8))
    assert made.preview(9)["target"].shape == (2, 3, RESOLUTION, RESOLUTION)
    with pytest.raises(ConfigError, match="draws_per_clip"):
        DiffTalkAutoencoderDataModule(root, RESOLUTION, draws_per_clip=0).setup()
