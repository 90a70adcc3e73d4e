"""What a user gives as source or driving clip: a picture, a video, or a clip of a clip store."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from src.datamodules.store import SAFE_ID, Clip, ClipStore
from src.errors import ConfigError, FaceError, MediaError
from src.face.alignment import Alignment, transform_points
from src.face.detector import FaceDetector, FaceTracker
from src.face.geometry import scale_of
from src.face.landmarks import fill_missing, rescaled
from src.face.topology import NUM_LANDMARKS
from src.face.warp import warp
from src.media import VideoReader, read_image, resize

log = logging.getLogger(__name__)

MAX_FRAMES_WITHOUT_FACE = 250  # of a source video, before the search for a face is given up


@dataclass(frozen=True)
class Portrait:
    """The person to be shown: an aligned frame, its landmarks in its pixels, and how deep they lie, in the same unit."""

    frame: UInt8[np.ndarray, "h w 3"]
    landmarks: Float[np.ndarray, "478 d"]
    depth: Float[np.ndarray, "478"] | None = None

    @property
    def points(self) -> Float32[np.ndarray, "478 3"]:
        """Landmarks in three dimensions.

        Raises:
            FaceError: their depth is unknown.
        """
        if self.depth is None:
            raise FaceError("The depth of the source's landmarks is unknown: give a picture, a video or a stored clip.")
        return np.column_stack([self.landmarks[:, :2], self.depth]).astype(np.float32)


def read_portrait(
    source: str | Path | Clip | UInt8[np.ndarray, "h w 3"],
    alignment: Alignment,
    *,
    face_model: str | Path | None = None,
    random_seed: int | None = None,
) -> Portrait:
    """The aligned face of a picture, of a video's first frame that shows one, or of a stored clip's first frame.

    Of several faces the largest is taken, and a warning says so. The frames of a stored clip are aligned already and only resized.

    Args:
        source: path, `STORE@CLIP_ID`, or the picture itself.
        alignment: where the face lies in the result; its size is the result's.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        random_seed: take a random frame of a video or clip that shows a face instead of the first.

    Raises:
        FaceError: there is no face, or the landmark model is missing.
        MediaError, StoreError: a file cannot be read.
    """
    name = source if isinstance(source, str | Path) else "the given picture"
    if (clip := stored_clip(source)) is not None:
        index = 0
        if random_seed is not None:
            shown = np.flatnonzero(clip.valid)
            index = int(np.random.default_rng(random_seed).choice(shown if len(shown) else clip.n_frames))
        frame = resize(clip.frames([index])[0], alignment.size)
        depth = clip.landmarks[index, :, 2] * (alignment.size[1] / clip.size[1])
        return Portrait(frame, rescaled(clip.landmarks[index, :, :2], clip.size, alignment.size), depth)
    pictures = _pictures_of(source, random_seed)
    first = next(pictures)  # before the detector, whose absence would hide that the file is missing
    with FaceDetector("image", model=face_model) as detector:
        for picture in chain([first], pictures):
            if faces := detector.detect(picture):
                if len(faces) > 1:
                    log.warning("source=%s shows %d faces; the largest is taken", name, len(faces))
                matrix = alignment.fit(faces[0].landmarks[None], picture.shape[:2])
                landmarks = transform_points(faces[0].landmarks[None, :, :2], matrix)[0]
                depth = faces[0].landmarks[:, 2] * scale_of(matrix)[0]
                return Portrait(warp(picture[None], matrix, alignment.size)[0], landmarks, depth)
    raise FaceError(f"source={name}: no face was found; give a picture that shows one face from the front.")


def track_landmarks(
    reader: VideoReader, name: str, face_model: str | Path | None = None, *, limit: int | None = None
) -> tuple[Float32[np.ndarray, "t 478 3"], Bool[np.ndarray, " t"]]:
    """Landmarks of the person in every frame of a video, in its pixels; frames without a face are interpolated.

    Args:
        reader: of the video.
        name: what messages call it.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        limit: look at so many frames only, the first ones; None: all.

    Returns:
        the landmarks, and in which frames a face was found.

    Raises:
        FaceError: there is no face, or the landmark model is missing.
    """
    missing = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    with FaceTracker(model=face_model) as tracker:
        frames = islice((frame for chunk in reader.stream() for frame in chunk), limit)
        faces = [tracker.track(frame) for frame in frames]
    found = np.stack([missing if face is None else face.landmarks for face in faces])
    try:
        landmarks, valid = fill_missing(found)
    except FaceError as error:
        raise FaceError(
            f"{name}: no face was found in any of its {len(found)} frames; give a clip that shows one."
        ) from error
    if not valid.all():
        log.warning(
            "%s: no face in %d of %d frames; their landmarks are interpolated", name, (~valid).sum(), len(valid)
        )
    return landmarks, valid


def stored_clip(given: object) -> Clip | None:
    """The clip that `STORE@CLIP_ID` names, or None where something else was given."""
    if isinstance(given, Clip):
        return given
    root, _, clip_id = str(given).rpartition("@")
    if not isinstance(given, str | Path) or not root or not SAFE_ID.fullmatch(clip_id) or Path(given).exists():
        return None
    store = ClipStore(root)
    clip = next((clip for clip in store if clip.id == clip_id), None)
    if clip is None:
        raise ConfigError(f"{given}: the store has no clip {clip_id!r}; {root}/clips.csv lists its {len(store)} clips.")
    return clip


def _pictures_of(source: object, random_seed: int | None) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The picture, or frames of the video: the first ones, or random ones."""
    if isinstance(source, np.ndarray):
        yield source
        return
    path = Path(str(source))
    try:
        yield read_image(path)
    except MediaError:
        if not path.is_file():
            raise
        reader = VideoReader(path)
        order = np.arange(len(reader))
        if random_seed is not None:
            order = np.random.default_rng(random_seed).permutation(order)
        for i in order[:MAX_FRAMES_WITHOUT_FACE]:
            yield reader[i]
