import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.media.curves import audio_envelope, best_lag, pearson
from src.metrics.lip_sync import (
    CurveCorrelation,
    MouthAudioCorrelation,
    correlation,
)


def curve(n=100, seed=0):
    return np.convolve(np.random.default_rng(seed).random(n + 4), np.ones(5) / 5, mode="valid")


def test_envelope_is_the_root_mean_square_of_each_frame():
    samples = np.repeat(np.array([0.0, 0.5, 1.0, 0.25], np.float32), 640)  # 25 fps at 16 kHz
    samples[::2] *= -1
    assert audio_envelope(samples, 4, 25.0) == pytest.approx([0.0, 0.5, 1.0, 0.25])


@pytest.mark.parametrize("fps", [25.0, 29.97, 30.0, 23.976])
def test_envelope_keeps_all_the_energy_at_any_rate(fps):
    samples = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    n_frames = round(fps)
    edges = np.rint(np.arange(n_frames + 1) * 16000 / fps)
    envelope = audio_envelope(samples, n_frames, fps)
    assert (envelope**2 * np.diff(np.minimum(edges, 16000))).sum() == pytest.approx(
        (samples[: int(edges[-1])].astype(float) ** 2).sum()
    )


def test_envelope_is_unknown_after_the_end_of_the_sound():
    envelope = audio_envelope(np.ones(640, np.float32), 3, 25.0)
    assert envelope[0] == 1
    assert np.isnan(envelope[1:]).all()


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_pearson_ignores_scale_and_shift(scale, shift, seed):
    a, b = curve(seed=seed), curve(seed=seed + 1)
    assert pearson(a, scale * b + shift) == pytest.approx(pearson(a, b), abs=1e-9)
    assert pearson(a, -scale * a) == pytest.approx(-1)


def test_unknown_frames_are_left_out_of_both_curves():
    a, b = curve(), curve(seed=1)
    holes = a.copy(), b.copy()
    holes[0][3], holes[1][50] = np.nan, np.nan
    kept = np.delete(np.arange(100), [3, 50])
    assert pearson(*holes) == pytest.approx(pearson(a[kept], b[kept]))


def test_a_still_mouth_scores_zero_and_a_still_reference_is_undefined():
    assert correlation(np.full(20, 0.3), curve(20)) == 0
    assert np.isnan(correlation(curve(20), np.full(20, 0.3)))


@pytest.mark.parametrize("lag", [-5, -2, 0, 3])
def test_best_lag_finds_by_how_many_frames_the_sound_is_late(lag):
    both = curve(120)
    mouth, sound = both[10:110], both[10 - lag : 110 - lag]
    assert best_lag(mouth, sound, 6) == (lag, pytest.approx(1.0))


def test_lags_are_limited_by_the_length_of_the_clip():
    both = curve(20)
    found = best_lag(both[4:12], both[:8], max_lag=12)  # eight frames: at most two of shift
    assert found is not None
    assert abs(found[0]) <= 2


def test_curve_correlation_is_the_mean_over_clips_that_are_defined():
    metric = CurveCorrelation()
    a, b = (torch.from_numpy(curve(seed=s)) for s in (0, 1))
    metric.update(a, a)
    metric.update(a, -a)
    metric.update(a, a + 0.1 * b)
    metric.update(a, torch.ones(100))
    assert metric.clips == 3
    assert metric.undefined == 1
    assert metric.compute().item() == pytest.approx(pearson(a.numpy(), (a + 0.1 * b).numpy()) / 3, abs=1e-6)


def test_mouth_audio_correlation_gives_the_value_at_zero_and_at_the_best_lag():
    both = curve(120)
    mouth, sound = both[10:110], both[8:108]  # the sound shows two frames later what the mouth does
    metric = MouthAudioCorrelation(max_lag=4)
    metric.update(torch.from_numpy(mouth), torch.from_numpy(sound))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == {
        "correlation": pytest.approx(pearson(mouth, sound), abs=1e-6),
        "best_correlation": pytest.approx(1.0, abs=1e-6),
        "lag": 2.0,
    }


def test_silence_is_left_out_and_a_still_mouth_counts_as_zero():
    metric = MouthAudioCorrelation()
    metric.update(torch.from_numpy(curve()), torch.zeros(100, dtype=torch.float64))
    assert metric.undefined == 1
    assert metric.compute()["correlation"].isnan()
    metric.update(torch.full((100,), 0.2, dtype=torch.float64), torch.from_numpy(curve()))
    values = metric.compute()
    assert (values["correlation"], values["best_correlation"]) == (0, 0)
    assert values["lag"].isnan()
