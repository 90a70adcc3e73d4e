"""Data and metrics of diffused_heads against tensors of the original: the cases of the folder whose `check` is one of these."""

import math
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from src.datamodules.diffused_heads import DiffusedHeadsDataset, audio_indices, motion_indices, pad_features
from src.datamodules.store import SAMPLE_RATE, samples_of
from src.diffusion.motion_frames import motion_transform
from src.diffusion.pixels import to_signed, to_uint8_like_diffused_heads
from src.face.alignment import MeanFaceAlignment, transform_points, warp_exact
from src.face.geometry import invert
from src.face.landmarks import eye_aspect_ratio
from src.face.mean_face import crop_size, read_landmark_csv, shift_mean_face
from src.media import write_wav
from src.metrics.blinks import find_blinks, find_closings
from src.metrics.smoothness import smoothness
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases

FOLDER = GOLDEN_DIR / "diffused_heads"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]


def assert_close(ours: Tensor, theirs: Tensor, atol: float, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    assert error <= atol, f"{what}: largest error {error:.2e}, tolerance {atol:.0e}"


# --- motion frames, indices, items


def check_motion_transforms(case: GoldenCase) -> None:
    for name, expected in case.outputs.items():
        options = {"grayscale": "grayscale" in name, "blur": "blur" in name}
        assert_close(motion_transform(case.inputs["x"], **options), expected, 1e-6, name)


def check_dataset_indices(case: GoldenCase) -> None:
    for row in case.meta["rows"]:
        target, identity = row["target"], row["identity"]
        frames = [target, identity, *motion_indices(target, identity, row["n_motion_frames"])]
        assert frames == row["frame_ids"], row
        assert audio_indices(target, row["n_audio_motion_embs"], row["n_frames"]).tolist() == row["audio_ids"], row


@dataclass(frozen=True)
class TensorClip:
    """A clip of the store whose frames are exact, not compressed."""

    video: np.ndarray
    embeddings: np.ndarray
    landmarks: np.ndarray
    id: str = "clip"
    root: Path = Path("golden")

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_frames", len(self.video))
        object.__setattr__(self, "n_valid", len(self.video))
        object.__setattr__(self, "size", self.video.shape[1:3])

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.video[indices]

    def features(self, name: str) -> np.ndarray:
        return self.embeddings


def clip_of(case: GoldenCase, name: str) -> TensorClip:
    """The clip, its embeddings and frames cut to lengths that a store accepts."""
    video, embeddings, landmarks = (
        case.inputs[f"{name}/{part}"].numpy() for part in ("video", "audio_emb", "landmarks")
    )
    n_frames = min(len(video), len(embeddings))
    return TensorClip(video[:n_frames], embeddings[:n_frames], landmarks[:n_frames])


def original_dataset(case: GoldenCase, clip: TensorClip, antialias: bool = True) -> DiffusedHeadsDataset:
    config = case.meta["config"]
    return DiffusedHeadsDataset(
        [clip],
        SimpleNamespace(name="embeddings", dim=clip.embeddings.shape[1]),
        config["img_resize"],
        n_motion_frames=config["n_motion_frames"],
        audio_radius=config["n_audio_motion_embs"],
        identity_frame=config["identity_frame"],
        aspect="kept",
        antialias=antialias,
        original_lip_landmarks=True,
    )


def assert_same_picture(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Frames are resized as bytes here and as floats there; of some pictures only the upper left corner is stored."""
    ours = ours[..., : theirs.shape[-2], : theirs.shape[-1]]
    assert_close(ours, theirs, 1.01 / 127.5, what)
    bias = (ours - theirs).mean().abs().item()
    assert bias < 0.1 / 127.5, f"{what}: {bias * 127.5:.2f} grey levels off on average"


def check_dataset_items(case: GoldenCase) -> None:
    names = sorted({name.split("/")[0] for name in case.inputs})
    for name in names:
        check_training_items(case, name)
        check_test_item(case, name)
    embeddings, lengths = pad_features([case.inputs[f"{name}/audio_emb"] for name in names])
    assert_close(embeddings, case.outputs["collate/audio_emb"], 0, "padded embeddings")
    assert_close(lengths, case.outputs["collate/lengths"], 0, "lengths")


def check_training_items(case: GoldenCase, name: str) -> None:
    clip = clip_of(case, name)
    for draw in sorted({key.split("/")[1] for key in case.outputs if key.startswith(f"{name}/draw")}):
        what = f"{name}/{draw}"
        target, identity = case.inputs[f"{what}/target_and_identity"].tolist()
        n_frames = min(len(clip.video), len(clip.embeddings))
        config = case.meta["config"]
        frames = [target, identity, *motion_indices(target, identity, config["n_motion_frames"])]
        assert frames == case.mids[f"{what}/frame_ids"].tolist(), what
        rows = audio_indices(target, config["n_audio_motion_embs"], n_frames)
        assert rows.tolist() == case.mids[f"{what}/audio_ids"].tolist(), what
        expected = {key.removeprefix(f"{what}/"): value for key, value in case.outputs.items() if key.startswith(what)}
        for suffix, antialias in (("", True), ("_noaa", False)):
            item = original_dataset(case, clip, antialias).item(clip, target, identity)
            motion = motion_transform(to_signed(item["motion"]), grayscale=config["grayscale_motion"])
            assert_same_picture(to_signed(item["target"]), expected[f"x{suffix}"], f"{what}/x{suffix}")
            assert_same_picture(to_signed(item["identity"]), expected[f"x_cond{suffix}"], f"{what}/x_cond{suffix}")
            assert_same_picture(motion.flatten(0, 1), expected[f"motion_frames{suffix}"], f"{what}/motion{suffix}")
            assert_close(item["audio"], expected["audio_emb"], 0, f"{what}/audio_emb")
            assert_close(item["lips"], expected["landmarks"], 1e-4, f"{what}/landmarks")


def check_test_item(case: GoldenCase, name: str) -> None:
    """The start of a video to be generated: its first frame and the rows of features of `frame_limit` frames."""
    clip, limit = clip_of(case, name), case.meta["frame_limit_of_test_items"]
    window = original_dataset(case, clip).window(clip, limit)
    expected = {
        key.removeprefix(f"test_{name}/"): value for key, value in case.outputs.items() if f"test_{name}/" in key
    }
    assert_same_picture(to_signed(window["identity"]), expected["x_cond"], f"test {name}")
    assert_close(window["features"], expected["audio_emb"][: clip.n_frames], 0, f"test {name}")
    fps = math.ceil(case.meta["average_fps_of_files"])  # stores are prepared at whole rates
    n_samples = samples_of(limit, fps) * case.meta["audio_rate"] / SAMPLE_RATE
    assert n_samples == pytest.approx(expected["n_audio_samples"].item(), abs=1)


# --- alignment, written video


def check_face_alignment(case: GoldenCase) -> None:
    meta, tensors = case.meta, case.tensors
    alignment = MeanFaceAlignment(
        mean_face=tensors["in/mean_face"].numpy(),
        scale=meta["scale"],
        offset=meta["offset"],
        window=meta["window_argument"],
        look_ahead=True,
    )
    assert alignment.window == meta["window_used"]
    assert alignment.size == (meta["crop_height"], meta["crop_width"])
    assert_close(torch.from_numpy(alignment.mean_face), tensors["mid/offset_mean_face"], 1e-6, "shifted mean face")
    whole, (side, top, bottom) = tensors["in/mean_face"].numpy(), meta["example_at_scale_1"]["offset"]
    assert crop_size(shift_mean_face(whole, side, top), side, top, bottom) == (
        meta["example_at_scale_1"]["crop_height"],
        meta["example_at_scale_1"]["crop_width"],
    )
    video, landmarks = tensors["in/video"].numpy(), tensors["in/landmarks"].numpy()
    matrices = alignment.fit(landmarks, video.shape[1:3])
    expected = tensors["mid/transforms"]
    assert_close(torch.from_numpy(matrices[: len(expected), :2]), expected, 1e-5, "transforms")
    aligned = torch.from_numpy(transform_points(landmarks, matrices))
    assert_close(aligned, tensors["out/landmarks"], 1e-3, "aligned landmarks")
    pictures = warp_exact(video, invert(matrices), alignment.size)
    assert_close(torch.from_numpy(pictures), tensors["out/video"], 1, "aligned video")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "landmarks.csv"
        path.write_text(meta["csv_row"])
        assert_close(torch.from_numpy(read_landmark_csv(path)), tensors["out/parsed_csv"], 0, "landmark file")


def check_save_video(case: GoldenCase) -> None:
    for name in sorted({key.split("/")[0] for key in case.inputs}):
        video = case.inputs[f"{name}/video"][0]
        frames = to_uint8_like_diffused_heads(video, value_range=None).permute(0, 2, 3, 1)
        assert_close(frames.flip(-1), case.outputs[f"{name}/frames_bgr"], 1, f"{name} frames")
        assert list(frames.shape[2:0:-1]) == case.meta[f"{name}_writer"]["size_wh"]
        sound = case.inputs[f"{name}/audio"][:, 0].numpy()
        with TemporaryDirectory() as folder:
            write_wav(Path(folder) / "a.wav", sound)
            with wave.open(str(Path(folder) / "a.wav"), "rb") as file:
                written = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        fits = sound < 1  # exactly 1 turns into -32768 in the original
        ours, theirs = (torch.from_numpy(pcm[fits]) for pcm in (written, case.outputs[f"{name}/audio_int16"].numpy()))
        assert_close(ours, theirs, 1, f"{name} sound")


# --- metrics


def check_smoothness_metrics(case: GoldenCase) -> None:
    pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)
    frames = case.inputs["frames_bgr"].flip(-1).contiguous().numpy()
    ours, stats = smoothness(frames), case.outputs["stats"].tolist()
    assert case.meta["header"] == "flow_mean,flow_std,mse,mse_std"
    assert [ours.ofm, ours.ofm_std] == pytest.approx(stats[:2], abs=0.1)  # flow differs between OpenCV's builds
    assert [ours.f_mse, ours.f_mse_std] == pytest.approx(stats[2:], abs=1e-6)
    assert ours.flow_magnitude == pytest.approx(case.outputs["plain_flow_magnitude"].item(), abs=1e-3)
    assert ours.frame_mse == pytest.approx(case.outputs["plain_mse"].item(), abs=1e-6)


def check_blink_metric(case: GoldenCase) -> None:
    ratio = case.inputs["ear"].numpy()
    assert find_closings(ratio).tolist() == case.mids["peaks"].tolist()
    blinks = find_blinks(ratio)
    assert blinks[:, 0].tolist() == case.outputs["start"].tolist()
    assert blinks[:, 1].tolist() == case.outputs["end"].tolist()
    found = eye_aspect_ratio(case.inputs["landmarks68"][None].numpy())
    assert found.item() == pytest.approx(case.outputs["ear_of_landmarks"].item(), abs=1e-9)


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    "motion_transforms": check_motion_transforms,
    "dataset_indices": check_dataset_indices,
    "dataset_items": check_dataset_items,
    "face_alignment": check_face_alignment,
    "save_video": check_save_video,
    "smoothness_metrics": check_smoothness_metrics,
    "blink_metric": check_blink_metric,
}

CASES = [case for case in golden_cases("diffused_heads") if case.check in CHECKS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    CHECKS[case.check](case)
