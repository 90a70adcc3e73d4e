"""The numbers in the table and the report."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from src.datamodules.preprocessing.measures import (
    audio_visual_offset,
    face_size,
    head_angles,
    mouth_range,
)
from src.media.curves import audio_envelope


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, -25), (-40, 15, 10), (60, -30, 45)])
def test_head_angles_undo_the_rotation(angles):
    """Yaw about y, then pitch about x, then roll about z, of a scaled pose in MediaPipe's axes (y up, z to the camera)."""
    yaw, pitch, roll = angles
    pose = np.eye(4)
    pose[:3, :3] = 1.3 * Rotation.from_euler("YXZ", [yaw, pitch, -roll], degrees=True).as_matrix()
    np.testing.assert_allclose(head_angles(pose[None])[0], angles, atol=1e-9)


def test_the_signs_of_head_angles_are_those_of_the_picture():
    """Where the nose (z to the camera) and the crown (y up) of a turned head point, in a picture with y down."""
    for angles, axis, expected in [((30, 0, 0), 2, (1, 0)), ((0, 30, 0), 2, (0, 1)), ((0, 0, 30), 1, (1, -1))]:
        rotation = Rotation.from_euler("YXZ", [angles[0], angles[1], -angles[2]], degrees=True).as_matrix()
        x, y, _ = rotation[:, axis]
        assert np.sign(np.round((x, -y), 9)).tolist() == list(expected), angles


def test_face_size_is_the_longer_side():
    landmarks = np.zeros((3, 478, 3), np.float32)
    landmarks[:, 1] = [30, 50, 99]
    assert face_size(landmarks) == 50


def test_mouth_range_ignores_single_frames():
    opening = np.zeros(100)
    opening[:50] = 0.3
    opening[0] = 9
    assert mouth_range(opening) == pytest.approx(0.3)


def test_the_envelope_has_one_value_per_frame():
    audio = np.concatenate([np.full(640, 0.5), np.zeros(640), np.tile([0.2, -0.2], 320)]).astype(np.float32)
    np.testing.assert_allclose(audio_envelope(audio, 3), [0.5, 0, 0.2], atol=1e-7)


@pytest.mark.parametrize("lag", [-7, 0, 4, 12])
def test_a_shifted_sound_is_found(lag):
    rng = np.random.default_rng(1)
    signal = np.convolve(rng.uniform(size=300), np.ones(5), "same")
    mouth, sound = signal[50:250], signal[50 - lag : 250 - lag]
    offset = audio_visual_offset(mouth, sound)
    assert offset is not None
    assert offset[0] == lag
    assert offset[1] == pytest.approx(1)


def test_no_offset_without_speech_or_time():
    rng = np.random.default_rng(1)
    assert audio_visual_offset(np.zeros(200), rng.uniform(size=200)) is None
    assert audio_visual_offset(rng.uniform(size=200), np.zeros(200)) is None
    assert audio_visual_offset(rng.uniform(size=30), rng.uniform(size=30)) is None
