"""Cuts are found; movement, light and noise are not cuts."""

import os
from pathlib import Path

import numpy as np
import pytest

from src.datamodules.preprocessing.scenes import SceneCutDetector
from src.media import VideoReader

CLIPS = Path(os.environ.get("SHARED_DIR", "../shared")) / "data" / "clips"


def cuts(frames) -> list[int]:
    detector = SceneCutDetector()
    return [i for i, frame in enumerate(frames) if detector.update(frame)]


def scene(seed: int, n: int = 20, height: int = 120, width: int = 160, move: float = 0.0, noise: float = 4.0):
    """A person-sized bright ellipse that moves in front of a background of large patches."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.integers(0, 200, (6, 8, 3)), np.ones((20, 20, 1)))[:height, :width]
    colour = rng.integers(60, 255, 3)
    y, x = np.mgrid[:height, :width]
    for t in range(n):
        picture = patches + rng.normal(0, noise, patches.shape)
        picture[((x - width / 2 - move * t) / 30) ** 2 + ((y - height / 2) / 45) ** 2 < 1] = colour
        yield np.clip(picture, 0, 255).astype(np.uint8)


def test_a_cut_is_found_where_it_is():
    assert cuts([*scene(1), *scene(2), *scene(3)]) == [20, 40]


def test_movement_and_noise_are_no_cuts():
    assert cuts(scene(1, n=40, move=3)) == []
    assert cuts(scene(1, n=20, noise=25)) == []


def test_a_slow_change_of_light_is_no_cut():
    frames = list(scene(1, n=60))
    assert cuts((frame * np.linspace(1, 0.3, 60)[i]).astype(np.uint8) for i, frame in enumerate(frames)) == []


def test_a_panning_camera_is_no_cut():
    wide = np.concatenate([next(scene(seed, noise=0)) for seed in range(6)], axis=1)
    assert cuts(wide[:, i * 12 : i * 12 + 160] for i in range(60)) == []


def test_repeated_frames_do_not_make_every_movement_a_cut():
    frames = list(scene(1, n=20, move=3))
    assert cuts([frame for frame in frames for _ in range(3)]) == []


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (97, 33), (480, 270)])
def test_any_size_of_frame_works(shape):
    dark, light = np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 200, np.uint8)
    assert cuts([dark, dark, light, light]) == [2]


@pytest.mark.shared
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}")
def test_real_clips_have_no_cuts_and_their_joints_are_found():
    clips = [
        VideoReader(CLIPS / f"{name}.mp4", size=(128, 128)).read(range(25))
        for name in ("d0", "d10", "d12", "d18", "d20")
    ]
    assert cuts(np.concatenate(clips)) == [25, 50, 75, 100]
