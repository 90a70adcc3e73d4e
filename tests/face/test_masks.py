"""Region masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from src.face.landmarks import to_ibug68
from src.face.masks import box_masks, ellipse_masks, polygon_masks, region_masks
from src.face.mean_face import load_mean_face
from src.face.topology import FACE_OVAL, LIPS_OUTER


def test_a_square_polygon_has_the_pixels_between_its_sides():
    mask = polygon_masks(np.array([[[1.5, 2.5], [6.5, 2.5], [6.5, 5.5], [1.5, 5.5]]]), (8, 9))[0]
    expected = np.zeros((8, 9), bool)
    expected[3:6, 2:7] = True
    np.testing.assert_array_equal(mask, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(3, 12))
def test_polygons_are_those_of_scikit_image(seed, n):
    points = np.random.default_rng(seed).uniform(-5, 35, (1, n, 2))
    ours = polygon_masks(points, (25, 30))[0]
    theirs = polygon2mask((25, 30), points[0, :, ::-1])
    np.testing.assert_array_equal(ours, theirs)


def test_boxes_and_ellipses():
    box = box_masks(np.array([[1.0, 2.0, 3.5, 4.0]]), (6, 6))[0]
    assert np.argwhere(box).tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2, 3)]
    disc = ellipse_masks(np.array([[20.0, 15.0]]), np.array([[10.0, 5.0]]), (30, 40))[0]
    assert disc.sum() == pytest.approx(np.pi * 50, rel=0.03)
    assert disc[15, 10]
    assert disc[15, 30]
    assert not disc[15, 31]
    assert not disc[21, 20]


def test_regions_of_68_points():
    points = load_mean_face("large")[None]
    size = (250, 230)
    masks = {name: region_masks(points, size, name)[0] for name in ("face", "lips", "mouth", "lower_face")}
    assert masks["face"].sum() > masks["lower_face"].sum() > masks["mouth"].sum() > masks["lips"].sum() > 0
    assert masks["lips"][175, 118]
    assert not (masks["lips"] & ~masks["mouth"]).any()
    assert not (masks["mouth"] & ~masks["lower_face"]).any()
    assert not (masks["lower_face"] & ~masks["face"]).any()
    assert not masks["lower_face"][:100].any(), "eyes and the bridge of the nose stay out"
    assert not masks["lower_face"][:120, 100:130].any(), "and so does the rest of the nose"


def test_a_margin_widens_by_a_fraction_of_the_eye_distance():
    points = load_mean_face("large")[None]
    eyes = np.linalg.norm(points[0, 45] - points[0, 36])
    narrow, wide = (region_masks(points, (250, 230), "mouth", margin=m)[0].any(axis=0).sum() for m in (0.0, 0.1))
    assert wide - narrow == pytest.approx(0.2 * eyes, abs=1.5)
    lips, grown = (region_masks(points, (250, 230), "lips", margin=m)[0] for m in (0.0, 0.1))
    assert not (lips & ~grown).any()
    assert grown.sum() > lips.sum()


def test_478_points_use_the_mesh_contours():
    points = np.zeros((1, 478, 2))
    points[0, [33, 263]] = [[10, 20], [50, 20]]
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    points[0, FACE_OVAL] = np.stack([30 + 25 * np.sin(angle), 35 - 30 * np.cos(angle)], axis=1)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    points[0, LIPS_OUTER] = np.stack([30 - 8 * np.cos(angle), 50 - 4 * np.sin(angle)], axis=1)
    face, lips = (region_masks(points, (70, 60), name)[0] for name in ("face", "lips"))
    assert face.sum() == pytest.approx(np.pi * 25 * 30, rel=0.03)
    assert lips.sum() == pytest.approx(np.pi * 8 * 4, rel=0.1)


def test_an_undetected_frame_has_an_empty_mask():
    points = np.stack([load_mean_face("large")] * 2)
    points[1, 50] = np.nan
    for name in ("face", "lips", "mouth", "lower_face"):
        masks = region_masks(points, (250, 230), name)
        assert masks[0].any()
        assert not masks[1].any(), name
    assert to_ibug68(points).shape == (2, 68, 2)
