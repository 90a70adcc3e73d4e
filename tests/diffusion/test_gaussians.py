import pytest
import torch
from torch.distributions import Normal, kl_divergence

from src.diffusion.gaussians import gaussian_kl, normal_cdf, pixel_nll

GENERATOR = torch.Generator().manual_seed(0)
MEAN1, LOG1, MEAN2, LOG2 = torch.randn(4, 200, generator=GENERATOR)


def test_divergence_is_that_of_the_library():
    expected = kl_divergence(Normal(MEAN1, (LOG1 / 2).exp()), Normal(MEAN2, (LOG2 / 2).exp()))
    torch.testing.assert_close(gaussian_kl(MEAN1, LOG1, MEAN2, LOG2), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(gaussian_kl(MEAN1, LOG1, MEAN1, LOG1), torch.zeros(200))


def test_distribution_function_is_close_to_the_exact_one():
    x = torch.linspace(-5, 5, 1001)
    assert (normal_cdf(x) - Normal(0.0, 1.0).cdf(x)).abs().max() < 2e-4


def test_probabilities_of_all_grey_levels_add_up_to_one():
    levels = torch.arange(256) / 255 * 2 - 1
    for mean, std in ((0.0, 0.3), (-0.98, 0.05), (0.4, 0.01)):
        nll = pixel_nll(levels, torch.full((256,), mean), torch.full((256,), std).log())
        assert (-nll).exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_an_impossible_pixel_has_a_finite_price_and_gradient():
    mean = torch.tensor([-1.0], requires_grad=True)
    nll = pixel_nll(torch.tensor([0.9]), mean, torch.tensor([-7.0]))
    assert nll.item() == pytest.approx(27.631, abs=1e-3)  # -log 1e-12
    nll.sum().backward()
    assert torch.isfinite(mean.grad).all()
