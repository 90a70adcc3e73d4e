"""Aggregates: means, pooled ratios, intervals, and distances of whole sets with their warnings."""

import numpy as np
import pytest

from src.metrics.measures import Values
from src.metrics.results import ClipScores, FailedClip, aggregate, bootstrap


def scored(name, weights=None, features=None, **numbers):
    values = Values(numbers, weights=weights or {}, features=features or {})
    return ClipScores(name, 10, 25.0, (8, 8), values, None, ())


def test_pooled_quantities_count_by_their_weight():
    clips = [
        scored("a", {"blinks_per_second": 10.0}, blinks_per_second=0.4),
        scored("b", {"blinks_per_second": 1.0}, blinks_per_second=0.0),
    ]
    assert aggregate(clips)["blinks_per_second"].mean == pytest.approx(4 / 11)


def test_intervals_cover_the_mean_and_shrink_with_clips():
    rng = np.random.default_rng(1)
    few, many = (bootstrap(rng.normal(5, 1, n)) for n in (10, 400))
    assert few[0] < 5 < few[1]
    assert many[0] < 5.1
    assert many[1] > 4.9
    assert many[1] - many[0] == pytest.approx(4 / 20, rel=0.2)
    assert bootstrap(np.array([3.0])) == pytest.approx((np.nan, np.nan), nan_ok=True)
    assert bootstrap(np.full(5, 2.0)) == (2.0, 2.0)


def test_the_order_of_the_clips_does_not_matter():
    clips = [scored(name, psnr=value) for name, value in (("a", 20.0), ("b", 30.0), ("c", 22.0))]
    assert aggregate(clips) == pytest.approx(aggregate(clips[::-1])) or str(aggregate(clips)) == str(
        aggregate(clips[::-1])
    )


def test_distances_of_sets_come_from_all_clips_and_warn_of_small_ones():
    rng = np.random.default_rng(0)
    clips = [
        scored(
            str(i), features={"clips": tuple(rng.normal(size=(4, 6)).astype(np.float32) + shift for shift in (0, 3))}
        )
        for i in range(5)
    ]
    totals = aggregate([*clips, FailedClip("x", "broken")])
    fvd = totals["fvd"]
    assert (fvd.samples, fvd.n, fvd.clips) == (20, 5, 6)
    assert fvd.mean > 6 * 9 * 0.5
    assert "20 samples a side, of 401" in fvd.warning
    floor = float(fvd.warning.split("lie ")[1].split(" ")[0])  # 10 against 10 of one distribution
    assert 0 < floor < fvd.mean
    assert np.isnan(fvd.low)
    assert "needs two frames a side" in totals["fid"].reason


def test_what_is_asked_for_is_what_comes():
    assert list(aggregate([scored("a", psnr=1.0)], ["psnr"])) == ["psnr"]
