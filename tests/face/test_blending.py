"""What is pasted takes on the colours around it, and keeps its details."""

import numpy as np
import torch

from src.face.blending import colour_matched, continued
from src.face.masks import feathered

RNG = np.random.default_rng(0)
SIZE = 48


def regions(n: int = 1) -> np.ndarray:
    inside = np.zeros((n, SIZE, SIZE), np.bool_)
    inside[:, 12:40, 10:38] = True
    return inside


def test_a_shift_of_colour_is_undone_and_details_stay():
    known = RNG.integers(60, 180, (2, SIZE, SIZE, 3), dtype=np.uint8)
    shifted = (known.astype(int) + [25, -18, 9]).astype(np.uint8)
    weights = feathered(regions(2), 6.0)[..., None]
    np.testing.assert_allclose(colour_matched(shifted, known, weights), known, atol=1)


def test_a_slope_of_colour_is_followed():
    known = np.full((1, SIZE, SIZE, 3), 100, np.uint8)
    slope = np.linspace(-30, 30, SIZE)[None, None, :, None]
    made = np.rint(known + slope).astype(np.uint8)
    found = colour_matched(made, known, feathered(regions(), 6.0)[..., None])
    inside = np.abs(found.astype(int) - 100)[regions()]
    assert inside.mean() < 5  # of 13 before


def test_the_middle_is_not_compared():
    """What the source shows in the middle, its own mouth, must not come through."""
    known = np.full((1, SIZE, SIZE, 3), 100, np.uint8)
    other = known.copy()
    other[:, 22:30, 20:28] = 0
    made = np.full_like(known, 120)
    weights = feathered(regions(), 5.0)[..., None]
    np.testing.assert_array_equal(colour_matched(made, known, weights), colour_matched(made, other, weights))


def test_without_a_border_nothing_changes():
    made, known = RNG.integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
    for weights in (np.zeros((1, 16, 16, 1), np.uint8), np.full((1, 16, 16, 1), 255, np.uint8)):
        np.testing.assert_array_equal(colour_matched(made, known, weights), made)


def test_continued_values_lie_between_the_known_ones():
    values = torch.zeros(1, 1, 33, 20)
    values[..., 0], values[..., -1] = -1.0, 2.0
    weights = torch.zeros(1, 1, 33, 20)
    weights[..., 0] = weights[..., -1] = 1.0
    found = continued(values, weights)
    assert found.min() >= -1
    assert found.max() <= 2
    assert torch.equal(found[..., 0], values[..., 0])
    rows = found[0, 0].mean(0)
    assert (rows.diff() > -0.05).all()  # rises from one side to the other
