"""The index tables."""

from collections import Counter

import numpy as np
import pytest

from src.face.detector import FaceDetector
from src.face.landmarks import to_ibug68
from src.face.topology import (
    FACE_OVAL,
    IBUG68,
    IBUG68_GROUPS,
    LEFT_EYE,
    LEFT_IRIS,
    LIPS_INNER,
    LIPS_OUTER,
    MIRRORED_IBUG68,
    NUM_LANDMARKS,
    NUM_MESH_POINTS,
    RIGHT_EYE,
    RIGHT_IRIS,
    RIGID,
    SIMPLIFIED,
    SIMPLIFIED_GROUPS,
    STABLE,
    STABLE_IBUG68,
    TESSELATION,
)
from src.media import VideoReader


@pytest.mark.parametrize(("table", "size"), [(SIMPLIFIED, 135), (IBUG68, 68), (FACE_OVAL, 36), (STABLE, 5)])
def test_tables_have_distinct_points(table, size):
    assert len(set(table.tolist())) == len(table) == size
    assert table.min() >= 0
    assert table.max() < NUM_LANDMARKS


def test_the_simplified_points_stand_in_storage_order():
    rows = {name: (rows.start, rows.stop) for name, rows in SIMPLIFIED_GROUPS.items()}
    assert rows == {
        "left_eyebrow": (0, 10),
        "right_eyebrow": (10, 20),
        "left_eye": (20, 36),
        "right_eye": (36, 52),
        "inner_lip": (52, 72),
        "outer_lip": (72, 92),
        "face_oval": (92, 128),
        "nose_ridge": (128, 135),
    }
    assert SIMPLIFIED[[0, 19, 20, 51, 52, 72, 92, 127, 128, 134]].tolist() == [
        70,
        276,
        33,
        249,
        78,
        61,
        10,
        109,
        168,
        1,
    ]


def test_the_stable_points_are_the_same_anatomy_in_both_layouts():
    np.testing.assert_array_equal(IBUG68[STABLE_IBUG68], STABLE)


def test_mirroring_the_68_points_twice_changes_nothing():
    np.testing.assert_array_equal(MIRRORED_IBUG68[MIRRORED_IBUG68], np.arange(68))


def test_tables_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        SIMPLIFIED[0] = 1


def edges() -> np.ndarray:
    return TESSELATION[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)


def test_the_triangles_form_a_surface_wound_one_way():
    assert TESSELATION.shape == (852, 3)
    assert sorted(set(TESSELATION.ravel().tolist())) == list(range(NUM_MESH_POINTS))
    assert max(Counter(map(tuple, edges().tolist())).values()) == 1, "an edge is used twice in one direction"


def test_the_surface_ends_at_the_oval_the_eyes_and_the_mouth():
    directed = set(map(tuple, edges().tolist()))
    border = {frozenset(edge) for edge in directed if edge[::-1] not in directed}
    contours = [FACE_OVAL, LEFT_EYE, RIGHT_EYE, LIPS_INNER]
    expected = {frozenset(pair) for c in contours for pair in zip(c.tolist(), np.roll(c, -1).tolist(), strict=True)}
    assert border == expected


def test_the_triangles_are_those_of_mediapipe():
    landmarker = pytest.importorskip("mediapipe.tasks.python.vision.face_landmarker")
    connections = landmarker.FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
    theirs = np.array([(edge.start, edge.end) for edge in connections]).reshape(-1, 3, 2)[:, :, 0]
    assert {frozenset(t) for t in theirs.tolist()} == {frozenset(t) for t in TESSELATION.tolist()}


@pytest.mark.shared
@pytest.mark.parametrize("clip", ["WDA_AlexandriaOcasioCortez_000", "d10", "d14", "d18", "d20"])
def test_the_68_points_are_anatomically_ordered_on_real_faces(clip, data, model):
    frame = VideoReader(data / "clips" / f"{clip}.mp4")[10]
    with FaceDetector("image", max_faces=1, model=model) as detector:
        (face,) = detector.detect(frame)
    # Without the roll of the head: the eye line becomes the x axis.
    points = to_ibug68(face.landmarks)[:, :2].astype(float)
    eyes = points[45] - points[36]
    turn = np.array([[eyes[0], eyes[1]], [-eyes[1], eyes[0]]]) / np.linalg.norm(eyes)
    x, y = (points @ turn.T).T
    part = {name: np.arange(68)[rows] for name, rows in IBUG68_GROUPS.items()}

    def rightwards(rows):
        return (np.diff(x[rows]) > 0).all()

    def downwards(rows):
        return (np.diff(y[rows]) > 0).all()

    assert rightwards(part["jaw"][2:15])
    assert downwards(part["jaw"][:9])
    assert downwards(part["jaw"][:7:-1])
    assert rightwards(part["left_eyebrow"])
    assert rightwards(part["right_eyebrow"])
    assert y[part["left_eyebrow"]].max() < y[part["left_eye"]].min()
    assert downwards(part["nose_ridge"])
    assert rightwards(part["nose_base"])
    for name in ("left_eye", "right_eye"):
        corner, upper1, upper2, inner, lower1, lower2 = part[name]
        assert rightwards([corner, upper1, upper2, inner])
        assert rightwards([corner, lower2, lower1, inner])
        assert y[[upper1, upper2]].max() < y[[lower1, lower2]].min()
    for name, width in (("outer_lip", 7), ("inner_lip", 5)):
        lip = part[name]
        assert rightwards(lip[:width])
        assert rightwards([lip[0], *lip[: width - 1 : -1], lip[width - 1]])
        closed = 0.02 * np.linalg.norm(eyes)
        assert y[lip[width // 2]] < y[lip[width:]].max() + closed
    assert y[33] < y[51] < y[57] < y[8]


@pytest.mark.shared
def test_the_irises_lie_between_the_corners_of_their_eyes(data, model):
    frame = VideoReader(data / "clips" / "d18.mp4")[10]
    with FaceDetector("image", max_faces=1, model=model) as detector:
        (face,) = detector.detect(frame)
    x = face.landmarks[:, 0]
    assert x[33] < x[LEFT_IRIS[0]] < x[133] < x[362] < x[RIGHT_IRIS[0]] < x[263]


def test_the_rigid_points_leave_out_mouth_and_jaw():
    assert not set(RIGID.tolist()) & {*LIPS_INNER.tolist(), *LIPS_OUTER.tolist(), 152, 148, 377}
    assert len(set(RIGID.tolist())) == len(RIGID)
