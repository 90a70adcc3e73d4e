"""Cutting crops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import warp as skimage_warp

from src.face.geometry import invert
from src.face.warp import warp, warp_exact
from src.media import resize
from tests.face.faces import similarity


def smooth_frames(n: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin(x / 9 + i) * np.cos(y / 11) for i in range(3 * n)]
    return np.stack(planes, axis=-1).reshape(height, width, n, 3).transpose(2, 0, 1, 3).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    scale=st.floats(0.2, 3),
    angle=st.floats(-3.1, 3.1),
    x=st.floats(-30, 60),
    y=st.floats(-30, 60),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_the_exact_warp_is_scikit_images_bit_for_bit(seed, scale, angle, x, y, size):
    rng = np.random.default_rng(seed)
    frame = rng.integers(rng.integers(0, 120), rng.integers(130, 256), (40, 50, 3)).astype(np.uint8)
    frame[10:25, 10:30] = frame[10, 10]  # flat regions sit on the edge between two grey levels
    matrix = similarity(scale, angle, x, y)
    expected = (skimage_warp(frame, matrix, output_shape=size) * 255).astype(np.uint8)
    np.testing.assert_array_equal(warp_exact(frame[None], matrix[None], size)[0], expected)


def test_the_exact_identity_loses_one_in_24_grey_levels_and_the_default_none():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
    identity = np.eye(3)[None]
    exact = warp_exact(levels, identity, (1, 256))
    assert (levels - exact).sum() == 24
    assert ((levels - exact) <= 1).all()
    np.testing.assert_array_equal(warp(levels, identity, (1, 256)), levels)
    np.testing.assert_array_equal(warp(levels, identity, (1, 256), rounding="truncate"), exact)


def test_without_shrinking_both_warps_differ_by_rounding_only():
    frames = smooth_frames(3, 60, 70)
    matrices = np.stack([similarity(1.3, 0.1 * i, 3, -4) for i in range(3)])
    difference = warp(frames, matrices, (50, 40)).astype(int) - warp_exact(frames, invert(matrices), (50, 40))
    assert set(np.unique(difference)) <= {0, 1}


def test_whole_pixel_shifts_move_pixels_and_leave_black_behind():
    frames = smooth_frames(1, 20, 30)
    shifted = warp(frames, similarity(1, 0, 4, -3)[None], (20, 30))
    np.testing.assert_array_equal(shifted[0, :17, 4:], frames[0, 3:, :26])
    assert not shifted[0, 17:].any()
    assert not shifted[0, :, :4].any()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_averages_blocks(factor):
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 36, 3)).astype(np.uint8)
    matrix = np.diag([1 / factor, 1 / factor, 1.0])
    matrix[:2, 2] = (1 / factor - 1) / 2
    size = (24 // factor, 36 // factor)
    blocks = frames.reshape(2, size[0], factor, size[1], factor, 3).mean(axis=(2, 4))
    small = warp(frames, np.repeat(matrix[None], 2, axis=0), size)
    assert np.abs(small - blocks).max() <= 0.5 + 1e-3
    aliased = warp(frames, np.repeat(matrix[None], 2, axis=0), size, antialias=False)
    assert factor == 2 or aliased.std() > 1.2 * small.std(), "four neighbours are all there is at half size"


def test_shrinking_a_part_reads_the_same_as_shrinking_the_whole():
    frames = smooth_frames(1, 90, 120)
    matrix = similarity(0.35, 0.2, -5, -2)
    part = warp(frames, matrix[None], (20, 20))
    whole = warp(frames, matrix[None], (40, 50))
    assert np.abs(part[0].astype(int) - whole[0, :20, :20]).max() <= 2


def test_a_shrunk_crop_resembles_an_antialiased_resize():
    frames = smooth_frames(1, 128, 128)
    matrix = np.diag([0.4, 0.4, 1.0])
    matrix[:2, 2] = -0.3
    crop = warp(frames, matrix[None], (51, 51))[:, 2:-2, 2:-2]
    reference = resize(frames, (51, 51))[:, 2:-2, 2:-2]
    assert np.abs(crop.astype(int) - reference).mean() < 3


def test_a_crop_far_outside_is_black():
    frames = np.full((1, 30, 30, 3), 200, np.uint8)
    for scale in (1.0, 0.3):
        assert not warp(frames, similarity(scale, 0, 5000, 0)[None], 16).any()


def test_there_and_back_restores_the_inside():
    frames = smooth_frames(1, 64, 64)
    matrix = similarity(2.0, 0.2, -30, -40)[None]
    crop = warp(frames, matrix, 128)
    back = warp(crop, invert(matrix), 64, antialias=False)
    inside = back[0].any(axis=-1)
    assert inside.mean() > 0.5
    core = np.zeros_like(inside)
    core[25:50, 25:45] = True
    assert np.abs(back[0][core].astype(int) - frames[0][core]).mean() < 2


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_an_even_picture_stays_even_up_to_its_last_partial_block(factor):
    frames = np.full((1, 31, 47, 3), 180, np.uint8)
    matrix = np.diag([1 / factor, 1 / factor, 1.0])
    matrix[:2, 2] = (1 / factor - 1) / 2
    small = warp(frames, matrix[None], (31 // factor, 47 // factor))
    assert (small == 180).all()
