"""One recording: what becomes of good, odd and broken ones."""

from pathlib import Path

import numpy as np
import pytest

from src.datamodules.preprocessing import worker as module
from src.datamodules.preprocessing.recordings import Dataset
from src.datamodules.preprocessing.worker import ClipOptions, Outcome, Worker
from src.errors import ConfigError, FaceError, StoreError
from src.face.alignment import MeanFaceAlignment, SquareCropAlignment, TemplateAlignment, transform_landmarks
from src.media import VideoReader, read_audio, write_video
from tests.datamodules.preprocess_fakes import HEIGHT, WIDTH, disc_frames, find_disc, record, use_discs


@pytest.fixture(autouse=True)
def _discs(monkeypatch):
    use_discs(monkeypatch)


def work(tmp_path: Path, *, alignment=None, **options) -> Outcome:
    recordings, _ = Dataset("folder").scan(tmp_path / "raw")
    worker = Worker(tmp_path / "store", alignment or SquareCropAlignment(64), ClipOptions(**options))
    outcomes = [worker(recording) for recording in recordings]
    assert len(outcomes) == 1
    return outcomes[0]


def left_files(tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path / "store")) for p in (tmp_path / "store").rglob("*") if p.is_file())


def test_a_recording_becomes_a_clip_with_sound_and_landmarks(tmp_path):
    path = record(tmp_path / "raw/a.mp4")
    outcome = work(tmp_path)
    assert outcome.failures == []
    (clip,) = outcome.clips
    assert (clip.id, clip.identity, clip.source, clip.start, clip.n_frames, clip.n_valid) == (
        "a-0000",
        "a",
        "a.mp4",
        0,
        50,
        50,
    )
    assert (clip.size, clip.fps, clip.source_fps, clip.has_audio) == ((64, 64), 25, 25, True)
    clip.verify()
    np.testing.assert_allclose(clip.audio(), read_audio(path, duration=2.0), atol=1e-4)

    source = VideoReader(path).read([0, 30])
    faces = np.stack([find_disc(frame).landmarks for frame in source])
    np.testing.assert_allclose(clip.landmarks[[0, 30]], transform_landmarks(faces, clip.transforms[[0, 30]]), atol=1e-3)
    found = np.stack([find_disc(frame).landmarks for frame in clip.frames([0, 30])])
    np.testing.assert_allclose(found[..., :2].mean(1), clip.landmarks[[0, 30], :, :2].mean(1), atol=0.5)


@pytest.mark.parametrize(
    "alignment", [TemplateAlignment(48), MeanFaceAlignment.square(40), MeanFaceAlignment(offset=(0.11, 0.336, 0.155))]
)
def test_every_alignment_gives_its_size(tmp_path, alignment):
    record(tmp_path / "raw/a.mp4", 30)
    (clip,) = work(tmp_path, alignment=alignment).clips
    assert clip.size == alignment.size
    assert clip.frames([0]).shape[1:3] == alignment.size


def test_other_frame_rates_become_25(tmp_path):
    record(tmp_path / "raw/a.mp4", 60, fps=30)
    (clip,) = work(tmp_path).clips
    assert (clip.n_frames, clip.source_fps, clip.duration) == (50, 30, 2)
    assert len(clip.audio()) == 32000


def test_a_cut_divides_a_recording_and_starts_are_kept(tmp_path):
    frames = np.concatenate([disc_frames(30), disc_frames(40, background=120)])
    write_video(tmp_path / "raw/a.mp4", frames, 25, audio=np.ones(70 * 640, np.float32) / 2)
    outcome = work(tmp_path)
    assert [(clip.id, clip.start, clip.n_frames) for clip in outcome.clips] == [("a-0000", 0, 30), ("a-0001", 1.2, 40)]


def test_the_sound_of_a_later_clip_is_that_of_its_frames(tmp_path):
    path = record(tmp_path / "raw/a.mp4", 100, hidden=range(40, 60))
    first, second = work(tmp_path).clips
    assert (first.n_frames, second.start, second.n_frames) == (40, 2.4, 40)
    np.testing.assert_allclose(second.audio(), read_audio(path)[60 * 640 : 100 * 640], atol=1e-3)


def test_short_gaps_are_bridged_and_marked(tmp_path):
    record(tmp_path / "raw/a.mp4", 50, hidden=range(20, 24))
    (clip,) = work(tmp_path).clips
    assert clip.n_valid == 46
    assert np.flatnonzero(~clip.valid).tolist() == [20, 21, 22, 23]
    x = clip.landmarks[:, :, 0].mean(1)
    assert np.isfinite(clip.landmarks).all()
    assert min(x[19], x[24]) - 1e-3 <= x[21] <= max(x[19], x[24]) + 1e-3


def test_long_gaps_and_short_stretches_are_listed(tmp_path):
    record(tmp_path / "raw/a.mp4", 100, hidden=range(10, 60))
    outcome = work(tmp_path)
    assert [(clip.start, clip.n_frames) for clip in outcome.clips] == [(2.4, 40)]
    assert [(f.start, f.end, f.reason) for f in outcome.failures] == [
        (0.0, 0.4, "the face is in view for 0.40 s only: lower clips.min_seconds=1 to keep it."),
        (0.4, 2.4, "no face was found for 2.00 s: it may be too small, turned away or covered."),
    ]


def test_a_long_recording_becomes_clips_of_bounded_length(tmp_path):
    record(tmp_path / "raw/a.mp4", 120)
    outcome = work(tmp_path, max_seconds=2.0)
    assert [(clip.start, clip.n_frames) for clip in outcome.clips] == [(0, 50), (2, 35), (3.4, 35)]
    whole = np.concatenate([clip.landmarks for clip in outcome.clips])
    assert whole.shape == (120, 478, 3)


def test_no_audio_stream_is_noted(tmp_path):
    record(tmp_path / "raw/a.mp4", sound=0)
    outcome = work(tmp_path)
    assert not outcome.clips[0].has_audio
    assert outcome.failures == []
    assert "audio/a-0000.wav" not in left_files(tmp_path)


def test_sound_that_ends_a_little_early_is_padded_and_much_too_early_is_rejected(tmp_path):
    record(tmp_path / "raw/a.mp4", 50, sound=1.7)
    (clip,) = work(tmp_path).clips
    assert len(clip.audio()) == 32000
    assert not clip.audio()[-1600:].any()
    record(tmp_path / "raw/a.mp4", 50, sound=1.2)
    outcome = work(tmp_path)
    assert outcome.clips == []
    assert "the sound ends at 1.2" in outcome.failures[0].reason


def test_odd_sizes_are_read(tmp_path):
    record(tmp_path / "raw/a.mp4", 30, size=(HEIGHT + 1, WIDTH - 3))
    assert work(tmp_path).clips[0].n_frames == 30


def test_no_face_at_all_is_one_line(tmp_path):
    record(tmp_path / "raw/a.mp4", 30, hidden=range(30))
    outcome = work(tmp_path)
    assert outcome.clips == []
    assert [(f.start, f.reason) for f in outcome.failures] == [
        (None, "no face was found in any of its 30 frames: it may be too small, turned away or covered.")
    ]


@pytest.mark.parametrize("n", [1, 24])
def test_a_recording_shorter_than_the_minimum_is_one_line(tmp_path, n):
    record(tmp_path / "raw/a.mp4", n)
    outcome = work(tmp_path)
    assert [(f.start, f.reason) for f in outcome.failures] == [
        (None, f"it lasts only {n / 25:.2f} s: lower clips.min_seconds=1 to keep it.")
    ]


def test_a_single_frame_can_be_a_clip(tmp_path):
    record(tmp_path / "raw/a.mp4", 1)
    (clip,) = work(tmp_path, min_seconds=0.04).clips
    assert clip.n_frames == 1
    clip.verify()


def broken_file(path: Path, kind: str) -> None:
    record(path, 200)
    data = path.read_bytes()
    contents = {"empty": b"", "text": b"this is no video\n" * 100, "truncated": data[: len(data) // 2]}
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_broken_files_give_a_reason_and_leave_nothing(tmp_path, kind):
    broken_file(tmp_path / "raw/a.mp4", kind)
    outcome = work(tmp_path)
    assert outcome.clips == []
    (failure,) = outcome.failures
    assert failure.source == "a.mp4"
    assert "a.mp4" in failure.reason
    assert left_files(tmp_path) == []


def test_a_recording_that_breaks_after_its_first_clip_leaves_nothing(tmp_path, monkeypatch):
    record(tmp_path / "raw/a.mp4", 200)
    monkeypatch.setattr(module, "CHUNK_BYTES", 10 * HEIGHT * WIDTH * 3)
    read = VideoReader.read

    def breaks_at_150(self, indices):
        if 150 in indices:
            raise module.MediaError("a.mp4 is damaged at frame 150")
        return read(self, indices)

    monkeypatch.setattr(VideoReader, "read", breaks_at_150)
    outcome = work(tmp_path, max_seconds=2.0)
    assert outcome.clips == []
    assert [f.reason for f in outcome.failures] == ["a.mp4 is damaged at frame 150"]
    assert left_files(tmp_path) == []


def test_a_problem_of_the_store_is_none_of_the_recording(tmp_path):
    record(tmp_path / "raw/a.mp4")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/video").write_text("in the way")
    with pytest.raises(StoreError, match="Cannot write"):
        work(tmp_path)


def test_a_clip_that_cannot_be_aligned_is_one_line(tmp_path):
    record(tmp_path / "raw/a.mp4", 30)
    alignment = MeanFaceAlignment(40, window=99, look_ahead=True)
    outcome = work(tmp_path, alignment=alignment)
    assert "lower the window" in outcome.failures[0].reason


def test_redetected_landmarks_are_those_of_the_crop(tmp_path):
    record(tmp_path / "raw/a.mp4", 30)
    (clip,) = work(tmp_path, redetect=True).clips
    expected = np.stack([find_disc(frame).landmarks for frame in clip.frames([3, 9])])
    np.testing.assert_allclose(clip.landmarks[[3, 9], :, :2], expected[..., :2], atol=1.0)
    assert clip.valid.all()


def test_a_crop_without_a_face_keeps_the_landmarks_of_the_recording(tmp_path, monkeypatch):
    record(tmp_path / "raw/a.mp4", 30)
    (expected,) = work(tmp_path).clips
    landmarks = expected.landmarks.copy()
    monkeypatch.setattr(module.FaceDetector, "detect", lambda self, frame: [])
    (clip,) = work(tmp_path, redetect=True).clips
    np.testing.assert_array_equal(clip.landmarks, landmarks)
    assert not clip.valid.any()


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    """Frames decoded and faces remembered at any time, for a recording of many clips."""
    record(tmp_path / "raw/a.mp4", 400)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * HEIGHT * WIDTH * 3)
    asked, seen = [], []
    read, take = VideoReader.read, module._Task._take
    monkeypatch.setattr(VideoReader, "read", lambda self, i: asked.append(len(i)) or read(self, i))
    monkeypatch.setattr(module._Task, "_take", lambda self, s, faces: seen.append(len(faces)) or take(self, s, faces))
    outcome = work(tmp_path, max_seconds=2.0)
    assert sum(clip.n_frames for clip in outcome.clips) == 400
    assert max(asked) == 4
    assert max(seen) == 50


@pytest.mark.parametrize("kept_frames", [0, 20, 1000])
def test_frames_that_were_not_kept_are_decoded_again(tmp_path, monkeypatch, kept_frames):
    """Twice in all without room, once with room; the clips are the same."""
    record(tmp_path / "raw/a.mp4", 120)
    expected = [clip.frames(range(clip.n_frames)) for clip in work(tmp_path, max_seconds=2.0).clips]
    monkeypatch.setattr(module, "KEPT_BYTES", kept_frames * HEIGHT * WIDTH * 3)
    decoded = []
    read = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda self, i: decoded.extend(i) or read(self, i))
    (tmp_path / "again/raw").mkdir(parents=True)
    (tmp_path / "raw/a.mp4").rename(tmp_path / "again/raw/a.mp4")
    clips = work(tmp_path / "again", max_seconds=2.0).clips
    assert {0: 240, 1000: 120}.get(kept_frames, len(decoded)) == len(decoded)
    assert 120 <= len(decoded) <= 240
    for clip, frames in zip(clips, expected, strict=True):
        np.testing.assert_array_equal(clip.frames(range(clip.n_frames)), frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_seconds": 2.0, "max_seconds": 3.0}, "at least twice as long"),
        ({"min_seconds": 0}, "at least twice as long"),
        ({"max_gap": -1}, "max_gap must be 0 or more"),
        ({"max_gap": 2.5}, "clips.max_gap=2.5: give a whole number"),
        ({"fps": "fast"}, "clips.fps=fast: give a number"),
        ({"crf": 60}, "crf from 0 to 51"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        ClipOptions(**options)


def test_a_missing_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(FaceError, match=r"nothing.task is missing: run `python tools/download_models.py`"):
        module.check_detector(ClipOptions(model=str(tmp_path / "nothing.task")))
