import pytest
import torch

from src.nn.i3d import I3D, MaxPool, pad_same


@pytest.fixture(scope="module")
def net() -> I3D:
    return I3D()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(8, 7, 2, (2, 3)), (9, 7, 2, (3, 3)), (5, 3, 1, (1, 1)), (4, 2, 2, (0, 0)), (5, 2, 2, (0, 1)), (4, 1, 1, (0, 0))],
)
def test_padding_puts_the_odd_zero_at_the_end(size, kernel, stride, expected):
    x = torch.ones(1, 1, size, 1, 1)
    padded = pad_same(x, (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    before, after = expected
    assert padded.tolist() == [0.0] * before + [1.0] * size + [0.0] * after


def test_pools_find_zeros_beyond_the_clip():
    x = torch.full((1, 1, 3, 4, 4), -1.0)
    assert MaxPool((1, 3, 3), (1, 2, 2))(x)[0, 0, 0].tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_clips_that_are_too_short_are_refused(net):
    with pytest.raises(ValueError, match="at least 9 frames of 224x224, found \\(8, 224, 224\\)"):
        net(torch.zeros(1, 3, 8, 224, 224))


def test_it_stays_in_eval_mode_and_has_nothing_to_train(net):
    assert not net.train().training
    assert not any(p.requires_grad for p in net.parameters())
