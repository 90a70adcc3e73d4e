"""What is read off found faces: blinks, turns of the head, identity."""

import numpy as np
import pytest
from torch import nn

from src.face.topology import IBUG68
from src.metrics import evaluation
from src.metrics.clips import Rules
from src.metrics.evaluation import Evaluator, Options
from src.metrics.pairing import Pair, Reference
from tests.metrics.test_evaluation import DetectsTalking
from tests.talking import talking


def blinking(n_frames, closed):
    """Landmarks of a face whose eyes are 0.3 as high as wide, and 0.05 where closed."""
    points = np.repeat(talking(0, n_frames=2).landmarks[:1], n_frames, axis=0).astype(np.float64)
    height = np.full(n_frames, 0.3)
    for frame, value in closed.items():
        height[frame] = value
    for first, centre in ((36, 20.0), (42, 44.0)):
        x = centre + np.array([-5, -2, 2, 5, 2, -2])
        y = 26 + 5 * height[:, None] * np.array([0, -1, -1, 0, 1, 1])
        points[:, IBUG68[first : first + 6], 0] = x
        points[:, IBUG68[first : first + 6], 1] = y
    return points.astype(np.float32)


@pytest.fixture
def values(tmp_path, monkeypatch):
    def measure(landmarks, metrics, networks=None):
        monkeypatch.setattr(evaluation, "FaceTracker", type("Detector", (DetectsTalking,), {"points": landmarks}))
        path = talking(0, n_frames=len(landmarks)).write(tmp_path / "a.mp4")
        with Evaluator(Rules(), Options(metrics), networks) as evaluator:
            return evaluator(Pair("a", path, Reference(path))).values

    return measure


def test_blinks_are_counted_per_second_and_their_length_in_seconds(values):
    closed = {10: 0.28, 11: 0.1, 12: 0.05, 13: 0.2, 14: 0.31, 30: 0.28, 31: 0.1, 32: 0.05, 33: 0.2, 34: 0.31}
    found = values(blinking(50, closed), ("blinks",))
    assert found.generated["blinks_per_second"] == pytest.approx(1)
    assert 0.1 < found.generated["blink_duration"] < 1  # from open to open
    assert found.weights == {"blinks_per_second": 2.0, "blink_duration": 2.0}
    assert found.real == pytest.approx(found.generated)


def test_open_eyes_have_no_blink_and_no_duration(values):
    found = values(blinking(20, {}), ("blinks",))
    assert found.generated == {"blinks_per_second": 0}
    assert found.absent == {"blink_duration": "no clip has a blink"}


def test_a_head_that_moves_without_turning_has_no_diversity(values):
    found = values(talking(0, n_frames=12).landmarks, ("pose",))
    assert found.generated["pose_diversity"] == pytest.approx(0, abs=0.01)
    assert "librosa" in found.absent["beat_alignment"] or "sound" in found.absent["beat_alignment"]


def test_identity_compares_with_the_same_frame_and_the_first(values):
    network = nn.Sequential(nn.AvgPool2d(14), nn.Flatten(), nn.Linear(192, 512, bias=False)).eval()
    landmarks = blinking(8, {})
    landmarks[3] = np.nan
    found = values(landmarks, ("identity",), {"identity": network})
    assert found.generated["csim"] == pytest.approx(1)
    assert found.generated["csim_source"] == pytest.approx(found.real["csim_source"])
    assert found.generated["csim_source"] > 0.9
