"""Geometry of faces for LivePortraitTalker: the rectangle that is rendered, the alignment of the 3D morphable model, eye openings, pasting.

Everything follows SadTalker's preprocessing, because its published networks saw faces cut like this. Points are (x, y) in pixels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image
from scipy.signal import savgol_filter

from src.errors import FaceError
from src.face.geometry import invert, transform_points
from src.face.landmarks import smooth, to_ibug68
from src.media.fixed_point import resize_fixed_point

CROP_SIZE = 256  # of the rendered face
REGRESSOR_SIZE = 224  # of the 3D morphable model's input
REGRESSOR_SCALE = 102.0  # pixels per unit of the standard face there

# Five points of a standard face, y up: left eye, right eye, nose tip, left and right corner of the mouth.
STANDARD_POINTS = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)

# The 98 WFLW points that make the 68 iBUG points; where two are given, their mean.
_WFLW_TO_IBUG68: tuple[tuple[int, ...], ...] = (
    *((i,) for i in range(0, 33, 2)),
    (33,), (34, 41), (35, 40), (36, 39), (37, 38),
    (42, 50), (43, 49), (44, 48), (45, 47), (46,),
    *((i,) for i in range(51, 60)),
    *((i,) for i in (60, 61, 63, 64, 65, 67)),
    *((i,) for i in (68, 69, 71, 72, 73, 75)),
    *((i,) for i in range(76, 96)),
)  # fmt: skip
_FIRST = np.array([pair[0] for pair in _WFLW_TO_IBUG68])
_SECOND = np.array([pair[-1] for pair in _WFLW_TO_IBUG68])

# Upper lid, lower lid, outer and inner corner of the left and the right eye, of the 98 points.
_EYES = np.array([[62, 66, 60, 64], [70, 74, 68, 72]])


def wflw_to_ibug68(points: Float[np.ndarray, "*t 98 2"]) -> Float32[np.ndarray, "*t 68 2"]:
    """The 68-point equivalent of 98 WFLW landmarks."""
    return ((points[..., _FIRST, :] + points[..., _SECOND, :]) / 2).astype(np.float32)


def eye_close_ratios(points: Float[np.ndarray, "*t 98 2"]) -> Float64[np.ndarray, "*t 2"]:
    """Height over width of the left and the right eye of 98 WFLW landmarks."""
    upper, lower, outer, inner = (points[..., _EYES[:, i], :].astype(np.float64) for i in range(4))
    return np.linalg.norm(upper - lower, axis=-1) / (np.linalg.norm(outer - inner, axis=-1) + 1e-6)


def face_rectangle(points: Float[np.ndarray, "68 2"], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (both exclusive) of the part of a picture that is rendered.

    The upright box around a square that is turned with the face (FFHQ's crop: Karras et al., arXiv:1812.04948, appendix C), with a border;
    at the picture's edge it is cut, so that it need not be square.

    Args:
        points: 68 landmarks.
        size: height and width of the picture.

    Raises:
        FaceError: the face lies outside the picture.
    """
    points = points.astype(np.float64)
    left_eye, right_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes, across = (left_eye + right_eye) / 2, right_eye - left_eye
    down = (points[48] + points[54]) / 2 - eyes
    x = across + np.array([down[1], -down[0]])
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    corners = centre + np.stack([-x - y, -x + y, x + y, x - y])
    border = max(int(np.rint(0.1 * 2 * np.hypot(*x))), 3)
    height, width = size
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - border, 0).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + border, [width, height]).tolist()
    if left >= right or top >= bottom:
        raise FaceError("The face lies outside the picture: give a picture that shows it whole.")
    return left, top, right, bottom


class TalkerAlignment:
    """SadTalker's crop, `face_rectangle` squeezed to a square, by MediaPipe's landmarks; see `src.face.alignment.Alignment`.

    Args:
        size: side of the crop.
        smoothing: of a video's rectangles along time, standard deviation in frames; the original's tremble.
    """

    def __init__(self, size: int = 512, *, smoothing: float | int = 6.0) -> None:
        self.size = (size, size)
        self.smoothing = float(smoothing)

    def fit(self, landmarks: Float[np.ndarray, "t n d"], frame_size: tuple[int, int]) -> Float64[np.ndarray, "t 3 3"]:
        """Frame pixels -> crop pixels of every frame; FaceError where a face lies outside."""
        points = to_ibug68(landmarks[..., :2])
        rectangles = np.array([face_rectangle(face, frame_size) for face in points], np.float64)
        return crop_matrices(np.rint(smooth(rectangles, self.smoothing)), self.size[0])


def crop_matrices(rectangles: Float[np.ndarray, "t 4"], side: int) -> Float64[np.ndarray, "t 3 3"]:
    """Frame pixels -> pixels of squares that rectangles (left, top, right, bottom) are squeezed to."""
    corner, extent = rectangles[:, :2], rectangles[:, 2:] - rectangles[:, :2]
    matrices = np.zeros((len(rectangles), 3, 3))
    matrices[:, [0, 1], [0, 1]] = side / extent
    matrices[:, :2, 2] = (0.5 - corner) * side / extent - 0.5  # pixel centres lie at integers
    matrices[:, 2, 2] = 1
    return matrices


def cropped_rectangles(matrices: Float[np.ndarray, "t 3 3"], side: int) -> Int64[np.ndarray, "t 4"]:
    """The rectangles that upright crops show, to the nearest pixel; inverse of `crop_matrices`."""
    corners = np.tile(np.array([[-0.5, -0.5], [side - 0.5, side - 0.5]]), (len(matrices), 1, 1))
    return np.rint(transform_points(corners, invert(matrices)) + 0.5).astype(np.int64).reshape(-1, 4)


def frontality(points: Float[np.ndarray, "68 2"]) -> float:
    """1 for a face seen from the front, towards 0 for a profile: distances of the nose to the jaw's ends, the shorter by the longer."""
    distances = np.linalg.norm(points[[0, 16]] - points[30], axis=1)
    return float(distances.min() / max(distances.max(), 1e-6))


@dataclass(frozen=True)
class RegressorCrop:
    """A face as the 3D morphable model's regressor takes it.

    Attributes:
        image: RGB.
        scale: crop pixels per picture pixel.
        centre: where the standard face's origin lies in the picture, pixels, y up.
        landmarks: 68 points in the crop, y up.
    """

    image: UInt8[np.ndarray, "size size 3"]
    scale: float
    centre: Float64[np.ndarray, "2"]
    landmarks: Float64[np.ndarray, "68 2"]


def five_points(points: Float[np.ndarray, "*t 68 2"]) -> Float[np.ndarray, "*t 5 2"]:
    """Left eye, right eye, nose tip, left and right corner of the mouth, of 68 landmarks."""
    eyes = points[..., [[36, 39], [42, 45]], :].mean(axis=-2)
    return np.concatenate([eyes, points[..., [30, 48, 54], :]], axis=-2)


def standard_face_pose(
    points: Float[np.ndarray, "5 2"], standard: Float[np.ndarray, "5 3"] = STANDARD_POINTS
) -> tuple[Float64[np.ndarray, "2"], float]:
    """Shift and scale of the affine projection that brings the standard face closest to five points (least squares).

    Args:
        points: of `five_points`, y up.
        standard: the five points of the standard face.
    """
    design = np.concatenate([standard.astype(np.float64), np.ones((5, 1))], axis=1)
    projection = np.linalg.lstsq(design, points.astype(np.float64), rcond=None)[0]  # x y z 1 -> x y
    scale = np.linalg.norm(projection[:3], axis=0).mean()
    return projection[3], float(scale)


def regressor_crop(
    picture: UInt8[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "68 2"],
    *,
    size: int = REGRESSOR_SIZE,
    standard_scale: float = REGRESSOR_SCALE,
    standard: Float[np.ndarray, "5 3"] = STANDARD_POINTS,
) -> RegressorCrop:
    """The face shifted and scaled to where the regressor expects it; black outside the picture.

    Args:
        picture: the rendered part of the picture, 256 pixels wide and high as published.
        points: 68 landmarks, pixels of `picture`.
        size: side of the crop.
        standard_scale: pixels per unit of the standard face in the crop.
        standard: the five points of the standard face.
    """
    height, width = picture.shape[:2]
    upward = points.copy()
    upward[:, 1] = height - 1 - upward[:, 1]
    centre, found_scale = standard_face_pose(five_points(upward), standard)
    scale = standard_scale / found_scale
    new_width, new_height = int(width * scale), int(height * scale)
    left = int(new_width / 2 - size / 2 + (centre[0] - width / 2) * scale)
    top = int(new_height / 2 - size / 2 + (height / 2 - centre[1]) * scale)
    resized = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BICUBIC)
    image = np.asarray(resized.crop((left, top, left + size, top + size)))
    middle = np.array([width / 2, height / 2])
    shift = np.array([new_width / 2 - size / 2, new_height / 2 - size / 2])
    landmarks = (upward.astype(np.float64) - centre + middle) * scale - shift
    return RegressorCrop(image, scale, centre, landmarks)


def fan_input(face: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "1 3 256 256"]:
    """A detected face, RGB, as the landmark network takes it: blue, green, red in [0, 1]."""
    resized = resize_fixed_point(face, (CROP_SIZE, CROP_SIZE))
    return np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def from_heatmap_cells(
    cells: Float[np.ndarray, "*t n 2"], heatmap_size: int, size: tuple[int, int]
) -> Float64[np.ndarray, "*t n 2"]:
    """Landmarks in cells of square heat maps as pixels of the face of `size`, (height, width), that the network was given."""
    return cells.astype(np.float64) * (np.array([size[1], size[0]]) / heatmap_size)


def smooth_poses(poses: Float[np.ndarray, "t d"], window: int = 13) -> Float[np.ndarray, "t d"]:
    """Head poses along time, fitted by parabolas over `window` frames (Savitzky and Golay), or the most odd number there are."""
    window = min(window, len(poses) - 1 + len(poses) % 2)
    return poses.copy() if window < 3 else savgol_filter(poses, window, 2, axis=0)


def to_grey_levels(rendered: Float32[np.ndarray, "t 3 h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Pictures in [0, 1] as the original writes them: fractions of a grey level are cut off."""
    return (rendered.clip(0, 1) * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)


def even_sized(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Frames resized to even width and height, which H.264 needs."""
    height, width = frames.shape[1:3]
    size = (height - height % 2, width - width % 2)
    if size == (height, width):
        return frames
    return np.stack([resize_fixed_point(frame, size) for frame in frames])


def paste_rectangles(
    frames: UInt8[np.ndarray, "t h w 3"],
    faces: UInt8[np.ndarray, "t face_h face_w 3"],
    rectangles: Int64[np.ndarray, "t 4"],
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames in which rendered faces cover the rectangles that they were cut from, with hard edges; the rest is as it was.

    Args:
        frames: whole pictures.
        faces: rendered ones of any size.
        rectangles: left, top, right, bottom of `face_rectangle`; they may reach beyond frames that were cut at the right or the bottom.
    """
    pasted = frames.copy()
    for frame, face, (left, top, right, bottom) in zip(pasted, faces, rectangles.tolist(), strict=True):
        covered = frame[top:bottom, left:right]
        height, width = covered.shape[:2]
        covered[:] = resize_fixed_point(face, (bottom - top, right - left))[:height, :width]
    return pasted
