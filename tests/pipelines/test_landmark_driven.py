"""From a face and driving landmarks to a video."""

import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

import src.pipelines.landmark_driven as pipeline_module
from src.datamodules.landmark_driven import landmark_picture, read_frames
from src.datamodules.store import Clip, ClipStore
from src.errors import ConfigError, FaceError, MediaError, StoreError
from src.face.alignment import SquareCropAlignment, TemplateAlignment, transform_points
from src.face.topology import LIPS_INNER, LIPS_OUTER
from src.face.warp import warp
from src.lightning_modules.landmark_driven import LandmarkDriven
from src.media import Provenance, VideoReader, probe, write_image, write_video
from src.nn.landmark_driven import LandmarkDrivenUNet
from src.pipelines import sources
from src.pipelines.landmark_driven import LandmarkDrivenPipeline, transfer_motion
from src.pipelines.video import Video, write
from tests.stores import write_pattern_store

SHARED_DIR = Path(os.environ.get("SHARED_DIR", "../shared"))
N_FRAMES = 11
LIPS = np.concatenate([LIPS_OUTER, LIPS_INNER])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=2, n_frames=N_FRAMES, size=32)


@pytest.fixture(scope="module")
def clips(root) -> list[Clip]:
    return ClipStore(root).clips


@pytest.fixture(scope="module")
def model() -> LandmarkDriven:
    torch.manual_seed(0)
    net = LandmarkDrivenUNet(
        32,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return LandmarkDriven(net, DDIMScheduler()).eval()


def pipeline(model: LandmarkDriven, **options) -> LandmarkDrivenPipeline:
    return LandmarkDrivenPipeline(model, **({"steps": 2} | options))


def difference(a: Video, b: Video) -> int:
    return int(np.abs(a.frames().astype(int) - b.frames()).max())


# --- the video


def test_a_clip_of_a_store_drives_itself(model, root, clips):
    video = pipeline(model)(driving=f"{root}@{clips[0].id}")
    frames = video.frames()
    assert frames.shape == (N_FRAMES, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert (video.n_frames, len(video), video.fps, video.size) == (N_FRAMES, N_FRAMES, 25.0, (32, 32))
    assert video.audio == clips[0].audio_path


@pytest.mark.parametrize("noise", ["same", "random"])
@pytest.mark.parametrize("options", [{}, {"eta": 0.7}, {"sampler": "euler_ancestral"}])
def test_the_batch_size_changes_nothing(model, clips, noise, options):
    whole, chunked = (
        pipeline(model, noise=noise, batch_size=size, **options)(driving=clips[0]) for size in (N_FRAMES, 4)
    )
    assert [len(chunk) for chunk in chunked] == [4, 4, 3]
    assert difference(whole, chunked) <= 1  # the order of float sums


def test_the_seed_alone_decides_about_the_noise(model, clips):
    call = pipeline(model, noise="random")
    first = call(driving=clips[0], seed=3)
    assert difference(first, call(driving=clips[0], seed=3)) == 0
    assert difference(first, first) == 0  # reading a video twice makes the same frames
    assert difference(first, call(driving=clips[0], seed=4)) > 10


def test_same_noise_makes_equal_frames_of_equal_landmarks(model, clips):
    still = landmark_picture(clips[0].landmarks[[0]], (32, 32), 32)
    spread = {}
    for noise in ("same", "random"):
        frames = pipeline(model, noise=noise).animate(
            clips[0].frames([0])[0], still[0], lambda r: np.repeat(still, len(r), axis=0), 4
        ).frames()  # fmt: skip
        spread[noise] = np.ptp(frames.astype(int), axis=0).max()
    assert spread["same"] <= 1 < spread["random"]


def test_every_sampler_makes_frames(model, clips):
    for sampler in ("ddim", "ddpm", "dpm_solver", "unipc", "euler", "euler_ancestral"):
        frames = pipeline(model, sampler=sampler, steps=3)(driving=clips[0]).frames()
        assert frames.std() > 1, sampler


def test_the_source_may_be_another_person(model, root, clips):
    mine, theirs = (pipeline(model)(source=f"{root}@{clip.id}", driving=clips[0]) for clip in clips)
    assert difference(mine, theirs) > 10


# --- what is shown and written beside it


def test_real_and_landmark_frames_stand_beside_the_generated_ones(model, clips):
    video = pipeline(model, motion="absolute", side_by_side=True, batch_size=4)(driving=clips[0])
    shown = np.concatenate([video.picture(chunk) for chunk in video.render()])
    real, landmarks, generated = np.split(shown, 3, axis=2)
    np.testing.assert_array_equal(real, clips[0].frames())
    np.testing.assert_array_equal(landmarks, landmark_picture(clips[0].landmarks, (32, 32), 32))
    np.testing.assert_array_equal(generated, video.frames())


def test_companion_videos_are_written_with_sound(model, clips, tmp_path):
    video = pipeline(model, write_real_video=True, write_landmark_video=True)(driving=clips[0])
    files = write(video, tmp_path / "talk.mp4", Provenance("landmark_driven", "test"), progress=False)
    assert [file.name for file in files] == ["talk.mp4", "talk.real.mp4", "talk.landmarks.mp4"]
    for file in files:
        info = probe(file)
        assert (info.n_frames, info.width, info.height, info.has_audio) == (N_FRAMES, 32, 32, True)
    error = VideoReader(files[1]).read(range(N_FRAMES)).astype(int) - clips[0].frames()
    assert np.abs(error).mean() < 8  # one more pass through the codec


def test_a_failure_while_making_leaves_no_file(tmp_path):
    def render():
        yield {"generated": np.zeros((2, 16, 16, 3), np.uint8), "real": np.zeros((2, 16, 16, 3), np.uint8)}
        raise FaceError("in the middle")

    video = Video(render, 25.0, 4, (16, 16), companions=("real",))
    with pytest.raises(FaceError):
        write(video, tmp_path / "talk.mp4", Provenance("m", "c"), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_other_containers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"written as \.mp4"):
        write(Video(lambda: iter(()), 25.0, 0, (16, 16)), tmp_path / "talk.avi", Provenance("m", "c"))


# --- motion


def random_face(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(478, 2)) * 10 + 40


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]])


def moving(face: np.ndarray, n: int = 6) -> np.ndarray:
    """The face with a mouth, say, that moves, and a head that turns and shifts."""
    rng = np.random.default_rng(1)
    offsets = np.zeros((n, 478, 2))
    offsets[1:, LIPS] = rng.normal(size=(n - 1, len(LIPS), 2))
    heads = np.stack([similarity(0.05 * t, 1 + 0.01 * t, (t, -t)) for t in range(n)])
    return transform_points(face + offsets, heads)


@pytest.mark.parametrize("start", [0, 3])
def test_a_frame_of_the_driving_clip_gives_the_driving_landmarks_back(start):
    driving = moving(random_face(0))
    np.testing.assert_allclose(transfer_motion(driving, driving[start]), driving, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.floats(-0.5, 0.5), st.floats(0.5, 2.0), st.floats(-20, 20))
def test_a_larger_turned_or_shifted_face_moves_in_its_own_frame(angle, scale, shift):
    """The same face elsewhere: its motion is the driving one, seen from there."""
    driving = moving(random_face(0))
    matrix = similarity(angle, scale, (shift, -shift))
    np.testing.assert_allclose(
        transfer_motion(driving, transform_points(driving[0], matrix)), transform_points(driving, matrix), atol=1e-6
    )


def test_another_face_keeps_its_shape_and_takes_over_the_motion():
    face = random_face(0)
    driving = moving(face)
    source = face + np.random.default_rng(5).normal(size=(478, 2))
    moved = transfer_motion(driving, source)
    start = np.abs(moved - source).sum(axis=(1, 2)).argmin()
    np.testing.assert_allclose(moved[start], source, atol=1e-9)
    # Rigid points of the source follow the head alone: they stay a similarity of what they were.
    assert np.abs(moved[-1] - moved[0]).mean() > 1


def test_absolute_motion_takes_over_the_driving_shape(model, clips, monkeypatch):
    seen: dict[str, np.ndarray] = {}
    animate = LandmarkDrivenPipeline.animate

    def spy(self, reference, reference_landmarks, target_landmarks, n_frames, **options):
        seen[self.motion] = target_landmarks(range(n_frames))
        return animate(self, reference, reference_landmarks, target_landmarks, n_frames, **options)

    monkeypatch.setattr(LandmarkDrivenPipeline, "animate", spy)
    for motion in ("absolute", "relative"):
        pipeline(model, motion=motion)(source=clips[1], driving=clips[0])
    drawn = landmark_picture(clips[0].landmarks, (32, 32), 32)
    np.testing.assert_array_equal(seen["absolute"], drawn)
    assert (seen["relative"] != drawn).any()


def test_smoothing_steadies_the_landmarks(model, clips, monkeypatch):
    drawn: list[np.ndarray] = []

    def draw(points: np.ndarray, crop_size: tuple[int, int], resolution: int) -> np.ndarray:
        drawn.append(points)
        return np.zeros((len(points), resolution, resolution, 3), np.uint8)

    monkeypatch.setattr(pipeline_module, "landmark_picture", draw)
    for smoothing in (0.0, 2.0):
        pipeline(model, smoothing=smoothing, batch_size=N_FRAMES)(driving=clips[0]).frames()
    rough, smooth = (points for points in drawn if len(points) == N_FRAMES)
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.8 * np.abs(np.diff(rough, axis=0)).mean()


# --- pictures and videos


@pytest.fixture
def fake_faces(monkeypatch):
    """A detector that finds a given face in every frame but black ones."""
    landmarks = random_face(2)
    landmarks3 = np.concatenate([landmarks, np.zeros((478, 1))], axis=1).astype(np.float32)

    class Fake:
        def detect(self, frame):
            return [SimpleNamespace(landmarks=landmarks3)] if frame.max() > 40 else []

        def track(self, frame):
            return next(iter(self.detect(frame)), None)

    @contextmanager
    def make(*_, **__):
        yield Fake()

    monkeypatch.setattr(sources, "FaceDetector", make)
    monkeypatch.setattr(sources, "FaceTracker", make)
    return landmarks3


def picture(seed: int, size: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(50, 200, (size, size, 3)).astype(np.uint8)


def test_a_picture_is_aligned_as_the_training_data_is(model, tmp_path, fake_faces):
    write_image(tmp_path / "face.png", picture(0))
    portrait = pipeline(model).read_source(tmp_path / "face.png")
    matrix = TemplateAlignment(32).fit(fake_faces[None], (96, 96))
    np.testing.assert_array_equal(portrait.frame, warp(picture(0)[None], matrix, 32)[0])
    np.testing.assert_allclose(portrait.landmarks, transform_points(fake_faces[:, :2], matrix[0]), atol=1e-6)
    by_array = pipeline(model).read_source(picture(0))
    np.testing.assert_array_equal(by_array.frame, portrait.frame)


def test_the_alignment_is_a_choice(model, fake_faces):
    square = pipeline(model, alignment=SquareCropAlignment(32)).read_source(picture(0))
    template = pipeline(model).read_source(picture(0))
    assert (square.frame != template.frame).any()
    with pytest.raises(ConfigError, match="makes 32x32 frames"):
        pipeline(model, alignment=SquareCropAlignment(64))


def test_a_driving_video_keeps_its_rate_and_sound_and_bridges_gaps(model, tmp_path, fake_faces):
    frames = np.stack([picture(t) for t in range(6)])
    frames[3] = 0  # no face
    write_video(tmp_path / "drive.mp4", frames, 10.0, audio=np.zeros(9600, np.float32))
    motion = pipeline(model).read_driving(tmp_path / "drive.mp4")
    assert motion.fps == 10.0
    assert motion.audio == tmp_path / "drive.mp4"
    assert motion.landmarks.shape == (6, 478, 2)
    assert np.isfinite(motion.landmarks).all()
    assert motion.frames(range(1, 4)).shape == (3, 32, 32, 3)
    assert len(pipeline(model, fps=5.0).read_driving(tmp_path / "drive.mp4").landmarks) == 3
    video = pipeline(model)(source=picture(9), driving=tmp_path / "drive.mp4")
    assert video.frames().shape == (6, 32, 32, 3)


def test_a_source_video_shows_its_first_frame_with_a_face(model, tmp_path, fake_faces):
    frames = np.stack([np.zeros_like(picture(0)), picture(1), picture(2)])
    write_video(tmp_path / "source.mp4", frames, 25.0)
    portrait = pipeline(model).read_source(tmp_path / "source.mp4")
    shown = VideoReader(tmp_path / "source.mp4")[1]
    matrix = TemplateAlignment(32).fit(fake_faces[None], (96, 96))
    np.testing.assert_array_equal(portrait.frame, warp(shown[None], matrix, 32)[0])


# --- mistakes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise": "none"}, "noise=none: choose same or random"),
        ({"motion": "copy"}, "motion=copy: choose relative or absolute"),
        ({"rounding": "up"}, "rounding=up: choose nearest or down"),
        ({"steps": 0}, "steps=0: give 1 or more"),
        ({"steps": 2000}, "only 1000 noise levels"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"sampler": "ddmi"}, "sampler=ddmi: choose one of ddim"),
        ({"eta": 0.5, "sampler": "euler"}, "eta=0.5 is for sampler=ddim"),
    ],
)
def test_wrong_options_are_named_at_once(model, options, says):
    with pytest.raises(ConfigError, match=says):
        untyped(LandmarkDrivenPipeline)(model, **options)


def untyped(cls: type):
    """The class without the run-time checks of types, which users do not have either."""
    original = cls.__init__
    while hasattr(original, "__wrapped__"):
        original = original.__wrapped__

    def make(*args, **options):
        instance = cls.__new__(cls)
        original(instance, *args, **options)
        return instance

    return make


def test_mistaken_files_are_named(model, root, clips, tmp_path, fake_faces):
    call = pipeline(model)
    write_image(tmp_path / "dark.png", np.zeros((64, 64, 3), np.uint8))
    write_video(tmp_path / "dark.mp4", np.zeros((3, 64, 64, 3), np.uint8), 25.0)
    (tmp_path / "text.mp4").write_text("no video")
    for source, driving, error, says in (
        (clips[0], None, ConfigError, "needs a driving clip"),
        (clips[0], f"{root}@nobody", ConfigError, "has no clip 'nobody'"),
        (clips[0], f"{tmp_path}@clip0", StoreError, "is no clip store"),
        (clips[0], tmp_path / "none.mp4", MediaError, "none.mp4"),
        (clips[0], tmp_path / "text.mp4", MediaError, "text.mp4"),
        (clips[0], tmp_path / "dark.mp4", FaceError, "driving=.*dark.mp4: no face .* 3 frames"),
        (tmp_path / "none.png", clips[0], MediaError, "none.png"),
        (tmp_path / "text.mp4", clips[0], MediaError, "text.mp4"),
        (tmp_path / "dark.png", clips[0], FaceError, "source=.*dark.png: no face"),
    ):
        with pytest.raises(error, match=says):
            call(source=source, driving=driving)


# --- the real detector


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED_DIR / "data/clips/d20.mp4").exists(), reason=f"no real clips in {SHARED_DIR}")
def test_real_faces_drive_a_real_portrait(model, tmp_path):
    options = {"face_model": SHARED_DIR / "models/face_landmarker.task", "side_by_side": True}
    frames = VideoReader(SHARED_DIR / "data/clips/d20.mp4").read(range(6))
    write_video(tmp_path / "drive.mp4", frames, 25.0)
    video = pipeline(model, **options)(SHARED_DIR / "data/images/s6.jpg", driving=tmp_path / "drive.mp4")
    (chunk,) = video.render()
    drawn = (chunk["landmarks"] > 0).any(axis=-1).mean(axis=(1, 2))
    assert (drawn > 0.1).all()  # lines cover a part of every small picture


def test_stored_frames_of_other_sizes_are_resized(clips):
    assert read_frames(clips[0], [0, 1], 16).shape == (2, 16, 16, 3)
