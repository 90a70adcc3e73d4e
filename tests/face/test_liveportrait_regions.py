"""Regions around eyes and mouth of 68 landmarks."""

import numpy as np

from src.face.liveportrait_regions import eye_and_mouth_regions


def landmarks() -> np.ndarray:
    """Hexagonal eyes and a diamond of lips, in pixels of a 100 x 100 picture, scaled to [0, 1]."""
    points = np.full((68, 2), 50.0)
    hexagon = np.array([[-10, 0], [-5, -4], [5, -4], [10, 0], [5, 4], [-5, 4]])
    points[36:42], points[42:48] = hexagon + (30, 40), hexagon + (70, 40)
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points[48:60] = np.stack([12 * np.cos(turn), 6 * np.sin(turn)], axis=1) + (50, 75)
    return points / 100


def test_without_growing_the_regions_are_the_polygons_with_their_outlines():
    eyes, mouth = eye_and_mouth_regions(landmarks(), 100, eye_erosion=0, eye_dilation=0, mouth_dilation=0)
    assert eyes[40, 20:41].all()
    assert eyes[36, 25:36].all()
    assert not eyes[40, [19, 41]].any()
    assert eyes[:, :50].sum() == eyes[:, 50:].sum()
    assert mouth[75, 39:62].all()
    assert not (eyes & mouth).any()


def test_growing_reaches_three_pixels_a_step():
    plain = eye_and_mouth_regions(landmarks(), 100, mouth_dilation=0)[1]
    grown = eye_and_mouth_regions(landmarks(), 100, mouth_dilation=2)[1]
    rows, larger = np.flatnonzero(plain.any(axis=1)), np.flatnonzero(grown.any(axis=1))
    assert (larger[0], larger[-1]) == (rows[0] - 6, rows[-1] + 6)


def test_faces_beyond_the_border_are_cut():
    eyes, mouth = eye_and_mouth_regions(landmarks() - 0.35, 100)
    assert eyes.any()
    assert mouth.any()
    assert not eye_and_mouth_regions(landmarks() + 2, 100)[0].any()
