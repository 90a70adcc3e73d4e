import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.metrics.landmarks import LandmarkDistance, eye_distance, landmark_distances

SIZE = (128, 128)


def points(t=4, seed=0):
    return 128 * torch.rand(t, 68, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(generated, reference, size=SIZE, **options):
    metric = LandmarkDistance(**options)
    metric.update(generated, reference, size)
    return metric.compute().item()


@given(dx=st.floats(-50, 50), dy=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_translation_costs_nothing_when_centred_and_its_length_when_raw(dx, dy):
    x = points()
    y = x + torch.tensor([dx, dy])
    assert score(y, x) == pytest.approx(0, abs=1e-5)
    assert score(y, x, centred=False, unit="pixels") == pytest.approx((dx**2 + dy**2) ** 0.5, abs=1e-4)


def test_distances_are_given_at_256_pixels():
    x, y = points(), points(seed=1)
    assert score(y, x) == pytest.approx(2 * score(y, x, unit="pixels"), rel=1e-6)
    assert score(2 * y, 2 * x, size=(256, 200)) == pytest.approx(score(y, x), rel=1e-6)


def test_the_mouth_is_points_48_to_67():
    x = points()
    y = x.clone()
    y[:, :48] += torch.rand(4, 48, 2)
    assert score(y, x, region="mouth") == 0
    assert score(y, x, region="face") > 0.1


def test_eye_distance_divides_each_frame():
    x, y = points(), points(seed=1)
    expected = (landmark_distances(y, x) / eye_distance(x)).mean().item()
    assert score(y, x, unit="eye_distance") == pytest.approx(expected, rel=1e-6)


def test_frames_without_a_face_are_skipped_and_counted():
    x, y = points(6), points(6, seed=1)
    y[1], x[4] = float("nan"), float("nan")
    metric = LandmarkDistance()
    metric.update(y, x, SIZE)
    kept = [0, 2, 3, 5]
    assert metric.skipped == 2
    assert metric.frames == 4
    assert metric.compute().item() == pytest.approx(score(y[kept], x[kept]), rel=1e-6)


def test_no_face_at_all_gives_nan():
    assert torch.isnan(torch.tensor(score(torch.full((3, 68, 2), float("nan")), points(3))))


def test_chunks_and_merged_states_give_the_value_of_the_whole():
    x, y = points(7), points(7, seed=1)
    y[2] = float("nan")
    first, second = LandmarkDistance(), LandmarkDistance()
    first.update(y[:3], x[:3], SIZE)
    second.update(y[3:], x[3:], SIZE)
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(score(y, x), rel=1e-6)
    assert first.skipped == 1
