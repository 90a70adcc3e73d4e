"""Moving lips of landmarks: speech moves them, the head's pose, size and place do not."""

import numpy as np
import pytest

from src.datamodules.synthetic.expression import Controls
from src.datamodules.synthetic.head import SyntheticHead
from src.datamodules.synthetic.pose import Pose
from src.errors import FaceError
from src.face.lip_points import lip_points

N = 9
OPENING = np.linspace(0, 0.8, N)


@pytest.fixture(scope="module")
def head() -> SyntheticHead:
    return SyntheticHead(3, 64)


def pose(yaw: np.ndarray | float = 0.0) -> Pose:
    zeros = np.zeros(N)
    return Pose(yaw=zeros + yaw, pitch=zeros, roll=zeros, shift=np.zeros((N, 3)), sway=np.zeros((N, 3)))


def test_lips_open_with_the_jaw(head):
    lips = lip_points(head.landmarks(Controls.neutral(N, jaw=OPENING), pose()))
    assert lips.shape == (N, 6, 3)
    opening = lips[:, 4, 1] - lips[:, 5, 1]
    assert (np.diff(opening) > 0).all()
    assert opening[-1] - opening[0] > 0.1  # distances between the pupils
    np.testing.assert_allclose(lips.mean(axis=0), 0, atol=1e-6)


def test_the_head_may_turn_move_and_grow(head):
    controls = Controls.neutral(N, jaw=OPENING)
    straight = lip_points(head.landmarks(controls, pose()))
    turned = lip_points(head.landmarks(controls, pose(np.linspace(-0.2, 0.3, N))))
    np.testing.assert_allclose(turned, straight, atol=0.05 * np.ptp(straight))
    grown = 3 * head.landmarks(controls, pose()) + np.array([40, -7, 11], np.float32)
    np.testing.assert_allclose(lip_points(grown), straight, atol=1e-5)


def test_landmarks_that_are_missing_are_refused(head):
    landmarks = head.landmarks(Controls.neutral(N), pose()).copy()
    landmarks[4] = np.nan
    with pytest.raises(FaceError, match="no usable landmarks"):
        lip_points(landmarks)
