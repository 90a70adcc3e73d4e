"""Similarities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from src.errors import FaceError
from src.face.geometry import (
    invert,
    scale_and_shift,
    scale_of,
    similarity_transform,
    transform_landmarks,
    transform_points,
)
from tests.face.faces import cloud, similarity

similarities = st.builds(
    similarity, st.floats(0.05, 20), st.floats(-3.14, 3.14), st.floats(-500, 500), st.floats(-500, 500)
)


@given(matrix=similarities, seed=st.integers(0, 99))
def test_a_similarity_is_recovered_from_its_points(matrix, seed):
    points = np.random.default_rng(seed).uniform(0, 100, (5, 2))
    np.testing.assert_allclose(similarity_transform(points, transform_points(points, matrix)), matrix, atol=1e-7)


@given(seed=st.integers(0, 999))
def test_the_estimate_is_scikit_images(seed):
    src, dst = np.random.default_rng(seed).normal(size=(2, 5, 2))
    expected = SimilarityTransform.from_estimate(src, dst).params
    if np.linalg.det(expected[:2, :2]) > 1e-3:
        np.testing.assert_allclose(similarity_transform(src, dst), expected, atol=1e-9)


def test_a_batch_is_estimated_frame_by_frame():
    rng = np.random.default_rng(0)
    src, dst = rng.normal(size=(4, 5, 2)), rng.normal(size=(5, 2))
    batch = similarity_transform(src, dst)
    for i in range(4):
        np.testing.assert_allclose(batch[i], similarity_transform(src[i], dst))


def test_coinciding_or_missing_points_are_an_error():
    for points in (np.ones((3, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(FaceError, match=r"coincide or are missing"):
            similarity_transform(points, np.eye(3, 2))


@given(matrix=similarities)
def test_there_and_back_is_the_identity(matrix):
    points = cloud()[:, :2]
    there = transform_points(points, matrix)
    np.testing.assert_allclose(transform_points(there, invert(matrix)), points, atol=1e-6)


def test_depth_is_scaled_like_the_plane():
    landmarks = cloud()[None].astype(np.float32)
    matrix = similarity(0.5, 0.3, 4, 5)[None]
    moved = transform_landmarks(landmarks, matrix)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[..., 2], landmarks[..., 2] * 0.5, rtol=1e-5)
    np.testing.assert_allclose(moved[..., :2], transform_points(landmarks[..., :2], matrix), rtol=1e-5)
    np.testing.assert_allclose(scale_of(matrix), 0.5)


def test_a_crop_begins_at_the_edge_of_its_first_pixel():
    # The square from 9.5 to 19.5 holds the pixels 10 ... 19: halved, crop pixel 0 is the middle of 10 and 11.
    matrix = scale_and_shift(np.array([0.5]), np.array([[9.5, 9.5]]))[0]
    np.testing.assert_allclose(transform_points(np.array([[10.5, 18.5]]), matrix), [[0, 4]])
