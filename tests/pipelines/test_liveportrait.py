"""From a face and one that moves it to frames: lengths, pasting back, options, motion templates, precision, mistakes."""

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from src.datamodules.store import ClipStore
from src.datamodules.synthetic.clip import synthesise_clip
from src.errors import ConfigError, FaceError
from src.face.alignment import invert, transform_points
from src.face.warp import warp
from src.media import Provenance, probe, read_audio, write_wav
from src.nn.liveportrait.keypoints import LIP
from src.pipelines import liveportrait
from src.pipelines.footage import Footage
from src.pipelines.liveportrait import DRIVING, LivePortraitPipeline
from src.pipelines.video import write
from tests.heads import write_heads
from tests.portraits import tiny_portrait

N_FRAMES = 6
CANVAS = (150, 120)  # height and width of pictures with a head of 64 pixels in it
PLACE = np.array([30.0, 40.0])  # of its left upper corner


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=2, n_frames=N_FRAMES, size=64)


def clip(root: Path, number: int = 0) -> str:
    return f"{root}@clip{number}"


def pipeline(**options: Any) -> LivePortraitPipeline:
    settings: dict[str, Any] = {"batch_size": 4, **options}
    return LivePortraitPipeline(tiny_portrait(), **settings)


@cache
def head_in_a_picture(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a head within noise, and its landmarks."""
    made = synthesise_clip(seed, seed, N_FRAMES, 64)
    frames = np.random.default_rng(seed).integers(0, 255, (n, *CANVAS, 3), dtype=np.uint8)
    x, y = PLACE.astype(int)
    frames[:, y : y + 64, x : x + 64] = made.frames[:n]
    return frames, made.landmarks[:n, :, :2].astype(np.float64) + PLACE


def footage(seed: int, n: int, alignment) -> Footage:
    frames, landmarks = head_in_a_picture(seed, n)
    matrices = alignment.fit(landmarks, CANVAS)
    points = transform_points(landmarks, matrices)
    return Footage(lambda rows: frames[np.asarray(rows)], matrices, points, alignment.size, CANVAS)


@pytest.fixture
def heads(monkeypatch) -> list[str]:
    """`picture`, `video` and `other` can be given in place of files; lists what was looked at."""
    known = {"picture": (0, 1), "video": (0, N_FRAMES), "other": (1, N_FRAMES), "other_picture": (1, 1)}
    looked_at: list[str] = []

    def read(given, alignment, **_) -> Footage:
        looked_at.append(str(given))
        if Path(given).stem == "nobody":
            raise FaceError(f"source={given}: no face was found.")
        return footage(*known[Path(given).stem], alignment)

    monkeypatch.setattr(liveportrait, "read_footage", read)
    return looked_at


# --- lengths, sound, sizes


def test_a_video_is_moved_by_a_video_and_written_with_its_sound(root, tmp_path):
    video = pipeline()(source=clip(root), driving=clip(root, 1))
    assert len(video) == N_FRAMES
    assert video.frames().shape == (N_FRAMES, 64, 64, 3)
    (path,) = write(video, tmp_path / "x.mp4", Provenance("liveportrait", "test"), progress=False)
    info = probe(path)
    assert (info.fps, info.n_frames, info.has_audio) == (25, N_FRAMES, True)


@pytest.mark.parametrize(
    ("source", "driving", "limit", "n"),
    [("picture", "other", None, N_FRAMES), ("video", "other_picture", None, N_FRAMES), ("video", "other", 3, 3)],
)
def test_lengths_and_duration_of_sound(heads, tmp_path, source, driving, limit, n):
    write_wav(tmp_path / "voice.wav", np.sin(np.arange(16000) / 5).astype(np.float32) / 2)
    video = pipeline(frame_limit=limit)(source=source, driving=driving, audio=tmp_path / "voice.wav")
    (path,) = write(video, tmp_path / "x.mp4", Provenance("liveportrait", "test"), progress=False)
    info = probe(path)
    assert (len(video), info.n_frames, info.fps, (info.height, info.width)) == (n, n, 25, CANVAS)
    assert len(read_audio(path)) == pytest.approx(n * 640, abs=1100)  # to a frame of AAC


def test_a_stored_clip_lends_its_sound(root):
    video = pipeline()(source=clip(root), driving=clip(root, 1), audio=clip(root, 0))
    assert video.audio == next(c for c in ClipStore(root) if c.id == "clip0").audio_path


def test_the_crop_alone_is_what_the_networks_make(root):
    made = pipeline(paste="none", side_by_side=True)
    video = made(source=clip(root), driving=clip(root, 1))
    assert video.size == (128, 128)
    chunk = next(iter(video.render()))
    assert chunk[DRIVING].shape == (4, 128, 128, 3)
    assert video.picture(chunk).shape == (4, 128, 256, 3)


@pytest.mark.parametrize("source", ["picture", "video"])
def test_the_size_of_batches_changes_nothing(heads, source):
    frames = {size: pipeline(batch_size=size)(source=source, driving="other").frames() for size in (1, 4)}
    assert np.abs(frames[1].astype(int) - frames[4]).max() <= 1
    assert (frames[1] == frames[4]).mean() > 0.999


@pytest.mark.parametrize("paste", ["feathered", "rectangle"])
@pytest.mark.parametrize("source", ["picture", "video"])
def test_outside_the_crop_nothing_changes(heads, source, paste):
    made = pipeline(paste=paste, crop_scale=1.6)
    frames = made(source=source, driving="other").frames()
    shown = footage(0, 1 if source == "picture" else N_FRAMES, made.source_alignment)
    rows = [0] * N_FRAMES if source == "picture" else list(range(N_FRAMES))
    whole = shown.read(rows)
    full = np.full((N_FRAMES, *shown.crop_size, 1), 255, np.uint8)
    covered = warp(full, invert(shown.matrices[rows]), CANVAS, antialias=paste == "feathered")[..., 0] > 0
    assert 0.1 < covered.mean() < 0.9
    assert (frames[~covered] == whole[~covered]).all()
    assert (frames[covered] != whole[covered]).mean() > 0.5


def test_a_picture_moved_by_a_picture_is_a_picture(heads, tmp_path):
    video = pipeline()(source="picture", driving="other_picture")
    (path,) = write(video, tmp_path / "x.mp4", Provenance("liveportrait", "test"), progress=False)
    assert path == tmp_path / "x.png"
    with Image.open(path) as picture:
        assert picture.size == CANVAS[::-1]
        assert "synthetic picture, generated by Viseme (liveportrait, test)" in picture.getexif().values()
        assert (np.array(picture) == video.frames()[0]).all()
    assert write(video, tmp_path / "y.jpg", Provenance("liveportrait", "test")) == [tmp_path / "y.jpg"]
    moving = pipeline()(source="picture", driving="other")
    with pytest.raises(ConfigError, match=r"the result is a video of 6 frames; end the name with .mp4"):
        write(moving, tmp_path / "z.png", Provenance("liveportrait", "test"))
    assert not pipeline(frame_limit=1)(source="picture", driving="other").is_picture


# --- options


def points(source: str = "picture", driving: str = "other", **options: Any) -> torch.Tensor:
    return pipeline(**options).plan(source, driving).kp_driving


OPEN_EYES_AND_LIPS = {"lip_threshold": 0.0, "eye_threshold": 1.0}


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("picture", {"relative": False}),
        ("picture", {"region": "exp"}),
        ("picture", {"region": "pose"}),
        ("picture", {"region": "lip"}),
        ("picture", {"region": "eyes"}),
        ("picture", {"stitching": False}),
        ("picture", {"multiplier": 0.5}),
        ("video", {"smoothing": 1e-3}),
        ("picture", {"normalize_lip": True, **OPEN_EYES_AND_LIPS}),
        ("video", {"steady_eyes": True, **OPEN_EYES_AND_LIPS}),
        ("picture", {"eye_retargeting": True}),
        ("picture", {"lip_retargeting": True}),
        ("picture", {"edits": {"smile": 1.0}}),
        ("picture", {"crop_scale": 3.0}),
        ("picture", {"driving_scale": 3.0}),
        ("picture", {"crop_rotate": False}),
        ("picture", {"crop": False}),
        ("picture", {"crop_driving": False}),
    ],
    ids=str,
)
def test_every_option_moves_the_key_points(heads, source, options):
    assert (points(source) - points(source, **options)).abs().max() > 1e-6


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("region", ["all", "lip"])
def test_edits_are_added_whatever_moves(heads, relative, region):
    options = {"relative": relative, "region": region, "stitching": False}
    shift = points(edits={"lip_open": 50}, **options) - points(**options)
    moved = (shift.abs().amax(dim=(0, 2)) > 1e-6).nonzero().flatten().tolist()
    assert moved == [17, 19]
    torch.testing.assert_close(shift[:, 17, 1], -0.1 * shift[:, 19, 1], atol=1e-6, rtol=0)


def test_regions_and_multiplier_move_what_they_say(heads):
    x_s = pipeline().plan("picture", "other").kp_source
    rest = [i for i in range(21) if i not in LIP]
    lip = points(region="lip", stitching=False)
    assert torch.allclose(lip[:, rest], x_s[:, rest].expand(N_FRAMES, -1, -1), atol=1e-6)
    plain, twice = (points(stitching=False, multiplier=m) for m in (1, 2))
    assert torch.allclose(twice - x_s, 2 * (plain - x_s), atol=1e-5)
    kept, replaced = (points(stitching=False, eye_retargeting=True, keep_driving=keep) for keep in (True, False))
    assert torch.allclose(kept - replaced, plain - x_s, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "nose"}, "pipeline.region=nose"),
        ({"paste": "glue"}, "pipeline.paste=glue"),
        ({"sound": "both"}, "pipeline.sound=both"),
        ({"rounding": "up"}, "pipeline.rounding=up"),
        ({"batch_size": 0}, "pipeline.batch_size=0"),
        ({"smoothing": -1}, "pipeline.smoothing=-1"),
        ({"frame_limit": 0}, "pipeline.frame_limit=0"),
        ({"edits": {"grimace": 1}}, "grimace=1"),
        ({"save_motion": "x.mp4"}, "pipeline.save_motion=x.mp4"),
    ],
)
def test_bad_settings_are_one_sentence(options, message):
    build = inspect.unwrap(
        LivePortraitPipeline.__init__
    )  # without the type checks of the tests, which users do not have
    with pytest.raises(ConfigError, match=rf"^{re.escape(message)}[^\n]+\.$"):
        build(object.__new__(LivePortraitPipeline), tiny_portrait(), **options)


def test_what_is_missing_is_one_sentence(heads):
    for source, driving in (("picture", None), (None, "other"), (None, None)):
        with pytest.raises(ConfigError, match="give source=FACE and driving=VIDEO"):
            pipeline()(source=source, driving=driving)
    with pytest.raises(FaceError, match=r"^driving=nobody: no face was found"):
        pipeline()(source="picture", driving="nobody")
    with pytest.raises(FaceError, match=r"^source=nobody: no face was found"):
        pipeline()(source="nobody", driving="other")


# --- motion templates and what is kept


def test_a_saved_motion_moves_as_its_video_does(heads, tmp_path):
    path = tmp_path / "motion.safetensors"
    options = {"side_by_side": True, "eye_retargeting": True, "keep_driving": True}
    saving = pipeline(save_motion=path, **options)
    expected = saving(source="picture", driving="other")
    video = pipeline(**options)(source="picture", driving=path)
    assert (video.frames() == expected.frames()).all()
    pipeline(save_motion=tmp_path / "copy.safetensors").plan("picture", path)  # of a template, ours or the original's
    copy, saved = load_file(tmp_path / "copy.safetensors"), load_file(path)
    assert copy.keys() == saved.keys()
    assert all(torch.equal(copy[name], saved[name]) for name in saved)
    assert video.beside == ()  # the template does not know how the driving face looks
    assert expected.beside == (DRIVING,)
    with pytest.raises(ConfigError, match="exists: give driving="):
        saving(source="picture", driving="other")


def test_files_are_looked_at_once_until_they_change(heads, tmp_path):
    source, driving = tmp_path / "picture.png", tmp_path / "other.mp4"
    for file in (source, driving):
        file.write_bytes(b"1")
    made = pipeline()
    first = made.plan(source, driving)
    again = made.plan(source, driving)
    assert heads == [str(source), str(driving)]
    assert again.volume is first.volume
    assert torch.equal(again.kp_driving, first.kp_driving)
    source.write_bytes(b"22")
    made.plan(source, driving)
    assert heads == [str(source), str(driving), str(source)]
