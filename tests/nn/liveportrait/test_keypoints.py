"""The algebra of key points: rotations, motion, smoothing, edits, corrections."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import ConfigError
from src.nn.liveportrait import Motion
from src.nn.liveportrait.corrections import Corrections, Ratios, corrected
from src.nn.liveportrait.expressions import EDITS, edited, gaze
from src.nn.liveportrait.keypoints import (
    LIP,
    degrees_of,
    drive,
    expression_subset,
    kalman_smooth,
    neutral_expression,
    rotation_matrix,
)
from src.nn.liveportrait_talker.driving import driving_key_points
from tests.portraits import tiny_portrait


def motion(n: int, seed: int = 0) -> Motion:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    angles = {name: 20 * normal(n, 1) for name in ("pitch", "yaw", "roll")}
    return Motion(
        t=0.1 * normal(n, 3), exp=0.02 * normal(n, 21, 3), scale=1.5 + 0.1 * normal(n, 1), kp=0.3 * normal(n, 21, 3), **angles
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-90, 90), min_size=3, max_size=3))
def test_rotations_keep_lengths_and_handedness(angles):
    rotation = rotation_matrix(*(torch.tensor([[float(angle)]]) for angle in angles))[0]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3), atol=1e-5)
    assert rotation.det().item() == pytest.approx(1, abs=1e-5)


def test_a_head_that_turns_by_yaw_moves_the_nose_sideways():
    nose = torch.tensor([0.0, 0.0, -1.0])
    zero = torch.zeros(1, 1)
    moved = nose @ rotation_matrix(zero, torch.full((1, 1), 90.0), zero)[0]
    assert moved.abs().argmax() == 0
    assert torch.allclose(moved.norm(), torch.tensor(1.0))


def test_bins_are_three_degrees_wide():
    logits = torch.full((2, 66), -1e4)
    logits[0, 0] = logits[1, 65] = 0
    assert torch.allclose(degrees_of(logits), torch.tensor([[-97.5], [97.5]]))
    assert degrees_of(torch.tensor([[12.0]])).item() == 12


def test_the_depth_does_not_move():
    some = motion(2)
    shifted = Motion(**{**vars(some), "t": some.t + torch.tensor([0.0, 0.0, 5.0])})
    assert torch.equal(some.points(), shifted.points())


@pytest.mark.parametrize("source_is_video", [False, True])
def test_a_driving_face_that_rests_moves_nothing(source_is_video):
    source, still = motion(3 if source_is_video else 1), motion(1, 1)[[0, 0, 0]]
    x_d = drive(source, still, source_is_video=source_is_video, smoothing=1e-12)
    assert torch.allclose(x_d, source.points().expand(3, -1, -1), atol=1e-2 if source_is_video else 1e-5)


def test_regions_leave_the_other_points_alone():
    source, driving = motion(1), motion(4, 1)
    rest = [i for i in range(21) if i not in LIP]
    x_d = drive(source, driving, region="lip")
    assert torch.allclose(x_d[:, rest], source.points()[:, rest].expand(4, -1, -1), atol=1e-6)
    assert not torch.allclose(x_d[1:, LIP], source.points()[:, LIP].expand(3, -1, -1), atol=1e-3)
    posed = drive(source, driving, region="pose", relative=False)
    assert torch.allclose(posed, Motion(**{**vars(driving), **own(source)}).points(), atol=1e-5)


def own(source: Motion) -> dict[str, torch.Tensor]:
    return {name: getattr(source, name).expand(4, *getattr(source, name).shape[1:]) for name in ("kp", "exp", "scale")}


def test_the_published_subset_has_its_points():
    assert expression_subset().sum() == 13 * 3 + 6
    assert neutral_expression()[0, 19, 1].item() == pytest.approx(-0.0150906)


def test_smoothing_keeps_constants_and_follows_ramps():
    constant = torch.full((10, 2), 3.0)
    assert torch.allclose(kalman_smooth(constant, 1e-2), constant)
    noisy = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) * 0.01
    assert kalman_smooth(noisy, 1e-4).std() < 0.7 * noisy.std()
    assert torch.allclose(kalman_smooth(noisy, 1e-12), noisy, atol=1e-6)


def test_smoothing_asks_no_device_for_float64(monkeypatch):
    called = []

    def noting(name: str):
        method = getattr(torch.Tensor, name)
        return lambda tensor: called.append(name) or method(tensor)

    for name in ("cpu", "double"):
        monkeypatch.setattr(torch.Tensor, name, noting(name))
    kalman_smooth(torch.zeros(3, 2), 1e-2)
    assert called == ["cpu", "double"]  # mps has none


def test_edits_add_up_and_unknown_ones_are_named():
    exp = torch.zeros(1, 21, 3)
    both = edited(exp, {"smile": 0.5, "lip_open": 30})
    assert torch.allclose(both, edited(exp, {"smile": 0.5}) + edited(exp, {"lip_open": 30}))
    assert edited(exp, {"move_x": 0.1})[0, 5, 0].item() == pytest.approx(-0.1)
    assert edited(exp, gaze(0, 10))[0, 11, 1].item() == pytest.approx(-0.01 + 0.005)
    assert torch.equal(edited(exp, dict.fromkeys(EDITS, 0)), exp)
    with pytest.raises(ConfigError, match="grimace=1: there is no such expression; choose from smile, "):
        edited(exp, {"grimace": 1})


def test_corrections_come_in_their_order():
    model, source = tiny_portrait(), motion(1)
    x_s, x_d = source.points(), drive(source, motion(3, 1))
    open_lips = Ratios(torch.full((1, 2), 0.3), torch.full((1, 1), 0.2))
    closed = Ratios(open_lips.eyes, torch.full((1, 1), 0.01))
    driving = Ratios(torch.full((3, 2), 0.1), torch.full((3, 1), 0.1))
    plain = corrected(model, x_s, x_d, open_lips, driving, Corrections())
    assert torch.equal(plain, x_s + (model.stitch(x_s, x_d) - x_s))
    lips = Corrections(normalize_lip=True)
    assert torch.equal(corrected(model, x_s, x_d, closed, driving, lips), plain)
    assert not torch.allclose(corrected(model, x_s, x_d, open_lips, driving, lips), plain)
    assert torch.equal(corrected(model, x_s, x_d, open_lips, driving, lips, relative=False), plain)
    frozen = corrected(model, x_s, x_d, open_lips, driving, Corrections(stitching=False, lip_retargeting=True))
    assert torch.allclose(frozen[0], frozen[2])  # the driving motion is replaced
    kept = Corrections(stitching=False, lip_retargeting=True, keep_driving=True)
    assert torch.allclose(corrected(model, x_s, x_d, open_lips, driving, kept) - frozen, x_d - x_s, atol=1e-6)
    none = corrected(model, x_s, x_d, open_lips, driving, Corrections(stitching=False, multiplier=0))
    assert torch.allclose(none, x_s.expand(3, -1, -1))


def test_talking_moves_lips_alone_where_the_head_is_still():
    source = motion(1)
    lips = 0.01 * torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    _, x_d = driving_key_points(source, lips)
    rest = [i for i in range(21) if i not in LIP]
    assert torch.allclose(x_d[:, rest], source.points()[:, rest].expand(5, -1, -1), atol=1e-6)
    assert torch.allclose(x_d[:1], source.points(), atol=1e-6)
    assert math.isclose(
        (x_d[3, LIP] - x_d[0, LIP]).sum().item(), (source.scale * (lips[3] - lips[0])).sum().item(), abs_tol=1e-4
    )
