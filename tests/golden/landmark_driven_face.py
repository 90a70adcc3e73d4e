"""The golden checks of landmark_driven that concern faces: geometry, warping, detection, drawing.

`CHECKS` maps the field `check` of a case to the function that checks it; `test_landmark_driven.py` dispatches.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from src.face.alignment import feature_means, template_points_of, warp_exact
from src.face.detector import FaceDetector
from src.face.drawing import draw_landmarks
from src.face.landmark_driven import (
    largest_face,
    original_template_points,
    preprocess_original,
    truncated_points,
)
from src.media import VideoReader, read_image
from tests.golden.conftest import GoldenCase

SHARED_DIR = Path(os.environ.get("SHARED_DIR", "../shared"))


def array(case: GoldenCase, name: str) -> np.ndarray:
    """A tensor of the case as an array; `name` with its prefix."""
    return case.tensors[name].numpy()


def in_pixels(normalised: np.ndarray, height: int, width: int) -> np.ndarray:
    """The detector's normalised x, y in pixels."""
    return normalised[..., :2] * np.array([width, height], dtype=np.float64)


def check_landmark_coords(case: GoldenCase) -> None:
    pixels = in_pixels(array(case, "in/landmarks478"), case.meta["height"], case.meta["width"])
    points = truncated_points(pixels)
    np.testing.assert_array_equal(points, array(case, "out/landmarks135"))
    np.testing.assert_allclose(feature_means(points), array(case, "out/parts"), rtol=0, atol=1e-12)


def check_draw_face(case: GoldenCase) -> None:
    figure = array(case, "out/figure")
    drawn = draw_landmarks(array(case, "in/landmarks135"), figure.shape[1:3])
    np.testing.assert_array_equal(drawn, figure)


def check_warp_identity(case: GoldenCase) -> None:
    """The face's part of `quantisation`: every grey level through the identity."""
    levels = array(case, "in/levels").astype(np.uint8)
    frame = np.tile(levels[None, None, :, None], (1, 2, 1, 3))
    warped = warp_exact(frame, np.eye(3)[None], frame.shape[1:3])
    np.testing.assert_array_equal(warped[0, 0, :, 0], array(case, "out/warp_identity"))


def injected(detections: Iterator[np.ndarray | None]) -> Callable[[np.ndarray], np.ndarray | None]:
    """A detector that answers with stored normalised landmarks, in the order in which it is called."""

    def detect(picture: np.ndarray) -> np.ndarray | None:
        normalised = next(detections)
        return None if normalised is None else in_pixels(normalised, *picture.shape[:2])

    return detect


def check_preprocess_clip(case: GoldenCase) -> None:
    template = in_pixels(array(case, "in/template_landmarks478"), 128, 128)
    template_points = template_points_of(truncated_points(template))
    np.testing.assert_allclose(template_points, array(case, "out/template_points"), rtol=0, atol=1e-12)

    found = array(case, "in/frame_detected").astype(bool)
    warped = [points if ok else None for points, ok in zip(array(case, "in/warped_landmarks478"), found, strict=True)]
    detect = injected(iter([array(case, "in/first_frame_landmarks478"), *warped]))
    frames = np.ascontiguousarray(array(case, "in/frames_bgr")[..., ::-1])
    clip = preprocess_original(frames, detect, template_points)

    np.testing.assert_allclose(clip.frame_points, array(case, "out/frame_points"), rtol=0, atol=1e-12)
    np.testing.assert_allclose(clip.crop_to_frame, array(case, "out/transform"), rtol=0, atol=1e-9)
    exact = warp_exact(frames, np.repeat(array(case, "out/transform")[None], len(frames), axis=0), 128)
    np.testing.assert_array_equal(exact, array(case, "out/video"))
    # The last bit of the transform depends on the processor, and a flat region can sit on the edge between two grey levels.
    difference = np.abs(clip.video.astype(int) - array(case, "out/video"))
    assert difference.max() <= 1, f"a grey level is {difference.max()} off"
    assert (difference > 0).mean() < 1e-3, f"{(difference > 0).mean():.2%} of the grey levels differ"
    np.testing.assert_array_equal(clip.landmarks, array(case, "out/landmark"))
    np.testing.assert_allclose(clip.filled_landmarks, array(case, "out/landmark_filled"), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(clip.landmark_figure, array(case, "out/landmark_figure"))


def block_means(video: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Means of equal pixel blocks, (t, rows, cols, 3)."""
    t, height, width, channels = video.shape
    rows, cols = blocks
    return video.reshape(t, rows, height // rows, cols, width // cols, channels).mean(axis=(2, 4))


def check_detector_real_clip(case: GoldenCase) -> None:
    clip_path, template_path = SHARED_DIR / "data" / case.meta["clip"], SHARED_DIR / "data" / case.meta["template"]
    model = SHARED_DIR / "models" / "face_landmarker.task"
    if not (clip_path.exists() and template_path.exists() and model.exists()):
        pytest.skip(f"no real clips or model in {SHARED_DIR}")
    first = case.meta["start"]
    frames = VideoReader(clip_path).read(range(first, first + case.meta["frames"]))
    with FaceDetector("image", max_faces=1, model=model) as detector:
        detect = largest_face(detector)
        template_points = original_template_points(read_image(template_path), detect)
        clip = preprocess_original(frames, detect, template_points)

    height, width = frames.shape[1:3]
    np.testing.assert_allclose(template_points, array(case, "out/template_points"), rtol=0, atol=1)
    np.testing.assert_allclose(
        clip.frame_points, array(case, "out/frame_points"), rtol=0, atol=0.01 * max(height, width)
    )
    scale = np.abs(array(case, "out/transform")).max()
    np.testing.assert_allclose(clip.crop_to_frame, array(case, "out/transform"), rtol=0.02, atol=0.02 * scale)
    expected = array(case, "out/landmark")
    difference = np.abs(clip.landmarks - expected)
    assert np.array_equal(np.isnan(clip.landmarks), np.isnan(expected)), "other frames have no face"
    assert np.nanmax(difference) <= 1, f"a landmark is {np.nanmax(difference)} pixels off"
    assert np.nanmean(difference == 0) >= 0.95, f"only {np.nanmean(difference == 0):.1%} of the coordinates are equal"
    blocks = array(case, "out/video_blocks")
    np.testing.assert_allclose(block_means(clip.video, blocks.shape[1:3]), blocks, rtol=0, atol=2)
    drawn = array(case, "out/landmark_figure")
    np.testing.assert_array_equal(draw_landmarks(expected[: len(drawn)], drawn.shape[1:3]), drawn)


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    "landmark_coords": check_landmark_coords,
    "preprocess_clip": check_preprocess_clip,
    "detector_real_clip": check_detector_real_clip,
    "draw_face": check_draw_face,
}
