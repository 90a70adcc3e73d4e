"""Data and metrics of diffused_heads against tensors of the original: the cases of the folder whose `check` is one of these."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import Tensor

from src.datamodules.diffused_heads import DiffusedHeadsDataset, audio_indices, motion_indices, pad_features
from src.datamodules.store import SAMPLE_RATE, samples_of
from src.diffusion.motion_frames import motion_transform
from src.diffusion.pixels import to_signed
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


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name in ("check_motion_transforms", "check_dataset_indices", "check_dataset_items")
}

CASES = [case for case in golden_cases("diffused_heads") if case.check in CHECKS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    CHECKS[case.check](case)
