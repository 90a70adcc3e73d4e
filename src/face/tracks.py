"""Face tracks: detections joined over time, and the crops that SyncNet was trained on (its published pipeline, with its constants)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from scipy.signal import medfilt

from src.media import resize

MAX_GAP = 25  # frames without a detection that a track survives
MIN_TRACK = 100  # a track has more detections than this: 4 s
MIN_FACE = 100  # pixels; a track's mean width or height exceeds this
SAME_FACE = 0.5  # intersection over union
CROP_MARGIN = 0.4  # of the half size, above the box's lower edge
MEDIAN_KERNEL = 13  # frames
PAD_VALUE = 110  # grey level beyond the frame
CROP_SIDE = 224

Box = Float[np.ndarray, " 4"]


@dataclass(frozen=True)
class Track:
    """A face in consecutive frames: their numbers, and its boxes (left, top, right, bottom) in pixels."""

    frames: Int64[np.ndarray, " _"]
    boxes: Float64[np.ndarray, "_ 4"]


@dataclass(frozen=True)
class CropPath:
    """Where a track's crops lie: centres and half sizes in pixels, steadied (the median counts zeros beyond the ends)."""

    x: Float64[np.ndarray, " t"]
    y: Float64[np.ndarray, " t"]
    half: Float64[np.ndarray, " t"]


def intersection_over_union(a: Box, b: Box) -> float:
    """Of two boxes (left, top, right, bottom)."""
    overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(overlap, 0)))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return common / (areas - common)


def track_faces(
    detections: Sequence[Float[np.ndarray, "_ 4"]],
    *,
    max_gap: int = MAX_GAP,
    min_track: int = MIN_TRACK,
    min_face: float | int = MIN_FACE,
    same_face: float = SAME_FACE,
) -> tuple[Track, ...]:
    """Tracks of the faces of a shot, greedily: the first detection that is left, then in every frame the box that overlaps the last one.

    Args:
        detections: boxes per frame.
        max_gap: frames without a detection after which a track ends; in between boxes are interpolated.
        min_track: tracks with this many detections or fewer are dropped.
        min_face: tracks whose mean width and height do not exceed this are dropped, in pixels.
        same_face: intersection over union above which a box continues a track.
    """
    left = [[np.asarray(box, np.float64) for box in boxes] for boxes in detections]
    tracks: list[Track] = []
    while found := _take_track(left, max_gap, same_face):
        frames, boxes = np.array([frame for frame, _ in found]), np.stack([box for _, box in found])
        if len(found) <= min_track:
            continue
        every = np.arange(frames[0], frames[-1] + 1)
        track = Track(every, np.stack([np.interp(every, frames, side) for side in boxes.T], axis=1))
        if max((track.boxes[:, 2:] - track.boxes[:, :2]).mean(axis=0)) > min_face:
            tracks.append(track)
    return tuple(tracks)


def _take_track(left: list[list[Box]], max_gap: int, same_face: float) -> list[tuple[int, Box]]:
    """The next track, removed from what is left; empty at the end."""
    track: list[tuple[int, Box]] = []
    for frame, boxes in enumerate(left):
        if track and frame - track[-1][0] > max_gap:
            break
        for i, box in enumerate(boxes):
            if not track or intersection_over_union(box, track[-1][1]) > same_face:
                track.append((frame, boxes.pop(i)))
                break
    return track


def crop_path(boxes: Float64[np.ndarray, "t 4"], kernel: int = MEDIAN_KERNEL) -> CropPath:
    """The squares around a track's boxes, steadied by a median over `kernel` frames."""
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    half = sizes.max(axis=1) / 2
    return CropPath(*(medfilt(series, kernel) for series in (centres[:, 0], centres[:, 1], half)))


def crop_face(
    frame: UInt8[np.ndarray, "h w 3"], x: float, y: float, half: float, margin: float = CROP_MARGIN
) -> UInt8[np.ndarray, "224 224 3"]:
    """The square of 2.8 half sizes around a face, which hangs down by 0.4 of it; grey beyond the frame."""
    pad = int(half * (1 + 2 * margin))
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=PAD_VALUE)
    row, col = y + pad, x + pad
    top, bottom = int(row - half), int(row + half * (1 + 2 * margin))
    left, right = int(col - half * (1 + margin)), int(col + half * (1 + margin))
    return resize(padded[top:bottom, left:right], (CROP_SIDE, CROP_SIDE), antialias=False)
