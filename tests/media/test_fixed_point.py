"""OpenCV's resizing, and orders of frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.media.fixed_point import resize_fixed_point
from src.media.looping import ping_pong


@pytest.mark.parametrize(("size", "wanted"), [((11, 136), (150, 112)), ((91, 80), (94, 182)), ((60, 61), (33, 20))])
def test_pictures_are_those_of_opencv(size: tuple[int, int], wanted: tuple[int, int]):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = cv2.resize(picture, wanted[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_fixed_point(picture, wanted), expected)


def test_one_colour_stays():
    assert (resize_fixed_point(np.full((5, 7, 3), 201, np.uint8), (13, 4)) == 201).all()


def test_a_short_video_goes_back_and_forth():
    assert ping_pong(3, 10).tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2]


@given(st.integers(1, 50), st.integers(0, 200))
def test_neighbours_stay_neighbours(n_frames: int, n_wanted: int):
    order = ping_pong(n_frames, n_wanted)
    assert len(order) == n_wanted
    assert (np.abs(np.diff(order)) <= 1).all()
    assert n_wanted == 0 or (order.min() == 0 and order.max() < n_frames)
