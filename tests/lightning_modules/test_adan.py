"""Adan: what it does with its first step, with no gradient, and with wrong settings."""

from copy import deepcopy

import pytest
import torch

from src.errors import ConfigError
from src.lightning_modules.adan import Adan


def test_it_finds_a_minimum():
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Adan([weight], lr=0.1, weight_decay=0.0)
    for _ in range(400):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.ones(2), atol=0.05, rtol=0)


def test_the_first_step_only_decays():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    Adan([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1 / 1.05))


def test_its_state_is_saved_and_restored():
    def run(steps, optimizer, weight):
        for step in steps:
            weight.grad = torch.full((2,), float(step))
            optimizer.step()

    first = torch.nn.Parameter(torch.ones(2))
    optimizer = Adan([first])
    run(range(3), optimizer, first)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = Adan([second])
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    run(range(3, 5), optimizer, first)
    run(range(3, 5), resumed, second)
    assert torch.equal(first, second)


def test_wrong_settings_are_told():
    with pytest.raises(ConfigError, match="betas"):
        Adan([torch.nn.Parameter(torch.ones(1))], betas=(0.9, 0.99))
