import pytest
import torch
from torch import nn

from src.nn.difftalk import PatchDiscriminator


def test_official_size():
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 2_765_633


@pytest.mark.parametrize(("n_layers", "side"), [(1, 14), (2, 6), (3, 2)])
def test_logits_of_patches(n_layers, side):
    assert PatchDiscriminator(channels=8, n_layers=n_layers)(torch.rand(2, 3, 32, 32)).shape == (2, 1, side, side)


def test_a_patch_is_all_that_a_logit_sees():
    net = PatchDiscriminator(channels=8).eval()
    frames = torch.rand(1, 3, 256, 256, requires_grad=True)
    logits = net(frames)
    logits[0, 0, 15, 15].backward()
    assert frames.grad is not None
    seen = frames.grad[0].abs().sum(dim=0)
    rows = seen.sum(dim=1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_initial_weights_are_small_and_normalisations_near_one():
    torch.manual_seed(0)
    for layer in PatchDiscriminator().main:
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight - 1).std().item() == pytest.approx(0.02, rel=0.2)
            assert not layer.bias.any()
