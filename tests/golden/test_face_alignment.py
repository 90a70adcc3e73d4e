"""The face-processor tool's alignment: every case of golden/face_alignment."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.face.alignment import MeanFaceAlignment, similarity_transform, transform_points, warp_exact
from src.face.geometry import invert
from src.face.mean_face import (
    box_size,
    crop_size,
    estimate_mean_face,
    load_mean_face,
    read_landmark_csv,
    shift_mean_face,
)
from src.face.topology import STABLE_IBUG68
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases


def array(case: GoldenCase, name: str) -> np.ndarray:
    return case.tensors[name].numpy()


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected).max(initial=0)
    assert error <= tolerance, f"{what}: largest error {error:.3g}, tolerance {tolerance:.3g}"


def assert_same_picture(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    """At most one grey level: truncation falls to either side where the last bit of the transform decides, but not everywhere."""
    assert_close(actual.astype(int), expected.astype(int), 1, what)
    assert (actual != expected).mean() < 0.25, f"{what}: {(actual != expected).mean():.2%} of the grey levels differ"


def alignment_of(case: GoldenCase, window: int = 1) -> MeanFaceAlignment:
    return MeanFaceAlignment(
        mean_face=case.meta["mean_face"],
        scale=case.meta["scale"],
        offset=case.meta["offset"],
        window=case.meta.get("window", window),
        look_ahead=True,
    )


def check_target(case: GoldenCase, alignment: MeanFaceAlignment) -> None:
    assert list(alignment.size) == array(case, "out/crop_hw").tolist()
    if "out/mean_face" in case.tensors:
        assert_close(alignment.mean_face, array(case, "out/mean_face"), 1e-6, "mean face")
    if "out/target_points" in case.tensors:
        assert_close(alignment.target_points, array(case, "out/target_points"), 1e-6, "target points")


def check_picture(case: GoldenCase) -> None:
    alignment = alignment_of(case)
    check_target(case, alignment)
    landmarks = array(case, "in/landmarks")
    assert_close(landmarks[:, STABLE_IBUG68], array(case, "out/source_points"), 1e-6, "source points")
    matrices = alignment.fit(landmarks, array(case, "in/images").shape[1:3])
    assert_close(matrices, array(case, "out/transform"), 1e-5, "transform")
    assert_close(transform_points(landmarks, matrices), array(case, "out/aligned_landmarks"), 1e-3, "aligned landmarks")
    pictures = warp_exact(array(case, "in/images"), invert(matrices), alignment.size)
    assert_same_picture(pictures, array(case, "out/pictures"), "pictures")


def check_video(case: GoldenCase) -> None:
    alignment = alignment_of(case)
    check_target(case, alignment)
    landmarks, video = array(case, "in/landmarks"), array(case, "in/video")
    averaged = array(case, "out/averaged_points")
    assert_close(
        similarity_transform(averaged, alignment.target_points),
        array(case, "out/transform")[: len(averaged)],
        1e-5,
        "averages",
    )
    matrices = alignment.fit(landmarks, video.shape[1:3])
    assert_close(matrices, array(case, "out/transform"), 1e-5, "transform")
    assert_close(transform_points(landmarks, matrices), array(case, "out/aligned_landmarks"), 1e-3, "aligned landmarks")
    assert_same_picture(warp_exact(video, invert(matrices), alignment.size), array(case, "out/video"), "video")


def check_command_line_video(case: GoldenCase) -> None:
    alignment = alignment_of(case)
    check_target(case, alignment)
    video = array(case, "in/video")
    matrices = alignment.fit(array(case, "in/landmarks"), video.shape[1:3])
    estimated = array(case, "out/transform")
    assert_close(matrices[: len(estimated)], estimated, 1e-5, "transform")
    assert_same_picture(warp_exact(video, invert(matrices), alignment.size), array(case, "out/frames"), "frames")


def check_mean_face_geometry(case: GoldenCase) -> None:
    for name in ("large", "packaged"):
        assert_close(load_mean_face(name), array(case, f"in/mean_face_{name}").astype(np.float64), 1e-9, name)
    for i, (name, scale, (side, top, bottom)) in enumerate(case.meta["settings"]):
        shifted = shift_mean_face(load_mean_face(name) * scale, side, top)
        assert_close(shifted, array(case, f"out/mean_face_{i}").astype(np.float64), 1e-6, f"setting {i}")
        assert list(box_size(shifted)) == array(case, f"out/box_wh_{i}").tolist(), f"setting {i}"
        assert list(crop_size(shifted, side, top, bottom)) == array(case, f"out/crop_hw_{i}").tolist(), f"setting {i}"


def check_landmark_csv(case: GoldenCase, folder: Path) -> None:
    for i, text in enumerate(case.meta["csv"]):
        path = folder / f"{i}.csv"
        path.write_text(text)
        np.testing.assert_array_equal(read_landmark_csv(path), array(case, f"out/landmarks_{i}"))


def check_mean_face_from_videos(case: GoldenCase) -> None:
    videos = [array(case, f"in/landmarks_{i}") for i in range(case.meta["videos"])]
    side, top = case.meta["offset"][:2]
    assert_close(estimate_mean_face(videos, offset=(side, top)), array(case, "out/mean_face"), 1e-3, "mean face")


CHECKS: dict[str, Callable[..., None]] = {
    "align_picture": check_picture,
    "align_video": check_video,
    "command_line_video": check_command_line_video,
    "mean_face_geometry": check_mean_face_geometry,
    "mean_face_from_videos": check_mean_face_from_videos,
}


@pytest.mark.golden
@pytest.mark.skipif(not GOLDEN_DIR.is_dir(), reason=f"no golden fixtures at {GOLDEN_DIR}")
@pytest.mark.parametrize("case", golden_cases("face_alignment"), ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase, tmp_path: Path):
    if case.check == "landmark_csv":
        check_landmark_csv(case, tmp_path)
    else:
        assert case.check in CHECKS, f"{case.path}: no check of the kind {case.check!r}"
        CHECKS[case.check](case)
