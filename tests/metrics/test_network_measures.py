"""What is measured with networks: features of frames and clips, face tracks, words."""

import numpy as np
import pytest
import torch
from torch import nn

from src.metrics import network_measures
from src.metrics.clips import Rules, open_clip
from src.metrics.evaluation import Evaluator, Options
from src.metrics.network_measures import SyncMeasure, WordMeasure, find_faces
from src.metrics.pairing import Pair, Reference
from src.metrics.results import aggregate
from src.metrics.sanity import random_networks
from src.nn.syncnet import SyncNet
from tests.talking import talking


@pytest.fixture
def clip(tmp_path):
    def opened(n_frames=10, **options):
        path = talking(0, n_frames=n_frames).write(tmp_path / "a.mp4", **options)
        return open_clip(Pair("a", path, Reference(path)), Rules(chunk=4))

    return opened


def test_sets_leave_their_features_behind(tmp_path):
    results = []
    with Evaluator(Rules(chunk=7), Options(("fid", "fvd", "lpips")), random_networks()) as evaluator:
        for seed in range(2):
            path = talking(seed, n_frames=37).write(tmp_path / f"{seed}.mp4")
            results.append(evaluator(Pair(str(seed), path, Reference(path))))
    frames, clips = (results[0].values.features[kind] for kind in ("frames", "clips"))
    assert frames[0].shape == frames[1].shape == (37, 64)
    assert clips[0].shape == (2, 32)
    assert results[0].values.generated["lpips"] == 0
    totals = aggregate(results)
    assert (totals["fid"].samples, totals["fvd"].samples) == (74, 4)
    assert totals["fid"].mean == pytest.approx(0, abs=1e-3)


class FaceEverywhere(nn.Module):
    """Finds one face in the middle of every picture."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.fixture
def faces(monkeypatch):
    box = torch.tensor([[0.95, 0.25, 0.25, 0.75, 0.75], [0.5, 0.0, 0.0, 1.0, 1.0]])
    monkeypatch.setattr(FaceEverywhere, "forward", lambda self, x: (x, x))
    monkeypatch.setattr(network_measures, "detections", lambda *_: box)


def test_faces_are_found_in_pixels_of_the_frame(faces):
    found = find_faces(FaceEverywhere(), np.zeros((80, 40, 3), np.uint8))
    assert found == pytest.approx(np.array([[10.0, 20.0, 30.0, 60.0]]))


def test_short_tracks_have_no_score_and_long_ones_do(faces, clip, monkeypatch):
    network = SyncNet(embedding=8).eval().requires_grad_(False)

    def measured():
        opened = clip()
        measure = SyncMeasure(opened, network, "tracks", FaceEverywhere())
        for generated, real in opened.frames():
            measure.add(generated, real)
        return measure.finish()

    assert "no face could be followed" in measured().absent["lse_c"]
    original = network_measures.track_faces
    monkeypatch.setattr(network_measures, "track_faces", lambda b, **_: original(b, min_track=2, min_face=10))
    values = measured()
    assert values.generated == values.real
    assert values.generated["lse_d"] > 0


class Hears:
    """A recogniser that hears what it is told."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def __call__(self, samples):
        assert samples.ndim == 1
        return self.texts.pop(0)


def test_words_are_compared_with_the_transcript_or_the_real_sound(clip):
    heard = WordMeasure(clip(), Hears("Hello there, you.", "hello their you")).finish()
    assert heard.generated["wer_audio"] == pytest.approx(1 / 3)
    assert heard.real["wer_audio"] == 0
    assert heard.weights == {"wer_audio": 3.0}
    told = WordMeasure(clip(), Hears("x", "one two"), "One two!").finish()
    assert (told.generated["wer_audio"], told.real["wer_audio"]) == (0, 1)
    silent = WordMeasure(clip(sound=False), Hears()).finish()
    assert "needs sound" in silent.absent["wer_audio"]
    assert "nobody says a word" in WordMeasure(clip(), Hears("", "x")).finish().absent["wer_audio"]
