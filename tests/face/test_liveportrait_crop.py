"""LivePortrait's crops: where they lie, that they do not tremble, masks and ratios."""

import os
from pathlib import Path

import numpy as np
import pytest

from src.errors import FaceError
from src.face.alignment import transform_points
from src.face.detector import FaceTracker
from src.face.landmarks import stack_faces
from src.face.liveportrait_crop import (
    POINTS_203,
    POINTS_478,
    LivePortraitAlignment,
    WholeFrame,
    face_boxes,
    feathered_mask,
    limited_size,
    point_set,
    ratios,
    rectangle_mask,
    reference_points,
)
from src.media import VideoReader

SHARED_DIR = Path(os.environ.get("SHARED_DIR", "../shared"))
CLIPS, MODEL = SHARED_DIR / "data/clips", SHARED_DIR / "models/face_landmarker.task"


def cloud(n: int = 203, t: int = 1, seed: int = 0) -> np.ndarray:
    """Points around an upright face: eyes above the mouth."""
    points = np.random.default_rng(seed).uniform(-40, 40, (t, n, 2)) + 100
    known = point_set(n)
    for indices, place in ((known.left_eye, (80, 85)), (known.right_eye, (120, 85)), (known.mouth, (100, 125))):
        points[:, list(indices)] = place
    return points


@pytest.mark.parametrize("n", [5, 68, 101, 106, 203, 478])
def test_eyes_lie_above_the_mouth_in_the_crop_however_the_face_is_turned(n):
    points = cloud(n)
    turn = np.deg2rad(35)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = points @ rotation.T
    boxes = face_boxes(turned)
    assert boxes.angle[0] == pytest.approx(turn)
    eyes, mouth = transform_points(reference_points(turned), boxes.matrices(512))[0]
    assert eyes[0] == pytest.approx(mouth[0], abs=1e-6)
    assert eyes[1] < mouth[1]
    assert np.allclose(boxes.size, face_boxes(points).size)


def test_crops_scale_with_the_face():
    points = cloud()
    boxes, larger = face_boxes(points), face_boxes(3 * points)
    assert np.allclose(larger.size, 3 * boxes.size)
    assert np.allclose(larger.centre, 3 * boxes.centre)
    assert face_boxes(points, vx=0.1).centre[0, 0] - boxes.centre[0, 0] == pytest.approx(0.1 * boxes.size[0])


def test_all_points_of_the_extent_lie_in_the_crop():
    points = np.random.default_rng(1).uniform(50, 150, (3, 478, 2))
    inside = transform_points(points, face_boxes(points, scale=1.0, vy=0.0).matrices(100))[:, POINTS_478.extent]
    assert inside.min() > -1e-6
    assert inside.max() < 100 + 1e-6


def test_numbers_of_points_that_no_set_has_are_named():
    assert point_set(120) is point_set(101)
    with pytest.raises(FaceError, match="There are 20 landmarks"):
        point_set(20)


def test_ratios_do_not_depend_on_size_and_place():
    points = np.random.default_rng(2).uniform(0, 100, (4, 203, 2))
    eyes, lip = ratios(points, POINTS_203)
    assert eyes.shape == (4, 2)
    assert lip.shape == (4, 1)
    moved = ratios(7 * points + 30)
    assert np.allclose(moved[0], eyes, rtol=1e-6)
    assert np.allclose(moved[1], lip, rtol=1e-6)
    assert np.isnan(ratios(points[:, :68])[1]).all()


def test_the_original_mask_is_one_pixel_heavier_at_the_end():
    mask = rectangle_mask(64)
    assert mask[0, 32] == 0
    assert mask[63, 32] == int(255 * (1 - 15 / 16))
    assert (mask[16:48, 16:48] == 255).all()


@pytest.mark.parametrize("width", [0.0, 0.05, 0.3])
def test_feathers_rise_from_the_border(width):
    mask = feathered_mask(64, width).astype(int)
    assert mask[32, 32] == 255
    assert (np.diff(mask[32, :33]) >= 0).all()
    assert (mask == mask[::-1]).all()
    assert (mask == mask.T).all()


def test_limits_of_sizes():
    assert limited_size(720, 1280) == ((720, 1280), (720, 1280))
    assert limited_size(2160, 3840) == ((720, 1280), (720, 1280))
    assert limited_size(101, 51, 0, 4)[1] == (100, 48)
    assert limited_size(3, 51, 0, 4)[1] == (3, 51)


def test_whole_frames_are_squeezed():
    matrix = WholeFrame(64).fit(np.zeros((2, 478, 2)), (32, 128))
    edges = transform_points(np.array([[[-0.5, -0.5], [127.5, 31.5]]]), matrix[:1])[0]
    assert np.allclose(edges, [[-0.5, -0.5], [63.5, 63.5]])


def test_one_square_for_a_whole_clip():
    points = np.random.default_rng(3).uniform(0, 100, (5, 478, 2))
    matrices = LivePortraitAlignment(64, rotate=False, fixed=True).fit(points, (100, 100))
    assert np.allclose(matrices, matrices[:1])
    assert np.allclose(matrices[:, 0, 1], 0)


def test_eyes_are_as_open_as_by_the_original_points():
    def eyes_of(height: float) -> np.ndarray:
        points = np.random.default_rng(4).uniform(0, 100, (1, 478, 2))
        for (upper, lower), (left, right) in POINTS_478.eye_ratios:
            points[0, [upper, lower, left, right]] = [[50, 50], [50, 50 + 20 * height], [40, 50], [60, 50]]
        return ratios(points)[0]

    assert np.allclose(eyes_of(0.338), 0.28, atol=0.001)
    assert np.allclose(eyes_of(0.02), 0, atol=1e-6)
    assert (eyes_of(0.0) == 0).all()


@pytest.fixture(scope="module")
def real_landmarks() -> dict[str, np.ndarray]:
    """The beginning of every real clip that shows a face."""
    if not CLIPS.is_dir() or not MODEL.is_file():
        pytest.skip("no clips or model")
    landmarks = {}
    for path in sorted(CLIPS.glob("*.mp4")):
        frames = VideoReader(path).read(np.arange(40))
        with FaceTracker(model=MODEL) as tracker:
            faces = [tracker.track(frame) for frame in frames]
        if any(faces):  # s13.mp4 shows a person whose face is too small for the detector
            landmarks[path.stem] = stack_faces(faces)[0]
    assert landmarks
    return landmarks


@pytest.mark.shared
@pytest.mark.slow
def test_crops_of_real_clips_do_not_tremble(real_landmarks):
    for name, landmarks in real_landmarks.items():
        boxes = LivePortraitAlignment().boxes(landmarks)
        track = np.concatenate([boxes.centre / boxes.size.mean(), np.log(boxes.size)[:, None]], axis=1)  # in sides
        trembling = np.abs(np.diff(track, n=2, axis=0))  # what is no steady movement
        assert trembling.max() < 0.005, f"{name}: {trembling.max():.4f} of the side"


@pytest.mark.shared
@pytest.mark.slow
def test_ratios_of_real_faces_lie_where_the_networks_know_them(real_landmarks):
    eyes, lips = (
        np.concatenate(parts)
        for parts in zip(*(ratios(points[..., :2]) for points in real_landmarks.values()), strict=True)
    )
    assert 0.2 < np.median(eyes) < 0.36
    assert np.quantile(eyes, 0.98) < 0.6
    assert np.quantile(eyes, 0.01) < 0.05
    assert np.quantile(lips, 0.02) < 0.005
