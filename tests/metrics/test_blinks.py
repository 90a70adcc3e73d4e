"""How often and how long eyes close."""

import numpy as np
import pytest
import torch

from src.metrics.blinks import Blinks, find_blinks


def eyes(*closings: int, n_frames: int = 50) -> np.ndarray:
    """Open eyes (0.3, trembling a little) that shut within two frames and open within three, from the frames named."""
    ratio = 0.3 + 0.002 * (np.arange(n_frames) % 2)
    for start in closings:
        shape = np.array([0.2, 0.08, 0.08, 0.15, 0.25])[: n_frames - start]
        ratio[start : start + len(shape)] = shape
    return ratio


def test_a_blink_lasts_from_the_last_open_frame_to_the_first():
    assert find_blinks(eyes(10, 30)).tolist() == [[9, 15], [29, 35]]


def test_open_eyes_do_not_blink():
    assert find_blinks(eyes()).shape == (0, 2)


def test_eyes_that_close_slowly_do_not_blink():
    assert len(find_blinks(np.concatenate([np.linspace(0.3, 0.05, 20), np.linspace(0.05, 0.3, 20)]))) == 0


def test_eyes_that_are_shut_at_the_end_blink_until_then():
    assert find_blinks(eyes(47)).tolist() == [[45, 49]]


def test_of_two_closings_between_which_the_eyes_do_not_open_the_second_counts():
    ratio = eyes(10, 15)
    ratio[13:15] = 0.17  # not open
    assert find_blinks(ratio).tolist() == [[15, 21]]


def test_frames_without_a_face_are_bridged():
    ratio = eyes(10, 30)
    ratio[[0, 1, 20, 49]] = np.nan
    assert find_blinks(ratio).tolist() == [[9, 15], [29, 35]]
    assert len(find_blinks(np.full(9, np.nan))) == 0
    assert len(find_blinks(np.array([0.3, 0.1]))) == 0


def test_rates_are_pooled_over_clips_and_seconds_follow_the_frame_rate():
    metric = Blinks()
    metric.update(torch.from_numpy(eyes(10, 30)), fps=25)  # 2 s
    metric.update(torch.from_numpy(eyes(n_frames=100)), fps=50)  # 2 s without
    metric.update(torch.full((70,), float("nan")))  # no face: says nothing
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == pytest.approx(
        {"blinks_per_second": 0.5, "blink_duration": 6 / 25, "blink_frames": 6, "blinks_per_clip": 1}
    )


def test_without_any_clip_everything_is_unknown():
    assert all(value.isnan() for value in Blinks().compute().values())
