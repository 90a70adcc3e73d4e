"""Coefficients of what synthetic heads say: of the speech alone, in step with their lips."""

import numpy as np
import pytest

from src.datamodules.synthetic.articulation import ArticulationFeatures
from src.datamodules.synthetic.clip import perform
from src.datamodules.synthetic.head import SyntheticHead
from src.errors import FeatureError

N = 40


def test_rows_are_those_of_the_take_in_step_with_the_lips():
    rows = ArticulationFeatures(16).read("a", N, "synthetic/3/1")
    assert (rows.shape, rows.dtype) == ((N, 16), np.float32)
    controls = perform(SyntheticHead(3, 16), 1, N).controls
    shape = np.stack([controls.jaw, controls.close, controls.pucker], axis=1)
    # What the person does is a linear function of the rows, but for how far this mouth opens.
    solved = np.linalg.lstsq(np.c_[rows, np.ones(N)], shape, rcond=None)[0]
    np.testing.assert_allclose(np.c_[rows, np.ones(N)] @ solved, shape, atol=0.05)
    other = ArticulationFeatures(16).read("a", N, "synthetic/3/2")
    assert np.abs(rows - other).mean() > 0.1


def test_the_same_words_are_the_same_rows_whoever_says_them_how():
    """Person and take determine what is said; nothing else of the clip, its name for one, changes a row."""
    features = ArticulationFeatures()
    assert features.dim == 64
    np.testing.assert_array_equal(features.read("a", N, "synthetic/3/1"), features.read("b", N, "synthetic/3/1"))


def test_recordings_of_real_people_are_refused():
    with pytest.raises(FeatureError, match="shows no synthetic head"):
        ArticulationFeatures().read("a", N, "id00012/abc/00001.mp4")
