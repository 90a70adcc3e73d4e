"""From pictures and moving landmarks to a video: windows of any length, chains, other people's motion, mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.datamodules.store import ClipStore
from src.errors import ConfigError
from src.face.alignment import transform_points
from src.lightning_modules.moditalker_mtov import MToV
from src.media import Provenance, probe
from src.pipelines.moditalker_atom import MotionGenerator, SpokenMotion
from src.pipelines.moditalker_mtov import MToVPipeline, looped, with_expressions
from src.pipelines.video import write
from tests.heads import write_heads
from tests.mtov import FRAMES, SIDE, tiny_mtov

N_FRAMES = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=2, n_frames=N_FRAMES, size=32)


@pytest.fixture(scope="module")
def model() -> MToV:
    return tiny_mtov(3)


def clips(root: Path) -> list[str]:
    return [f"{root}@{clip.id}" for clip in ClipStore(root)]


def frames(model: MToV, source: str | None, driving: str, seed: int = 1, **options) -> np.ndarray:
    return MToVPipeline(model, **options)(source, driving=driving, seed=seed).frames()


def test_every_frame_of_the_driving_clip_is_made(root, model):
    one, _ = clips(root)
    video = MToVPipeline(model)(driving=one)
    assert (video.n_frames, video.fps, video.size) == (N_FRAMES, 25.0, (SIDE, SIDE))
    assert N_FRAMES % FRAMES
    assert [len(chunk) for chunk in video] == [4, 4, 2]
    assert np.array_equal(video.frames(), video.frames())


def test_windows_know_the_one_before(root, model):
    one, _ = clips(root)
    chained, alone = frames(model, None, one), frames(model, None, one, chaining="none")
    by_picture = frames(model, None, one, chaining="reference")
    for other in (alone, by_picture):
        assert np.array_equal(chained[:FRAMES], other[:FRAMES])
        assert not np.array_equal(chained[FRAMES:], other[FRAMES:])


def test_source_seed_and_motion_count(root, model):
    one, two = clips(root)
    own = frames(model, one, one)
    assert np.array_equal(own, frames(model, None, one))
    assert np.array_equal(own, frames(model, None, one, motion="absolute"))
    for other in (frames(model, two, one), frames(model, one, two), frames(model, one, one, seed=2)):
        assert not np.array_equal(own, other)
    assert not np.array_equal(frames(model, two, one), frames(model, two, one, motion="absolute"))


def test_the_lower_face_of_the_source_is_not_seen(root, model):
    one, _ = clips(root)
    pipeline = MToVPipeline(model)
    plan = pipeline.plan(None, driving=one)
    batch, pictures = pipeline._conditions(plan, np.arange(FRAMES))
    rows = plan.points[:FRAMES, 33, 1].astype(int)
    assert all(not batch["masked"][0, t, :, row:].any() for t, row in enumerate(rows))
    assert pictures.any()


def test_sound_and_landmarks_are_written(root, model, tmp_path):
    one, _ = clips(root)
    video = MToVPipeline(model, keep_landmarks=True)(driving=one)
    files = write(video, tmp_path / "talk.mp4", Provenance("moditalker_mtov", "test"), progress=False)
    assert [path.name for path in files] == ["talk.mp4", "talk.landmarks.mp4"]
    assert [probe(path).n_frames for path in files] == [N_FRAMES, N_FRAMES]
    assert probe(files[0]).has_audio


def test_a_voice_moves_the_face_by_atom(root, model, monkeypatch):
    one, two = clips(root)
    n_spoken, voice = 13, np.zeros(13 * 640, np.float32)
    asked: dict[str, Any] = {}

    def generate_motion(generator, landmarks, audio, **options):
        asked.update(options, landmarks=landmarks, audio=audio)
        faces = np.repeat(landmarks[None], n_spoken, axis=0).astype(np.float32)
        return faces, SpokenMotion(np.zeros((n_spoken, 68, 3)), np.zeros((68, 3)), voice)

    monkeypatch.setattr("src.pipelines.moditalker_mtov.generate_motion", generate_motion)
    pipeline = MToVPipeline(model)
    pipeline.generator = object.__new__(MotionGenerator)
    plan = pipeline.plan(one, "voice.wav", two, seed=3)
    assert plan.person is not plan.body
    assert asked["landmarks"].shape == (478, 3)
    assert (asked["audio"], asked["seed"], len(asked["driving"])) == ("voice.wav", 3, N_FRAMES)
    assert plan.shown.tolist() == [*range(N_FRAMES), *range(N_FRAMES - 1, N_FRAMES - 4, -1)]
    video = pipeline(one, voice)
    assert video.n_frames == len(video.frames()) == n_spoken
    assert np.array_equal(video.audio, voice)
    with pytest.raises(ConfigError, match="AToM makes landmarks of a voice: give source=FACE and audio=SOUND"):
        pipeline(one)


def test_expressions_go_over_and_head_poses_stay():
    rng = np.random.default_rng(0)
    person = rng.uniform(0, 64, (478, 2))
    driving = np.stack([person + rng.normal(0, 0.5, person.shape) for _ in range(5)])
    driving[0] = person
    assert np.allclose(with_expressions(driving, driving, person), driving, atol=0.3)
    matrix = np.array([[0.8, -0.2, 5.0], [0.2, 0.8, -3.0], [0.0, 0.0, 1.0]])
    moved = transform_points(driving, np.broadcast_to(matrix, (5, 3, 3)))  # the driving head is elsewhere
    still = np.broadcast_to(person, driving.shape)
    assert np.allclose(with_expressions(still, moved, person), with_expressions(still, driving, person), atol=1e-6)


def test_pictures_run_to_and_fro():
    assert looped(3, 8, "source").tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert looped(1, 3, "source").tolist() == [0, 0, 0]
    assert looped(5, 3, "source").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": -1.0}, r"pipeline\.smoothing=-1"),
        ({"sampler": "fast"}, "sampler=fast: choose one of published"),
        ({"steps": 0}, "steps=0: give 1 to 1000"),
        ({"strength": 1.0}, "strength=1"),
        ({"strength": 0.5, "sampler": "ddim"}, r"pipeline\.strength is of"),
        ({"eta": 0.5, "sampler": "unipc"}, "eta=0"),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(model, options, message):
    with pytest.raises(ConfigError, match=message):
        MToVPipeline(model, **options)


def test_what_the_model_cannot_do_is_told(model):
    with pytest.raises(ConfigError, match=r"pipeline\.chaining=latent: the model was trained without it"):
        MToVPipeline(tiny_mtov(2), chaining="latent")
    with pytest.raises(ConfigError, match="needs landmarks"):
        MToVPipeline(model)("face.png")


def test_the_published_sampling_runs(root):
    one, _ = clips(root)
    options = {"strength": 0.25, "steps": 8, "chaining": "none", "motion": "absolute", "rounding": "down"}
    assert frames(tiny_mtov(2), None, one, **options).shape == (N_FRAMES, SIDE, SIDE, 3)
