"""Landmark pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import line

from src.face.drawing import draw_landmarks, draw_points
from src.face.topology import SIMPLIFIED_GROUPS


def off_canvas() -> np.ndarray:
    """135 points far to the left of and above the canvas: nothing is drawn."""
    return np.full((1, 135, 2), -50)


@settings(max_examples=60, deadline=None)
@given(ends=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 29)), min_size=2, max_size=2))
def test_a_segment_is_a_line_between_its_ends(ends):
    (x0, y0), (x1, y1) = ends
    points = off_canvas()
    # The ridge has seven points: six at one end, so that a single segment is left.
    points[0, SIMPLIFIED_GROUPS["nose_ridge"]] = [x0, y0]
    points[0, 134] = [x1, y1]
    picture = draw_landmarks(points, (30, 40))[0]
    drawn = picture.any(axis=-1)
    assert (picture[drawn] == [0, 0, 255]).all()
    assert drawn.sum() == max(abs(x1 - x0), abs(y1 - y0)) + 1
    rows, cols = line(y0, x0, y1, x1)
    ours = np.argwhere(drawn)
    # Another rasteriser may put a tie on the other side: never more than a pixel away.
    assert all(np.abs(np.stack([rows, cols], axis=1) - p).max(axis=1).min() <= 1 for p in ours)
    assert drawn[y0, x0]
    assert drawn[y1, x1]


@pytest.mark.parametrize("name", ["face_oval", "left_eyebrow", "left_eye", "right_eye", "outer_lip", "inner_lip"])
def test_contours_are_closed(name):
    rows = SIMPLIFIED_GROUPS[name]
    angle = np.linspace(0, 2 * np.pi, rows.stop - rows.start, endpoint=False)
    points = off_canvas()
    points[0, rows] = np.stack([32 + 20 * np.cos(angle), 32 + 20 * np.sin(angle)], axis=1).astype(int)
    first, last = points[0, rows.start], points[0, rows.stop - 1]
    x, y = ((first + last) / 2).astype(int)
    assert draw_landmarks(points, 64)[0, y - 1 : y + 2, x - 1 : x + 2].any()


def test_the_last_point_of_the_right_eyebrow_is_never_drawn():
    rows = SIMPLIFIED_GROUPS["right_eyebrow"]
    points = off_canvas()
    points[0, rows] = [10, 10]
    points[0, rows.stop - 1] = [30, 30]
    drawn = draw_landmarks(points, 40)[0].any(axis=-1)
    assert np.argwhere(drawn).tolist() == [[10, 10]]


def test_later_parts_cover_earlier_ones():
    points = np.full((1, 135, 2), 5)
    assert draw_landmarks(points, 12)[0, 5, 5].tolist() == [0, 0, 255], "the nose ridge comes last"
    points[0, SIMPLIFIED_GROUPS["nose_ridge"]] = 1
    assert draw_landmarks(points, 12)[0, 5, 5].tolist() == [255, 255, 255], "before it the inner lip"


def test_fractions_are_dropped():
    points = np.random.default_rng(0).uniform(-10, 70, (3, 135, 2))
    np.testing.assert_array_equal(draw_landmarks(points, 64), draw_landmarks(np.trunc(points).astype(np.int64), 64))


def test_undetected_frames_stay_empty_and_the_others_do_not_care():
    points = np.random.default_rng(0).uniform(0, 64, (3, 135, 2))
    alone = draw_landmarks(points[2:], 64)[0]
    points[1, 7] = np.nan
    pictures = draw_landmarks(points, 64)
    assert not pictures[1].any()
    np.testing.assert_array_equal(pictures[2], alone)


def test_the_background_shows_where_nothing_is_drawn():
    points = np.random.default_rng(0).uniform(0, 48, (2, 135, 2))
    frames = np.random.default_rng(1).integers(1, 255, (2, 40, 48, 3)).astype(np.uint8)
    kept = frames.copy()
    black = draw_landmarks(points, (40, 48))
    drawn = black.any(axis=-1)
    over = draw_landmarks(points, (40, 48), background=frames)
    np.testing.assert_array_equal(over[drawn], black[drawn])
    np.testing.assert_array_equal(over[~drawn], frames[~drawn])
    np.testing.assert_array_equal(frames, kept)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_any_coordinates_can_be_drawn(seed):
    points = np.random.default_rng(seed).integers(-5000, 5000, (2, 135, 2))
    assert draw_landmarks(points, (17, 23)).shape == (2, 17, 23, 3)


def test_dots_are_clipped_at_the_border():
    frames = np.zeros((1, 10, 10, 3), np.uint8)
    points = np.array([[[0.0, 0.0], [5.0, 5.0], [np.nan, 1.0], [40.0, 2.0]]])
    dotted = draw_points(frames, points, radius=1)
    assert dotted.any(axis=-1).sum() == 4 + 9
    assert not frames.any()
