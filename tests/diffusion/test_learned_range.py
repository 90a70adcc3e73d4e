import copy
import math

import pytest
import torch
from torch import Tensor, nn

from src.diffusion.learned_range import LearnedRangeDiffusion, cosine_betas
from src.errors import ConfigError

DIFFUSION = LearnedRangeDiffusion()
GENERATOR = torch.Generator().manual_seed(0)
CLEAN = torch.rand(6, 3, 4, 4, generator=GENERATOR) * 1.8 - 0.9
NOISE = torch.randn(6, 3, 4, 4, generator=GENERATOR)
T = torch.tensor([0, 1, 50, 400, 800, 999])
NOISY = DIFFUSION.q_sample(CLEAN, T, NOISE)


def with_nu(noise: Tensor, nu: float) -> Tensor:
    return torch.cat([noise, torch.full_like(noise, nu)], dim=1)


def test_betas_follow_the_cosine():
    def signal(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = cosine_betas(1000)
    for t in (0, 1, 500, 990):
        assert betas[t].item() == pytest.approx(1 - signal(t + 1) / signal(t), rel=1e-6)
    assert betas[999].item() == pytest.approx(0.999)
    assert DIFFUSION.alphas_cumprod[999].item() == pytest.approx(2.43e-9, rel=1e-2)
    assert DIFFUSION.clean_from_noisy[999].item() == pytest.approx(20291, rel=1e-3)


def test_a_perfect_prediction_gives_the_clean_sample_and_the_posterior_mean():
    prediction = DIFFUSION.predict(NOISE, NOISY, T)
    exact = T < 900  # at the noisy end float32 cannot tell the sample from its noise
    torch.testing.assert_close(prediction.clean[exact], CLEAN[exact], atol=1e-3, rtol=0)
    posterior = DIFFUSION.posterior(CLEAN, NOISY, T)
    torch.testing.assert_close(prediction.step.mean[exact], posterior.mean[exact], atol=1e-3, rtol=0)


def test_the_clean_sample_is_clipped():
    prediction = DIFFUSION.predict(NOISE + 5, NOISY, T)
    assert prediction.clean.abs().max() <= 1


def test_nu_moves_the_variance_between_its_bounds_and_beyond():
    upper = DIFFUSION.betas[T].log()
    lower = DIFFUSION.log_posterior_variances[T]
    for nu, expected in ((1.0, upper), (-1.0, lower), (0.0, (upper + lower) / 2), (3.0, 2 * upper - lower)):
        log_variance = DIFFUSION.predict(with_nu(NOISE, nu), NOISY, T).step.log_variance
        torch.testing.assert_close(log_variance, expected[:, None, None, None].expand_as(NOISY))
    fixed = DIFFUSION.predict(NOISE, NOISY, T).step.log_variance
    torch.testing.assert_close(fixed, upper[:, None, None, None].expand_as(NOISY))


def test_the_bound_is_zero_where_the_network_knows_the_posterior():
    exact = (T > 0) & (T < 900)
    terms = DIFFUSION.terms(with_nu(NOISE, -1.0), CLEAN, NOISY, T, NOISE)
    assert terms.simple.abs().max() == 0
    assert terms.vlb is not None
    assert terms.vlb[exact].abs().max() < 1e-3
    worse = DIFFUSION.terms(with_nu(NOISE + 0.1, 0.5), CLEAN, NOISY, T, NOISE)
    assert (worse.vlb[exact] > 0.01 * terms.vlb[exact] + 1e-6).all()
    torch.testing.assert_close(worse.simple, torch.full((6,), 0.01))


def test_the_bound_trains_the_variance_alone():
    noise, nu = (NOISE + 0.1).requires_grad_(), torch.zeros_like(NOISE).requires_grad_()
    terms = DIFFUSION.terms(torch.cat([noise, nu], dim=1), CLEAN, NOISY, T, NOISE)
    terms.vlb.sum().backward(retain_graph=True)
    assert (noise.grad == 0).all()
    assert torch.isfinite(nu.grad).all()
    assert (nu.grad != 0).any(dim=(1, 2, 3)).all()
    nu.grad = None
    terms.simple.sum().backward()
    assert nu.grad is None or (nu.grad == 0).all()
    assert (noise.grad != 0).all()


def test_a_fixed_variance_has_no_bound():
    assert DIFFUSION.terms(NOISE, CLEAN, NOISY, T, NOISE).vlb is None


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="5 output channels for samples of 3: expected 3 or 6"):
        DIFFUSION.predict(torch.zeros(6, 5, 4, 4), NOISY, T)


def test_respacing_keeps_the_noise_levels_and_the_original_time_steps():
    for steps in (7, 100, 200, 1000):
        short = DIFFUSION.respaced(steps)
        assert len(short) == steps
        assert short.timesteps[[0, -1]].tolist() == [0, 999]
        kept = DIFFUSION.alphas_cumprod[short.timesteps]
        torch.testing.assert_close(short.alphas_cumprod[:-1], kept[:-1], rtol=1e-3, atol=0)
        assert short.alphas_cumprod[-1] < 1e-8  # of 1 - beta, float32 keeps no digits here
    assert DIFFUSION.respaced(10).timesteps.tolist() == list(range(0, 1000, 111))


def test_respacing_changes_nothing_and_can_be_repeated():
    before = copy.deepcopy(dict(DIFFUSION.named_buffers()))
    again = DIFFUSION.respaced(500).respaced(10)
    assert again.timesteps[[0, -1]].tolist() == [0, 999]
    assert torch.equal(DIFFUSION.respaced(10).betas, DIFFUSION.respaced(10).betas)
    for name, table in DIFFUSION.named_buffers():
        assert torch.equal(table, before[name]), name


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6])
def test_too_few_steps_are_named_before_they_give_nan(steps):
    with pytest.raises(ConfigError, match=rf"steps={steps} is too few.*at least 7, or another sampler") as error:
        DIFFUSION.respaced(steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_impossible_numbers_of_steps_are_named(steps):
    with pytest.raises(ConfigError, match=rf"steps={steps}: the ancestral sampler needs 2 to 1000 steps"):
        DIFFUSION.respaced(steps)
    with pytest.raises(ConfigError, match="at least 2 time steps"):
        LearnedRangeDiffusion(1)


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double()])
def test_tables_are_never_rounded(cast):
    module = nn.ModuleDict({"net": nn.Linear(2, 2), "diffusion": LearnedRangeDiffusion(50)})
    tables = {name: table.clone() for name, table in module["diffusion"].named_buffers()}
    cast(module)
    assert module["net"].weight.dtype != torch.float32
    for name, table in module["diffusion"].named_buffers():
        assert table.dtype == tables[name].dtype
        assert torch.equal(table, tables[name]), name


def test_tables_follow_the_device_and_are_not_in_checkpoints():
    assert DIFFUSION.state_dict() == {}
    moved = copy.deepcopy(DIFFUSION).to("meta")
    assert {table.device.type for table in moved.buffers()} == {"meta"}
    with torch.device("meta"):
        built = nn.ModuleDict({"diffusion": LearnedRangeDiffusion(50)})
    built.to_empty(device="cpu")
    assert torch.equal(built["diffusion"].betas, cosine_betas(50))


def test_half_precision_outputs_are_computed_with_in_float32():
    prediction = DIFFUSION.predict(with_nu(NOISE, 0.0).half(), NOISY, T)
    assert prediction.step.mean.dtype == prediction.clean.dtype == torch.float32
    assert torch.isfinite(prediction.step.mean).all()
