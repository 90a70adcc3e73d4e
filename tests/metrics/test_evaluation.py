"""Comparing videos: what is measured when, and what happens to videos that do not fit together."""

import dataclasses

import numpy as np
import pytest

from src.datamodules.store import ClipStore
from src.errors import ConfigError, FaceError
from src.face.detector import FaceTracker
from src.face.landmarks import Face, mouth_opening
from src.media import VideoReader
from src.metrics import evaluation
from src.metrics.clips import Rules, open_clip
from src.metrics.evaluation import Options, evaluate
from src.metrics.measures import NO_SOUND, NO_STORE, Values
from src.metrics.pairing import Pair, Reference
from src.metrics.quantities import PIXEL_AUDIO, PIXEL_MOTION, PIXEL_MOUTH, names_of
from src.metrics.results import ClipScores, FailedClip, aggregate
from tests.talking import talking, write_talking_store

IMAGE, AUDIO = names_of("image"), names_of("mouth_sound")
LANDMARK = names_of("landmarks")
PIXEL = (PIXEL_MOTION, PIXEL_MOUTH)
MEASURED = ("image", "landmarks", "mouth_sound", "mouth_pixels")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "store"
    return root, write_talking_store(root, n_clips=2)


def reference(store, name="clip0"):
    clip = next(c for c in ClipStore(store[0]) if c.id == name)
    return Reference(clip.video_path, clip.array_path(), clip.array_path("valid"), clip.audio_path)


def scores_of(generated, reference, landmarks=False, **rules):
    options = Options(metrics=MEASURED, landmarks=landmarks)
    (result,) = evaluate((Pair("clip", generated, reference),), Rules(**rules), options)
    return result


class DetectsTalking(FaceTracker):
    """Knows the landmarks of a drawn face by the order of its frames."""

    points: np.ndarray

    def __init__(self):
        self.reset()

    def reset(self):
        self.position = -1

    def close(self):
        pass

    def track(self, frame):
        self.position += 1
        points = self.points[self.position]
        if np.isnan(points).any():
            return None
        return Face(points, np.zeros(52, np.float32), np.eye(4, dtype=np.float32))


@pytest.fixture
def detector(monkeypatch):
    def use(landmarks):
        monkeypatch.setattr(evaluation, "FaceTracker", type("Detector", (DetectsTalking,), {"points": landmarks}))

    return use


def test_a_clip_against_itself_is_perfect_but_for_compression(store, tmp_path, detector):
    clip = store[1]["clip0"]
    detector(clip.landmarks)
    values = scores_of(clip.write(tmp_path / "a.mp4"), reference(store), landmarks=True).values
    assert values.absent == {}
    assert values.generated.keys() == {*IMAGE, *LANDMARK, *AUDIO, *PIXEL, *PIXEL_AUDIO}
    assert values.generated["psnr"] > 30
    assert values.generated["ssim"] > 0.95
    assert values.generated["face_found"] == 1
    for name in ("lmd_face", "lmd_mouth", "lmd_mouth_normalised"):
        assert values.generated[name] == pytest.approx(0, abs=1e-4)
    for name in ("mouth_correlation", "pixel_motion_correlation", "pixel_mouth_correlation"):
        assert values.generated[name] > 0.95
    for name in ("audio_correlation", "pixel_audio_correlation"):
        assert values.generated[name] > 0.9
        assert values.real[name] > 0.9
    assert values.generated["audio_lag"] == 0


def test_a_frozen_face_is_found_out(store, tmp_path, detector):
    clip = store[1]["clip0"]
    detector(np.repeat(clip.landmarks[:1], 40, axis=0))
    frozen = clip.write(tmp_path / "frozen.mp4", np.repeat(clip.frames[:1], 40, axis=0))
    values = scores_of(frozen, reference(store), landmarks=True).values
    assert values.generated["mouth_correlation"] == 0
    assert values.generated["audio_correlation"] == 0
    assert values.absent["audio_lag"].startswith("undefined")
    for name in PIXEL:
        assert values.generated[name] < 0.4
        assert values.generated[name] == pytest.approx(values.still[name], abs=0.15)


def test_the_sound_of_the_generated_video_shows_a_lag(store, tmp_path, detector):
    clip = store[1]["clip0"]
    late = dataclasses.replace(clip, audio=np.roll(clip.audio, 3 * 640))
    detector(clip.landmarks)
    values = scores_of(late.write(tmp_path / "late.mp4"), reference(store), landmarks=True).values
    assert values.generated["audio_lag"] == 3
    assert values.generated["pixel_audio_lag"] == 3
    assert values.generated["audio_correlation_best"] > values.generated["audio_correlation"]


def test_frames_without_a_face_are_left_out_and_their_share_is_reported(store, tmp_path, detector):
    clip = store[1]["clip0"]
    seen = clip.landmarks.copy()
    seen[10:20] = np.nan
    detector(seen)
    values = scores_of(clip.write(tmp_path / "a.mp4"), reference(store), landmarks=True).values
    assert values.generated["face_found"] == 0.75
    assert values.generated["lmd_face"] == pytest.approx(0, abs=1e-4)
    assert values.generated["mouth_correlation"] > 0.99


def test_no_face_at_all_leaves_the_landmark_metrics_undefined(store, tmp_path, detector):
    clip = store[1]["clip0"]
    detector(np.full_like(clip.landmarks, np.nan))
    result = scores_of(clip.write(tmp_path / "a.mp4"), reference(store), landmarks=True)
    assert result.values.generated["face_found"] == 0
    assert "lmd_face" not in result.values.generated
    assert aggregate([result])["lmd_face"].reason.startswith("undefined: no frame with a face")


def test_without_a_detector_the_reason_is_reported_and_nothing_takes_its_place(store, tmp_path, monkeypatch):
    def missing():
        raise FaceError("The face landmark model is missing: run `python tools/download_models.py`.")

    monkeypatch.setattr(evaluation, "FaceTracker", missing)
    values = scores_of(store[1]["clip0"].write(tmp_path / "a.mp4"), reference(store), landmarks=True).values
    assert values.generated.keys() == {*IMAGE, *PIXEL, *PIXEL_AUDIO}
    assert set(values.absent) == {*LANDMARK, *AUDIO}
    assert "download_models.py" in values.absent["lmd_face"]


def test_without_a_store_the_pixel_metrics_say_so(store, tmp_path):
    clip = store[1]["clip0"]
    values = scores_of(clip.write(tmp_path / "a.mp4"), Reference(clip.write(tmp_path / "b.mp4"))).values
    assert values.generated.keys() == set(IMAGE)
    assert values.absent["pixel_motion_correlation"] == NO_STORE
    assert "landmarks=false" in values.absent["lmd_mouth"]


def test_without_sound_the_audio_metrics_say_so(store, tmp_path):
    silent = store[1]["clip0"].write(tmp_path / "a.mp4", sound=False)
    values = scores_of(silent, dataclasses.replace(reference(store), audio=None)).values
    assert values.absent["pixel_audio_correlation"] == NO_SOUND
    with_real_sound = scores_of(silent, reference(store)).values
    assert with_real_sound.generated["pixel_audio_correlation"] > 0.9


def test_the_real_video_is_resized_to_the_generated_one(store, tmp_path):
    small = talking(0, size=32)
    result = scores_of(small.write(tmp_path / "small.mp4"), reference(store))
    assert result.size == (32, 32)
    assert result.notes == ("real frames resized from 64x64",)
    assert result.values.generated["psnr"] > 20
    assert result.values.generated["pixel_motion_correlation"] > 0.8


def test_unequal_lengths_are_cut_and_noted_up_to_the_limit(store, tmp_path):
    short = talking(0, n_frames=40)
    path = short.write(tmp_path / "short.mp4", short.frames[:38])
    result = scores_of(path, reference(store))
    assert result.n_frames == 38
    assert result.notes == ("cut to the shorter: 38 generated frames, 40 real ones",)
    failed = scores_of(path, reference(store), max_length_difference=1)
    assert isinstance(failed, FailedClip)
    assert "has 38 frames and the real one 40" in failed.reason
    assert "max_length_difference=2" in failed.reason


def test_skipped_frames_are_left_out_of_both(store, tmp_path):
    clip = store[1]["clip0"]
    frames = clip.frames.copy()
    frames[0] = 255 - frames[0]
    path = clip.write(tmp_path / "a.mp4", frames)
    with_first, without = (scores_of(path, reference(store), skip_frames=n).values.generated["psnr"] for n in (0, 1))
    assert with_first < without - 0.5
    opened = open_clip(Pair("a", path, reference(store)), Rules(skip_frames=3, chunk=7))
    assert sum(len(real) for _, real in opened.frames()) == opened.n_frames == 37
    assert opened.landmarks == pytest.approx(clip.landmarks[3:], abs=1e-4)
    assert scores_of(path, reference(store), skip_frames=40).reason.startswith("No frame is left")


def test_chunks_do_not_change_the_values(store, tmp_path):
    path = talking(0).write(tmp_path / "a.mp4", np.roll(talking(0).frames, 1, axis=0))
    whole, parts = (scores_of(path, reference(store), chunk=chunk).values.generated for chunk in (40, 7))
    assert parts == {name: pytest.approx(value, abs=1e-5) for name, value in whole.items()}


def test_different_rates_are_refused_before_anything_is_computed(store, tmp_path):
    pairs = tuple(Pair(n, talking(0, fps=30.0).write(tmp_path / f"{n}.mp4"), reference(store)) for n in ("a", "b"))
    with pytest.raises(ConfigError, match=r"a \(30 fps and 25 fps\), b \(30 fps and 25 fps\).*resample=true"):
        next(evaluate(pairs, Rules(), Options(MEASURED, landmarks=False)))


def test_resampling_brings_frames_landmarks_and_sound_to_the_generated_rate(tmp_path):
    root = tmp_path / "store"
    clip = write_talking_store(root, n_clips=1, fps=50.0, n_frames=80)["clip0"]
    half = dataclasses.replace(clip, frames=clip.frames[::2], fps=25.0).write(tmp_path / "half.mp4")
    ref = reference((root, None))
    opened = open_clip(Pair("a", half, ref), Rules(resample=True))
    assert opened.n_frames == 40
    assert opened.notes == ("resampled from 50 fps to 25 fps",)
    assert mouth_opening(opened.landmarks) == pytest.approx(mouth_opening(clip.landmarks[::2]), abs=1e-5)
    values = scores_of(half, ref, resample=True).values.generated
    assert values["psnr"] > 30
    assert values["pixel_audio_correlation"] > 0.9


def test_another_shape_is_refused(store, tmp_path):
    wide = talking(0).frames[:, :32]
    assert "another shape" in scores_of(talking(0).write(tmp_path / "a.mp4", wide), reference(store)).reason


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 50])
def test_a_damaged_file_fails_alone(store, tmp_path, content):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(content)
    good = store[1]["clip1"].write(tmp_path / "good.mp4")
    pairs = (Pair("bad", bad, reference(store)), Pair("good", good, reference(store, "clip1")))
    first, second = evaluate(pairs, Rules(), Options(MEASURED, landmarks=False))
    assert isinstance(first, FailedClip)
    assert str(bad) in first.reason
    assert isinstance(second, ClipScores)
    total = aggregate([first, second])["psnr"]
    assert (total.n, total.clips, total.failed) == (1, 2, 1)
    assert total.mean == second.values.generated["psnr"]
    assert np.isnan(total.std)


def test_a_mouth_that_hardly_moves_is_not_read(tmp_path):
    clip = talking(0)
    still = dataclasses.replace(clip, frames=np.repeat(clip.frames[:1], 40, axis=0))
    reference_path = still.write(tmp_path / "real.mp4")
    np.save(tmp_path / "landmarks.npy", clip.landmarks)
    values = scores_of(clip.write(tmp_path / "a.mp4"), Reference(reference_path, tmp_path / "landmarks.npy")).values
    assert "cannot be read from its pixels" in values.absent["pixel_mouth_correlation"]


def test_aggregate_counts_each_clip_once():
    def scored(name, **numbers):
        values = Values(numbers, real={"audio_lag": 1.0})
        return ClipScores(name, 10, 25.0, (8, 8), values, None, ())

    totals = aggregate([scored("a", psnr=20.0), scored("b", psnr=30.0, audio_lag=2.0), FailedClip("c", "broken")])
    assert (totals["psnr"].mean, totals["psnr"].std, totals["psnr"].n, totals["psnr"].failed) == (
        25,
        pytest.approx(50**0.5),
        2,
        1,
    )
    assert (totals["audio_lag"].n, totals["audio_lag"].real) == (1, 1)
    assert totals["ssim"].n == 0


def test_memory_does_not_grow_with_the_length(store, tmp_path, monkeypatch):
    largest = 0
    read = VideoReader.read

    def watched(self, indices):
        nonlocal largest
        frames = read(self, indices)
        largest = max(largest, len(frames))
        return frames

    monkeypatch.setattr(VideoReader, "read", watched)
    scores_of(store[1]["clip0"].write(tmp_path / "a.mp4"), reference(store), chunk=8)
    assert largest == 8
