"""From a face and a voice to frames: every mode of inference, lengths, sound, pasting, mistakes."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.datamodules.store import ClipStore
from src.errors import CheckpointError, ConfigError, FaceError, FeatureError, MediaError
from src.face.liveportrait_talker import cropped_rectangles
from src.media import Provenance, probe, read_image, write_image, write_wav
from src.nn.liveportrait import Motion
from src.nn.liveportrait_talker import MappingNet, TalkingPortrait
from src.pipelines.liveportrait_talker import LivePortraitTalkerPipeline
from src.pipelines.published_networks import talking_portrait
from src.pipelines.video import write
from tests.commands import run_command
from tests.heads import write_heads
from tests.portraits import tiny_talker

N_FRAMES = 6  # of the source videos
SIZE = 64
SHARED = Path(os.environ.get("SHARED_DIR", "../shared"))

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real pictures at {SHARED}")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=2, n_frames=N_FRAMES, size=SIZE)


@pytest.fixture(scope="module")
def model() -> TalkingPortrait:
    return tiny_talker()


@pytest.fixture
def make(model, root):
    """A pipeline whose reference videos are numbers of clips."""

    def made(**options) -> LivePortraitTalkerPipeline:
        if isinstance(options.get("ref_head_pose"), int):
            options["ref_head_pose"] = clip(root, options["ref_head_pose"])
        return LivePortraitTalkerPipeline(model, **({"batch_size": 4} | options))

    return made


def voice(n_frames: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades."""
    loudness = 0.3 * (1 + np.sin(np.arange(640 * n_frames) / 1500))
    return (loudness * np.random.default_rng(seed).uniform(-1, 1, 640 * n_frames)).astype(np.float32)


def clip(root: Path, number: int = 0) -> str:
    return f"{root}@clip{number}"


def rotations_of(pipeline: LivePortraitTalkerPipeline, given: str) -> torch.Tensor:
    return torch.from_numpy(pipeline._found_rotations(given))


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What the composition of key points was told last."""
    import src.pipelines.liveportrait_talker as pipelines

    told: dict = {}
    compose = pipelines.driving_key_points

    def recorded(source: Motion, lips: torch.Tensor, rotations: torch.Tensor | None, **others):
        told.update(others, source=source, lips=lips, rotations=rotations)
        return compose(source, lips, rotations, **others)

    monkeypatch.setattr(pipelines, "driving_key_points", recorded)
    return told


MODES = {
    "synthetic": {"first_frame": True},
    "still": {"first_frame": True, "still": True},
    "reference": {"first_frame": True, "ref_head_pose": 1},
    "still, with a reference": {"first_frame": True, "still": True, "ref_head_pose": 1, "ref_frames_from_zero": True},
    "video": {},
    "video, with a reference": {"ref_head_pose": 1},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_a_frame_for_each_40_ms_of_sound(make, root, mode):
    options = MODES[mode]
    video = make(**options)(clip(root), voice(9))
    assert (len(video), video.fps) == (9, 25)
    pasted = not options.get("first_frame") or options.get("still", False)
    assert video.size == ((SIZE, SIZE) if pasted else (128, 128))
    frames = video.frames()
    assert frames.shape == (9, *video.size, 3)
    assert not np.array_equal(frames[0], frames[-1])


def test_the_file_has_the_sound_and_lasts_as_long(make, root, tmp_path):
    write_wav(tmp_path / "speech.wav", voice(8), 11025)  # another rate: 8 * 640 samples last 0.46 s
    video = make(first_frame=True)(clip(root), tmp_path / "speech.wav")
    (path,) = write(video, tmp_path / "x.mp4", Provenance("liveportrait_talker", "test"), progress=False)
    info = probe(path)
    assert (info.fps, info.n_frames, info.has_audio) == (25, 11, True)
    assert info.duration == pytest.approx(8 * 640 / 11025, abs=0.04)


def test_the_voice_moves_the_lips_alone_where_the_head_is_still(make, root, seen):
    kept = make(first_frame=True, still=True, blinks=False, stitching=False)
    loud, silent = (kept.plan(clip(root), samples) for samples in (voice(9), np.zeros(9 * 640, np.float32)))
    loud, silent = ((plan.kp_driving - plan.kp_driving[:1]).abs().amax(dim=(0, 2)) for plan in (loud, silent))
    assert silent.max() < 1e-6
    assert (loud > 1e-5).nonzero().flatten().tolist() == [6, 12, 14, 17, 19, 20]
    assert seen["rotations"] is None


def test_the_same_seed_gives_the_same_video_and_another_one_another(make, root, seen):
    pipeline = make(first_frame=True)
    first = pipeline(clip(root), voice(50), seed=3)
    told = dict(seen)
    again = pipeline.plan(clip(root), voice(50), seed=3)
    assert torch.equal(told["rotations"], seen["rotations"])
    assert torch.equal(told["eyes"].driving, seen["eyes"].driving)
    pipeline.plan(clip(root), voice(50), seed=4)
    assert not torch.equal(told["rotations"], seen["rotations"])
    assert not torch.equal(told["eyes"].driving, seen["eyes"].driving)
    short = make(first_frame=True, frame_limit=3)
    assert np.array_equal(short(clip(root), voice(9)).frames(), short(clip(root), voice(9)).frames())
    assert len(first) == len(again) == 50


@pytest.mark.parametrize("options", [{}, {"first_frame": True}])
def test_the_batch_size_changes_nothing(make, root, options):
    one, many = (make(batch_size=size, **options)(clip(root), voice(5)).frames() for size in (1, 5))
    assert np.abs(one.astype(int) - many).max() <= 1


def test_a_limit_cuts_what_is_shown_but_not_what_is_heard(make, root, seen):
    whole, cut = make(first_frame=True, still=True), make(first_frame=True, still=True, frame_limit=4)
    whole.plan(clip(root), voice(20))
    lips = seen["lips"]
    cut.plan(clip(root), voice(20))
    torch.testing.assert_close(seen["lips"], lips[:4])


def test_a_short_source_video_runs_to_and_fro(make, root, seen):
    plan = make(paste="none").plan(clip(root), voice(2 * N_FRAMES + 1))
    exp = seen["source"].exp
    assert len(plan) == 2 * N_FRAMES + 1
    assert torch.equal(exp[N_FRAMES : 2 * N_FRAMES], exp[:N_FRAMES].flip(0))
    assert torch.equal(exp[-1], exp[0])
    frames = plan.source.read(list(range(2 * N_FRAMES)))
    assert np.array_equal(frames[N_FRAMES:], frames[:N_FRAMES][::-1])


def test_a_reference_gives_its_rotations_from_the_first_frame_or_from_any(make, root, seen):
    pipeline = make(first_frame=True, ref_head_pose=1, ref_frames_from_zero=True, smoothing=0)
    found = rotations_of(pipeline, clip(root, 1))
    pipeline.plan(clip(root), voice(4))
    torch.testing.assert_close(seen["rotations"], found[:4])
    anywhere = make(first_frame=True, ref_head_pose=1, smoothing=0)
    starts = set()
    for seed in range(8):
        anywhere.plan(clip(root), voice(4), seed)
        starts |= {i for i in range(3) if torch.allclose(seen["rotations"], found[i : i + 4], atol=1e-6)}
    assert starts == {0, 1, 2}


def test_a_reference_that_is_too_short_runs_to_and_fro(make, root, seen):
    pipeline = make(ref_head_pose=1, ref_frames_from_zero=True, smoothing=0)
    pipeline.plan(clip(root), voice(2 * N_FRAMES))
    torch.testing.assert_close(seen["rotations"][N_FRAMES:], seen["rotations"][:N_FRAMES].flip(0))


def test_the_sway_can_be_larger_or_none(make, root, seen):
    make(first_frame=True, sway=0).plan(clip(root), voice(30))
    own = seen["source"].rotation[0]
    torch.testing.assert_close(seen["rotations"], own.expand(30, 3, 3), atol=1e-5, rtol=0)
    swings = []
    for sway in (1, 2):
        make(first_frame=True, sway=sway).plan(clip(root), voice(30))
        swings.append((seen["rotations"] - own).abs().max().item())
    assert swings[1] == pytest.approx(2 * swings[0], rel=0.1)


def test_the_gaze_moves_the_pupils(make, root, seen):
    points = [
        make(first_frame=True, still=True, stitching=False, pupil_x=x).plan(clip(root), voice(2)).kp_driving
        for x in (0, 10)
    ]
    scale = seen["source"].scale.item()
    assert (points[1] - points[0])[0, 11, 0].item() == pytest.approx(0.007 * scale, rel=1e-3)


def test_without_blinks_the_eyes_stay_as_open_as_in_the_source(make, root, seen):
    make(first_frame=True).plan(clip(root), voice(40))
    assert seen["eyes"].driving.min() == 0
    make(first_frame=True, blinks=False).plan(clip(root), voice(40))
    assert torch.all(seen["eyes"].driving == seen["eyes"].source[0])


# --- networks of several files


def test_a_trained_mapping_net_is_joined_with_published_networks(make, tmp_path, monkeypatch):
    import src.pipelines.published_networks as published

    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MappingNet(width=8)

    whole, trained = tiny_talker(), Trained()
    frozen = {k: v for k, v in whole.state_dict().items() if not k.startswith("mapping_net.")}
    monkeypatch.setattr(published, "_published", lambda place: ({}, frozen))
    monkeypatch.setattr(published, "instantiate", lambda settings: tiny_talker(seed=1))
    joined = talking_portrait(trained, tmp_path)
    assert joined.mapping_net is trained.net
    assert torch.equal(joined.exp_net.head.weight, whole.exp_net.head.weight)
    assert not any(p.requires_grad for p in joined.parameters())


def test_all_missing_files_are_named_at_once_with_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    (tmp_path / "motion_extractor.pth").touch()
    trained = nn.Module()
    trained.net = MappingNet(width=8)
    with pytest.raises(CheckpointError) as caught:
        LivePortraitTalkerPipeline(trained)
    message = str(caught.value)
    for name in ("appearance_feature_extractor.pth", "warping_module.pth", "SadTalker_V0.0.2_256.safetensors"):
        assert name in message
    assert "motion_extractor.pth" not in message
    assert "mappingnet" not in message  # the trained one is there
    assert "python tools/download_models.py method=liveportrait_talker" in message


def test_the_command_takes_downloaded_weights_and_says_what_is_missing(tmp_path):
    (tmp_path / "models").mkdir()
    given = ("pipeline=liveportrait_talker", "source=face.png", "audio=speech.wav")
    done = run_command(tmp_path, "sample.py", *given, environment={"VISEME_MODELS": str(tmp_path / "models")})
    assert done.returncode == 2
    assert done.stderr.count(".pth") == 5
    assert "python tools/download_models.py method=liveportrait_talker" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- mistakes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pupil_x": 40}, r"^pipeline.pupil_x=40: give -15 to 15\.$"),
        ({"pupil_y": float("nan")}, r"pipeline.pupil_y=nan"),
        ({"batch_size": 0}, r"pipeline.batch_size=0"),
        ({"frame_limit": 0}, r"pipeline.frame_limit=0: give 1 or more"),
        ({"sway": -1}, r"pipeline.sway=-1: give 0 or more"),
        ({"models": "x"}, r"the checkpoint holds all networks"),
    ],
)
def test_settings_that_cannot_be_used_are_a_sentence(model, options, says):
    with pytest.raises(ConfigError, match=says):
        LivePortraitTalkerPipeline(model, **options)


def test_a_network_of_another_kind_is_a_sentence():
    with pytest.raises(CheckpointError, match="holds no MappingNet"):
        LivePortraitTalkerPipeline(nn.Linear(1, 1))
    trained = nn.Module()
    trained.net = MappingNet(n_coefficients=20, width=8)
    with pytest.raises(CheckpointError, match="other features, 20 numbers a frame"):
        LivePortraitTalkerPipeline(trained)


def test_what_is_missing_is_a_sentence(make, root):
    with pytest.raises(ConfigError, match=r"give source=FACE and audio=SPEECH\.$"):
        make()(None, voice(3))
    with pytest.raises(FeatureError, match="one video frame"):
        make()(clip(root), voice(1)[:600])
    with pytest.raises(MediaError, match=r"none\.mp4"):
        make(ref_head_pose="none.mp4")(clip(root), voice(3))


# --- real pictures and videos


@pytest.fixture(scope="module")
def portrait(tmp_path_factory) -> str:
    """A real portrait, smaller."""
    from src.media import resize

    path = tmp_path_factory.mktemp("portrait") / "face.png"
    write_image(path, resize(read_image(SHARED / "data" / "images" / "s6.jpg"), (361, 361)))
    return str(path)


def test_a_second_voice_finds_the_face_known(make, root, tmp_path, monkeypatch):
    from src.pipelines import liveportrait_talker as pipelines

    write_image(tmp_path / "face.png", ClipStore(root).clips[0].frames([0])[0])
    asked, read = [], pipelines.read_footage

    def counted(source, alignment, **options):
        asked.append(options["needed"])
        return pipelines.reordered(read(clip(root), alignment, **options), np.array([0]))

    monkeypatch.setattr(pipelines, "read_footage", counted)
    pipeline = make()
    first = pipeline(tmp_path / "face.png", voice(3)).frames()
    again = pipeline(tmp_path / "face.png", voice(5))
    assert again.n_frames == 5
    np.testing.assert_array_equal(pipeline(tmp_path / "face.png", voice(3)).frames(), first)
    assert asked == [None]
    write_image(tmp_path / "face.png", ClipStore(root).clips[1].frames([0])[0])
    pipeline(tmp_path / "face.png", voice(3))
    assert asked == [None, None]


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("paste", ["feathered", "rectangle"])
def test_outside_the_crop_every_pixel_stays(make, portrait, paste):
    pipeline = make(still=True, paste=paste)
    video = pipeline(portrait, voice(3))
    frames, picture = video.frames(), read_image(portrait)[:360, :360]
    assert frames.shape == (3, 360, 360, 3)
    plan = pipeline.plan(portrait, voice(3))
    left, top, right, bottom = cropped_rectangles(plan.source.matrices, 128)[0]
    assert 150 < right - left == bottom - top < 220
    outside = np.ones(picture.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert all(np.array_equal(frame[outside], picture[outside]) for frame in frames)
    assert (frames[0][~outside] != picture[~outside]).mean() > 0.5


@needs_shared
@pytest.mark.shared
def test_a_source_or_reference_without_a_face_is_a_sentence(make, root, tmp_path):
    empty = tmp_path / "empty.png"
    write_image(empty, np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(FaceError, match=rf"^source={empty}: no face was found"):
        make()(empty, voice(3))
    with pytest.raises(FaceError, match=rf"^pipeline.ref_head_pose={empty}: no face was found"):
        make(ref_head_pose=str(empty), head_pose_cache=None)(clip(root), voice(3))


@needs_shared
@pytest.mark.shared
def test_rotations_of_a_reference_are_found_once_and_anew_where_its_content_changes(
    make, root, portrait, tmp_path, monkeypatch
):
    found = []
    original = LivePortraitTalkerPipeline._found_rotations

    def counted(self, reference):
        found.append(reference)
        return original(self, reference)

    monkeypatch.setattr(LivePortraitTalkerPipeline, "_found_rotations", counted)
    pipeline = make(ref_head_pose=portrait, head_pose_cache=tmp_path / "poses")
    for _ in range(2):
        pipeline.plan(clip(root), voice(3))
    assert len(found) == 1
    other = tmp_path / "face.png"
    write_image(other, read_image(portrait)[:, ::-1])
    make(ref_head_pose=other, head_pose_cache=tmp_path / "poses").plan(clip(root), voice(3))
    assert len(found) == 2


@needs_shared
@pytest.mark.shared
def test_a_profile_is_made_with_a_warning(make, portrait, monkeypatch, caplog):
    import src.pipelines.liveportrait_talker as pipelines

    monkeypatch.setattr(pipelines, "_PROFILE", 1.0)
    with caplog.at_level(logging.WARNING):
        make(still=True).plan(portrait, voice(2))
    assert "turned away or covered" in caplog.text
