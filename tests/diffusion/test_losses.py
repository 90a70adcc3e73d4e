import pytest
import torch

from src.diffusion.losses import denoising_error

B = 3


def setup() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clean, noise, estimate = (torch.randn(B, 3, 4, 4, generator=generator) for _ in range(3))
    return clean, noise, estimate, torch.tensor([0.99, 0.4, 0.01])


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_costs_nothing(prediction_type):
    clean, noise, _, ab = setup()
    a, s = ab.sqrt().reshape(B, 1, 1, 1), (1 - ab).sqrt().reshape(B, 1, 1, 1)
    target = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[prediction_type]
    assert denoising_error(target, clean, noise, ab, prediction_type).max().item() == pytest.approx(0, abs=1e-12)


def test_noise_and_sample_prediction_have_the_same_loss_for_the_same_estimate():
    """An estimate of x_0 and the estimate of eps that follows from it by x_t = a x_0 + s eps."""
    clean, noise, estimate, ab = setup()
    a, s = ab.sqrt().reshape(B, 1, 1, 1), (1 - ab).sqrt().reshape(B, 1, 1, 1)
    estimated_noise = (a * clean + s * noise - a * estimate) / s
    torch.testing.assert_close(
        denoising_error(estimate, clean, noise, ab, "sample").mean(),
        denoising_error(estimated_noise, clean, noise, ab, "epsilon").mean(),
    )


def test_the_loss_is_computed_in_float32():
    clean, noise, estimate, ab = setup()
    assert denoising_error(estimate.bfloat16(), clean, noise, ab, "epsilon").dtype == torch.float32


def test_an_unknown_prediction_type_is_refused():
    clean, noise, estimate, ab = setup()
    with pytest.raises(ValueError, match="epsilon, sample or v_prediction"):
        denoising_error(estimate, clean, noise, ab, "score")


@pytest.mark.parametrize("limits", [(5.0, None), (None, 1.0), (5.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_limits_hold_for_the_weight_of_the_error_of_x_0(prediction_type, limits):
    """Whatever the network predicts, the error of x_0 that follows from it weighs snr in these limits  (arXiv:2303.09556, section 3.4)."""
    torch.manual_seed(0)
    ab = torch.tensor([0.999, 0.7, 0.05])
    clean, noise, x_0 = torch.randn(3, 3, 2, 4, 4).unbind(1)
    a, b = ab.sqrt().reshape(-1, 1, 1, 1), (1 - ab).sqrt().reshape(-1, 1, 1, 1)
    noisy = a * clean + b * noise
    eps = (noisy - a * x_0) / b
    output = {"epsilon": eps, "sample": x_0, "v_prediction": a * eps - b * x_0}[prediction_type]
    weight = (ab / (1 - ab)).clamp(min=limits[1], max=limits[0]).reshape(-1, 1, 1, 1)
    expected = (weight * (x_0 - clean).square()).mean()
    torch.testing.assert_close(
        denoising_error(output, clean, noise, ab, prediction_type, *limits).mean(), expected, rtol=1e-3, atol=0
    )
