"""Pictures of a person whose face is to be changed: aligned crops, their landmarks, and the way back into the whole picture."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from src.audio.features import FPS
from src.datamodules.store import Clip
from src.errors import FaceError, MediaError
from src.face.alignment import Alignment, invert, transform_landmarks, transform_points
from src.face.detector import FaceDetector
from src.face.landmarks import bridged, rescaled, smooth
from src.face.warp import warp
from src.media import VideoReader, read_image, resize
from src.pipelines.sources import stored_clip, track_landmarks

log = logging.getLogger(__name__)

Frames = UInt8[np.ndarray, "t h w 3"]
Crops = UInt8[np.ndarray, "t crop_h crop_w 3"]
LOOK_AHEAD = 25  # frames: no smoothing along time reaches further by default

Indices = Sequence[int] | Int64[np.ndarray, " t"]


@dataclass(frozen=True)
class Footage:
    """A picture, or the frames of a video at 25 per second, of one person.

    Attributes:
        read: whole frames of given numbers.
        matrices: frame pixels -> crop pixels.
        landmarks: of the face, in pixels of the crops.
        crop_size: height and width of the crops.
        size: height and width of the whole frames.
        sound: file that its sound is in; None: there is none.
        crops_of: aligned crops of given numbers, where they are not to be warped out of the frames.
        first: the first frame in which a face was found.
        depth: of the landmarks, in pixels of the crops, smaller towards the camera.
        valid: frames in which a face was found; the landmarks of the others are interpolated. None: all.
    """

    read: Callable[[Indices], Frames]
    matrices: Float64[np.ndarray, "t 3 3"]
    landmarks: Float[np.ndarray, "t 478 2"]
    crop_size: tuple[int, int]
    size: tuple[int, int]
    sound: Path | None = None
    crops_of: Callable[[Frames], Crops] | None = None
    first: int = 0
    depth: Float[np.ndarray, "t 478"] | None = None
    valid: Bool[np.ndarray, " t"] | None = None

    @property
    def landmarks_3d(self) -> Float[np.ndarray, "t 478 3"]:
        """The landmarks with their depth."""
        assert self.depth is not None, "footage that was read has the depth of its landmarks"
        return np.concatenate([self.landmarks, self.depth[..., None]], axis=-1)

    def __len__(self) -> int:
        return len(self.landmarks)

    def shows_face(self, max_gap: int) -> Bool[np.ndarray, " t"]:
        """Frames that show the face, as far as is known: it was found there, or missed for no more than `max_gap` frames in a row."""
        return np.ones(len(self), np.bool_) if self.valid is None else bridged(self.valid, max_gap)

    def crops(self, indices: Indices, whole: Frames | None = None) -> Crops:
        """Aligned faces; `whole` are the frames of these numbers, where they have been read already."""
        frames = self.read(indices) if whole is None else whole
        if self.crops_of is not None:
            return self.crops_of(frames)
        return warp(frames, self.matrices[np.asarray(indices, np.int64)], self.crop_size)

    def covered(self, indices: Indices) -> Bool[np.ndarray, "t crop_h crop_w"]:
        """Pixels of the crops that show the picture; the others lie beyond its borders, and are black."""
        matrices, (height, width) = self.matrices[np.asarray(indices, np.int64)], self.crop_size
        if self.crops_of is not None:
            return np.ones((len(matrices), height, width), np.bool_)
        pixels = np.indices((height, width))[::-1].reshape(1, 2, -1).swapaxes(1, 2)  # (x, y)
        places = transform_points(np.repeat(pixels.astype(np.float64), len(matrices), axis=0), invert(matrices))
        within = ((places >= 0) & (places <= np.array(self.size[::-1]) - 1)).all(axis=-1)
        return within.reshape(-1, height, width)

    def pasted(
        self,
        whole: Frames,
        crops: Crops,
        weights: UInt8[np.ndarray, "t crop_h crop_w 1"],
        indices: Indices,
        *,
        antialias: bool = True,
    ) -> Frames:
        """Whole frames with crops put back where their weights, 0 to 255, say so; pixels of weight 0 stay as they are.

        `antialias`: see `src.face.warp.warp`.
        """
        pasted = whole.copy()
        for frame, crop, weight, matrix in zip(pasted, crops, weights, self.matrices[np.asarray(indices)], strict=True):
            _paste(frame, crop, weight, matrix, antialias)
        return pasted


def _paste(
    frame: UInt8[np.ndarray, "h w 3"],
    crop: UInt8[np.ndarray, "ch cw 3"],
    weight: UInt8[np.ndarray, "ch cw 1"],
    matrix: Float64[np.ndarray, "3 3"],
    antialias: bool,
) -> None:
    """Blend a crop into a frame, in place; only the box that it covers is touched."""
    to_frame = invert(matrix[None])[0]
    height, width = crop.shape[:2]
    corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]])
    reach = transform_points(corners[None], to_frame[None])[0]
    left, top = np.maximum(np.floor(reach.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(reach.max(axis=0)).astype(int) + 1, [frame.shape[1], frame.shape[0]])
    if left >= right or top >= bottom:
        return
    shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
    box = (int(bottom - top), int(right - left))
    layers = np.concatenate([crop, weight], axis=2)[None]
    placed = warp(layers, (shift @ to_frame)[None], box, antialias=antialias)[0].astype(np.float32)
    alpha = placed[..., 3:] / 255
    inside = frame[top:bottom, left:right]
    blended = inside + alpha * (placed[..., :3] - inside)
    frame[top:bottom, left:right] = np.where(alpha > 0, np.rint(blended), inside).astype(np.uint8)


def read_footage(
    source: str | Path | Clip | UInt8[np.ndarray, "h w 3"],
    alignment: Alignment,
    *,
    smoothing: float = 0.0,
    face_model: str | Path | None = None,
    needed: int | None = None,
) -> Footage:
    """The person in a picture, a video or a stored clip, `STORE@CLIP_ID`, whose frames are aligned already.

    Args:
        source: path, clip or picture.
        alignment: where the face lies in the crops; its size is theirs.
        smoothing: of a video's landmarks along time, standard deviation of a Gaussian in frames.
        face_model: path of MediaPipe's FaceLandmarker; None: in the models folder.
        needed: how many frames of a video, from its beginning, will be used: faces are looked for in these, and a second beyond for what is
            smoothed along time. None: all.

    Raises:
        FaceError: there is no face, or the landmark model is missing.
        MediaError, StoreError: a file cannot be read.
    """
    if (clip := stored_clip(source)) is not None:
        return _of_clip(clip, alignment.size, smoothing)
    if isinstance(source, np.ndarray):
        return _of_picture(source, "the given picture", alignment, face_model)
    path = Path(str(source))
    try:
        picture = read_image(path)
    except MediaError:
        if not path.is_file():
            raise
        return _of_video(path, alignment, smoothing, face_model, None if needed is None else needed + LOOK_AHEAD)
    return _of_picture(picture, str(path), alignment, face_model)


def _of_clip(clip: Clip, size: tuple[int, int], smoothing: float) -> Footage:
    found = smooth(clip.landmarks.astype(np.float64), smoothing)
    landmarks = found[..., :2]
    scale = np.array([size[1] / clip.size[1], size[0] / clip.size[0]])
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = 0.5 * scale - 0.5  # pixel centres lie at integers
    return Footage(
        lambda indices: clip.frames(np.asarray(indices)),
        np.broadcast_to(matrix, (clip.n_frames, 3, 3)),
        rescaled(landmarks, clip.size, size),
        size,
        clip.size,
        clip.audio_path if clip.has_audio else None,
        crops_of=lambda frames: resize(frames, size),
        first=int(clip.valid.argmax()) if clip.n_valid < clip.n_frames else 0,
        depth=found[..., 2] * scale.mean(),
        valid=np.array(clip.valid),
    )


def _of_picture(
    picture: UInt8[np.ndarray, "h w 3"], name: str, alignment: Alignment, face_model: str | Path | None
) -> Footage:
    with FaceDetector("image", model=face_model) as detector:
        faces = detector.detect(picture)
    if not faces:
        raise FaceError(f"source={name}: no face was found; give a picture that shows one face from the front.")
    if len(faces) > 1:
        log.warning("source=%s shows %d faces; the largest is taken", name, len(faces))
    size = picture.shape[:2]
    matrix = alignment.fit(faces[0].landmarks[None], size)
    landmarks = transform_landmarks(faces[0].landmarks[None].astype(np.float64), matrix)
    return Footage(
        lambda indices: np.broadcast_to(picture, (len(indices), *picture.shape)),
        matrix,
        landmarks[..., :2],
        alignment.size,
        size,
        depth=landmarks[..., 2],
    )


def _of_video(
    path: Path, alignment: Alignment, smoothing: float, face_model: str | Path | None, limit: int | None
) -> Footage:
    reader = VideoReader(path, fps=float(FPS))
    found, valid = track_landmarks(reader, f"source={path}", face_model, limit=limit)
    smoothed = smooth(found.astype(np.float64), smoothing)
    size = (reader.info.height, reader.info.width)
    matrices = alignment.fit(smoothed, size)
    landmarks = transform_landmarks(smoothed, matrices)
    return Footage(
        reader.read,
        matrices,
        landmarks[..., :2],
        alignment.size,
        size,
        path if reader.info.has_audio else None,
        first=int(valid.argmax()),
        depth=landmarks[..., 2],
        valid=valid,
    )
