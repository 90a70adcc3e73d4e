"""Rotations are found, stillness is none, beats are where the motion rests."""

import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from src.errors import ConfigError
from src.metrics.head_motion import (
    BeatAlignment,
    PoseDiversity,
    beat_alignment,
    head_angles,
    motion_beats,
    pose_diversity,
    sound_beats,
)


def turned(yaw, pitch=0.0, roll=0.0):
    """Points of a head under rotations in degrees, one frame per value of yaw."""
    shape = np.random.default_rng(0).normal(size=(29, 3)) * 50
    angles = np.stack(np.broadcast_arrays(yaw, pitch, roll), axis=1)
    return np.stack([shape @ Rotation.from_euler("YXZ", a, degrees=True).as_matrix().T for a in angles]) + 100


def test_angles_are_those_of_the_rotation_against_the_mean_pose():
    yaw = np.array([-10.0, 0.0, 10.0])
    angles = head_angles(turned(yaw))
    assert angles[:, 0] == pytest.approx(yaw, abs=0.1)
    assert angles[:, 1:] == pytest.approx(0, abs=0.1)
    roll = head_angles(turned(np.zeros(3), roll=yaw))
    assert roll[:, 2] == pytest.approx(yaw, abs=0.1)


def test_frames_without_a_face_are_unknown():
    points = turned(np.array([-5.0, 0.0, 5.0, 0.0]))
    points[1] = np.nan
    angles = head_angles(points)
    assert np.isnan(angles[1]).all()
    assert np.isfinite(angles[[0, 2, 3]]).all()
    assert np.isnan(head_angles(np.full((2, 29, 3), np.nan))).all()


def test_diversity_grows_with_motion_and_a_still_head_has_none():
    yaw = 10 * np.sin(np.arange(100) / 8)
    still, some, more = (pose_diversity(head_angles(turned(a * yaw))) for a in (0, 0.5, 1))
    assert still == pytest.approx(0, abs=1e-6)
    assert 0 < some < more == pytest.approx(yaw.std() / 3, rel=0.02)
    assert np.isnan(pose_diversity(np.zeros((2, 3))))


def test_beats_lie_where_the_motion_rests():
    time = np.arange(100)
    joints = np.sin(2 * np.pi * time / 50)[:, None, None] * np.ones((1, 1, 3))  # rests every 25 frames
    beats = motion_beats(joints)
    assert all(min(abs(b - rest) for rest in (12, 37, 62, 87)) <= 1 for b in beats)
    assert beat_alignment(beats, beats) == 1
    assert beat_alignment(beats, beats + 3) == pytest.approx(np.exp(-0.5))
    assert np.isnan(beat_alignment(beats, beats[:0]))
    assert np.isnan(beat_alignment(beats[:0], beats))


def test_clips_without_a_value_are_counted_apart():
    pose, beats = PoseDiversity(), BeatAlignment()
    pose.update(torch.tensor([[0.0, 0, 0], [2.0, 2, 2], [1.0, 1, 1]]))
    pose.update(torch.full((5, 3), torch.nan))
    assert (pose.clips.item(), pose.undefined.item()) == (1, 1)
    assert pose.compute().item() == pytest.approx(np.std([0, 2, 1]))
    beats.update(torch.tensor([4]), torch.tensor([4, 7]))
    assert beats.compute().item() == pytest.approx((1 + np.exp(-0.5)) / 2)


def test_without_librosa_the_command_that_helps_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa.beat", None)
    with pytest.raises(ConfigError, match="needs librosa, get it with: pip install librosa"):
        sound_beats(np.zeros(16000), 25.0)
