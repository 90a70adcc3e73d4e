"""Muon beside AdamW: every parameter learns, schedules and saved states hold for both, memory formats do not matter."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.errors import CheckpointError, ConfigError
from src.lightning_modules.muon import MuonWithAdamW


def network(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(128, 5))
    return net.to(memory_format=memory_format)


def run(net, optimizer, steps):
    for step in steps:
        x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.mse_loss(net(x), x.mean(dim=(2, 3)) @ torch.ones(3, 5)).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_it_learns_and_moves_every_parameter():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    x = torch.randn(64, 3, 4, 4)
    wanted = x.mean(dim=(2, 3)) @ torch.ones(3, 5)
    error = F.mse_loss(net(x), wanted).item()
    after = run(net, MuonWithAdamW(net.parameters()), range(60))
    assert F.mse_loss(net(x), wanted).item() < 0.3 * error
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_its_groups_hold_the_parameters_themselves():
    net = network()
    optimizer = MuonWithAdamW(net.parameters(), lr=1e-3, matrix_lr=0.02)
    held = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p): (0.02 if p.ndim > 1 else 1e-3) for p in net.parameters()}


def test_convolutions_laid_out_by_channels_move_alike():
    plain, channels_last = network(), network(torch.channels_last)
    assert not channels_last[0].weight.is_contiguous()
    a = run(plain, MuonWithAdamW(plain.parameters()), range(3))
    b = run(channels_last, MuonWithAdamW(channels_last.parameters()), range(3))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # Muon works in bfloat16


def test_a_resumed_run_is_the_uninterrupted_one():
    first = network()
    optimizer = MuonWithAdamW(first.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    run(first, optimizer, range(3))
    schedule.step()
    second = deepcopy(first)
    resumed = MuonWithAdamW(second.parameters())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    assert [group["lr"] for group in resumed.param_groups] == [0.006, 3e-4]
    for one, other in zip(run(first, optimizer, range(3, 6)), run(second, resumed, range(3, 6)), strict=True):
        assert torch.equal(one, other)


def test_a_rate_of_zero_moves_nothing():
    net = network()
    optimizer = MuonWithAdamW(net.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, run(net, optimizer, range(2)), strict=True))


def test_networks_without_matrices_and_without_others():
    for parameter in (nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 2))):
        optimizer = MuonWithAdamW([parameter])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert not torch.equal(parameter.detach(), torch.ones_like(parameter))


def test_the_state_of_another_optimiser_is_refused():
    net = network()
    with pytest.raises(CheckpointError, match="trained with another optimiser than MuonWithAdamW"):
        MuonWithAdamW(net.parameters()).load_state_dict(torch.optim.AdamW(net.parameters()).state_dict())


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="empty parameter list"):
        MuonWithAdamW([])
    with pytest.raises(ConfigError, match="betas"):
        MuonWithAdamW([nn.Parameter(torch.ones(2, 2))], betas=(0.9, 1.5))
