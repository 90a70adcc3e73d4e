import numpy as np
import torch

from src.face.moditalker_mtov import dots, mask_rows, square_crop, without_lower_face


def test_points_are_white_discs_without_fractions():
    points = np.full((1, 68, 2), -50.0)
    points[0, 0] = (10.9, 20.9)
    picture = dots(points, 64, 64)[0, ..., 0]
    assert picture[20, 7:14].tolist() == [255] * 7
    assert picture[17:24, 10].tolist() == [255] * 7
    assert (picture > 0).sum() == 29


def test_points_are_placed_by_the_width_of_the_frame():
    points = np.full((1, 68, 2), 50.0)
    assert dots(points, 100, 32, radius=0)[0, 16, 16].tolist() == [255, 255, 255]
    assert dots(points, 100, 32, radius=0).sum() == 3 * 255


def test_a_frame_without_a_face_stays_empty():
    points = np.full((2, 68, 2), 50.0)
    points[1] = np.nan
    pictures = dots(points, 100)
    assert pictures[0].any()
    assert not pictures[1].any()


def test_the_face_is_hidden_from_the_nose_on():
    frames = np.full((2, 6, 4, 3), 7, np.uint8)
    points = np.zeros((2, 68, 2))
    points[:, 33, 1] = (2.9, 5.0)
    masked = without_lower_face(frames, mask_rows(points))
    assert masked[0, :, 0, 0].tolist() == [7, 7, 0, 0, 0, 0]
    assert masked[1, :, 0, 0].tolist() == [7, 7, 7, 7, 7, 0]
    assert frames.all()


def test_the_middle_of_wide_and_tall_frames_is_kept():
    wide = torch.arange(7.0).expand(1, 1, 3, 7)
    assert square_crop(wide, 3)[0, 0, 0].tolist() == [2, 3, 4]
    assert square_crop(wide.transpose(2, 3), 3)[0, 0, :, 0].tolist() == [2, 3, 4]
