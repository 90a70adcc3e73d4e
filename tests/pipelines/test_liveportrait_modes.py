"""Every mode of liveportrait_talker and liveportrait by `sample.py`, on a real portrait, real videos and a real voice."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.face.liveportrait_talker import cropped_rectangles
from src.media import VideoReader, probe, read_audio, read_image, resize, write_image, write_video, write_wav
from src.pipelines.liveportrait_talker import LivePortraitTalkerPipeline
from tests.commands import run_command
from tests.portraits import tiny_talker, write_published

SHARED = Path(os.environ.get("SHARED_DIR", "../shared"))
N_FRAMES = 4  # of the voice
RATE = 22050
SIDE = 360  # of the portrait and of the videos

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real pictures at {SHARED}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`models/`, `face.png`, `other.png`, `clip.mp4` (4 frames), `reference.mp4` (3 frames, silent) and `speech.wav`."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "models").mkdir()
    write_published(folder / "models")
    shutil.copy(SHARED / "models" / "face_landmarker.task", folder / "models")
    data = SHARED / "data"
    for name, picture in (("face", "s6"), ("other", "s0")):
        write_image(folder / f"{name}.png", resize(read_image(data / "images" / f"{picture}.jpg"), (SIDE, SIDE)))
    voice = read_audio(data / "audio" / "RD_Radio31_000.wav", RATE, start=1.0, duration=N_FRAMES / 25 + 0.01)
    write_wav(folder / "speech.wav", voice, RATE)
    for name, clip, n, sound in (("clip", "d0", 4, voice), ("reference", "d10", 3, None)):
        frames = VideoReader(data / "clips" / f"{clip}.mp4", fps=25.0, size=(SIDE, SIDE)).read(range(20, 20 + n))
        write_video(folder / f"{name}.mp4", frames, 25.0, audio=sound, audio_rate=RATE)
    return folder


TALKER = ("pipeline=liveportrait_talker", "audio=speech.wav")
PORTRAIT, CLIP = "source=face.png", "source=clip.mp4"
REFERENCE = "pipeline.ref_head_pose=reference.mp4"
MOVED = ("pipeline=liveportrait", "audio=speech.wav", PORTRAIT)
WHOLE, CROP = (SIDE, SIDE), (512, 512)

MODES = {
    "synthetic head pose": ((*TALKER, PORTRAIT), CROP, N_FRAMES),
    "reference": ((*TALKER, PORTRAIT, REFERENCE), CROP, N_FRAMES),
    "reference from zero": ((*TALKER, PORTRAIT, REFERENCE, "pipeline.ref_frames_from_zero=true"), CROP, N_FRAMES),
    "still": ((*TALKER, PORTRAIT, "pipeline.still=true"), WHOLE, N_FRAMES),
    "gaze": ((*TALKER, PORTRAIT, "pipeline.pupil_x=10", "pipeline.pupil_y=-5"), CROP, N_FRAMES),
    "video": ((*TALKER, CLIP), WHOLE, N_FRAMES),
    "video with a reference": ((*TALKER, CLIP, REFERENCE), WHOLE, N_FRAMES),
    "half precision": ((*TALKER, PORTRAIT, "precision=bfloat16"), CROP, N_FRAMES),
    "moved by a video": ((*MOVED, "driving=reference.mp4"), WHOLE, 3),
    "video moved by a video": (("pipeline=liveportrait", CLIP, "driving=reference.mp4"), WHOLE, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_a_video_of_the_right_length_with_sound(folder, tmp_path, mode):
    overrides, size, n = MODES[mode]
    out = tmp_path / "talk.mp4"
    poses = (f"pipeline.head_pose_cache={tmp_path / 'poses'}",) if TALKER[0] in overrides else ()
    environment = {"VISEME_MODELS": str(folder / "models")}
    done = run_command(folder, "sample.py", *overrides, *poses, f"out={out}", "device=cpu", environment=environment)
    assert done.returncode == 0, done.stderr
    info = probe(out)
    assert (info.fps, info.n_frames, (info.height, info.width), info.has_audio) == (25, n, size, True)
    assert info.duration == pytest.approx(n / 25, abs=0.03)
    assert np.abs(read_audio(out)).max() > 0.01
    assert (tmp_path / "poses").is_dir() == (REFERENCE in overrides)


@pytest.mark.slow
def test_a_picture_moved_by_a_picture_is_a_picture(folder, tmp_path):
    given = ("pipeline=liveportrait", PORTRAIT, "driving=other.png", f"out={tmp_path / 'x.png'}")
    done = run_command(folder, "sample.py", *given, environment={"VISEME_MODELS": str(folder / "models")})
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "x.png").shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("paste", ["feathered", "rectangle"])
def test_outside_the_crop_of_a_real_video_every_pixel_stays(folder, paste):
    pipeline = LivePortraitTalkerPipeline(tiny_talker(), paste=paste)
    voice = read_audio(folder / "speech.wav")
    plan = pipeline.plan(str(folder / "clip.mp4"), voice)
    frames = pipeline(str(folder / "clip.mp4"), voice).frames()
    given = VideoReader(folder / "clip.mp4", fps=25.0).read(range(N_FRAMES))
    for frame, was, (left, top, right, bottom) in zip(
        frames, given, cropped_rectangles(plan.source.matrices, 128), strict=True
    ):
        assert 0.1 < (right - left) * (bottom - top) / SIDE**2 < 0.95
        outside = np.ones((SIDE, SIDE), bool)
        outside[top:bottom, left:right] = False
        assert np.array_equal(frame[outside], was[outside])
        assert (frame[~outside] != was[~outside]).mean() > 0.5
