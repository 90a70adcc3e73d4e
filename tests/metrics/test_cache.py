"""Results are found again as they were, until something they rest on changes."""

import numpy as np
import pytest

from src.metrics.cache import ResultCache
from src.metrics.measures import Values
from src.metrics.pairing import Pair, Reference
from src.metrics.results import ClipScores, FailedClip


@pytest.fixture
def pair(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"video")
    return Pair("folder/clip", tmp_path / "a.mp4", Reference(tmp_path / "b.mp4"))


SCORES = ClipScores(
    "folder/clip",
    10,
    25.0,
    (8, 6),
    Values(
        {"psnr": 30.0},
        real={"audio_lag": float("nan")},
        absent={"fid": "needs it"},
        curves={"real": np.array([0.1, np.nan])},
        weights={"psnr": 2.0},
        features={"frames": (np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32))},
    ),
    np.arange(3.0),
    ("cut",),
)


def test_what_was_written_is_read(tmp_path, pair):
    cache = ResultCache(tmp_path / "clips", {"size": None})
    assert cache.read(pair) is None
    cache.write(pair, SCORES)
    found = cache.read(pair)
    assert (found.name, found.size, found.notes, found.values.generated) == (
        SCORES.name,
        (8, 6),
        ("cut",),
        {"psnr": 30.0},
    )
    assert (found.values.absent, found.values.weights) == (SCORES.values.absent, {"psnr": 2.0})
    assert np.isnan(found.values.real["audio_lag"])
    np.testing.assert_array_equal(found.values.curves["real"], SCORES.values.curves["real"])
    np.testing.assert_array_equal(found.values.features["frames"][0], np.ones((2, 3)))
    np.testing.assert_array_equal(found.loudness, SCORES.loudness)


def test_other_settings_and_other_files_make_it_anew(tmp_path, pair):
    cache = ResultCache(tmp_path / "clips", {"size": None})
    cache.write(pair, SCORES)
    assert ResultCache(tmp_path / "clips", {"size": 64}).read(pair) is None
    pair.generated.write_bytes(b"another video")
    assert cache.read(pair) is None


def test_failures_are_tried_again_and_damaged_files_are_left(tmp_path, pair):
    cache = ResultCache(tmp_path / "clips", {})
    cache.write(pair, FailedClip("folder/clip", "broken"))
    assert cache.read(pair) is None
    cache.write(pair, SCORES)
    (tmp_path / "clips/folder/clip.npz").write_bytes(b"half a file")
    assert cache.read(pair) is None
