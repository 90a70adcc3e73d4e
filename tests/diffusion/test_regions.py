import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.diffusion.regions import box_means, boxed_loss, mouth_box


def lips(*corners: tuple[float, float, float, float]) -> torch.Tensor:
    """Per frame a few points that span x0, y0, x1, y1."""
    return torch.tensor([[(x0, y0), (x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2)] for x0, y0, x1, y1 in corners])


def test_the_box_has_a_margin_and_stays_in_the_frame():
    points = lips((10.2, 20.7, 14.9, 22.1), (1.0, 2.0, 30.5, 39.0))
    assert mouth_box(points, (40, 32)).tolist() == [[15, 28, 5, 20], [0, 40, 0, 32]]  # rows of y, columns of x
    assert mouth_box(points, (40, 32), margin=0).tolist()[0] == [20, 23, 10, 15]


def test_lips_outside_the_frame_or_unknown_give_an_empty_box_that_counts_nothing():
    nan = float("nan")
    points = lips((50.0, 50.0, 60.0, 60.0), (-40.0, 5.0, -20.0, 9.0), (nan, nan, nan, nan), (8.0, 8.0, 12.0, 12.0))
    boxes = mouth_box(points, (32, 32))
    values = torch.full((4, 3, 32, 32), 7.0, requires_grad=True)
    assert box_means(values, boxes).tolist() == [0, 0, 0, 7]
    loss = boxed_loss(values, boxes)
    assert loss.item() == 7  # the mean over the one frame that has a box
    loss.backward()
    assert torch.isfinite(values.grad).all()
    assert (values.grad[:3] == 0).all()


def test_a_batch_without_any_box_has_no_loss():
    boxes = mouth_box(torch.full((2, 20, 2), float("nan")), (16, 16))
    assert boxed_loss(torch.ones(2, 3, 16, 16), boxes).item() == 0


@given(st.lists(st.integers(0, 12), min_size=8, max_size=8))
def test_means_are_those_of_the_cut_out_box(edges):
    boxes = torch.tensor(edges).reshape(2, 2, 2).sort(dim=2).values.reshape(2, 4)
    values = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    means = box_means(values, boxes)
    for value, mean, (row0, row1, column0, column1) in zip(values, means, boxes.tolist(), strict=True):
        part = value[:, row0:row1, column0:column1]
        assert mean.item() == pytest.approx(part.mean().item() if part.numel() else 0.0, abs=1e-5)
