import torch

from src.nn.adversarial import discriminator_loss, feature_matching, generator_loss


def test_hinge_stops_at_the_margin():
    sure = torch.full((1, 1, 2, 2), 1.5)
    assert discriminator_loss(sure, -sure).item() == 0
    assert discriminator_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 1
    assert discriminator_loss(-sure, sure).item() == 2.5


def test_the_generator_wants_large_logits():
    assert generator_loss(torch.tensor([[[[1.0, 3.0]]]])).item() == -2


def test_logits_of_clips_are_judged_like_those_of_pictures():
    logits = torch.randn(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    flat = logits.flatten(2, 3)
    assert torch.allclose(discriminator_loss(logits, -logits), discriminator_loss(flat, -flat))


def test_features_are_compared_stage_by_stage_and_real_ones_are_fixed():
    generated = [torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 3, requires_grad=True)]
    real = [torch.ones(1, 2, requires_grad=True), torch.full((1, 3), 2.0, requires_grad=True)]
    loss = feature_matching(generated, real)
    loss.backward()
    assert loss.item() == 3
    assert real[0].grad is None
    assert generated[0].grad is not None
