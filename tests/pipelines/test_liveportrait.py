"""From a face and one that moves it to frames: lengths, pasting back, options, mistakes."""

from pathlib import Path

import pytest

from src.media import Provenance, probe
from src.pipelines.liveportrait import DRIVING, LivePortraitPipeline
from src.pipelines.video import write
from tests.heads import write_heads
from tests.portraits import tiny_portrait

N_FRAMES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=2, n_frames=N_FRAMES, size=64)


def clip(root: Path, number: int = 0) -> str:
    return f"{root}@clip{number}"


def pipeline(**options) -> LivePortraitPipeline:
    return LivePortraitPipeline(tiny_portrait(), batch_size=4, **options)


def test_a_video_is_moved_by_a_video_and_written_with_its_sound(root, tmp_path):
    video = pipeline()(source=clip(root), driving=clip(root, 1))
    assert len(video) == N_FRAMES
    assert video.frames().shape == (N_FRAMES, 64, 64, 3)
    (path,) = write(video, tmp_path / "x.mp4", Provenance("liveportrait", "test"), progress=False)
    info = probe(path)
    assert (info.fps, info.n_frames, info.has_audio) == (25, N_FRAMES, True)


def test_the_crop_alone_is_what_the_networks_make(root):
    made = pipeline(paste="none", side_by_side=True)
    video = made(source=clip(root), driving=clip(root, 1))
    assert video.size == (128, 128)
    chunk = next(iter(video.render()))
    assert chunk[DRIVING].shape == (4, 128, 128, 3)
    assert video.picture(chunk).shape == (4, 128, 256, 3)
