"""Rows that frozen networks make of a store, and of the original's layout: made once, made by named weights, never in half."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from src.adapters.liveportrait import load_motion_extractor, network_to_official
from src.datamodules.liveportrait_talker import LIP_TARGETS, THREEDMM
from src.datamodules.liveportrait_talker_layout import (
    FaceCoefficients,
    LivePortraitTalkerLayoutDataModule,
    cropped_face,
    lips_path,
    write_coefficients,
)
from src.datamodules.preprocessing import liveportrait_talker as stages
from src.datamodules.preprocessing.liveportrait_talker import face_crops, write_lip_targets, write_threedmm
from src.datamodules.speech_features import read_rows
from src.datamodules.store import ClipStore
from src.errors import CheckpointError, ConfigError, StoreError
from src.face.landmarks import to_ibug68
from src.face.liveportrait_talker import face_rectangle
from src.media import VideoReader, write_video
from src.nn.liveportrait.keypoints import LIP
from src.nn.liveportrait.motion_extractor import MotionExtractor
from tests.commands import run_command
from tests.heads import write_heads

N_FRAMES = 7


class Regressor(nn.Module):
    """Stands in for the ResNet-50: 257 numbers that follow from the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 257)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(1))
        self.batches: list[int] = []

    def forward(self, faces):
        assert faces.shape[1:] == (3, 224, 224)
        self.batches.append(len(faces))
        return self.head(faces.mean(dim=(2, 3)))


def write_extractor(path, seed: int = 0):
    torch.manual_seed(seed)
    net = MotionExtractor(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    torch.save(network_to_official("motion_extractor", net.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return write_extractor(tmp_path_factory.mktemp("models") / "motion_extractor.pth")


@pytest.fixture
def root(tmp_path):
    return write_heads(tmp_path / "store", n_identities=2, n_frames=N_FRAMES, size=48)


@pytest.fixture
def regressor(monkeypatch):
    net = Regressor().eval().requires_grad_(False)
    monkeypatch.setattr(stages, "load_face_regressor", lambda path: net)
    return net


def test_lips_are_what_the_motion_extractor_finds_in_the_crop(root, extractor):
    assert write_lip_targets(root, extractor, batch_size=3, device="cpu").written == 2
    clip = ClipStore(root)[0]
    lips = clip.features(LIP_TARGETS)
    assert (lips.shape, lips.dtype) == ((N_FRAMES, 6, 3), np.float32)
    frame = clip.frames([4])[0]
    rectangle = face_rectangle(to_ibug68(clip.landmarks[4, :, :2]), clip.size)
    face = torch.from_numpy(cropped_face(frame, np.array(rectangle), 256))[None]
    with torch.no_grad():
        expression = load_motion_extractor(extractor)(face)["exp"].unflatten(1, (21, 3))
    np.testing.assert_allclose(lips[4], expression[0, list(LIP)], atol=1e-5)


def test_coefficients_are_seventy_per_frame_made_in_batches(root, regressor):
    assert write_threedmm(root, "sadtalker", batch_size=3, device="cpu").written == 2
    rows = ClipStore(root)[1].features(THREEDMM)
    assert (rows.shape, rows.dtype) == ((N_FRAMES, 70), np.float32)
    assert regressor.batches == [3, 3, 1] * 2
    settings = json.loads((root / "features" / THREEDMM / "settings.json").read_text())
    assert len(settings["weights"]) == 12


def test_crops_move_the_landmarks_along(root):
    clip = ClipStore(root)[0]
    points = to_ibug68(clip.landmarks[:2, :, :2])
    faces, inside = face_crops(clip.frames([0, 1]), points)
    left, top, right, bottom = face_rectangle(points[0], clip.size)
    assert faces.shape == (2, 256, 256, 3)
    edge = np.array([left - 0.5, top - 0.5]), np.array([right - 0.5, bottom - 0.5])  # pixel centres lie at integers
    expected = (points[0] - edge[0]) * 256 / (edge[1] - edge[0]) - 0.5
    np.testing.assert_allclose(inside[0], expected, atol=1e-3)


def test_a_run_makes_what_is_missing_and_refuses_other_weights(root, extractor, tmp_path):
    write_lip_targets(root, extractor, device="cpu")
    (root / "features" / LIP_TARGETS / "clip1.npy").unlink()
    again = write_lip_targets(root, extractor, device="cpu")
    assert (again.written, again.present) == (1, 1)
    with pytest.raises(StoreError, match="weights="):
        write_lip_targets(root, write_extractor(tmp_path / "other.pth", 1), device="cpu")
    with pytest.raises(StoreError, match="channels=rgb, this run has channels=bgr"):
        write_lip_targets(root, extractor, channels="bgr", device="cpu")


def test_one_clip_fails_and_the_rest_goes_on(root, extractor):
    path = ClipStore(root)[0].array_path()
    landmarks = np.load(path)
    landmarks[3] += 1000  # a face outside the picture
    np.save(path, landmarks)
    result = write_lip_targets(root, extractor, device="cpu")
    assert (result.written, list(result.failures)) == (1, ["clip0"])
    assert "outside the picture" in read_rows(root / "features" / LIP_TARGETS / "failures.csv")[0]["reason"]
    assert not (root / "features" / LIP_TARGETS / "clip0.npy").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": "rbg"}, ConfigError, "choose rgb or bgr"),
        ({"batch_size": 0}, ConfigError, "batch_size=0"),
        ({"device": "cuda:99"}, ConfigError, "no such device"),
    ],
)
def test_settings_that_cannot_be(root, extractor, options, error, message):
    with pytest.raises(error, match=message):
        write_lip_targets(root, extractor, **options)


def test_other_files_are_refused(root, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no motion_extractor\.pth"):
        write_lip_targets(root, tmp_path)
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match="does not hold LivePortrait's motion extractor"):
        write_lip_targets(root, other)


def test_the_command(root, extractor, tmp_path):
    done = run_command(
        tmp_path, "tools/preprocess.py", f"root={root}", f"lip_targets={extractor}", "talker_options.device=cpu"
    )
    assert done.returncode == 0, done.stderr
    assert ClipStore(root)[0].features(LIP_TARGETS).shape == (N_FRAMES, 6, 3)
    missing = run_command(tmp_path, "tools/preprocess.py", f"root={root}", "threedmm=nowhere.safetensors")
    assert missing.returncode == 2
    assert "threedmm=nowhere.safetensors: there is no such file" in missing.stderr


# --- the original's layout


def write_layout(root, n_clips: int, seed: int):
    rng = np.random.default_rng(seed)
    for number in range(n_clips):
        frames = rng.integers(0, 255, (N_FRAMES, 32, 40, 3), dtype=np.uint8)
        path = root / "id00001" / "video" / f"{number:05d}.mat"
        clip = FaceCoefficients(
            rng.standard_normal((N_FRAMES, 70)).astype(np.float32),
            np.tile(np.array([4, 2, 30, 28]), (N_FRAMES, 1)),
            rng.random((N_FRAMES, 68, 2)).astype(np.float32),
            np.arange(N_FRAMES),
        )
        write_coefficients(path, clip)
        write_video(path.with_suffix(".mp4"), frames, 25.0)
    return root


def layout(tmp_path, extractor, **options) -> LivePortraitTalkerLayoutDataModule:
    made = LivePortraitTalkerLayoutDataModule(tmp_path / "train", tmp_path / "val", extractor, 2, **options)
    made.prepare_data()
    made.setup("fit")
    return made


def test_the_original_layout_trains(tmp_path, extractor):
    train, _ = write_layout(tmp_path / "train", 3, 0), write_layout(tmp_path / "val", 1, 1)
    made = layout(tmp_path, extractor, channels="bgr")
    batch = next(iter(made.train_dataloader()))
    assert batch["coefficients"].shape == (2, 64, 29)
    assert batch["lips"].shape == (2, 6, 3)
    # The original's targets: the motion extractor on blue, green, red.
    path = train / "id00001" / "video" / "00001.mat"
    frame = VideoReader(path.with_suffix(".mp4")).read([5])[0][..., ::-1]
    face = torch.from_numpy(cropped_face(np.ascontiguousarray(frame), np.array([4, 2, 30, 28]), 256))[None]
    with torch.no_grad():
        expression = load_motion_extractor(extractor)(face)["exp"].unflatten(1, (21, 3))
    np.testing.assert_allclose(np.load(lips_path(train, path))[5], expression[0, list(LIP)], atol=1e-5)


def test_a_clip_of_the_layout_without_video_is_left_out(tmp_path, extractor):
    train, _ = write_layout(tmp_path / "train", 2, 0), write_layout(tmp_path / "val", 1, 1)
    (train / "id00001" / "video" / "00000.mp4").unlink()
    made = layout(tmp_path, extractor)
    assert len(made.train_clips) == 1
    assert read_rows(train / LIP_TARGETS / "failures.csv")[0]["id"] == "id00001/video/00000"


def test_a_clip_of_the_layout_whose_video_is_cut_short_is_left_out(tmp_path, extractor):
    train, _ = write_layout(tmp_path / "train", 2, 0), write_layout(tmp_path / "val", 1, 1)
    write_video(train / "id00001" / "video" / "00000.mp4", np.zeros((N_FRAMES - 1, 32, 40, 3), np.uint8), 25.0)
    assert len(layout(tmp_path, extractor).train_clips) == 1
    assert "00000.mat tells of frame 6, but its video has 6" in (train / LIP_TARGETS / "failures.csv").read_text()
