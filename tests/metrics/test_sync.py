"""SyncNet's scores: shifts are found, chunks do not matter, short clips say so."""

import dataclasses

import numpy as np
import pytest
import torch

from src.metrics.clips import Rules
from src.metrics.evaluation import Evaluator, Options
from src.metrics.mfcc import mfcc, sound_windows, to_int16
from src.metrics.pairing import Pair, Reference
from src.metrics.quantities import names_of
from src.metrics.sync import AudioVisualSync, SyncEmbedder, sync_scores, unpadded_scores
from src.nn.syncnet import SyncNet
from tests.talking import talking


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SyncNet(embedding=16).eval().requires_grad_(False)


def embeddings(n_windows, shift, seed=0):
    """Windows of sound `shift` later than those of lips that they fit."""
    series = torch.randn(n_windows + 40, 12, generator=torch.Generator().manual_seed(seed))
    return series[20 : 20 + n_windows], series[20 - shift : 20 - shift + n_windows]


@pytest.mark.parametrize("shift", [-10, -3, 0, 1, 7])
def test_a_shift_of_the_sound_is_found_with_its_sign(shift):
    scores = sync_scores(*embeddings(40, shift))
    assert scores.offset == -shift  # later sound: it lags, and the offset is negative
    assert scores.confidence > 1
    assert scores.min_distance < scores.confidence
    assert len(scores.confidence_per_window) == 40


def test_lips_and_sound_of_nothing_in_common_have_no_confidence():
    lips, _ = embeddings(60, 0)
    assert sync_scores(lips, embeddings(60, 0, seed=1)[1]).confidence < 0.6


def test_padding_hides_the_shift_of_short_clips_and_can_be_left_out():
    lips, sounds = (10 + x for x in embeddings(8, 2))  # far from zero: padding is far away from everything
    assert sync_scores(lips, sounds).offset == 0
    assert unpadded_scores(lips, sounds).offset == -2


def test_chunks_of_frames_do_not_matter(network):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 224, 224, 3), np.uint8)
    sound = to_int16(rng.uniform(-0.5, 0.5, 9 * 640).astype(np.float32))
    found = []
    for size in (9, 2):
        embedder = SyncEmbedder(network, sound, len(frames))
        for start in range(0, len(frames), size):
            embedder.add(frames[start : start + size])
        found.append(embedder.embeddings())
    assert found[0][0].shape == (4, 16)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_fewer_than_six_frames_have_no_score(network):
    embedder = SyncEmbedder(network, np.zeros(5 * 640, np.int16), 5)
    embedder.add(np.zeros((5, 224, 224, 3), np.uint8))
    metric = AudioVisualSync()
    metric.update(*embedder.embeddings())
    assert all(value.isnan() for value in metric.compute().values())


def test_cepstra_come_a_hundred_times_a_second_and_loudness_is_in_the_first():
    sound = (3000 * np.sin(np.arange(16000) / 5)).astype(np.int16)
    quiet, loud = mfcc(sound), mfcc(2 * sound)
    assert quiet.shape == (99, 13)
    assert loud[:, 0] - quiet[:, 0] == pytest.approx(2 * np.log(2), abs=1e-3)
    assert loud[:, 1:] == pytest.approx(quiet[:, 1:], abs=0.02)
    windows = sound_windows(quiet, 3)
    assert windows.shape == (3, 13, 20)
    assert windows[1, :, 0] == pytest.approx(quiet[4])
    assert to_int16(np.array([-1.0, 0.0, 0.5, 1.0], np.float32)).tolist() == [-32768, 0, 16384, 32767]


def evaluated(tmp_path, network, clip, **options):
    path = clip.write(tmp_path / "a.mp4")
    with Evaluator(Rules(), Options(("sync",), **options), {"sync": network}) as evaluator:
        return evaluator(Pair("a", path, Reference(path))).values


def test_a_video_against_itself_scores_as_the_real_one(tmp_path, network):
    values = evaluated(tmp_path, network, talking(0, n_frames=10))
    assert values.generated.keys() == set(names_of("sync"))
    assert values.generated == values.real
    assert values.absent == {}


def test_other_rates_short_clips_and_missing_weights_say_so(tmp_path, network, monkeypatch):
    assert "needs six frames" in evaluated(tmp_path, network, talking(0, n_frames=5)).absent["lse_c"]
    fast = dataclasses.replace(talking(0, n_frames=10), fps=30.0)
    assert "needs 25 fps: set fps=25" in evaluated(tmp_path, network, fast).absent["lse_c"]
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    path = talking(0, n_frames=8).write(tmp_path / "b.mp4")
    with Evaluator(Rules(), Options(("sync",))) as evaluator:
        reason = evaluator(Pair("b", path, Reference(path))).values.absent["lse_d"]
    assert reason == "needs syncnet_v2.model, get it with: python tools/download_models.py names=[syncnet_v2.model]"
