"""The layout of DiffTalk's original training: read as it is, and taken over into a clip store."""

from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from src.audio.imported import ImportedWindows
from src.cli import CONF_DIR
from src.datamodules.difftalk import DiffTalkDataModule
from src.datamodules.difftalk_layout import DiffTalkLayoutDataModule, DiffTalkLayoutDataset, original_references
from src.datamodules.difftalk_layout_files import (
    FrameId,
    find_list,
    read_audio_smooth,
    read_counts,
    read_frame_list,
    read_lms,
)
from src.datamodules.preprocessing.archives import AsStored, open_frames
from src.datamodules.preprocessing.difftalk import DiffTalkLayout
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.preprocessing.worker import ClipOptions
from src.datamodules.store import ClipStore
from src.errors import ConfigError, FaceError, FeatureError, MediaError, StoreError
from src.face.mean_face import load_mean_face
from src.face.repainting import MaskRule
from src.media import read_image, write_wav
from tests.datamodules.preprocess_fakes import disc_frames, use_discs

SIDE, N_FRAMES = 96, 30


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Clips 1 and 2 for training, 3 for testing, of 30 frames each; 3 has sound."""
    raw = tmp_path_factory.mktemp("data")
    for folder in ("images", "landmarks", "audio_smooth", "audio"):
        (raw / "HDTF" / folder).mkdir(parents=True)
    for clip in (1, 2, 3):
        for number, frame in enumerate(disc_frames(N_FRAMES, size=(SIDE, SIDE)), start=1):
            Image.fromarray(frame).save(raw / "HDTF" / "images" / f"{clip}_{number}.jpg", quality=95)
            np.savetxt(raw / "HDTF" / "landmarks" / f"{clip}_{number}.lms", load_mean_face("large") * 0.35 + clip)
            windows = np.full((8, 16, 29), 100 * clip, np.float64) + np.arange(number - 4, number + 4)[:, None, None]
            np.save(raw / "HDTF" / "audio_smooth" / f"{clip}_{number}.npy", windows)
    write_wav(raw / "HDTF" / "audio" / "3.wav", np.zeros(N_FRAMES * 640, np.float32))
    ids = {clip: "".join(f"{clip}_{n}\n" for n in range(1, N_FRAMES + 1)) for clip in (1, 2, 3)}
    (raw / "data_train.txt").write_text(ids[1] + ids[2])
    (raw / "data_test.txt").write_text(ids[3].rstrip())
    return raw


def dataset(raw: Path, name: str = "data_train.txt", **options) -> DiffTalkLayoutDataset:
    return DiffTalkLayoutDataset(raw / "HDTF", raw / name, 48, **options)


# --- as it is


def test_the_documented_command_composes():
    overrides = ["experiment=difftalk_hdtf", "datamodule=difftalk_layout", "datamodule.root=data/HDTF"]
    overrides += ["~datamodule.draws_per_clip", "~datamodule.val_draws_per_clip"]
    overrides += [
        "features=deepspeech",
        "features.folder=data/HDTF/audio_smooth",
        "net.audio_dim=464",
        "net.context=merged",
    ]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", overrides)
    assert isinstance(hydra.utils.instantiate(cfg.datamodule), DiffTalkLayoutDataModule)
    recorded = OmegaConf.to_container(cfg.pipeline, resolve=True)
    assert (recorded["audio_offsets"], recorded["audio_edges"]) == ([-4, 3], "zero")


def test_items_are_those_of_the_store(raw):
    data = dataset(raw, reference_gap=5)
    batch = data.batch([0, 31])
    assert {key: (tuple(value.shape), str(value.dtype)) for key, value in batch.items()} == {
        "target": ((2, 3, 48, 48), "torch.uint8"),
        "reference": ((2, 3, 48, 48), "torch.uint8"),
        "kept": ((2, 1, 48, 48), "torch.bool"),
        "audio": ((2, 8, 464), "torch.float32"),
        "landmarks": ((2, 39, 2), "torch.float32"),
        "lips": ((2, 20, 2), "torch.float32"),
        "index": ((2,), "torch.int64"),
    }
    assert batch["audio"][:, 4, 0].tolist() == [101, 202]  # frame 1 of clip 1, frame 2 of clip 2
    np.testing.assert_allclose(
        batch["landmarks"][0, 0], (load_mean_face("large")[0] * 0.35 + 1) * 256 / SIDE, rtol=1e-5
    )


def test_pictures_are_squeezed_and_landmarks_with_them(raw, tmp_path):
    copy_frame(raw, tmp_path, "1_1", size=(SIDE, 2 * SIDE))
    (tmp_path / "list.txt").write_text("1_1\n")
    data = DiffTalkLayoutDataset(tmp_path, tmp_path / "list.txt", 48, reference="first")
    x, y = data[0]["landmarks"][38].tolist()
    assert (x, y) == pytest.approx(
        tuple((load_mean_face("large")[47] * 0.35 + 1) * 256 / np.array([2 * SIDE, SIDE])), rel=1e-5
    )


def copy_frame(raw: Path, root: Path, id: str, size: tuple[int, int]) -> None:
    for folder, suffix in (("images", "jpg"), ("landmarks", "lms"), ("audio_smooth", "npy")):
        (root / folder).mkdir()
        source = raw / "HDTF" / folder / f"{id}.{suffix}"
        (root / folder / source.name).write_bytes(source.read_bytes())
    Image.new("RGB", size[::-1]).save(root / "images" / f"{id}.jpg")


def test_references(raw):
    assert dataset(raw, reference="first")._reference_of(20) == 1
    random = dataset(raw, reference_gap=5)
    chosen = {random._reference_of(epoch * len(random)) for epoch in range(200)}
    assert chosen == set(range(6, N_FRAMES + 1))  # frame 1's
    with pytest.raises(StoreError, match="too short for a reference 60 frames from frame"):
        dataset(raw, reference="fixed")


def test_fixed_references_are_drawn_once_by_the_original_s_rule():
    ids = [(1, 1), (1, 90)]
    first = original_references(ids, {1: 200}, 23)
    assert first == original_references(ids, {1: 200}, 23)
    assert 61 <= first[0] < 200
    assert first[1] < 30 or first[1] >= 150


def test_counts_that_do_not_fit_the_pictures(raw, tmp_path):
    root = tmp_path / "HDTF"
    root.mkdir()
    for folder in ("images", "landmarks", "audio_smooth"):
        (root / folder).symlink_to(raw / "HDTF" / folder)
    (root / "data.txt").write_text("1 200\n")
    with pytest.raises(StoreError, match=r"data\.txt has 1 lines and so none for clip 2"):
        DiffTalkLayoutDataset(root, raw / "data_train.txt", 48, reference="fixed")
    (root / "data.txt").write_text("1 200\n2 200\n")
    with pytest.raises(StoreError, match=r"pictures that data\.txt counts .*images/1_\d+\.jpg, .*images/2_"):
        DiffTalkLayoutDataset(root, raw / "data_train.txt", 48, reference="fixed")


def test_clips_that_are_too_short_for_the_gap_are_told(raw, caplog):
    with caplog.at_level("INFO"):
        dataset(raw, reference_gap=15)
        assert not caplog.records
        dataset(raw, reference_gap=16)
    assert "2 of 2 clips are too short for references 16 frames away" in caplog.text


def test_all_missing_files_stand_in_one_error(raw, tmp_path):
    (tmp_path / "list.txt").write_text("1_1\n1_99\n7_1\n")
    with pytest.raises(StoreError) as error:
        DiffTalkLayoutDataset(raw / "HDTF", tmp_path / "list.txt")
    for name in ("images/1_99.jpg", "images/7_1.jpg", "landmarks/1_99.lms", "audio_smooth/7_1.npy", "lacks 6 files"):
        assert name in str(error.value)
    assert "1_1." not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ("1_1\nface\n", "1 lines that name no frame"), ("1_2_3\n", "name no frame")]
)
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_frame_list(tmp_path / "list.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_frame_list(tmp_path / "none.txt")


def test_lists_are_read_whatever_ends_their_lines(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"1_1\r\n2_30\r\n\r\n")
    assert read_frame_list(tmp_path / "list.txt") == [FrameId(1, 1), FrameId(2, 30)]


def test_lists_lie_beside_the_folder_or_in_it(tmp_path):
    root = tmp_path / "HDTF"
    root.mkdir()
    assert find_list(root, "data_train.txt") == tmp_path / "data_train.txt"
    (root / "data_train.txt").write_text("1_1\n")
    assert find_list(root, "data_train.txt") == root / "data_train.txt"
    (tmp_path / "data_train.txt").write_text("1_1\n")
    assert find_list(root, "data_train.txt") == tmp_path / "data_train.txt"


def test_counts_are_read_by_line(tmp_path):
    assert read_counts(tmp_path / "data.txt") == {}
    (tmp_path / "data.txt").write_text("1 260\n2 200\n")
    assert read_counts(tmp_path / "data.txt") == {1: 260, 2: 200}
    (tmp_path / "data.txt").write_text("260\n")
    with pytest.raises(ConfigError, match="must hold lines CLIP COUNT"):
        read_counts(tmp_path / "data.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "last"}, "reference=last: choose random, fixed or first"),
        ({"reference_gap": 0}, "reference_gap=0"),
        ({"limit_val_frames": 0}, "limit_val_frames=0"),
        ({"resolution": 0}, "resolution=0"),
    ],
)
def test_settings_that_cannot_be(raw, options, message):
    with pytest.raises(ConfigError, match=message):
        DiffTalkLayoutDataModule(raw / "HDTF", **({"resolution": 48} | options)).setup()


def test_windows_that_are_not_those_of_the_setting(raw):
    data = dataset(raw, audio_offsets=(-3, 3))
    with pytest.raises(FeatureError, match=r"1_1\.npy holds 8 windows, datamodule\.audio_offsets=\[-3, 3\] are 7"):
        data.batch([0])


def test_files_that_are_damaged(tmp_path):
    (tmp_path / "a.lms").write_text("1 2\n3 4\n")
    with pytest.raises(FaceError, match="2 rows of 2, not 68"):
        read_lms(tmp_path / "a.lms")
    (tmp_path / "a.lms").write_text("x y")
    with pytest.raises(FaceError, match="cannot be read"):
        read_lms(tmp_path / "a.lms")
    (tmp_path / "a.lms").write_text("1 nan\n" * 68)
    with pytest.raises(FaceError, match="not finite"):
        read_lms(tmp_path / "a.lms")
    np.save(tmp_path / "a.npy", np.zeros((3, 16, 28)))
    with pytest.raises(FeatureError, match="not windows of 16 x 29"):
        read_audio_smooth(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(FeatureError, match="damaged"):
        read_audio_smooth(tmp_path / "a.npy")


def test_loaders_and_previews(raw):
    made = DiffTalkLayoutDataModule(raw / "HDTF", resolution=48, batch_size=25, reference_gap=5, limit_val_frames=4)
    made.setup()
    assert [len(batch["index"]) for batch in made.train_dataloader()] == [25, 25, 10]
    assert [str(frame) for frame in made.val_dataset.frames] == ["3_1", "3_11", "3_20", "3_30"]
    assert made.preview(2)["audio"][:, 4, 0].tolist() == [301, 330]
    video = made.preview_video(6)
    assert video["target"].shape == (6, 3, 48, 48)
    assert video["audio"][:, 4, 0].tolist() == [301, 302, 303, 304, 305, 306]
    assert video["reference"].shape == (3, 48, 48)


# --- as a store


def test_clips_go_by_the_lists(raw):
    recordings, failures = DiffTalkLayout(hold_out=False).scan(raw)
    assert not failures
    assert [(r.id, r.split, r.source) for r in recordings] == [
        ("0001", "train", "HDTF/images/1_1.jpg"),
        ("0002", "train", "HDTF/images/2_1.jpg"),
        ("0003", "test", "HDTF/images/3_1.jpg"),
    ]
    assert [r.audio is not None for r in recordings] == [False, False, True]
    assert [r.split for r in DiffTalkLayout().scan(raw)[0]] == ["", "", "test"]
    assert DiffTalkLayout().scan(raw / "HDTF")[0][0].source == "images/1_1.jpg"


def test_a_clip_that_lacks_pictures_is_a_failure_that_names_them_all(raw, tmp_path):
    (tmp_path / "images").mkdir()
    for number in (1, 4):
        (tmp_path / "images" / f"1_{number}.jpg").write_bytes(b"")
    (tmp_path / "data_train.txt").write_text("1_1\n1_2\n1_3\n1_4\n")
    recordings, failures = DiffTalkLayout().scan(tmp_path)
    assert not recordings
    assert "lacks 2 of 4 pictures" in failures[0].reason
    assert "1_2.jpg, 1_3.jpg" in failures[0].reason


@pytest.mark.parametrize("missing", ["images", "lists"])
def test_a_folder_of_another_layout(tmp_path, missing):
    if missing == "lists":
        (tmp_path / "images").mkdir()
    with pytest.raises(
        ConfigError, match="neither HDTF/images nor images" if missing == "images" else "data_train.txt"
    ):
        DiffTalkLayout().scan(tmp_path)


def test_numbered_pictures_are_frames(raw):
    frames = open_frames(raw / "HDTF" / "images" / "2_11.jpg", 25.0)
    assert len(frames) == 20
    assert (frames.info.height, frames.info.width, frames.info.has_audio) == (SIDE, SIDE, False)
    assert (frames.read([3])[0] == read_image(raw / "HDTF" / "images" / "2_14.jpg")).all()
    with pytest.raises(MediaError, match=r"clips\.fps"):
        open_frames(raw / "HDTF" / "images" / "2_11.jpg", 30.0)
    with pytest.raises(MediaError, match="has no number"):
        open_frames(raw / "HDTF" / "images" / "face.jpg", 25.0)


def test_the_layout_becomes_a_store_that_trains(raw, tmp_path, monkeypatch):
    use_discs(monkeypatch)
    root = tmp_path / "store"
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    layout = DiffTalkLayout(hold_out=False)
    Preprocessing(layout, AsStored(SIDE), ClipOptions(), raw, root, fractions, workers=0).run()
    assert [(clip.id, clip.split, clip.n_frames, clip.has_audio) for clip in ClipStore(root)] == [
        ("0001-0000", "train", N_FRAMES, False),
        ("0002-0000", "train", N_FRAMES, False),
        ("0003-0000", "test", N_FRAMES, True),
    ]
    features = ImportedWindows(raw / "HDTF" / "audio_smooth")
    module = DiffTalkDataModule(root, features, 48, 2, val_split="test", num_workers=0, mask=MaskRule("nose_tip"))
    module.prepare_data()
    module.setup("fit")
    clip = ClipStore(root)[1]
    assert clip.features("deepspeech")[:, 0].tolist() == [200 + n for n in range(1, N_FRAMES + 1)]
    item = module.train_dataset.item(clip, 10, 0)
    assert item["audio"][:, 0].tolist() == [200 + n for n in range(7, 15)]  # as the file of that frame has them
    np.testing.assert_array_equal(item["audio"], read_audio_smooth(raw / "HDTF" / "audio_smooth" / "2_11.npy"))
