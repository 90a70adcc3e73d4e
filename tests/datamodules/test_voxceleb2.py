"""Annotations of VoxCeleb2 and the original's files of coefficients."""

from pathlib import Path

import numpy as np
import pytest

from src.datamodules.liveportrait_talker_layout import (
    FaceCoefficients,
    coefficient_files,
    cropped_face,
    read_coefficients,
    write_coefficients,
)
from src.datamodules.preprocessing.voxceleb2 import in_frame, read_annotation, search_boxes, usable
from src.errors import StoreError

HEADER = "Identity  : \tid1\nReference : \tabc\nOffset    : \t1\nFV Conf   : \t1\nASD Conf  : \t4\n\nFRAME \tX \tY \tW \tH \n"


def annotation_file(folder: Path, rows: list[str]) -> Path:
    path = folder / "00001.txt"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_an_annotation_is_read_and_interpolated(tmp_path: Path):
    rows = ["000100 \t0.1 \t0.2 \t0.3 \t0.4 ", "000101 \t0.2 \t0.2 \t0.3 \t0.4 ", "000102 \t0.4 \t0.2 \t0.3 \t0.4 "]
    annotation = read_annotation(annotation_file(tmp_path, rows))
    assert (annotation.video, annotation.identity, annotation.seconds) == ("abc", "id1", (4.0, 4.08))
    np.testing.assert_allclose(annotation.boxes_at(5)[:, 0], [0.1, 0.15, 0.2, 0.3, 0.4])


def test_boxes_in_pixels_are_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="VoxCeleb1"):
        read_annotation(annotation_file(tmp_path, ["000100 \t120 \t80 \t200 \t210 "]))


def test_other_text_is_refused(tmp_path: Path):
    path = tmp_path / "note.txt"
    path.write_text("hello\n" * 9)
    with pytest.raises(StoreError, match="no annotation"):
        read_annotation(path)


def test_search_boxes_are_twice_as_large_and_cut_at_the_edge():
    boxes = search_boxes(np.array([[0.4, 0.4, 0.2, 0.2], [0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.05, 0.05]]), (100, 200))
    assert boxes.tolist() == [[60, 30, 140, 70], [0, 0, 80, 40], [95, 47, 115, 57]]
    assert usable(boxes).tolist() == [True, True, False]
    assert in_frame(np.array([[1, 2, 3, 4]]), boxes[:1]).tolist() == [[61, 32, 63, 34]]


def coefficients(n: int) -> FaceCoefficients:
    rng = np.random.default_rng(n)
    return FaceCoefficients(
        rng.standard_normal((n, 70)).astype(np.float32),
        np.tile(np.array([2, 3, 20, 30]), (n, 1)),
        rng.random((n, 68, 2)).astype(np.float32),
        np.arange(n),
    )


def test_coefficients_come_back_and_windows_hold_the_ends(tmp_path: Path):
    path, clip = tmp_path / "id1" / "abc" / "00001.mat", coefficients(7)
    write_coefficients(path, clip)
    found = read_coefficients(path)
    for name in ("coefficients", "rectangles", "landmarks", "frames"):
        np.testing.assert_array_equal(getattr(found, name), getattr(clip, name))
    assert coefficient_files(tmp_path) == [path]
    window = found.window(1, 3)
    np.testing.assert_array_equal(window, clip.coefficients[[0, 0, 0, 1, 2, 3, 4], :64].T)


def test_a_damaged_file_and_an_empty_folder_are_refused(tmp_path: Path):
    path = tmp_path / "a.mat"
    path.write_bytes(b"nothing")
    with pytest.raises(StoreError, match="make it again"):
        read_coefficients(path)
    with pytest.raises(StoreError, match="threedmm"):
        coefficient_files(tmp_path)


def test_the_face_is_squeezed_to_a_square_in_the_order_of_the_frame():
    frame = np.zeros((40, 40, 3), np.uint8)
    frame[..., 0] = 255
    face = cropped_face(frame, np.array([2, 3, 20, 30]), 16)
    assert face.shape == (3, 16, 16)
    assert face.max(axis=(1, 2)).tolist() == [1.0, 0.0, 0.0]
