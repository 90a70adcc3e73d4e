"""Measures on landmarks, gaps and smoothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import FaceError
from src.face.landmarks import (
    detected,
    eye_aspect_ratio,
    eye_centres,
    fill_missing,
    inter_ocular_distance,
    mouth_opening,
    mouth_points,
    smooth,
    smooth_one_euro,
    stack_faces,
    to_ibug68,
)
from src.face.topology import IBUG68, LEFT_EYE
from tests.face.faces import cloud, face_at


def track(n: int = 9) -> np.ndarray:
    """A moving cloud: x grows by 1 per frame, y by the square of time."""
    base = cloud()
    t = np.arange(n)[:, None]
    moved = np.repeat(base[None], n, axis=0)
    moved[..., 0] += t
    moved[..., 1] += t**2
    return moved


def test_a_face_knows_its_box_and_area():
    face = face_at(50, 60, 20)
    np.testing.assert_allclose(face.box, [40, 50, 60, 70])
    assert face.area == pytest.approx(400)


def test_undetected_faces_stack_as_nan():
    landmarks, blendshapes = stack_faces([face_at(50, 60, 20), None])
    assert detected(landmarks).tolist() == [True, False]
    assert np.isnan(blendshapes[1]).all()
    assert blendshapes[0].tolist() == [0.0] * 52


def test_mouth_opening_is_the_lip_gap_over_the_eye_distance():
    points = np.zeros((2, 478, 3))
    points[:, 263, 0] = 40
    points[0, [87, 14, 317], 1] = 10
    np.testing.assert_allclose(mouth_opening(points), [0.25, 0])
    np.testing.assert_allclose(mouth_opening(points[:, IBUG68]), [0.25, 0])
    np.testing.assert_allclose(inter_ocular_distance(points), 40)


@given(scale=st.floats(0.1, 10), angle=st.floats(-3, 3), seed=st.integers(0, 99))
def test_mouth_opening_and_eye_ratio_do_not_depend_on_size_and_roll(scale, angle, seed):
    points = cloud(seed)[None, :, :2]
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for measure in (mouth_opening, eye_aspect_ratio):
        np.testing.assert_allclose(measure(points @ turn.T + 7), measure(points), rtol=1e-6)


def test_eye_aspect_ratio_of_a_rectangle():
    points = np.zeros((1, 68, 2))
    for first in (36, 42):
        points[0, first : first + 6] = [[0, 0], [3, -1], [6, -1], [10, 0], [6, 1], [3, 1]]
    np.testing.assert_allclose(eye_aspect_ratio(points), [(2 + 2) / 20])


def test_both_layouts_give_the_same_eyes_and_mouth():
    points = cloud()[None]
    np.testing.assert_array_equal(eye_aspect_ratio(points), eye_aspect_ratio(to_ibug68(points)))
    np.testing.assert_array_equal(mouth_points(points), to_ibug68(points)[:, 48:])
    np.testing.assert_allclose(eye_centres(points)[0, 0], points[0, LEFT_EYE].mean(axis=0))


def test_another_number_of_points_is_refused():
    with pytest.raises(FaceError, match=r"^Landmarks have 98 points per face: give 478 .* or 68 .*\.$"):
        mouth_opening(np.zeros((1, 98, 2)))


def test_gaps_are_interpolated_linearly_and_ends_held():
    points = track()
    holes = points.copy()
    holes[[0, 3, 4, 8]] = np.nan
    filled, valid = fill_missing(holes)
    assert valid.tolist() == [False, True, True, False, False, True, True, True, False]
    np.testing.assert_array_equal(filled[valid], points[valid])
    np.testing.assert_array_equal(filled[0], points[1])
    np.testing.assert_array_equal(filled[8], points[7])
    np.testing.assert_allclose(filled[3], points[2] + (points[5] - points[2]) / 3)
    np.testing.assert_allclose(filled[4], points[2] + (points[5] - points[2]) * 2 / 3)


def test_filling_agrees_with_numpy_to_the_last_bit():
    rng = np.random.default_rng(0)
    points = np.floor(rng.uniform(0, 128, (40, 7, 2)))
    known = np.sort(rng.choice(np.arange(1, 39), 12, replace=False)).tolist()
    known = np.array([0, *known, 39])
    holes = np.full_like(points, np.nan)
    holes[known] = points[known]
    filled, _ = fill_missing(holes)
    expected = np.interp(np.arange(40), known, points[known, 3, 1])
    np.testing.assert_array_equal(filled[:, 3, 1], expected)


def test_a_missing_end_is_an_error_where_nothing_may_be_extrapolated():
    holes = track()
    holes[0] = np.nan
    with pytest.raises(FaceError, match=r"first or the last frame"):
        fill_missing(holes, extrapolate=False)
    holes = track()
    holes[4] = np.nan
    assert np.isfinite(fill_missing(holes, extrapolate=False)[0]).all()


def test_a_clip_without_a_face_is_an_error():
    with pytest.raises(FaceError, match=r"^No face was found in any of the 3 frames: .*\.$"):
        fill_missing(np.full((3, 478, 3), np.nan))


def test_the_originals_smoothing_changes_nothing_and_a_real_one_does():
    points = track()
    np.testing.assert_array_equal(smooth(points, 0.1), points)
    noisy = np.random.default_rng(0).normal(size=(200, 5, 2))
    assert smooth(noisy, 3.0).std() < 0.4
    np.testing.assert_allclose(smooth(np.ones((9, 5, 2)), 2.0), 1)
    with pytest.raises(FaceError, match="sigma"):
        smooth(points, -1.0)


def test_one_euro_calms_a_still_face_and_follows_a_fast_one():
    rng = np.random.default_rng(0)
    still = 100 + rng.normal(scale=0.5, size=(100, 10, 2))
    calm = smooth_one_euro(still, fps=25.0)
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.5 * np.abs(np.diff(still, axis=0)).mean()
    fast = np.zeros((50, 1, 2))
    fast[:, 0, 0] = 20.0 * np.arange(50)
    lag = (fast - smooth_one_euro(fast, fps=25.0))[25:, 0, 0]
    assert lag.max() < 20, "more than one frame behind"


def test_one_euro_looks_only_back():
    points = track(12)
    changed = points.copy()
    changed[8:] += 50
    np.testing.assert_array_equal(smooth_one_euro(points, 25.0)[:8], smooth_one_euro(changed, 25.0)[:8])
