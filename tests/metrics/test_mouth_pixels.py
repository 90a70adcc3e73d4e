import numpy as np
import pytest

from src.face.geometry import transform_points
from src.face.landmarks import mouth_opening
from src.media.curves import pearson
from src.metrics.lip_sync import correlation
from src.metrics.mouth_pixels import MOUTH_ROW, PATCH, MouthReader, motion, mouth_patches, mouth_transforms
from tests.talking import talking


@pytest.fixture(scope="module")
def clip():
    return talking(sway=0.05)


def motion_correlation(generated, real, transforms):
    return correlation(*(motion(mouth_patches(frames, transforms)).ravel() for frames in (generated, real)))


def test_the_mouth_stays_at_one_place_of_the_patch_while_the_head_moves(clip):
    corners = transform_points(clip.landmarks[:, (61, 291), :2], mouth_transforms(clip.landmarks)).mean(axis=1)
    assert np.abs(corners - [(PATCH[1] - 1) / 2, MOUTH_ROW]).max() < 0.01


def test_opening_the_mouth_does_not_move_the_patch(clip):
    open_wide = clip.landmarks.copy()
    open_wide[:, (14, 87, 317), 1] += 20
    assert np.array_equal(mouth_transforms(open_wide), mouth_transforms(clip.landmarks))


def test_a_turned_and_scaled_head_gives_the_same_patch():
    clip = talking(sway=0.0, size=96)
    turned = clip.landmarks.copy()
    turned[..., :2] = turned[..., [1, 0]] * [1, -1] + [0, 95]  # a quarter turn, counter-clockwise
    upright = mouth_patches(clip.frames, mouth_transforms(clip.landmarks))
    sideways = mouth_patches(np.rot90(clip.frames, 1, axes=(1, 2)), mouth_transforms(turned))
    assert np.abs(upright - sideways).max() < 0.05
    large = talking(sway=0.0, size=192)
    assert pearson(mouth_patches(large.frames, mouth_transforms(large.landmarks)).ravel(), upright.ravel()) > 0.95


def test_motion_tells_the_same_a_frozen_and_a_shifted_mouth_apart(clip):
    transforms = mouth_transforms(clip.landmarks)
    assert motion_correlation(clip.frames, clip.frames, transforms) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(0, 15, clip.frames.shape)
    assert motion_correlation(np.clip(clip.frames + noise, 0, 255).astype(np.uint8), clip.frames, transforms) > 0.9
    assert abs(motion_correlation(np.repeat(clip.frames[:1], 40, axis=0), clip.frames, transforms)) < 0.35
    assert motion_correlation(clip.frames[::-1], clip.frames, transforms) < 0.5


def test_reader_reads_frames_that_it_was_not_fitted_on(clip):
    patches, opening = mouth_patches(clip.frames, mouth_transforms(clip.landmarks)), mouth_opening(clip.landmarks)
    first = np.arange(40) < 20
    reader = MouthReader.fit(patches, opening, first)
    assert reader.quality > 0.8
    assert pearson(reader(patches[20:]), opening[20:]) > 0.9


def test_reader_knows_when_pixels_do_not_show_the_opening(clip):
    patches, opening = mouth_patches(clip.frames, mouth_transforms(clip.landmarks)), mouth_opening(clip.landmarks)
    shuffled = np.random.default_rng(0).permutation(opening)
    assert not MouthReader.fit(patches, shuffled, np.ones(40, bool)).quality > 0.5
    assert np.isnan(MouthReader.fit(patches, np.full(40, 0.1), np.ones(40, bool)).quality)


def test_reader_of_a_constant_picture_reads_the_mean():
    reader = MouthReader.fit(np.full((12, 4), 0.5, np.float32), np.linspace(0, 1, 12), np.ones(12, bool))
    assert reader(np.full((3, 4), 0.5, np.float32)) == pytest.approx(0.5)
