"""Faces without head pose and back: what must not change under what."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from src.errors import FaceError
from src.face.moditalker_atom import (
    fit_heads,
    follow,
    from_network,
    frontal_points,
    neutral_face,
    posed_points,
    to_network,
)
from src.face.moditalker_atom_exact import ENLARGEMENT, read_morphable_face

SIGMA = 90.0  # pixels per decimetre


def talking_faces(n: int = 3) -> np.ndarray:
    """Frontal faces in decimetres whose mouths are open by different amounts."""
    faces = np.repeat(neutral_face()[None], n, axis=0)
    faces[:, 55:60, 1] -= 0.1 * np.arange(n)[:, None]
    faces[:, 5:12, 1] -= 0.1 * np.arange(n)[:, None]
    return faces


def posed(faces: np.ndarray, angles: tuple[float, float, float]) -> np.ndarray:
    """Landmarks in pixels of these faces on a turned head."""
    turn = Rotation.from_euler("xyz", angles).as_matrix()
    return (faces @ turn.T * SIGMA + np.array([150.0, -120.0, 30.0])) * np.array([1, -1, -1])


def test_network_units_are_ten_times_the_displacement():
    faces = talking_faces()
    values = to_network(faces, neutral_face())
    assert values.shape == (3, 204)
    assert values[2].reshape(68, 3)[57].tolist() == pytest.approx([0, -2.0, 0])
    np.testing.assert_allclose(from_network(values, neutral_face()), faces, atol=1e-7)


def test_pose_goes_out_and_comes_back():
    landmarks = posed(talking_faces(), (0.1, -0.3, 0.2)).astype(np.float32)
    heads = fit_heads(landmarks)
    frontal = frontal_points(landmarks, heads)
    np.testing.assert_allclose(frontal, talking_faces(), atol=1e-5)
    np.testing.assert_allclose(heads.scale, SIGMA, rtol=1e-5)
    np.testing.assert_allclose(posed_points(frontal, heads), landmarks, atol=1e-3)


def test_the_mouth_of_the_driving_face_does_not_move_the_head():
    driving = posed(talking_faces(1), (0.1, -0.3, 0.2))
    other = driving.copy()
    other[:, 48:68] += 40
    other[:, :17] -= 15
    first, second = fit_heads(driving), fit_heads(other)
    for name in ("rotation", "scale", "centre"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_similarity_of_the_driving_picture_moves_the_result_alike():
    driving, faces = posed(talking_faces(1), (0.2, 0.1, 0.0)), talking_faces()[2:]
    turn = Rotation.from_euler("z", 0.4).as_matrix() * 1.3
    moved = driving @ turn.T + np.array([20.0, -7.0, 0.0])
    expected = posed_points(faces, fit_heads(driving)) @ turn.T + np.array([20.0, -7.0, 0.0])
    np.testing.assert_allclose(posed_points(faces, fit_heads(moved)), expected, atol=1e-6)


def test_a_frontal_driver_scales_the_face():
    driving = posed(talking_faces(1), (0, 0, 0))
    faces = talking_faces()[2:]
    for enlargement in (1.0, ENLARGEMENT):
        made = posed_points(faces, fit_heads(driving), enlargement)
        extent, expected = np.ptp(made[0], axis=0), np.ptp(faces[0], axis=0)
        np.testing.assert_allclose(extent, enlargement * SIGMA * expected, rtol=1e-6)


def test_a_head_follows_the_motion_of_another_one():
    angles = [(0.0, 0.1, 0.0), (0.1, 0.3, -0.1), (0.0, -0.2, 0.1)]
    driving = fit_heads(np.concatenate([posed(talking_faces(1), a) for a in angles]))
    still = fit_heads(posed(talking_faces(1), angles[0]))
    followed = follow(still, driving)
    for name in ("rotation", "scale", "centre"):
        np.testing.assert_allclose(getattr(followed, name), getattr(driving, name), atol=1e-6)
    other = fit_heads(posed(talking_faces(1), (0.0, 0.0, 0.0)) * 2 + 5)
    np.testing.assert_allclose(follow(other, driving).rotation[0], other.rotation[0], atol=1e-12)
    np.testing.assert_allclose(follow(other, driving).scale, 2 * SIGMA, rtol=1e-6)


def test_missing_landmarks_are_told():
    landmarks = posed(talking_faces(), (0, 0, 0))
    landmarks[1] = np.nan
    with pytest.raises(FaceError, match="interpolate them first"):
        fit_heads(landmarks)


def test_a_file_that_is_no_face_model_is_told(tmp_path):
    for name, content in (("missing.mat", None), ("BFM_model_front.mat", b"no model" * 100)):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(FaceError, match=r"BFM_model_front\.mat"):
            read_morphable_face(tmp_path / name)
