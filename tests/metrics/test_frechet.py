"""Frechet and kernel distances behave as distances of sets, with the bias that few samples have."""

import pytest
import torch
from torch import nn

from src.metrics.frechet import (
    Features,
    FrechetDistance,
    KernelDistance,
    VideoFeatures,
    consecutive_clips,
    cropped_clips,
    frechet_distance,
    squeezed_clips,
)


def distance(a, b):
    metric = FrechetDistance(Features(a.shape[1]))
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute().item()


@pytest.fixture(scope="module")
def sets():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    return a, 1.5 * torch.randn(200, 8, generator=generator, dtype=torch.float64) + 0.3


def test_zero_to_itself_symmetric_and_blind_to_rotation(sets):
    a, b = sets
    assert 0 <= distance(a, a) < 1e-9
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    assert distance(a @ rotation, b @ rotation) == pytest.approx(distance(a, b), rel=1e-9)


def test_commuting_covariances_have_a_closed_form():
    mean_a, mean_b = torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, 1.0]).double()
    found = frechet_distance(mean_a, torch.diag(torch.tensor([4.0, 9.0])), mean_b, torch.diag(torch.tensor([1.0, 4.0])))
    assert found.item() == pytest.approx(4 + (2 - 1) ** 2 + (3 - 2) ** 2)


def test_chunks_do_not_matter_and_the_real_side_stays(sets):
    a, b = sets
    metric = FrechetDistance(Features(8))
    for part in a.split(37):
        metric.update(part, real=True)
    metric.update(b, real=False)
    assert metric.compute().item() == pytest.approx(distance(a, b), rel=1e-9)
    metric.reset()
    metric.update(b, real=False)
    assert metric.compute().item() == pytest.approx(distance(a, b), rel=1e-9)


def test_fewer_than_two_samples_have_no_distance(sets):
    a, _ = sets
    assert distance(a, a[:1]) != distance(a, a[:1])  # NaN
    kernel = KernelDistance(Features(8))
    kernel.update(a[:1], real=True)
    kernel.update(a, real=False)
    assert kernel.compute()[0].isnan()


@pytest.mark.parametrize(("n", "expected"), [(16, 727), (128, 435), (512, 158)])
def test_few_samples_lie_far_apart_though_they_are_of_one_distribution(n, expected):
    generator = torch.Generator().manual_seed(n)
    a, b = (torch.randn(n, 400, generator=generator, dtype=torch.float64) for _ in range(2))
    assert distance(a, b) == pytest.approx(expected, rel=0.1)


def test_kid_of_equal_sets_is_about_zero_and_repeats(sets):
    a, b = sets

    def kid(x, y):
        metric = KernelDistance(Features(8), subset_size=100)
        metric.update(x, real=True)
        metric.update(y, real=False)
        return metric.compute()[0].item()

    assert abs(kid(a, a)) < 0.15 * kid(a, b)
    assert kid(a, b) == kid(a, b)


def test_clips_are_consecutive_and_whole():
    frames = torch.arange(37, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    clips = consecutive_clips(frames)
    assert clips[:, :, 0, 0, 0].tolist() == [list(range(16)), list(range(16, 32))]
    assert consecutive_clips(frames[:15]).shape == (0, 16, 3, 4, 4)


def test_square_frames_are_the_same_to_both_variants_and_stay_as_they_are():
    clips = torch.randint(0, 256, (1, 3, 3, 20, 20), dtype=torch.uint8)
    before = clips.clone()
    torch.testing.assert_close(squeezed_clips(clips, 32), cropped_clips(clips, 32), atol=1e-5, rtol=0)
    assert torch.equal(clips, before)
    wide = torch.randint(0, 256, (1, 2, 3, 20, 40), dtype=torch.uint8)
    assert squeezed_clips(wide, 32).shape == cropped_clips(wide, 32).shape == (1, 3, 2, 32, 32)


def test_video_features_prepare_and_ask_the_network():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            assert x.shape == (2, 3, 16, 224, 224)
            return x.mean(dim=(2, 3, 4)).repeat(1, 134)[:, :400]

    white = torch.full((2, 16, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.allclose(VideoFeatures(Mean())(white), torch.ones(2, 400))
