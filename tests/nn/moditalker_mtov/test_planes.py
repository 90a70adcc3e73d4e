"""Which positions of the planes see a box of the frames."""

import torch

from src.nn.moditalker_mtov.planes import PlaneShape

SHAPE = PlaneShape(frames=3, height=4, width=5)


def seen(boxes):
    return [plane[0, 0] for plane in SHAPE.split(SHAPE.seen_in(torch.tensor([boxes]), patch=4)[:, None].float())]


def test_cells_columns_and_rows_that_a_box_touches():
    nowhere = [0, 0, 0, 0]
    xy, yt, xt = seen([nowhere, [3, 5, 8, 12], nowhere])
    assert xy.nonzero().tolist() == [[0, 2], [1, 2]]  # rows 3 and 4 lie in two cells
    assert yt.nonzero().tolist() == [[1, 2]]  # the second frame alone, one column
    assert xt.nonzero().tolist() == [[1, 0], [1, 1]]


def test_the_picture_plane_sees_the_boxes_of_all_frames():
    xy, yt, xt = seen([[0, 1, 0, 1], [0, 1, 0, 1], [15, 16, 19, 20]])
    assert xy.nonzero().tolist() == [[0, 0], [3, 4]]
    assert yt.nonzero().tolist() == [[0, 0], [1, 0], [2, 4]]
    assert xt.nonzero().tolist() == [[0, 0], [1, 0], [2, 3]]
