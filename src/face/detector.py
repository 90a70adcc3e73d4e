"""Finding faces with MediaPipe's FaceLandmarker, and following one person through a recording.

`mediapipe` is imported when the first detector is made: its wheel needs libEGL and libGLESv2 (and OpenCV, which it brings, libGL) of the
system, and everything but detection works without them.
"""

import logging
import os
import re
import signal
import threading
import weakref
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from src.errors import FaceError
from src.face.landmarks import Face
from src.face.topology import NUM_LANDMARKS
from src.model_files import model_path

log = logging.getLogger(__name__)

MODEL_NAME = "face_landmarker.task"

_DEBIAN_PACKAGES = {
    "libEGL.so": "libegl1",
    "libGLESv2.so": "libgles2",
    "libGL.so": "libgl1",
    "libgthread-2.0.so": "libglib2.0-0",
}

# MediaPipe runs a One-Euro filter over a single face in video mode. Between time stamps this far apart (ms) it passes its input through.
_UNFILTERED_INTERVAL = 10_000_000
_DEFAULT_INTERVAL = 40


class FaceDetector:
    """Every face of a frame: 478 landmarks, blendshapes and pose, the largest face first. A context manager.

    Args:
        mode: "image" looks for faces in every frame anew, "video" follows the faces of the frame before (faster; frames of one recording
            in order). With `max_faces` above 1 MediaPipe looks for further faces in every frame of a video, too.
        max_faces: how many faces at most.
        model: the FaceLandmarker bundle; by default `face_landmarker.task` in the models folder.
        temporal_filter: in video mode with one face, let MediaPipe smooth the landmarks over time. Off by default: it delays the lips by a
            fraction of a frame and flattens their movement.
        confidence: least confidence, in [0, 1], of detection, presence and tracking.

    Raises:
        FaceError: the model file or a system library is missing; the message says what to run.
    """

    def __init__(
        self,
        mode: Literal["video", "image"] = "video",
        max_faces: int = 4,
        model: str | Path | None = None,
        *,
        temporal_filter: bool = False,
        confidence: float = 0.5,
    ) -> None:
        self.mode = mode
        self.max_faces = max_faces
        self.temporal_filter = temporal_filter
        self._model = _existing_model(model)
        self._confidence = confidence
        self._clock = -1
        self._open()

    def detect(self, frame: UInt8[np.ndarray, "h w 3"], timestamp: float | None = None) -> list[Face]:
        """The faces of an RGB frame, largest first; empty when there is none.

        Args:
            frame: RGB.
            timestamp: seconds since the start of the recording; only the temporal filter reads it. By default 25 frames per second.
        """
        _survive_profiling_signals()
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
        landmarker = self._landmarker
        result = (
            landmarker.detect(image)
            if self.mode == "image"
            else landmarker.detect_for_video(image, self._tick(timestamp))
        )
        height, width = frame.shape[:2]
        faces = [
            Face(_pixels(points, width, height), _scores(blendshapes), np.asarray(pose, dtype=np.float32))
            for points, blendshapes, pose in zip(
                result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
            )
        ]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def reset(self) -> None:
        """Forgets the faces of the frames before: to be called at a cut."""
        if self.mode == "video":
            self.close()
            self._clock = -1
            self._open()

    def close(self) -> None:
        """Releases MediaPipe's graph; calling it again does nothing."""
        self._finalizer()

    def __enter__(self) -> "FaceDetector":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> None:
        _survive_profiling_signals()
        self._mediapipe, self._landmarker = _create_landmarker(self._model, self.mode, self.max_faces, self._confidence)
        self._finalizer = weakref.finalize(self, _close_landmarker, self._landmarker)

    def _tick(self, timestamp: float | None) -> int:
        """The next time stamp for MediaPipe, in ms: always later than the one before."""
        if not self.temporal_filter:
            self._clock += _UNFILTERED_INTERVAL
        elif timestamp is None:
            self._clock += _DEFAULT_INTERVAL
        else:
            self._clock = max(round(timestamp * 1000), self._clock + 1)
        return self._clock


def _survive_profiling_signals() -> None:
    """See to it that the profiling signals of MediaPipe's threads cannot end the process.

    MediaPipe brings a handler for SIGPROF, of which Python knows nothing. Whoever "restores" the handlers that Python knows, as Lightning
    does after every run of a Trainer, takes it away, and the next such signal would kill the process without a word.
    """
    sigprof = getattr(signal, "SIGPROF", None)  # Windows has none
    in_main_thread = threading.current_thread() is threading.main_thread()  # others may not change handlers
    if sigprof is not None and in_main_thread and signal.getsignal(sigprof) == signal.SIG_DFL:
        signal.signal(sigprof, signal.SIG_IGN)


def _existing_model(model: str | Path | None) -> Path:
    """The model's path, or the error that says how to get it."""
    path = model_path(MODEL_NAME) if model is None else Path(model)
    if not path.is_file():
        raise FaceError(
            f"The face landmark model {path} is missing: run `python tools/download_models.py`, or set VISEME_MODELS to its folder."
        )
    return path


def _create_landmarker(model: Path, mode: str, max_faces: int, confidence: float) -> tuple[Any, Any]:
    """The mediapipe module and a FaceLandmarker on the CPU."""
    try:
        with _silent_stderr():
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision

            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(model), delegate=BaseOptions.Delegate.CPU),
                running_mode=vision.RunningMode.IMAGE if mode == "image" else vision.RunningMode.VIDEO,
                num_faces=max_faces,
                min_face_detection_confidence=confidence,
                min_face_presence_confidence=confidence,
                min_tracking_confidence=confidence,
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
            )
            return mediapipe, vision.FaceLandmarker.create_from_options(options)
    except (ImportError, OSError) as error:
        raise FaceError(_missing_library_message(str(error))) from error
    except (RuntimeError, ValueError) as error:
        raise FaceError(
            f"The face landmark model {model} cannot be read: fetch it again with `python tools/download_models.py`."
        ) from error


def _close_landmarker(landmarker: Any) -> None:
    """Frees MediaPipe's graph; at the interpreter's exit, when its worker thread is gone, leaves that to the operating system."""
    try:
        landmarker.close()
    except RuntimeError:
        landmarker._handle = None  # else its destructor tries again and prints a traceback
        log.debug("MediaPipe's graph was still open at the interpreter's exit")


def _missing_library_message(reason: str) -> str:
    """Which Debian package brings the library that the dynamic loader did not find."""
    library = re.search(r"lib[\w.+-]+\.so", reason)
    if library and (package := _DEBIAN_PACKAGES.get(library.group())):
        return f"Face detection needs {library.group()}, which this system lacks: run `apt-get install {package}`."
    return f"Face detection needs MediaPipe, which cannot be loaded ({reason}): install mediapipe and the library it asks for."


@contextmanager
def _silent_stderr() -> Generator[None]:
    """Keeps the C++ libraries' start-up messages, which no setting turns off, away from the terminal."""
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _pixels(points: Sequence[Any], width: int, height: int) -> Float32[np.ndarray, "478 3"]:
    """MediaPipe's normalised points in pixels; depth is in units of the width.

    Without an offset of half a pixel: measured on mirrored pictures, MediaPipe's x / width has its pixel centres at integers.
    """
    normalised = np.array([(point.x, point.y, point.z) for point in points], dtype=np.float32)
    assert len(normalised) == NUM_LANDMARKS, f"the model gives {len(normalised)} points"
    return normalised * np.array([width, height, width], dtype=np.float32)


def _scores(categories: Sequence[Any]) -> Float32[np.ndarray, " 52"]:
    """Blendshape coefficients in MediaPipe's order."""
    return np.array([category.score for category in categories], dtype=np.float32)


def continues(face: Face, previous: Face) -> bool:
    """True when a face can be the previous frame's: the boxes overlap by a third, or lie close and are about as large."""
    return overlap(face, previous) > 1 / 3 or _is_near(face, previous)


def overlap(face: Face, other: Face) -> float:
    """Intersection over union of the two bounding boxes."""
    a, b = face.box, other.box
    width, height = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(min=0).tolist()
    intersection = width * height
    return intersection / max(face.area + other.area - intersection, 1e-9)


def _is_near(face: Face, previous: Face) -> bool:
    """Centres less than half the previous face's size apart, areas within a factor of two."""
    size = max(previous.area, 1e-9) ** 0.5
    distance = float(np.linalg.norm(_centre(face) - _centre(previous)))
    return distance < size / 2 and 0.5 < face.area / max(previous.area, 1e-9) < 2


def _centre(face: Face) -> Float32[np.ndarray, " 2"]:
    return (face.box[:2] + face.box[2:]) / 2


def select_face(faces: Sequence[Face], previous: Face | None) -> Face | None:
    """The person to follow: the largest face at first, then the one that best continues the previous; None when there is none."""
    if previous is None:
        return max(faces, key=lambda face: face.area, default=None)
    candidates = [face for face in faces if continues(face, previous)]
    return max(candidates, key=lambda face: _likeness(face, previous), default=None)


def _likeness(face: Face, previous: Face) -> float:
    """Overlap less distance, in units of the face's size: larger is a better continuation."""
    distance = float(np.linalg.norm(_centre(face) - _centre(previous)))
    return overlap(face, previous) - distance / max(previous.area, 1e-9) ** 0.5


class FaceTracker:
    """Follows one person through a recording: the largest face at first, then the one that continues it. A context manager.

    A second person never takes over: while the followed face is not found, `track` returns None until it appears again about where it was,
    or until `reset` (at a cut, or once the caller holds the person for gone) starts anew with the largest face.

    A face that is alone is followed by MediaPipe itself, at the speed of a single-face detector. Only in the first frame, where the face is
    lost, and where another one shows up instead are all faces looked for, and then in every frame until `_HOLD` frames had one face only.

    Args:
        max_faces: how many faces are told apart.
        model: see `FaceDetector`.
    """

    _HOLD = 25

    def __init__(self, max_faces: int = 4, model: str | Path | None = None) -> None:
        self._all = FaceDetector("image", max_faces, model)
        self._one = FaceDetector("video", 1, model)
        self._forget()

    def track(self, frame: UInt8[np.ndarray, "h w 3"]) -> Face | None:
        """The followed person's face in the next RGB frame, or None where it is not to be seen."""
        face = self._follow_alone(frame) if self._crowded == 0 else self._look_around(frame)
        self.lost = 0 if face is not None else self.lost + 1
        self._previous = face or self._previous
        return face

    def reset(self) -> None:
        """Starts anew with the next frame's largest face."""
        self._one.reset()
        self._forget()

    def close(self) -> None:
        """Releases both detectors."""
        self._one.close()
        self._all.close()

    def __enter__(self) -> "FaceTracker":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _forget(self) -> None:
        self._previous: Face | None = None
        self._crowded = 0  # frames for which all faces are still looked for
        self.lost = 0  # frames since the followed face was last seen

    def _follow_alone(self, frame: UInt8[np.ndarray, "h w 3"]) -> Face | None:
        """The single detector's face where it continues the previous one; otherwise a look at the whole picture."""
        faces = self._one.detect(frame)
        if faces and self._previous and continues(faces[0], self._previous):
            return faces[0]
        # With nobody in sight there is nobody to choose from: only a face lost just now is worth a second look.
        just_lost = self._previous is not None and self.lost == 0
        return self._look_around(frame) if faces or just_lost else None

    def _look_around(self, frame: UInt8[np.ndarray, "h w 3"]) -> Face | None:
        """The followed person among all faces of the frame."""
        faces = self._all.detect(frame)
        chosen = select_face(faces, self._previous)
        if len(faces) > (chosen is not None):
            self._crowded = self._HOLD
        elif self._crowded > 0:
            self._crowded -= 1
            if self._crowded == 0:
                self._one.reset()  # what it saw last is long ago
        return chosen
