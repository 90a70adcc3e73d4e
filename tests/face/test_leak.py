"""What is kept of a frame must not tell how far the mouth is open: a regressor that sees masked frames alone tries to find out.

Rendered people, half of them held out. Their mouths speak, their heads turn at random: nodding to one's own speech, which no mask can hide,
does not count. Pixels and opening are compared with their own clip's mean: how people differ does not count either.
"""

import numpy as np
import pytest

from src.datamodules.synthetic.clip import perform
from src.datamodules.synthetic.head import SyntheticHead
from src.datamodules.synthetic.pose import Pose
from src.face.landmarks import mouth_opening
from src.face.repainting import MaskRule, kept_masks, latent_masks

N_PEOPLE, N_FRAMES, STEP, SIZE, FACTOR = 24, 20, 5, 64, 2
PIXELS = 32  # side of what the regressor sees
CHANCE = 0.05  # share of variance; regressors of permuted openings reach less


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (n, t, h, w, 3), landmarks (n, t, 478, 3) and openings (n, t)."""
    frames, landmarks = [], []
    for seed in range(N_PEOPLE):
        head = SyntheticHead(seed, SIZE)
        controls = perform(head, seed, STEP * N_FRAMES).controls[::STEP]
        pose = random_pose(np.random.default_rng(seed))
        frames.append(head.render(controls, pose))
        landmarks.append(head.landmarks(controls, pose))
    points = np.stack(landmarks)
    return np.stack(frames), points, mouth_opening(points)


def random_pose(rng: np.random.Generator) -> Pose:
    yaw, pitch, roll = np.radians([[3.0], [2.0], [1.5]]) * rng.standard_normal((3, N_FRAMES))
    shift = 0.02 * rng.standard_normal((N_FRAMES, 3))
    return Pose(yaw=yaw, pitch=pitch, roll=roll, shift=shift, sway=np.zeros((N_FRAMES, 3)))


def seen(frames: np.ndarray, landmarks: np.ndarray, rule: MaskRule | None, *, cells: bool) -> np.ndarray:
    """Masked frames and the mask itself, small: (n, t, d), without each clip's mean."""
    n, t = frames.shape[:2]
    kept = np.ones((n * t, SIZE, SIZE), bool)
    if rule:
        kept = kept_masks(landmarks.reshape(n * t, 478, 3), (SIZE, SIZE), rule)
        if cells:
            kept = latent_masks(kept, FACTOR, rule).repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    colours = np.where(kept[..., None], frames.reshape(n * t, SIZE, SIZE, 3) / 255 - 0.5, 0)
    planes = np.concatenate([colours, kept[..., None]], axis=-1)
    block = SIZE // PIXELS
    small = planes.reshape(n * t, PIXELS, block, PIXELS, block, 4).mean(axis=(2, 4)).reshape(n, t, -1)
    return small - small.mean(axis=1, keepdims=True)


def explained(pixels: np.ndarray, opening: np.ndarray) -> float:
    """Share of the opening's variance that ridge regression predicts of people whom it was not fitted to; the best of several ridges."""
    n, t = opening.shape
    wanted = (opening - opening.mean(axis=1, keepdims=True)).ravel()
    rows = pixels.reshape(n * t, -1)
    products = rows @ rows.T / max((rows**2).sum(axis=1).mean(), 1e-12)
    half = np.repeat(np.arange(n) % 2, t)
    scores = []
    for ridge in 10.0 ** np.arange(-3, 3):
        predicted = np.zeros(n * t)
        for held_out in (0, 1):
            fit, test = half != held_out, half == held_out
            weights = np.linalg.solve(products[np.ix_(fit, fit)] + ridge * np.eye(fit.sum()), wanted[fit])
            predicted[test] = products[np.ix_(test, fit)] @ weights
        scores.append(1 - ((wanted - predicted) ** 2).sum() / (wanted**2).sum())
    return max(scores)


@pytest.mark.parametrize("cells", [False, True], ids=["pixels", "latent cells"])
def test_the_default_mask_gives_nothing_away(people, cells):
    frames, landmarks, opening = people
    assert explained(seen(frames, landmarks, MaskRule(), cells=cells), opening) < CHANCE


@pytest.mark.parametrize("cells", [False, True], ids=["pixels", "latent cells"])
def test_the_jaw_polygon_gives_the_mouth_away(people, cells):
    frames, landmarks, opening = people
    assert explained(seen(frames, landmarks, MaskRule("jaw"), cells=cells), opening) > 4 * CHANCE


def test_the_regressor_finds_what_is_there(people):
    frames, landmarks, opening = people
    assert explained(seen(frames, landmarks, None, cells=False), opening) > 0.4


def test_chance_is_what_permuted_openings_reach(people):
    frames, landmarks, opening = people
    order = np.random.default_rng(0)
    shuffled = np.stack([order.permutation(row) for row in opening])
    assert explained(seen(frames, landmarks, MaskRule("jaw"), cells=False), shuffled) < CHANCE
