"""Losses on key points: what they are zero for, and what makes them larger."""

import pytest
import torch

from src.nn.liveportrait.losses import (
    GUIDE_LANDMARKS,
    RandomWarp,
    deformation_prior,
    discriminator_loss,
    equivariance_loss,
    generator_loss,
    guide_loss,
    head_pose_loss,
    keypoint_prior,
    wing_loss,
)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_key_points_far_apart_at_the_right_depth_cost_nothing():
    points = torch.tensor([[[-0.9, 0.0, 0.33], [0.0, 0.0, 0.33], [0.9, 0.0, 0.33]]])
    assert keypoint_prior(points).item() == pytest.approx(0, abs=1e-6)
    crowded = points.clone()
    crowded[0, 1, 0] = -0.8  # a squared distance of 0.01, counted from both points
    assert keypoint_prior(crowded).item() == pytest.approx(2 * 0.09, abs=1e-6)
    assert keypoint_prior(points + torch.tensor([0, 0, 0.1])).item() == pytest.approx(0.1, abs=1e-6)


def test_wing_loss_is_continuous_and_linear_far_away():
    zero = torch.zeros(1, 1, 2)
    near, far, farther = (wing_loss(zero + x, zero).item() for x in (9.9999, 10.0, 12.0))
    assert near == pytest.approx(far, abs=1e-3)
    assert farther - far == pytest.approx(2, abs=1e-5)
    assert wing_loss(zero, zero).item() == 0


def test_key_points_on_their_landmarks_are_guided_no_further():
    landmarks = uniform(2, 68, 2)
    kp = uniform(2, 21, 3, seed=1)
    kp[:, : len(GUIDE_LANDMARKS), :2] = 2 * landmarks[:, list(GUIDE_LANDMARKS)] - 1
    assert guide_loss(kp, landmarks).item() == pytest.approx(0, abs=1e-5)
    assert guide_loss(kp + 0.1, landmarks).item() > 0.01


def test_a_warp_without_weights_changes_nothing():
    identity = RandomWarp(torch.eye(2, 3)[None], torch.zeros(1, 25))
    frames, points = uniform(1, 3, 8, 12), uniform(1, 7, 2)
    assert torch.allclose(identity.frames(frames), frames, atol=1e-5)
    assert torch.allclose(identity.points(points), points)


def test_points_found_in_a_warped_frame_lie_where_the_warp_says():
    warp = RandomWarp.draw(1, torch.Generator().manual_seed(3))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    coordinates = torch.stack([x, y])[None]  # a frame whose pixels say where they lie
    shown = warp.frames(coordinates)[0, :, 20:45, 20:45].flatten(1).mT
    places = coordinates[0, :, 20:45, 20:45].flatten(1).mT
    assert torch.allclose(warp.points(places[None])[0], shown, atol=1e-5)
    assert not torch.allclose(places, shown, atol=1e-2)


def test_equivariance_asks_for_points_that_move_with_the_frame():
    warp = RandomWarp.draw(2, torch.Generator().manual_seed(4))
    kp_of_warped = uniform(2, 21, 3)
    kp = torch.cat([warp.points(kp_of_warped[..., :2]), uniform(2, 21, 1, seed=5)], dim=2)
    assert equivariance_loss(kp, kp_of_warped, warp).item() == pytest.approx(0, abs=1e-7)
    assert equivariance_loss(kp_of_warped, kp_of_warped, warp).item() > 0.01


def test_the_simple_terms():
    assert deformation_prior(torch.tensor([[[0.1, -0.3, 0.2]]])).item() == pytest.approx(0.2)
    assert head_pose_loss(torch.zeros(2, 3), torch.tensor([[3.0, 0, 0], [0, 3, 0]])).item() == pytest.approx(1)
    fooled, caught = torch.full((2, 1), 5.0), torch.full((2, 1), -5.0)
    assert generator_loss(fooled) < generator_loss(caught)
    assert discriminator_loss(fooled, caught) < discriminator_loss(caught, fooled)
