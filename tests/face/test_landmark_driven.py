"""The faithful preprocessing of a whole clip, with invented detections."""

import numpy as np
import pytest

from src.errors import FaceError
from src.face.alignment import DEFAULT_TEMPLATE_POINTS
from src.face.drawing import draw_landmarks
from src.face.landmark_driven import original_template_points, preprocess_original, truncated_points
from tests.face.faces import cloud

TEMPLATE = np.array(DEFAULT_TEMPLATE_POINTS)
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3)).astype(np.uint8)


class Detections:
    """Answers with the landmarks given, in order, and keeps the pictures it was shown."""

    def __init__(self, answers: list[np.ndarray | None]) -> None:
        self.answers = list(answers)
        self.shown: list[np.ndarray] = []

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        self.shown.append(picture)
        return self.answers.pop(0)


def crop_points(seed: int) -> np.ndarray:
    return cloud(seed, centre=(64, 64), size=70)


def test_coordinates_are_truncated_towards_zero():
    landmarks = np.full((478, 3), 3.99)
    landmarks[70, :2] = [-0.7, -1.4]
    points = truncated_points(landmarks)
    assert points[0].tolist() == [0, -1]
    assert (points[1:] == 3).all()


def test_a_clip_in_the_originals_order():
    detect = Detections([cloud(1, (25, 20), 20), *[crop_points(i) for i in range(5)]])
    clip = preprocess_original(FRAMES, detect, TEMPLATE)
    assert clip.video.shape == clip.landmark_figure.shape == (5, 128, 128, 3)
    np.testing.assert_array_equal(detect.shown[0], FRAMES[0][..., ::-1])
    for shown, frame in zip(detect.shown[1:], clip.video, strict=True):
        np.testing.assert_array_equal(shown, frame)
    np.testing.assert_array_equal(clip.landmarks[3], truncated_points(crop_points(3)))
    np.testing.assert_array_equal(clip.filled_landmarks, clip.landmarks)
    np.testing.assert_array_equal(clip.landmark_figure, draw_landmarks(clip.landmarks, 128))


def test_the_first_frame_is_shown_as_it_is_where_asked():
    detect = Detections([cloud(1, (25, 20), 20), *[crop_points(i) for i in range(5)]])
    preprocess_original(FRAMES, detect, TEMPLATE, swap_red_blue=False)
    np.testing.assert_array_equal(detect.shown[0], FRAMES[0])


def test_a_gap_stays_in_the_stored_landmarks_and_is_drawn_filled():
    answers = [cloud(1, (25, 20), 20), crop_points(0), None, None, crop_points(3), crop_points(4)]
    clip = preprocess_original(FRAMES, Detections(answers), TEMPLATE)
    assert np.isnan(clip.landmarks).all(axis=(1, 2)).tolist() == [False, True, True, False, False]
    first, last = clip.landmarks[0], clip.landmarks[3]
    np.testing.assert_allclose(clip.filled_landmarks[1], first + (last - first) / 3)
    assert clip.landmark_figure[1].any()


@pytest.mark.parametrize(
    ("missing", "where"), [(0, "first frame, which places"), (1, "first or the last"), (5, "first or the last")]
)
def test_a_missing_first_or_last_detection_drops_the_clip(missing, where):
    answers = [cloud(1, (25, 20), 20), *[crop_points(i) for i in range(5)]]
    answers[missing] = None
    with pytest.raises(FaceError, match=where):
        preprocess_original(FRAMES, Detections(answers), TEMPLATE)


def test_a_template_is_squeezed_to_a_square_and_must_show_a_face():
    portrait = np.zeros((300, 200, 3), np.uint8)
    portrait[..., 0] = 200
    detect = Detections([crop_points(0), None])
    points = original_template_points(portrait, detect)
    assert detect.shown[0].shape == (128, 128, 3)
    assert detect.shown[0][5, 5].tolist() == [0, 0, 200], "red and blue are swapped"
    assert points.shape == (3, 2)
    assert (points > 25).all()
    assert (points < 105).all()
    with pytest.raises(FaceError, match="template portrait"):
        original_template_points(portrait, detect)


def test_a_template_of_128_pixels_is_left_as_it_is():
    portrait = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    detect = Detections([crop_points(0)])
    original_template_points(portrait, detect, swap_red_blue=False)
    np.testing.assert_array_equal(detect.shown[0], portrait)
