"""One recording -> the clips in it: detect, cut, align, write. Runs in worker processes, one recording per call."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from src.datamodules.preprocessing.archives import Frames, open_frames
from src.datamodules.preprocessing.measures import measure
from src.datamodules.preprocessing.pool import check_stop
from src.datamodules.preprocessing.recordings import Recording
from src.datamodules.preprocessing.scenes import SceneCutDetector
from src.datamodules.preprocessing.segmenting import Rejection, Segment, Segmenter
from src.datamodules.store import SAMPLE_RATE, Clip, Failure, clip_files, write_clip
from src.errors import ConfigError, FaceError, MediaError, StoreError
from src.face.alignment import Alignment, transform_landmarks, warp
from src.face.detector import FaceDetector, FaceTracker
from src.face.landmarks import Face, fill_missing
from src.media import read_audio
from src.media.files import NO_ROOM

CHUNK_BYTES = 32 * 2**20  # of frames that are decoded at a time
KEPT_BYTES = 400 * 2**20  # of decoded frames that wait for the end of their clip: 20 s of 512x512 at 25 fps


@dataclass(frozen=True)
class ClipOptions:
    """What a clip is.

    Args:
        fps: frames per second of the clips; other rates are resampled by time stamps.
        min_seconds: shorter stretches are rejected.
        max_seconds: longer stretches become several clips.
        max_gap: frames in a row without a face that are bridged by interpolation.
        max_silence: seconds by which the sound may end before a clip does; more, and the clip is rejected.
        redetect: detect the landmarks again on the crops, frame by frame, as landmark_driven's original does. Twice as slow.
        scene_difference: see `SceneCutDetector`.
        scene_ratio: see `SceneCutDetector`.
        scene_histogram: see `SceneCutDetector`.
        crf: quality of the videos, 0 (lossless) to 51.
        model: the face landmark model; null looks in the folder of downloaded models.
    """

    fps: float = 25.0
    min_seconds: float = 1.0
    max_seconds: float = 20.0
    max_gap: int = 5
    max_silence: float = 0.5
    redetect: bool = False
    scene_difference: float = 12.0
    scene_ratio: float = 3.0
    scene_histogram: float = 0.15
    crf: int = 18
    model: str | None = None

    def __post_init__(self) -> None:
        for option in fields(self):
            value, kinds = getattr(self, option.name), {float: (float, int), int: (int,)}.get(option.type)
            if kinds and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise ConfigError(f"clips.{option.name}={value}: give a {'whole ' if kinds == (int,) else ''}number.")
        if not 0 < 2 * self.min_seconds <= self.max_seconds:
            raise ConfigError(
                f"clips.min_seconds={self.min_seconds:g} and clips.max_seconds={self.max_seconds:g}: "
                "the longest clip must be at least twice as long as the shortest."
            )
        if self.max_gap < 0 or self.fps <= 0 or not 0 <= self.crf <= 51:
            raise ConfigError("clips.max_gap must be 0 or more, clips.fps above 0, and clips.crf from 0 to 51.")

    @property
    def min_frames(self) -> int:
        """Frames of the shortest clip."""
        return max(1, round(self.min_seconds * self.fps))

    @property
    def max_frames(self) -> int:
        """Frames of the longest clip."""
        return max(2 * self.min_frames, round(self.max_seconds * self.fps))


@dataclass(frozen=True)
class Outcome:
    """What became of a recording: its clips, whose files are written but whose rows are not, and what gave none."""

    source: str
    size: int  # bytes of the recording
    clips: list[Clip] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    n_frames: int = 0  # looked at


@dataclass(frozen=True)
class Worker:
    """Turns recordings into clips of the store at `root`; picklable, holds nothing open between recordings."""

    root: Path
    alignment: Alignment
    options: ClipOptions

    def __call__(self, recording: Recording) -> Outcome:
        """Write the clips of `recording`. One that cannot be read to its end gives no clip, but a failure.

        Raises:
            StoreError: the store cannot be written, for example because the disk is full.
            FaceError: the detector cannot be set up.
        """
        task = _Task(recording, self.root, self.alignment, self.options)
        try:
            return task.run()
        except _UnreadableError as error:
            task.undo()
            reason = str(error).replace(str(recording.path), recording.source)
            return Outcome(recording.source, recording.size, failures=[Failure(recording.source, reason)])
        except BaseException:
            task.undo()
            raise


def check_detector(options: ClipOptions) -> None:
    """FaceError, before any work is done, where the model or a system library of the detector is missing."""
    with FaceDetector(model=options.model):
        pass


class _UnreadableError(Exception):
    """The recording, as opposed to the store, has a problem."""


@contextmanager
def _reading() -> Generator[None]:
    try:
        yield
    except MediaError as error:
        raise _UnreadableError(str(error)) from error


class _Task:
    """The work on one recording.

    One reader goes through the file for the detector. Its frames are kept until their clip's end is known, as many as `KEPT_BYTES` hold;
    a second reader decodes those beyond once more for the crops, so that memory does not grow with the clip's length or the frame's size.
    """

    def __init__(self, recording: Recording, root: Path, alignment: Alignment, options: ClipOptions) -> None:
        self.recording = recording
        self.root = root
        self.alignment = alignment
        self.options = options
        self.clips: list[Clip] = []
        self.failures: list[Failure] = []
        self._started: list[str] = []  # ids of which files may exist
        self._kept: dict[int, UInt8[np.ndarray, "h w 3"]] = {}  # frames of the clip that has begun, by their number

    def run(self) -> Outcome:
        options = self.options
        with _reading():
            self.reader = open_frames(self.recording.path, options.fps)
            self.crop_reader = open_frames(self.recording.path, options.fps)
        n_frames = len(self.reader)
        if n_frames >= options.min_frames:
            self._cut()
        else:
            minimum = f"clips.min_seconds={options.min_seconds:g}"
            self._fail(f"it lasts only {n_frames / options.fps:.2f} s: lower {minimum} to keep it.")
        return Outcome(self.recording.source, self.recording.size, self.clips, self.failures, n_frames)

    def undo(self) -> None:
        """Remove what was written of this recording."""
        for id in self._started:
            for path in clip_files(self.root, id):
                if path.is_file():
                    path.unlink()

    def _cut(self) -> None:
        """Detect the face in every frame, and write each clip as soon as its end is known."""
        options = self.options
        segmenter = Segmenter(options.min_frames, options.max_frames, options.max_gap)
        first, faces = 0, []  # `faces` are those of the frames from `first` on
        for face, cut in self._detect():
            faces.append(face)
            for segment in segmenter.update(face is not None, cut):
                self._take(segment, faces[max(0, segment.start - first) : segment.stop - first])
            del faces[: segmenter.needed_from - first]
            for done in range(first, segmenter.needed_from):
                self._kept.pop(done, None)
            first = segmenter.needed_from
        for segment in segmenter.finish():
            self._take(segment, faces[max(0, segment.start - first) : segment.stop - first])

    def _detect(self) -> Iterator[tuple[Face | None, bool]]:
        """For every frame the tracked face, and whether a new shot begins."""
        options = self.options
        scenes = SceneCutDetector(options.scene_difference, options.scene_ratio, options.scene_histogram)
        with FaceTracker(model=options.model) as tracker:
            for i, frame in enumerate(self._frames(self.reader, 0, len(self.reader))):
                if (len(self._kept) + 1) * frame.nbytes <= KEPT_BYTES:
                    self._kept[i] = frame
                cut = scenes.update(frame)
                if cut or tracker.lost > options.max_gap:
                    tracker.reset()
                yield tracker.track(frame), cut

    def _frames(self, reader: Frames, start: int, stop: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Frames `start` to `stop - 1`, decoded a bounded number of bytes at a time."""
        chunk = max(1, CHUNK_BYTES // (3 * reader.info.height * reader.info.width))
        for begin in range(start, stop, chunk):
            check_stop()
            with _reading():
                frames = reader.read(range(begin, min(begin + chunk, stop)))
            yield from frames

    def _take(self, segment: Segment, faces: Sequence[Face | None]) -> None:
        """Write the clip of a segment, or note why there is none."""
        seconds = len(segment) / self.options.fps
        if segment.rejected is Rejection.NO_FACE:
            whole = len(segment) == len(self.reader)
            where = f"in any of its {len(segment)} frames" if whole else f"for {seconds:.2f} s"
            self._fail(f"no face was found {where}: it may be too small, turned away or covered.", segment)
        elif segment.rejected is Rejection.SHORT:
            minimum = f"clips.min_seconds={self.options.min_seconds:g}"
            self._fail(f"the face is in view for {seconds:.2f} s only: lower {minimum} to keep it.", segment)
        else:
            self._write(segment, faces)

    def _write(self, segment: Segment, faces: Sequence[Face | None]) -> None:
        start, seconds = segment.start / self.options.fps, len(segment) / self.options.fps
        audio = self._audio(start, seconds)
        if audio is not None and len(audio) < (seconds - self.options.max_silence) * SAMPLE_RATE:
            end = start + len(audio) / SAMPLE_RATE
            self._fail(f"the sound ends at {end:.2f} s, before the picture: cut the recording there.", segment)
            return
        landmarks, valid = fill_missing(_stack(faces, lambda face: face.landmarks))
        blendshapes, _ = fill_missing(_stack(faces, lambda face: face.blendshapes[:, None]))
        try:
            matrices = self.alignment.fit(landmarks, (self.reader.info.height, self.reader.info.width))
        except FaceError as error:
            self._fail(str(error), segment)
            return
        points = transform_landmarks(landmarks, matrices)
        crops: Iterator[np.ndarray] = self._crops(segment, matrices)
        if self.options.redetect:
            pictures = np.stack(list(crops))
            points, blendshapes, valid = self._redetect(pictures, points, blendshapes)
            crops = iter(pictures)

        id = f"{self.recording.id}-{len(self._started):04d}"
        self._started.append(id)
        try:
            clip = write_clip(
                self.root,
                id,
                self.recording.identity,
                crops,
                points,
                blendshapes[..., 0],
                audio=audio,
                valid=valid,
                transforms=matrices,
                fps=self.options.fps,
                split=self.recording.split,
                source=self.recording.source,
                start=start,
                crf=self.options.crf,
                source_fps=self.reader.info.fps,
                **measure(landmarks, np.stack([face.pose for face in faces if face]), audio, self.options.fps),
            )
        except MediaError as error:
            raise _store_error(self.root, error) from error
        self.clips.append(clip)

    def _audio(self, start: float, seconds: float) -> Float32[np.ndarray, "s"] | None:
        if self.recording.audio is None and not self.reader.info.has_audio:
            return None
        with _reading():
            return read_audio(self.recording.audio or self.recording.path, SAMPLE_RATE, start, seconds)

    def _crops(self, segment: Segment, matrices: Float64[np.ndarray, "t 3 3"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for frame, matrix in zip(self._again(segment.start, segment.stop), matrices, strict=True):
            yield warp(frame[None], matrix[None], self.alignment.size)[0]

    def _again(self, start: int, stop: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Frames `start` to `stop - 1` once more: those that were kept, and the others from the file."""
        for kept, run in groupby(range(start, stop), key=self._kept.__contains__):
            indices = list(run)
            if kept:
                yield from (self._kept[i] for i in indices)
            else:
                yield from self._frames(self.crop_reader, indices[0], indices[-1] + 1)

    def _redetect(
        self,
        crops: UInt8[np.ndarray, "t h w 3"],
        landmarks: Float32[np.ndarray, "t 478 3"],
        blendshapes: Float32[np.ndarray, "t 52 1"],
    ) -> tuple[Float32[np.ndarray, "t 478 3"], Float32[np.ndarray, "t 52 1"], Bool[np.ndarray, "t"]]:
        """Landmarks and blendshapes of each crop by itself; those given where the detector finds no face, marked invalid."""
        landmarks, blendshapes, valid = landmarks.copy(), blendshapes.copy(), np.zeros(len(crops), bool)
        with FaceDetector(mode="image", max_faces=1, model=self.options.model) as detector:
            for i, crop in enumerate(crops):
                check_stop()
                for face in detector.detect(crop):
                    landmarks[i], blendshapes[i, :, 0], valid[i] = face.landmarks, face.blendshapes, True
        return landmarks, blendshapes, valid

    def _fail(self, reason: str, segment: Segment | None = None) -> None:
        whole = segment is None or len(segment) == len(self.reader)
        start, end = (None, None) if whole else (segment.start / self.options.fps, segment.stop / self.options.fps)
        self.failures.append(Failure(self.recording.source, reason, start, end))


def _stack(
    faces: Sequence[Face | None], values: Callable[[Face], Float32[np.ndarray, "n d"]]
) -> Float32[np.ndarray, "t n d"]:
    """Values of the faces along time, NaN where there is none; at least one face is there."""
    rows = [None if face is None else values(face) for face in faces]
    missing = np.full_like(next(row for row in rows if row is not None), np.nan)
    return np.stack([missing if row is None else row for row in rows])


def _store_error(root: Path, error: MediaError) -> StoreError:
    if getattr(error.__cause__, "errno", None) in NO_ROOM:
        return StoreError(
            f"The disk of {root} is full: free some space and give the same command again, it continues where it stopped."
        )
    return StoreError(str(error))
