"""Mean faces and landmark files."""

import numpy as np
import pytest

from src.errors import FaceError
from src.face.mean_face import (
    box_size,
    crop_size,
    estimate_mean_face,
    load_mean_face,
    read_landmark_csv,
    shift_mean_face,
)


@pytest.mark.parametrize(
    ("name", "scale", "offset", "crop"),
    [
        ("large", 1.0, (0.11, 0.336, 0.155), (363, 273)),
        ("large", 0.3516, (0.11, 0.336, 0.155), (126, 95)),
        ("packaged", 1.0, (0.11, 0.336, 0.155), (193, 158)),
    ],
)
def test_the_crops_that_the_tools_users_know(name, scale, offset, crop):
    side, top, bottom = offset
    assert crop_size(shift_mean_face(load_mean_face(name) * scale, side, top), side, top, bottom) == crop


def test_shifting_keeps_the_fraction_of_the_corner():
    points = np.array([[3.7, 5.2], [13.9, 25.1]])
    assert box_size(points) == (10, 20)
    np.testing.assert_allclose(shift_mean_face(points, 0.25, 0.16), [[0.7 + 2, 0.2 + 3], [10.9 + 2, 20.1 + 3]])


def test_a_mean_face_can_come_from_a_file_or_an_array(tmp_path):
    points = np.random.default_rng(0).uniform(0, 100, (68, 2)).astype(np.float32)
    np.save(tmp_path / "mine.npy", points)
    for source in (tmp_path / "mine.npy", str(tmp_path / "mine.npy"), points):
        loaded = load_mean_face(source)
        assert loaded.dtype == np.float64
        np.testing.assert_array_equal(loaded, points)


def test_unusable_mean_faces_are_named(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros((5, 2)))
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(FaceError, match=r"short.npy has shape \(5, 2\)"):
        load_mean_face(tmp_path / "short.npy")
    for source in ("huge", tmp_path / "text.npy"):
        with pytest.raises(FaceError, match=r"is neither large nor packaged nor a readable .npy file"):
            load_mean_face(source)


def test_a_pickled_mean_face_is_not_loaded(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FaceError, match="readable"):
        load_mean_face(tmp_path / "pickled.npy")


def test_the_mean_of_videos_takes_every_tenth_frame():
    videos = [np.random.default_rng(i).uniform(0, 50, (n, 68, 2)) for i, n in enumerate((23, 15, 1))]
    used = np.concatenate([video[::10] for video in videos])
    assert len(used) == 6
    np.testing.assert_allclose(estimate_mean_face(videos), shift_mean_face(used.mean(axis=0), 0.0, 0.0))
    with pytest.raises(FaceError, match="at least one frame"):
        estimate_mean_face([])


def test_files_store_y_before_x(tmp_path):
    points = np.arange(2 * 68 * 2).reshape(2, 68, 2)
    rows = [",".join(map(str, [i, *frame[:, ::-1].ravel()])) for i, frame in enumerate(points)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(rows) + "\n")
    np.testing.assert_array_equal(read_landmark_csv(path), points)
    path.write_text("\n".join([*rows, ",".join(["2", *["-1"] * 136])]))
    assert read_landmark_csv(path).shape == (0, 68, 2)


def test_unusable_landmark_files_are_named(tmp_path):
    with pytest.raises(FaceError, match=r"nowhere.csv cannot be read: No such file"):
        read_landmark_csv(tmp_path / "nowhere.csv")
    path = tmp_path / "short.csv"
    for text in ("0,1,2\n", ",".join(["x"] * 137)):
        path.write_text(text)
        with pytest.raises(FaceError, match=r"short.csv must hold rows of a frame number and 68 pairs y,x"):
            read_landmark_csv(path)
