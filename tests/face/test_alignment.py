"""The three alignments."""

import hydra
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from src.cli import CONF_DIR
from src.errors import FaceError
from src.face.alignment import (
    MeanFaceAlignment,
    ResizedAlignment,
    SquareCropAlignment,
    TemplateAlignment,
    feature_means,
    template_points_of,
)
from src.face.geometry import invert, scale_of, similarity_transform, transform_points
from src.face.landmarks import bounding_boxes, simplified
from src.face.topology import RIGID, SIMPLIFIED, STABLE
from tests.face.faces import cloud, similarity

FRAME = (240, 320)


def talking_head(n: int = 60, noise: float = 0.0, drift: float = 0.0, seed: int = 0) -> np.ndarray:
    """A head that drifts along x by `drift` pixels a frame and trembles by `noise` pixels; points below its middle open and close."""
    rng = np.random.default_rng(seed)
    head = np.repeat(cloud(1, centre=(140, 120), size=90)[None], n, axis=0)
    t = np.arange(n)[:, None]
    head[..., 0] += drift * t
    # Speech moves the lower points that are not rigid.
    mouth = np.setdiff1d(np.flatnonzero(head[0, :, 1] > 140), RIGID)
    head[:, mouth, 1] += 6 * (1 + np.sin(t * 1.7))
    return head + rng.normal(scale=noise or 1e-12, size=head.shape) + rng.normal(scale=noise or 1e-12, size=(n, 1, 3))


ALIGNMENTS = [
    TemplateAlignment(128),
    MeanFaceAlignment.square(128),
    MeanFaceAlignment(offset=(0.11, 0.336, 0.155), scale=0.4),
    SquareCropAlignment(128),
]


@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=lambda a: type(a).__name__)
def test_every_alignment_gives_one_similarity_per_frame_and_a_way_back(alignment):
    head = talking_head(20)
    matrices = alignment.fit(head, FRAME)
    assert matrices.shape == (20, 3, 3)
    assert matrices.dtype == np.float64
    np.testing.assert_array_equal(matrices[:, 2], np.tile([0, 0, 1], (20, 1)))
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1])
    np.testing.assert_allclose(matrices[:, 0, 1], -matrices[:, 1, 0])
    there = transform_points(head[..., :2], matrices)
    np.testing.assert_allclose(transform_points(there, invert(matrices)), head[..., :2], atol=1e-8)


@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=lambda a: type(a).__name__)
def test_every_alignment_bridges_undetected_frames(alignment):
    head = talking_head(20)
    holes = head.copy()
    holes[[0, 7, 8, 19]] = np.nan
    assert np.isfinite(alignment.fit(holes, FRAME)).all()
    with pytest.raises(FaceError, match="No face was found"):
        alignment.fit(np.full_like(head, np.nan), FRAME)


@pytest.mark.parametrize(
    "alignment",
    [TemplateAlignment(128), MeanFaceAlignment.square(128, window=1)],
    ids=lambda a: type(a).__name__,
)
@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.3, 3), angle=st.floats(-3, 3), x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_where_the_face_lies_in_the_frame_does_not_matter(alignment, scale, angle, x, y):
    head = talking_head(5)
    moved = head.copy()
    moved[..., :2] = transform_points(head[..., :2], similarity(scale, angle, x, y))
    crop = transform_points(head[..., :2], alignment.fit(head, FRAME))
    np.testing.assert_allclose(transform_points(moved[..., :2], alignment.fit(moved, FRAME)), crop, atol=1e-6)


# Template


def test_the_template_places_the_first_face_and_keeps_the_motion():
    head = np.repeat(cloud()[None], 10, axis=0)
    head[..., 0] += 2.0 * np.arange(10)[:, None]
    alignment = TemplateAlignment(128)
    matrices = alignment.fit(head, FRAME)
    assert (matrices == matrices[0]).all()
    means = feature_means(simplified(transform_points(head[..., :2], matrices)))
    # Three points rarely fit exactly; their mean does.
    np.testing.assert_allclose(means[0].mean(axis=0), alignment.template_points.mean(axis=0), atol=1e-9)
    steps = np.linalg.norm(np.diff(means.mean(axis=1), axis=0), axis=-1)
    np.testing.assert_allclose(steps, 2 * scale_of(matrices[:1])[0])


def test_a_larger_template_crop_is_the_smaller_one_enlarged():
    head = talking_head(1)
    small = TemplateAlignment(128).fit(head, FRAME)
    large = TemplateAlignment(256).fit(head, FRAME)
    points = np.array([[[0.0, 0.0], [50.0, 60.0]]])
    in_small, in_large = transform_points(points, small), transform_points(points, large)
    np.testing.assert_allclose((in_small + 0.5) * 2 - 0.5, in_large, atol=1e-9)


def test_whole_pixels_only_where_asked():
    head = talking_head(1) + 0.49
    truncated = TemplateAlignment(128, truncate=True).fit(head, FRAME)
    np.testing.assert_array_equal(truncated, TemplateAlignment(128).fit(np.trunc(head), FRAME))
    assert not np.allclose(truncated, TemplateAlignment(128).fit(head, FRAME))


def test_template_points_fill_the_box_from_25_to_105():
    points = np.random.default_rng(0).uniform(10, 90, (135, 2))
    points[20:36] = [20, 30]
    low, high = points.min(axis=0), points.max(axis=0)
    expected = (np.array([20, 30]) - low) / (high - low) * 80 + 25
    np.testing.assert_allclose(template_points_of(points)[0], expected)


def test_template_points_must_be_three():
    with pytest.raises(FaceError, match=r"^template_points has shape \(2, 2\): .*\.$"):
        TemplateAlignment(128, template_points=[[1.0, 2.0], [3.0, 4.0]])


# Mean face


def test_the_stable_points_reach_the_mean_face():
    head = talking_head(12, drift=3.0)
    alignment = MeanFaceAlignment.square(128, window=1)
    # Stable points that form the mean face somewhere in the frame: then the fit is exact.
    head[:, STABLE, :2] = transform_points(np.repeat(alignment.target_points[None], 12, 0), similarity(1.4, 0.3, 20, 9))
    crop = transform_points(head[:, STABLE, :2], alignment.fit(head, FRAME))
    np.testing.assert_allclose(crop, np.repeat(alignment.target_points[None], 12, 0), atol=1e-9)


def test_68_and_478_points_give_the_same_mean_face_alignment():
    head = talking_head(9)
    points = np.zeros((9, 68, 2))
    points[:, [33, 36, 39, 42, 45]] = head[:, STABLE, :2]
    alignment = MeanFaceAlignment.square(96)
    np.testing.assert_allclose(alignment.fit(points, FRAME), alignment.fit(head, FRAME))


def test_the_centred_window_does_not_lag_and_the_originals_leads():
    head = talking_head(40, drift=2.0)
    centred = MeanFaceAlignment.square(128, window=7).fit(head, FRAME)
    ahead = MeanFaceAlignment.square(128, window=7, look_ahead=True).fit(head, FRAME)
    single = MeanFaceAlignment.square(128, window=1).fit(head, FRAME)
    np.testing.assert_allclose(centred, single, atol=1e-6)
    np.testing.assert_allclose(ahead[:30], single[3:33], atol=1e-6)
    assert (ahead[-6:] == ahead[-7]).all()


def test_the_centred_window_averages_as_many_frames_before_as_after():
    head = talking_head(15, noise=2.0)
    alignment = MeanFaceAlignment.square(128, window=5)
    matrices = alignment.fit(head, FRAME)
    for n, first, last in ((0, 0, 0), (1, 0, 2), (7, 5, 9), (13, 12, 14), (14, 14, 14)):
        average = head[first : last + 1, STABLE, :2].mean(axis=0)
        np.testing.assert_allclose(matrices[n], similarity_transform(average, alignment.target_points), atol=1e-9)


def test_an_even_window_is_raised_by_one():
    head = talking_head(20, noise=1.0)
    even, odd = (MeanFaceAlignment.square(128, window=w, look_ahead=True).fit(head, FRAME) for w in (4, 5))
    np.testing.assert_array_equal(even, odd)


def test_a_clip_shorter_than_the_window():
    head = talking_head(3)
    assert MeanFaceAlignment.square(128, window=7).fit(head, FRAME).shape == (3, 3, 3)
    with pytest.raises(FaceError, match=r"^The clip has 3 frames, the smoothing window 7: lower the window\.$"):
        MeanFaceAlignment.square(128, window=7, look_ahead=True).fit(head, FRAME)


@pytest.mark.parametrize("size", [96, 128, 256])
def test_the_square_mean_face_is_centred_with_its_margins(size):
    alignment = MeanFaceAlignment.square(size, top=0.3, bottom=0.2)
    assert alignment.size == (size, size)
    (left, top, right, bottom) = bounding_boxes(alignment.mean_face)
    height = bottom - top
    assert left + right == pytest.approx(size, abs=2.5)
    assert top == pytest.approx(0.3 * height, abs=1.5)
    assert size - bottom == pytest.approx(0.2 * height, abs=2.5)


def test_a_mean_face_without_a_crop_is_refused():
    with pytest.raises(FaceError, match=r"needs a crop"):
        MeanFaceAlignment()
    assert MeanFaceAlignment((90, 70)).size == (90, 70)
    with pytest.raises(FaceError, match="window"):
        MeanFaceAlignment(64, window=0)


# Square crop


def in_crop(head: np.ndarray, alignment: SquareCropAlignment, frame: tuple[int, int] = FRAME) -> np.ndarray:
    return transform_points(head[..., :2], alignment.fit(head, frame))


def test_the_square_holds_every_landmark_of_every_frame_with_its_margin():
    head = talking_head(80, noise=0.5, drift=0.7)
    size, margin = 256, 0.2
    points = in_crop(head, SquareCropAlignment(size, margin=margin), (400, 500))
    face = np.median((bounding_boxes(points)[:, 2:] - bounding_boxes(points)[:, :2]).max(axis=1))
    assert points.min() >= margin * face - 1
    assert points.max() <= size - margin * face


@pytest.mark.parametrize("constant_scale", [True, False])
def test_the_square_does_not_tremble(constant_scale):
    head = talking_head(100, noise=1.5)
    matrices = SquareCropAlignment(256, constant_scale=constant_scale).fit(head, FRAME)
    corners = transform_points(np.tile([[[0.0, 0.0], [256.0, 256.0]]], (100, 1, 1)), invert(matrices))
    assert np.abs(np.diff(corners, axis=0)).max() < 0.15, (
        "pixels from one frame to the next, where the head moves by two"
    )


def test_speech_does_not_move_the_square():
    head = talking_head(60)
    matrices = SquareCropAlignment(256).fit(head, FRAME)
    assert np.abs(matrices - matrices[0]).max() < 1e-6


def test_the_square_follows_a_walk_without_falling_behind():
    head = talking_head(100, drift=1.5)
    points = in_crop(head, SquareCropAlignment(256), (400, 600))
    centre = points[30:70, RIGID].mean(axis=1)
    assert np.abs(centre - centre[0]).max() < 1


def test_the_scale_follows_a_face_that_comes_closer_only_where_asked():
    head = talking_head(80)
    zoom = np.linspace(0.7, 1.4, 80)[:, None, None]
    head = (head - [140, 120, 0]) * zoom + [160, 120, 0]
    constant = scale_of(SquareCropAlignment(256).fit(head, (600, 600)))
    varying = scale_of(SquareCropAlignment(256, constant_scale=False).fit(head, (600, 600)))
    assert np.ptp(constant) < 1e-12
    assert varying[10] / varying[70] > 1.3
    assert (np.diff(varying) < 1e-9).all()


def test_the_square_stays_within_the_frame():
    head = talking_head(50, drift=1.0)
    head[..., :2] += [30, -60]
    crop_edges = np.tile([[[-0.5, -0.5], [255.5, 255.5]]], (50, 1, 1))
    inside = transform_points(crop_edges, invert(SquareCropAlignment(256).fit(head, FRAME)))
    assert inside.min() >= -0.5 - 1e-6
    assert (inside <= np.array([319.5, 239.5]) + 1e-6).all()
    free = transform_points(crop_edges, invert(SquareCropAlignment(256, keep_inside=False).fit(head, FRAME)))
    assert free.min() < -0.5


def test_a_frame_smaller_than_the_square_is_used_as_far_as_it_reaches():
    head = talking_head(5)
    matrices = SquareCropAlignment(64, margin=2.0).fit(head, FRAME)
    np.testing.assert_allclose(scale_of(matrices), 64 / 240)


def test_a_negative_margin_is_refused():
    with pytest.raises(FaceError, match="margin"):
        SquareCropAlignment(64, margin=-0.1)


# Configuration


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF_DIR / "alignment").glob("*.yaml")))
def test_every_alignment_of_the_configuration_can_be_built_at_any_size(name):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(overrides=[f"+alignment={name}", "alignment.size=96"])
    alignment = hydra.utils.instantiate(cfg.alignment, _convert_="all")
    assert alignment.size == (96, 96)
    assert alignment.fit(talking_head(10), alignment.size).shape == (10, 3, 3)


def test_the_simplified_points_used_are_eyes_and_nose():
    points = np.zeros((135, 2))
    points[20:36], points[36:52], points[128:135] = [1, 2], [3, 4], [5, 6]
    assert feature_means(points).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert SIMPLIFIED[20] == 33


def test_a_resized_alignment_shows_the_same_crop():
    landmarks = np.random.default_rng(0).uniform(60, 140, (5, 478, 3))
    base = SquareCropAlignment(64)
    resized = ResizedAlignment(base, (32, 128))
    assert resized.size == (32, 128)
    frame_corners = np.array([[-0.5, -0.5], [199.5, 149.5]])
    at_base = transform_points(np.broadcast_to(frame_corners, (5, 2, 2)), base.fit(landmarks, (150, 200)))
    at_resized = transform_points(np.broadcast_to(frame_corners, (5, 2, 2)), resized.fit(landmarks, (150, 200)))
    np.testing.assert_allclose((at_resized + 0.5) / [2.0, 0.5], at_base + 0.5, atol=1e-9)
