"""The rectangle that is rendered, the alignment of the 3D morphable model, pasting."""

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from src.errors import FaceError
from src.face.liveportrait_talker import (
    STANDARD_POINTS,
    TalkerAlignment,
    crop_matrices,
    cropped_rectangles,
    even_sized,
    eye_close_ratios,
    face_rectangle,
    five_points,
    frontality,
    paste_rectangles,
    regressor_crop,
    smooth_poses,
    standard_face_pose,
    to_grey_levels,
)


def upright_face(centre: tuple[float, float], unit: float) -> np.ndarray:
    """68 points of which only those that place the face mean anything: y down."""
    points = np.tile(np.array(centre), (68, 1)).astype(np.float32)
    points[36:42] += np.array([-0.31, -0.29]) * unit
    points[42:48] += np.array([0.31, -0.29]) * unit
    points[30] += np.array([0.0, 0.046]) * unit
    points[48] += np.array([-0.25, 0.381]) * unit
    points[54] += np.array([0.25, 0.381]) * unit
    return points


def test_the_rectangle_is_square_inside_the_picture_and_follows_the_face():
    left, top, right, bottom = face_rectangle(upright_face((200, 200), 100), (400, 400))
    assert abs((right - left) - (bottom - top)) <= 2
    moved = face_rectangle(upright_face((230, 190), 100), (400, 400))
    assert moved == (left + 30, top - 10, right + 30, bottom - 10)


def test_the_rectangle_is_cut_at_the_edge_and_refused_beyond():
    left, top, *_ = face_rectangle(upright_face((40, 40), 100), (400, 400))
    assert (left, top) == (0, 0)
    with pytest.raises(FaceError, match="outside the picture"):
        face_rectangle(upright_face((-900, 40), 100), (400, 400))


def test_the_pose_of_projected_standard_points_is_found():
    projected = STANDARD_POINTS[:, :2] * 70 + np.array([120.0, 90.0])
    shift, scale = standard_face_pose(projected)
    np.testing.assert_allclose(shift, [120, 90], atol=1e-4)
    assert scale == pytest.approx(70, abs=1e-4)


def test_the_regressor_crop_brings_pixels_where_it_brings_landmarks():
    points = upright_face((130, 120), 90)
    picture = np.zeros((256, 256, 3), np.uint8)
    x, y = points[30].round().astype(int)
    picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    crop = regressor_crop(picture, points)
    row, col = center_of_mass(crop.image[..., 0].astype(float))
    nose = crop.landmarks[30]
    assert abs(col - nose[0]) < 2.5
    assert abs((223 - row) - nose[1]) < 2.5
    assert crop.scale * np.linalg.norm(five_points(points)[1] - five_points(points)[0]) == pytest.approx(63.4, abs=3)


def test_pasting_changes_nothing_outside_the_rectangle():
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    faces = np.full((2, 16, 16, 3), 7, np.uint8)
    rectangles = np.array([[5, 6, 25, 30], [0, 0, 50, 40]])
    pasted = paste_rectangles(frames, faces, rectangles)
    outside = np.ones((40, 50), bool)
    outside[6:30, 5:25] = False
    np.testing.assert_array_equal(pasted[0][outside], frames[0][outside])
    assert (pasted[0, 6:30, 5:25] == 7).all()
    assert (pasted[1] == 7).all()


def test_a_rectangle_beyond_the_cut_edge_covers_what_is_left():
    faces = np.zeros((1, 5, 7, 3), np.uint8) + np.arange(7, dtype=np.uint8)[:, None]
    pasted = paste_rectangles(np.full((1, 4, 6, 3), 99, np.uint8), faces, np.array([[0, 0, 7, 5]]))
    np.testing.assert_array_equal(pasted, faces[:, :4, :6])


def test_frames_become_even_and_fractions_of_grey_levels_are_cut():
    assert even_sized(np.zeros((1, 41, 50, 3), np.uint8)).shape == (1, 40, 50, 3)
    assert to_grey_levels(np.full((1, 3, 1, 1), 0.999, np.float32)).tolist() == [[[[254, 254, 254]]]]


def test_closed_eyes_have_a_ratio_of_zero():
    points = np.zeros((98, 2))
    points[[64, 72], 0] = 10.0
    points[70, 1] = 3.0
    np.testing.assert_allclose(eye_close_ratios(points), [0.0, 0.3], atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 40])
def test_smoothing_keeps_a_parabola(n: int):
    t = np.arange(n, dtype=np.float64)
    poses = np.stack([t**2, 3 - t], axis=1)
    np.testing.assert_allclose(smooth_poses(poses), poses, atol=1e-8)


def test_crops_show_the_rectangle_and_nothing_else():
    rectangles = np.array([[10, 20, 110, 90], [0, 0, 64, 64]])
    matrices = crop_matrices(rectangles.astype(float), 128)
    assert np.array_equal(cropped_rectangles(matrices, 128), rectangles)
    corner = matrices[0] @ np.array([9.5, 19.5, 1.0])  # the outer corner of the first pixel
    np.testing.assert_allclose(corner[:2], -0.5, atol=1e-12)


def test_a_picture_is_cut_as_the_original_cuts_it():
    face = upright_face((150, 160), 60)
    matrices = TalkerAlignment(128).fit(face[None], (300, 320))
    assert tuple(cropped_rectangles(matrices, 128)[0]) == face_rectangle(face, (300, 320))


def test_crops_of_a_trembling_face_hold_still():
    rng = np.random.default_rng(0)
    faces = upright_face((150, 160), 60) + rng.normal(0, 1, (60, 68, 2))
    steady, trembling = (
        cropped_rectangles(TalkerAlignment(128, smoothing=sigma).fit(faces, (300, 320)), 128).astype(float)
        for sigma in (6, 0)
    )
    side = (steady[:, 2] - steady[:, 0]).mean()
    jitter = [np.abs(np.diff(boxes, axis=0)).mean() / side for boxes in (steady, trembling)]
    assert jitter[0] < 0.005 < jitter[1]


def test_a_profile_is_told_from_a_face_seen_from_the_front():
    front = upright_face((0, 0), 60)
    front[0], front[16] = (-40, 0), (40, 0)
    profile = front.copy()
    profile[30, 0] -= 35
    assert frontality(front) == pytest.approx(1, abs=1e-3)
    assert frontality(profile) < 0.15
