"""Head rotations kept on disk."""

from pathlib import Path

import numpy as np
import pytest

from src.errors import MediaError
from src.pipelines.head_pose_cache import cached_rotations, chosen_rotations, read_rotations


def rotations(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 3, 3)).astype(np.float32)


def never() -> np.ndarray:
    raise AssertionError("found again")


def test_rotations_are_found_once_per_content(tmp_path: Path):
    video, folder = tmp_path / "head.mp4", tmp_path / "cache"
    video.write_bytes(b"one")
    expected = rotations(5)
    np.testing.assert_array_equal(cached_rotations(video, folder, lambda: expected), expected)
    np.testing.assert_array_equal(cached_rotations(video, folder, never), expected)
    other = tmp_path / "elsewhere.mp4"
    other.write_bytes(b"one")
    np.testing.assert_array_equal(cached_rotations(other, folder, never), expected)
    video.write_bytes(b"two")
    assert len(cached_rotations(video, folder, lambda: rotations(3))) == 3


def test_a_damaged_file_says_what_to_do(tmp_path: Path):
    path = tmp_path / "a.mat"
    path.write_bytes(b"nothing")
    with pytest.raises(MediaError, match="delete it"):
        read_rotations(path)


def test_a_long_reference_is_entered_anywhere_and_a_short_one_turns_back():
    every = rotations(6)
    np.testing.assert_array_equal(chosen_rotations(every, 4, None), every[:4])
    drawn = {float(chosen_rotations(every, 4, np.random.default_rng(i))[0, 0, 0]) for i in range(50)}
    assert drawn == {float(every[i, 0, 0]) for i in range(3)}
    np.testing.assert_array_equal(chosen_rotations(every[:2], 5, None), every[[0, 1, 1, 0, 0]])
