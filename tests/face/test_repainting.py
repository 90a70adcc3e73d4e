import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.datamodules.synthetic.expression import Controls
from src.datamodules.synthetic.head import SyntheticHead
from src.datamodules.synthetic.pose import Pose
from src.errors import ConfigError
from src.face.landmarks import to_ibug68
from src.face.mean_face import load_mean_face
from src.face.repainting import MaskRule, condition_points, filled_polygons, kept_masks, latent_masks
from src.face.topology import LIPS_OUTER

SIZE = (96, 96)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """The 68 points of a face in the middle of a picture of 96 x 96."""
    return (load_mean_face("large") * 0.25 + 20).astype(np.float32)[None]


def turned(yaw: float, pitch: float, jaw: float = 0.0) -> np.ndarray:
    """Landmarks (1, 478, 3) of a rendered head in a picture of 96 x 96."""
    controls = Controls.neutral(1, jaw=np.array([jaw]))
    return SyntheticHead(3, SIZE[0]).landmarks(controls, Pose.still(1, yaw=np.radians(yaw), pitch=np.radians(pitch)))


@pytest.mark.parametrize("yaw", [-50, -20, 0, 35])
@pytest.mark.parametrize("pitch", [-20, 0, 20])
def test_the_steady_mask_covers_the_mouth_wide_open_at_any_pose(yaw, pitch):
    landmarks = turned(yaw, pitch, jaw=1.0)
    kept = kept_masks(landmarks, SIZE)[0]
    x, y = np.rint(landmarks[0, [*LIPS_OUTER, 152, 148, 377], :2]).astype(int).T  # lips and chin
    inside = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
    assert inside.sum() > 15
    assert not kept[y[inside], x[inside]].any()


def test_the_steady_mask_keeps_eyes_and_forehead():
    landmarks = turned(10, 5)
    kept = kept_masks(landmarks, SIZE)[0]
    x, y = np.rint(landmarks[0, [33, 133, 362, 263, 10, 151, 6], :2]).astype(int).T
    assert kept[y, x].all()


def test_the_steady_mask_does_not_know_the_mouth(face):
    moved = face.copy()
    rigid = np.r_[27:31, 36, 39, 42, 45]
    others = np.setdiff1d(np.arange(68), rigid)
    moved[:, others] += np.random.default_rng(0).normal(0, 8, (1, len(others), 2)).astype(np.float32)
    assert (kept_masks(moved, SIZE) == kept_masks(face, SIZE)).all()


def test_68_and_478_points_give_one_mask():
    landmarks = turned(15, -5)
    assert (kept_masks(landmarks, SIZE) == kept_masks(to_ibug68(landmarks)[..., :2], SIZE)).all()


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-3, 3), scale=st.floats(0.5, 1.5))
def test_the_steady_mask_turns_and_grows_with_the_face(face, angle, scale):
    centre = np.array([47.5, 47.5])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = np.stack(np.meshgrid(np.arange(96), np.arange(96)), axis=-1)
    there = np.rint((places - centre) @ rotation.T + centre).astype(int)
    within = (there >= 0).all(axis=-1) & (there < 96).all(axis=-1)
    before = kept_masks(face, SIZE)[0][within]
    after = kept_masks((face - centre) @ rotation.T + centre, SIZE)[0][there[within][:, 1], there[within][:, 0]]
    assert (before == after).mean() > 0.97  # but for rounding along the border


def test_a_wider_margin_repaints_more(face):
    narrow, wide = (kept_masks(face, SIZE, MaskRule(margin=margin)) for margin in (0.0, 0.3))
    assert (narrow | ~wide).all()
    assert wide.sum() < narrow.sum()


@pytest.mark.parametrize(("shape", "point"), [("nose_tip", 30), ("nose_base", 33)])
def test_rows_are_repainted_from_the_nose_on(face, shape, point):
    kept = kept_masks(face, SIZE, MaskRule(shape))[0]
    first = int(face[0, point, 1])
    assert kept[:first].all()
    assert not kept[first:].any()


def test_rows_above_the_picture_repaint_all_of_it(face):
    assert not kept_masks(face - 200, SIZE, MaskRule("nose_tip")).any()


def test_landmarks_below_the_picture_repaint_nothing(face):
    for shape in ("steady", "nose_tip", "jaw"):
        assert kept_masks(face + 500, SIZE, MaskRule(shape)).all(), shape


def test_of_a_frame_without_a_face_nothing_is_kept(face):
    both = np.concatenate([face, np.full_like(face, np.nan)])
    for shape in ("steady", "nose_base", "jaw"):
        kept = kept_masks(both, SIZE, MaskRule(shape))
        assert not kept[1].any()
        assert (kept[0] == kept_masks(face, SIZE, MaskRule(shape))[0]).all()


def test_the_jaw_polygon_follows_the_chin(face):
    open_mouth = face.copy()
    open_mouth[:, 4:13, 1] += 6
    assert (kept_masks(open_mouth, SIZE, MaskRule("jaw")) != kept_masks(face, SIZE, MaskRule("jaw"))).any()


def test_polygons_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = int(rng.integers(4, 60))
        polygon = rng.integers(0, size, (rng.integers(3, 15), 2))
        canvas = np.zeros((size, size), np.uint8)
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], 1)
        assert (filled_polygons(polygon[None], (size, size))[0] == canvas.astype(bool)).all()


def test_a_polygon_that_leaves_the_picture_is_cut():
    polygon = np.array([[[-5, 2], [20, 2], [20, 30], [-5, 30]]])
    mask = filled_polygons(polygon, (8, 8))[0]
    assert mask[2:].all()
    assert not mask[:2].any()


def test_cells_are_kept_where_all_their_pixels_and_neighbours_are():
    kept = np.ones((1, 16, 16), bool)
    kept[0, 9, 9] = False  # one pixel of cell (2, 2)
    cells = latent_masks(kept, 4, MaskRule(eroded_cells=0))[0]
    assert not cells[2, 2]
    assert cells.sum() == 15
    around = latent_masks(kept, 4)[0]
    assert not around[1:4, 1:4].any()
    assert around[0].all()
    assert around[:, 0].all()


def test_the_picture_s_border_is_no_reason_to_repaint():
    assert latent_masks(np.ones((2, 8, 8), bool), 2).all()


def test_condition_points_tell_nothing_of_mouth_and_chin():
    points = np.arange(136, dtype=np.float32).reshape(1, 68, 2)
    chosen = condition_points(points)[0]
    assert chosen.shape == (39, 2)
    assert (chosen[:, 0] / 2).astype(int).tolist() == [*range(4), *range(13, 48)]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shape": "box"}, "steady"), ({"margin": -0.1}, "margin"), ({"eroded_cells": -1}, "cells")],
)
def test_rules_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        MaskRule(**options)
