"""One window per video frame, around its middle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from src.audio.windows import frame_windows


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 5000), length=st.integers(1, 400), hop=st.integers(1, 200))
def test_window_holds_the_samples_around_its_hop(n, length, hop):
    length = max(length, hop)
    sound = np.arange(1, n + 1, dtype=np.float32)
    windows = frame_windows(sound, length, hop)
    assert windows.shape == (n // hop, length)
    for i in range(len(windows)):
        index = i * hop - (length - hop) // 2 + np.arange(length)
        inside = (index >= 0) & (index < n)
        assert np.array_equal(windows[i], np.where(inside, index + 1, 0))


def test_a_click_in_the_middle_of_a_frame_is_the_middle_of_its_window():
    sound = np.zeros(10 * 640, np.float32)
    sound[4 * 640 + 320] = 1
    assert frame_windows(sound)[4].argmax() == 1600
