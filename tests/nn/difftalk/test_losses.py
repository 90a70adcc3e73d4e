import pytest
import torch

from src.nn.difftalk.losses import adaptive_weight


def test_the_weight_makes_the_gradients_equally_long():
    layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    reconstruction, adversarial = 2 * layer.square().sum(), 0.5 * layer.sum()
    weight = adaptive_weight(reconstruction, adversarial, layer)
    assert weight.item() == pytest.approx(20 / (0.5**0.5 + 1e-4), rel=1e-5)
    assert not weight.requires_grad
    (reconstruction + weight * adversarial).backward()  # both graphs are still there
    assert layer.grad is not None
    assert torch.allclose(layer.grad, torch.tensor([12.0, 16.0]) + 0.5 * weight)


def test_the_weight_is_limited():
    layer = torch.nn.Parameter(torch.ones(1))
    assert adaptive_weight(100 * layer.sum(), 0 * layer.sum(), layer).item() == 1e4
