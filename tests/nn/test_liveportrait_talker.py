"""The networks between a voice and LivePortrait's lips, and what moves the head and the eyes."""

import pytest
import torch

from src.nn.fan import heatmap_peaks
from src.nn.liveportrait import Motion
from src.nn.liveportrait.keypoints import LIP
from src.nn.liveportrait_talker import ExpNet, MappingNet, PoseVAE, coefficient_windows, lip_loss
from src.nn.liveportrait_talker.blinks import draw_blinks, eye_openings
from src.nn.liveportrait_talker.driving import driving_key_points
from src.nn.liveportrait_talker.head_motion import Sway, speaking, speaking_weights, sway_rotations, synthetic_rotations
from src.nn.retinaface import anchors, detections


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def motion(n: int) -> Motion:
    g = generator(n)
    angles = {name: torch.randn(n, 1, generator=g) * 5 for name in ("pitch", "yaw", "roll")}
    points = {name: torch.randn(n, 21, 3, generator=g) * 0.1 for name in ("exp", "kp")}
    return Motion(t=torch.randn(n, 3, generator=g) * 0.1, scale=torch.rand(n, 1, generator=g) + 1, **angles, **points)


def test_mapping_net_takes_windows_from_its_least_length_on():
    net = MappingNet(n_coefficients=4, width=8)
    assert net.least_frames == 25
    assert net(torch.randn(2, 4, 25)).shape == net(torch.randn(2, 4, 29)).shape == (2, 6, 3)
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 4, 24))


def test_windows_hold_their_frame_at_its_place_and_repeat_the_ends():
    windows = coefficient_windows(torch.arange(5.0)[:, None], (2, 1))
    assert windows[:, 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 4]]


def test_the_loss_sees_the_lips_alone():
    expression = torch.zeros(1, 21, 3)
    expression[:, list(LIP)] = 1.0
    assert lip_loss(torch.ones(1, 6, 3), expression.flatten(1)) == 0
    assert lip_loss(torch.zeros(1, 6, 3), expression.flatten(1)) == 1


def test_expressions_of_a_frame_depend_on_its_own_window():
    net = ExpNet().eval()
    mels, reference = torch.randn(1, 3, 80, 16, generator=generator()), torch.zeros(1, 3, 64)
    other = mels.clone()
    other[:, 1] += 1
    with torch.no_grad():
        changed = (net(mels, reference) - net(other, reference)).abs().amax(dim=(0, 2))
    assert changed[1] > 1e-5
    assert changed[[0, 2]].max() < 1e-6


@pytest.mark.parametrize("n_frames", [2, 33, 40])
def test_poses_begin_with_the_reference(n_frames: int):
    net = PoseVAE().eval()
    reference = torch.randn(1, 6, generator=generator())
    noise = torch.randn(net.n_chunks(n_frames), 1, 64, generator=generator())
    with torch.no_grad():
        poses = net(torch.zeros(1, n_frames, 80, 16), reference, noise)
    assert poses.shape == (1, n_frames, 6)
    torch.testing.assert_close(poses[:, 0], reference)
    with pytest.raises(ValueError, match="draws of noise"):
        net(torch.zeros(1, n_frames, 80, 16), reference, torch.cat([noise, noise]))


@pytest.mark.parametrize("n_frames", [0, 20, 21, 22, 200])
def test_blinks_end_before_the_video_does(n_frames: int):
    starts = draw_blinks(n_frames, lambda low, high: int(torch.randint(low, high, ())))
    assert starts == sorted(starts)
    assert all(start >= 10 and start + 5 <= n_frames - 1 for start in starts)
    assert bool(starts) == (n_frames > 21)


def test_eyes_are_closed_in_the_middle_of_a_blink():
    openings = eye_openings(20, [10], 0.4, 0.2)
    torch.testing.assert_close(openings[9:16, 0], torch.tensor([0.4, 0.4, 0.2, 0.0, 0.2, 0.4, 0.4]))
    torch.testing.assert_close(openings[:, 1], openings[:, 0] / 2)


def test_the_head_rests_where_the_lips_do():
    lips = torch.zeros(60, 2, 3)
    lips[:20] = torch.rand(20, 2, 3, generator=generator())
    weights = speaking_weights(speaking(lips))
    assert (weights[:15] == 1).all()
    assert (weights[30:50] == 0).all()
    source = torch.tensor([1.0, -2.0, 3.0])
    rotations = sway_rotations(Sway.draw(60, generator()), weights, source)
    assert (rotations[30:50] - rotations[30]).abs().max() < 1e-6
    assert (rotations[:15] - rotations[30]).abs().max() > 1e-3


def test_synthetic_rotations_stay_within_three_degrees():
    lips = torch.rand(100, 2, 3, generator=generator())
    rotations = synthetic_rotations(lips, Sway.draw(100, generator(1)), torch.zeros(3))
    angle = torch.rad2deg(torch.arccos(((rotations.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1)))
    assert angle.max() < 5.5  # three axes at three degrees
    assert angle.max() > 0.1


def test_a_voice_moves_the_lips_of_a_picture_alone():
    source, lips = motion(1), torch.randn(4, 6, 3, generator=generator()) * 0.01
    x_s, x_d = driving_key_points(source, lips)
    assert x_s.shape == x_d.shape == (4, 21, 3)
    others = [i for i in range(21) if i not in LIP]
    torch.testing.assert_close(x_d[:, others], x_s[:, others])
    torch.testing.assert_close(x_d[0], x_s[0])
    expected = source.scale[..., None] * (lips - lips[:1])
    torch.testing.assert_close((x_d - x_s)[:, list(LIP)], expected, atol=1e-5, rtol=0)


def test_a_video_keeps_its_own_motion_and_the_lips_of_its_first_frame():
    source, lips = motion(3), torch.zeros(3, 6, 3)
    x_s, x_d = driving_key_points(source, lips)
    others = [i for i in range(21) if i not in LIP]
    torch.testing.assert_close(x_d[:, others], x_s[:, others])
    torch.testing.assert_close(x_d[0], x_s[0], atol=1e-5, rtol=0)


def test_the_multiplier_scales_motion_and_pupils_turn_eyes():
    source, lips = motion(1), torch.zeros(2, 6, 3)
    x_s, once = driving_key_points(source, lips, pupils=(10.0, 5.0))
    _, twice = driving_key_points(source, lips, pupils=(10.0, 5.0), multiplier=2.0)
    torch.testing.assert_close(twice - x_s, 2 * (once - x_s), atol=1e-6, rtol=0)
    moved = (once - x_s)[0].abs().amax(dim=1) > 1e-5
    assert moved.nonzero().flatten().tolist() == [11, 15]


def test_peaks_lean_towards_their_higher_neighbours():
    heatmaps = torch.zeros(1, 1, 64, 64)
    heatmaps[0, 0, 20, 30:33] = torch.tensor([0.1, 1.0, 0.5])
    heatmaps[0, 0, 19, 31] = 0.3
    assert heatmap_peaks(heatmaps).tolist() == [[[31 + 0.75, 20 + 0.25]]]


def test_an_anchor_that_is_sure_becomes_a_face():
    n = len(anchors(64, 64))
    scores = torch.tensor([[1.0, 0.0]]).repeat(n, 1)
    scores[[5, 40]] = torch.tensor([0.01, 0.99])
    found = detections(torch.zeros(n, 4), scores, torch.zeros(n, 10), (64, 64))
    prior = anchors(64, 64)[[5, 40]] * 64
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert {tuple(c) for c in centres.tolist()} == {tuple(c) for c in prior[:, :2].tolist()}
    torch.testing.assert_close(found.landmarks, centres[:, None].expand(-1, 5, -1))
