"""Detection and tracking: errors and bookkeeping without MediaPipe, then the real detector on real pictures."""

import subprocess
import sys
import types
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.errors import FaceError
from src.face import detector as detector_module
from src.face.detector import FaceDetector, FaceTracker, continues, overlap, select_face
from src.face.landmarks import Face
from src.media import VideoReader, read_image, resize
from tests.face.faces import face_at

FRAME = np.zeros((60, 80, 3), np.uint8)

# A stand-in for the package mediapipe


class FakeLandmarker:
    """Answers with the faces of `answers`, and remembers how it was asked."""

    def __init__(self, answers: list[list[tuple[float, float]]]) -> None:
        self.answers = answers
        self.timestamps: list[int] = []
        self.closed = 0

    def detect(self, image: object) -> SimpleNamespace:
        faces = self.answers[0]
        points = [
            [SimpleNamespace(x=x + (i % 2) * size, y=y + (i % 3) * size, z=0.5) for i in range(478)]
            for x, y, size in faces
        ]
        scores = [[SimpleNamespace(score=i / 52) for i in range(52)] for _ in faces]
        return SimpleNamespace(
            face_landmarks=points,
            face_blendshapes=scores,
            facial_transformation_matrixes=[np.eye(4) * (i + 1) for i, _ in enumerate(faces)],
        )

    def detect_for_video(self, image: object, timestamp: int) -> SimpleNamespace:
        self.timestamps.append(timestamp)
        return self.detect(image)

    def close(self) -> None:
        self.closed += 1


def install_fake_mediapipe(monkeypatch: pytest.MonkeyPatch, create: object) -> None:
    """Puts modules into place that offer what the detector uses of mediapipe; `create` makes the landmarker."""
    vision = SimpleNamespace(
        FaceLandmarkerOptions=lambda **options: SimpleNamespace(**options),
        RunningMode=SimpleNamespace(IMAGE="image", VIDEO="video"),
        FaceLandmarker=SimpleNamespace(create_from_options=create),
    )

    class BaseOptions(SimpleNamespace):
        Delegate = SimpleNamespace(CPU="cpu")

    package = types.ModuleType("mediapipe")
    package.Image = lambda **parts: SimpleNamespace(**parts)  # ty: ignore
    package.ImageFormat = SimpleNamespace(SRGB="srgb")  # ty: ignore
    tasks, python = types.ModuleType("mediapipe.tasks"), types.ModuleType("mediapipe.tasks.python")
    python.BaseOptions, python.vision = BaseOptions, vision  # ty: ignore
    for module in (package, tasks, python):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def some_model(tmp_path: Path) -> Path:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"model")
    return path


# Errors


def test_a_missing_model_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    with pytest.raises(
        FaceError, match=r"face_landmarker.task is missing: run `python tools/download_models.py`, .*\.$"
    ):
        FaceDetector()


@pytest.mark.parametrize(
    ("library", "package"), [("libEGL.so.1", "libegl1"), ("libGLESv2.so.2", "libgles2"), ("libGL.so.1", "libgl1")]
)
@pytest.mark.parametrize("moment", ["import", "creation"])
def test_a_missing_system_library_names_its_debian_package(monkeypatch, some_model, library, package, moment):
    message = f"{library}: cannot open shared object file: No such file or directory"

    class Broken(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "mediapipe":
                raise ImportError(message)

    def create(options):
        raise OSError(message)

    if moment == "import":
        for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    else:
        install_fake_mediapipe(monkeypatch, create)
    with pytest.raises(FaceError, match=rf"needs {library.split('.so')[0]}.so, .*`apt-get install {package}`\.$"):
        FaceDetector(model=some_model)


def test_another_missing_library_is_quoted(monkeypatch, some_model):
    def create(options):
        raise OSError("libstrange.so.3: cannot open shared object file")

    install_fake_mediapipe(monkeypatch, create)
    with pytest.raises(FaceError, match=r"cannot be loaded \(libstrange.so.3"):
        FaceDetector(model=some_model)


def test_a_damaged_model_names_the_command(monkeypatch, some_model):
    def create(options):
        raise RuntimeError("Unable to open zip archive.")

    install_fake_mediapipe(monkeypatch, create)
    with pytest.raises(FaceError, match=r"cannot be read: fetch it again with `python tools/download_models.py`\.$"):
        FaceDetector(model=some_model)


def test_importing_the_detector_does_not_import_mediapipe():
    script = "import sys, src.face.detector; sys.exit('mediapipe' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# What is made of MediaPipe's answer


def test_faces_are_in_pixels_largest_first(monkeypatch, some_model):
    fake = FakeLandmarker([[(0.1, 0.1, 0.1), (0.4, 0.25, 0.2)]])
    install_fake_mediapipe(monkeypatch, lambda options: fake)
    with FaceDetector("image", model=some_model) as detector:
        large, small = detector.detect(FRAME)
    np.testing.assert_allclose(large.box, [0.4 * 80, 0.25 * 60, 0.6 * 80, 0.65 * 60], rtol=1e-5)
    np.testing.assert_allclose(small.box, [8, 6, 16, 18], rtol=1e-5)
    assert large.landmarks[0, 2] == pytest.approx(0.5 * 80), "depth is in units of the width"
    assert large.pose[0, 0] == 2
    assert large.blendshapes[26] == pytest.approx(0.5)
    assert fake.closed == 1


def test_options_reach_mediapipe(monkeypatch, some_model):
    seen = []
    install_fake_mediapipe(monkeypatch, lambda options: seen.append(options) or FakeLandmarker([[]]))
    FaceDetector("video", 3, some_model, confidence=0.7)
    (options,) = seen
    assert (options.running_mode, options.num_faces) == ("video", 3)
    assert options.base_options.delegate == "cpu"
    assert options.min_face_detection_confidence == options.min_tracking_confidence == 0.7
    assert options.output_face_blendshapes
    assert options.output_facial_transformation_matrixes


def test_time_stamps_always_rise(monkeypatch, some_model):
    fake = FakeLandmarker([[]])
    install_fake_mediapipe(monkeypatch, lambda options: fake)
    detector = FaceDetector("video", 1, some_model, temporal_filter=True)
    for timestamp in (0.0, 0.04, 0.04, 0.0, None, 1.0):
        assert detector.detect(FRAME, timestamp) == []
    assert fake.timestamps == [0, 40, 41, 42, 82, 1000]


def test_without_the_temporal_filter_frames_lie_too_far_apart_to_be_smoothed(monkeypatch, some_model):
    fake = FakeLandmarker([[]])
    install_fake_mediapipe(monkeypatch, lambda options: fake)
    detector = FaceDetector("video", 1, some_model)
    for timestamp in (0.0, 0.04, None):
        detector.detect(FRAME, timestamp)
    assert np.diff(fake.timestamps).min() >= 1_000_000


def test_a_reset_starts_a_new_recording(monkeypatch, some_model):
    made = []

    def create(options):
        made.append(FakeLandmarker([[]]))
        return made[-1]

    install_fake_mediapipe(monkeypatch, create)
    detector = FaceDetector("video", 1, some_model, temporal_filter=True)
    detector.detect(FRAME, 5.0)
    detector.reset()
    detector.detect(FRAME, 0.0)
    assert [fake.timestamps for fake in made] == [[5000], [0]]
    assert [fake.closed for fake in made] == [1, 0]


# Whom to follow


def test_overlap_is_intersection_over_union():
    assert overlap(face_at(50, 50, 20), face_at(50, 50, 20)) == pytest.approx(1)
    assert overlap(face_at(50, 50, 20), face_at(60, 50, 20)) == pytest.approx(1 / 3, rel=1e-4)
    assert overlap(face_at(50, 50, 20), face_at(90, 50, 20)) == 0


def test_a_face_continues_another_that_is_near_and_about_as_large():
    previous = face_at(100, 100, 60)
    assert continues(face_at(125, 100, 60), previous)
    assert continues(face_at(100, 100, 45), previous)
    assert not continues(face_at(170, 100, 60), previous)
    assert not continues(face_at(100, 100, 20), previous)


def test_the_largest_face_at_first_then_the_nearest():
    small, large = face_at(40, 50, 20), face_at(120, 50, 40)
    assert select_face([small, large], None) is large
    assert select_face([small, large], face_at(42, 50, 20)) is small
    assert select_face([large], small) is None
    assert select_face([], None) is None


class ScriptedDetector:
    """Stands in for FaceDetector: frame t (its first pixel) shows the faces of `scene[t]`.

    The single-face detector of video mode is made as unhelpful as MediaPipe can be: it follows a face while it overlaps the last one, and
    otherwise takes the last of the list.
    """

    scene: dict[int, list[Face]] = {}  # noqa: RUF012
    calls: list[str] = []  # noqa: RUF012

    def __init__(self, mode, max_faces=4, model=None):
        self.mode, self.max_faces, self.last = mode, max_faces, None

    def detect(self, frame):
        self.calls.append(self.mode)
        faces = self.scene[int(frame[0, 0, 0])]
        if self.max_faces > 1:
            return sorted(faces, key=lambda face: face.area, reverse=True)
        same = [f for f in faces if self.last is not None and overlap(f, self.last) > 0.3]
        self.last = next(iter(same or faces[::-1]), None)
        return [self.last] if self.last else []

    def reset(self):
        self.last = None

    def close(self):
        self.last = None


def follow(monkeypatch, scene: list[list[Face]]) -> list[Face | None]:
    monkeypatch.setattr(detector_module, "FaceDetector", ScriptedDetector)
    monkeypatch.setattr(ScriptedDetector, "scene", dict(enumerate(scene)))
    monkeypatch.setattr(ScriptedDetector, "calls", [])
    with FaceTracker() as tracker:
        return [tracker.track(np.full((4, 4, 3), t, np.uint8)) for t in range(len(scene))]


def test_a_person_alone_is_followed_by_the_fast_detector(monkeypatch):
    scene = [[face_at(100 + t, 100, 60)] for t in range(100)]
    assert follow(monkeypatch, scene) == [faces[0] for faces in scene]
    assert ScriptedDetector.calls.count("image") == 1


def test_nobody_costs_one_detection_a_frame(monkeypatch):
    assert follow(monkeypatch, [[]] * 30) == [None] * 30
    assert ScriptedDetector.calls == ["video"] * 30


def test_the_larger_person_is_chosen_although_the_fast_detector_sees_the_other(monkeypatch):
    large, small = face_at(60, 100, 60), face_at(200, 100, 40)
    assert follow(monkeypatch, [[large, small]] * 60) == [large] * 60


def test_the_chosen_person_stays_chosen_when_another_becomes_larger(monkeypatch):
    scene = [[face_at(60, 100, 60), face_at(200, 100, 30 + 2 * t)] for t in range(50)]
    assert follow(monkeypatch, scene) == [faces[0] for faces in scene]


def test_nobody_takes_over_while_the_person_is_away(monkeypatch):
    person, other = face_at(60, 100, 60), face_at(200, 100, 60)
    scene = [[person]] * 5 + [[other]] * 20 + [[other, person]] * 5 + [[]] * 5 + [[person]] * 40
    expected = [person] * 5 + [None] * 20 + [person] * 5 + [None] * 5 + [person] * 40
    assert follow(monkeypatch, scene) == expected


def test_people_who_cross_are_told_apart(monkeypatch):
    scene = [[face_at(60 + 4 * t, 80, 60), face_at(260 - 4 * t, 120, 44)] for t in range(50)]
    assert follow(monkeypatch, scene) == [faces[0] for faces in scene]


def test_after_the_other_person_has_left_the_fast_detector_returns(monkeypatch):
    person, other = face_at(60, 100, 60), face_at(200, 100, 40)
    scene = [[person, other]] * 10 + [[person]] * 100
    assert follow(monkeypatch, scene) == [person] * 110
    assert ScriptedDetector.calls[-50:] == ["video"] * 50


def test_a_second_face_that_comes_and_goes_does_not_switch_detectors_every_time(monkeypatch):
    person, other = face_at(60, 100, 60), face_at(200, 100, 40)
    scene = [[person, other] if t % 5 == 0 else [person] for t in range(60)]
    assert follow(monkeypatch, scene) == [person] * 60
    assert ScriptedDetector.calls[1:] == ["image"] * 60


def test_lost_counts_the_frames_without_the_person_and_reset_chooses_anew(monkeypatch):
    person, other = face_at(60, 100, 60), face_at(200, 100, 60)
    monkeypatch.setattr(detector_module, "FaceDetector", ScriptedDetector)
    monkeypatch.setattr(ScriptedDetector, "scene", {0: [person], 1: [other]})
    tracker = FaceTracker()
    shown = [np.full((4, 4, 3), t, np.uint8) for t in (0, 1)]
    assert tracker.track(shown[0]) is person
    assert [tracker.track(shown[1]) for _ in range(3)] == [None] * 3
    assert tracker.lost == 3
    tracker.reset()
    assert tracker.lost == 0
    assert tracker.track(shown[1]) is other


# The real detector


@pytest.mark.shared
def test_the_real_detector_says_nothing_on_the_terminal(model):
    script = (
        "import sys, numpy as np; from src.face.detector import FaceDetector; "
        f"FaceDetector('image', 1, {str(model)!r}).detect(np.zeros((64, 64, 3), np.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


PROFILED = """
import signal, sys, time
import numpy as np
from src.face.detector import FaceDetector

frame = np.zeros((64, 64, 3), np.uint8)
handlers = {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}}
with FaceDetector("image", model=sys.argv[1]) as detector:
    detector.detect(frame)
for number, handler in handlers.items():  # what Lightning does when a Trainer has finished
    if handler is not None:
        signal.signal(number, handler)
with FaceDetector("image", model=sys.argv[1]) as detector:
    began = time.process_time()
    while time.process_time() - began < 1:
        detector.detect(frame)
"""


@pytest.mark.shared
def test_detection_survives_a_trainer_that_restores_the_signal_handlers(model):
    done = subprocess.run([sys.executable, "-c", PROFILED, str(model)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.shared
def test_mirroring_a_picture_mirrors_the_face(data, model):
    picture = read_image(data / "images" / "s6.jpg")
    with FaceDetector("image", 1, model) as detector:
        (face,), (mirrored,) = detector.detect(picture), detector.detect(np.ascontiguousarray(picture[:, ::-1]))
    left, right = face.landmarks[[33, 61]], mirrored.landmarks[[263, 291]]
    # Pixel centres at integers: column x becomes column width - 1 - x.
    assert np.abs(picture.shape[1] - 1 - right[:, 0] - left[:, 0]).max() < 4
    assert np.abs(right[:, 1] - left[:, 1]).max() < 4


@pytest.mark.shared
def test_no_face_is_found_where_there_is_none(data, model):
    frames = VideoReader(data / "clips" / "s13.mp4").read(range(3))
    with FaceTracker(model=model) as tracker:
        assert [tracker.track(frame) for frame in frames] == [None] * 3


def two_people(data: Path, n: int) -> np.ndarray:
    """Two portraits side by side: the left one, larger at first, shrinks and is covered for a while; the right one grows."""
    left = read_image(data / "images" / "s6.jpg")[150:550, 160:560]
    right = read_image(data / "images" / "s12.jpg")[60:420]
    frames = np.full((n, 300, 480, 3), 90, np.uint8)
    for t in range(n):
        a, b = 240 - 3 * t, 170 + 3 * t
        frames[t, 20 : 20 + a, :a] = resize(left, (a, a))
        frames[t, 20 : 20 + b, 480 - b :] = resize(right, (b, b))
    frames[n // 2 : n // 2 + 4, :, :240] = 90
    return frames


@pytest.mark.shared
def test_the_real_tracker_does_not_jump_between_two_people(data, model):
    frames = two_people(data, 24)
    with FaceDetector("image", 4, model) as detector:
        assert [len(detector.detect(frame)) for frame in frames[[0, -1]]] == [2, 2]
        assert detector.detect(frames[-1])[0].box[0] > 220, "in the last frame the other person is the larger one"
    with FaceTracker(model=model) as tracker:
        faces = [tracker.track(frame) for frame in frames]
    assert [face is None for face in faces] == [12 <= t < 16 for t in range(24)]
    assert all(face.box[2] < 245 for face in faces if face is not None)


@pytest.mark.shared
def test_tracking_agrees_with_detection_frame_by_frame(data, model):
    frames = VideoReader(data / "clips" / "d0.mp4").read(range(12))
    with FaceTracker(model=model) as tracker, FaceDetector("image", 1, model) as detector:
        for frame in frames:
            face, (alone,) = tracker.track(frame), detector.detect(frame)
            assert face is not None
            eyes = np.linalg.norm(alone.landmarks[33, :2] - alone.landmarks[263, :2])
            assert np.abs(face.landmarks - alone.landmarks)[:, :2].mean() < 0.02 * eyes
