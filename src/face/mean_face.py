"""The mean faces of the face-processor tool, their arithmetic, and landmarks from its files.

Points are the 68 of iBUG, (x, y) in pixels. The numbers are those of https://github.com/DinoMan/face-processor (MIT): "large" is the
`mean_face.npy` of its command line, without margins; "packaged" the default of its library, with margins in it.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from src.errors import FaceError

# fmt: off
_LARGE = [
    (0.190, 46.827), (3.562, 78.946), (8.841, 108.756), (14.773, 136.179), (24.828, 168.300), (41.517, 194.322),
    (60.120, 213.803), (83.835, 232.347), (120.585, 244.160), (156.427, 231.954), (177.830, 211.508), (194.059, 191.721),
    (208.412, 164.666), (216.649, 132.186), (220.662, 103.634), (224.492, 72.469), (224.027, 40.664), (22.625, 17.636),
    (35.832, 7.498), (53.059, 2.824), (69.526, 4.304), (84.157, 8.098), (143.259, 7.171), (157.213, 2.890),
    (172.790, 0.187), (189.857, 4.219), (203.279, 12.909), (114.802, 44.683), (115.644, 66.737), (115.766, 87.638),
    (116.462, 105.295), (97.312, 119.683), (105.595, 121.399), (116.950, 123.796), (128.416, 121.571), (136.801, 118.986),
    (45.512, 43.462), (56.785, 38.058), (70.800, 38.473), (84.545, 45.623), (71.774, 49.647), (56.660, 49.259),
    (143.671, 43.024), (157.396, 36.122), (171.663, 35.582), (182.164, 39.638), (172.094, 46.708), (156.941, 47.248),
    (80.678, 168.963), (92.000, 157.466), (108.796, 148.705), (118.162, 150.281), (127.195, 147.966), (144.772, 156.902),
    (157.325, 167.535), (145.897, 184.450), (133.462, 193.763), (119.220, 196.093), (104.413, 195.038), (92.038, 186.022),
    (83.125, 168.585), (106.681, 162.076), (118.238, 160.950), (129.935, 161.864), (154.482, 167.453), (130.702, 177.981),
    (118.526, 179.975), (105.974, 178.965),
]
_PACKAGED = [
    (48, 63), (48, 82), (50, 98), (52, 113), (58, 129), (66, 140),
    (77, 148), (89, 156), (112, 162), (133, 156), (145, 148), (155, 138),
    (166, 125), (170, 109), (174, 94), (178, 78), (178, 59), (56, 45),
    (64, 38), (73, 36), (83, 36), (91, 38), (124, 36), (133, 34),
    (143, 32), (153, 34), (161, 40), (108, 55), (108, 67), (108, 78),
    (108, 88), (97, 96), (101, 96), (110, 98), (116, 96), (120, 96),
    (68, 57), (75, 53), (83, 53), (91, 57), (83, 59), (75, 59),
    (126, 55), (135, 51), (143, 51), (149, 55), (143, 57), (135, 57),
    (89, 121), (95, 115), (104, 111), (110, 113), (114, 111), (124, 115),
    (133, 121), (124, 127), (118, 134), (110, 134), (101, 134), (95, 127),
    (89, 121), (104, 117), (110, 117), (116, 117), (130, 121), (116, 123),
    (110, 125), (101, 123),
]
# fmt: on

_CSV_COLUMNS = 1 + 2 * 68


def load_mean_face(
    source: str | Path | Float[np.ndarray, "68 2"] | Sequence[Sequence[float]],
) -> Float[np.ndarray, "68 2"]:
    """A mean face by name ("large", "packaged"), from a .npy file of shape (68, 2), or as given, also in nested lists; float64.

    Raises:
        FaceError: no such name or file, or another shape.
    """
    if not isinstance(source, str | Path):
        return _checked(np.asarray(source, dtype=np.float64), "as given")
    tables = {"large": _LARGE, "packaged": _PACKAGED}
    if str(source) in tables:
        return np.array(tables[str(source)], dtype=np.float64)
    try:
        points = np.load(Path(source), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FaceError(
            f"mean_face={source} is neither large nor packaged nor a readable .npy file: check the path."
        ) from error
    return _checked(points, str(source))


def _checked(points: np.ndarray, name: str) -> Float[np.ndarray, "68 2"]:
    if points.shape != (68, 2):
        raise FaceError(f"The mean face {name} has shape {points.shape}: it must be 68 points of x and y.")
    return points.astype(np.float64)


def box_size(points: Float[np.ndarray, "n 2"]) -> tuple[int, int]:
    """Whole width and height of the points: truncated corners, then the difference."""
    width, height = (np.trunc(points.max(axis=0)) - np.trunc(points.min(axis=0))).astype(int).tolist()
    return width, height


def shift_mean_face(points: Float[np.ndarray, "n 2"], side: float, top: float) -> Float[np.ndarray, "n 2"]:
    """The mean face moved so that its box begins `side` widths from the left and `top` heights from the upper border.

    Only the truncated corner is subtracted: a fraction of a pixel remains, as in the original.
    """
    width, height = box_size(points)
    return points - np.trunc(points.min(axis=0)) + np.array([int(side * width), int(top * height)])


def crop_size(points: Float[np.ndarray, "n 2"], side: float, top: float, bottom: float) -> tuple[int, int]:
    """Height and width of the crop around a (shifted) mean face, margins in fractions of its box."""
    width, height = box_size(points)
    return int(height * (1 + top + bottom)), int(width * (1 + 2 * side))


def estimate_mean_face(
    videos: Iterable[Float[np.ndarray, "_ 68 2"]], *, offset: tuple[float, float] = (0.0, 0.0), step: int = 10
) -> Float[np.ndarray, "68 2"]:
    """Mean of the landmarks of every `step`-th frame of the videos, moved by `offset` (side, top) as `shift_mean_face` does.

    To be estimated from aligned example clips where a released model's own target is unknown.

    Raises:
        FaceError: no frame was given.
    """
    total, count = np.zeros((68, 2)), 0
    for landmarks in videos:
        sampled = landmarks[::step].astype(np.float64)
        total += sampled.sum(axis=0)
        count += len(sampled)
    if count == 0:
        raise FaceError("A mean face needs at least one frame of landmarks: give a video with a face.")
    return shift_mean_face(total / count, *offset)


def read_landmark_csv(path: str | Path) -> Float[np.ndarray, "t 68 2"]:
    """Landmarks of a video from a face-processor file: rows `frame, y0, x0, ..., y67, x67`, (x, y) here.

    Empty, shape (0, 68, 2), when any row is marked undetected by a y of -1: the tool then skips the video.

    Raises:
        FaceError: the file cannot be read, or a row is no such row.
    """
    try:
        with Path(path).open(newline="") as file:
            return _parse_rows([row for row in csv.reader(file) if row])
    except OSError as error:
        raise FaceError(f"The landmark file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FaceError(
            f"The landmark file {path} must hold rows of a frame number and 68 pairs y,x ({_CSV_COLUMNS} numbers)."
        ) from error


def _parse_rows(rows: Sequence[Sequence[str]]) -> Float[np.ndarray, "t 68 2"]:
    """Rows already split; ValueError for one of another form."""
    if any(len(row) != _CSV_COLUMNS for row in rows):
        raise ValueError(f"a row does not have {_CSV_COLUMNS} columns")
    yx = np.array(rows, dtype=np.float64).reshape(len(rows), _CSV_COLUMNS)[:, 1:].reshape(-1, 68, 2)
    return np.empty((0, 68, 2)) if (yx[..., 0] == -1).any() else yx[..., ::-1].copy()
