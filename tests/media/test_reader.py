import gc
import multiprocessing
import pickle
import sys
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import MediaError
from src.media import VideoReader, decoders, resize, write_video
from src.media.containers import open_container
from src.media.reader import _resample
from tests.media.conftest import numbered_frames, numbers_of

try:
    from torchcodec.decoders import VideoDecoder  # noqa: F401

    TORCHCODEC = True
except (ImportError, RuntimeError, OSError):
    TORCHCODEC = False

needs_torchcodec = pytest.mark.skipif(not TORCHCODEC, reason="torchcodec cannot be loaded")
backends = pytest.mark.parametrize("backend", ["decord", pytest.param("torchcodec", marks=needs_torchcodec), "pyav"])


@backends
def test_frames_come_back_in_order(numbered, backend):
    reader = VideoReader(numbered, backend=backend)
    assert len(reader) == 40
    assert reader[7].shape == (64, 96, 3)
    assert reader[7].dtype == np.uint8
    assert numbers_of(reader.read([3, 39, 0, 3, -1])) == [3, 39, 0, 3, 39]
    assert numbers_of(np.stack(list(reader))) == list(range(40))


@backends
def test_time_stamps_are_those_of_the_frames(numbered, backend):
    reader = VideoReader(numbered, backend=backend)
    np.testing.assert_allclose(reader.timestamps, np.arange(40) / 25, atol=1e-9)
    assert reader.fps == 25


@backends
@pytest.mark.parametrize("chunk", [1, 7, 40, 100])
def test_stream_and_random_access_give_identical_frames(numbered, backend, chunk):
    chunks = list(VideoReader(numbered, backend=backend).stream(chunk))
    assert max(len(c) for c in chunks) <= chunk
    backwards = VideoReader(numbered, backend=backend)
    expected = np.stack([backwards[i] for i in range(39, -1, -1)])[::-1]
    np.testing.assert_array_equal(np.concatenate(chunks), expected)


@backends
def test_reading_nothing(numbered, backend):
    assert VideoReader(numbered, backend=backend).read([]).shape == (0, 64, 96, 3)


@backends
def test_index_beyond_the_end(numbered, backend):
    with pytest.raises(IndexError):
        VideoReader(numbered, backend=backend)[40]


@backends
@pytest.mark.parametrize(("rotation", "quarters"), [(0, 0), (90, 1), (180, 2), (270, 3)])
def test_pictures_are_turned_as_the_container_says(numbered, tmp_path, remux, backend, rotation, quarters):
    stored = VideoReader(numbered).read([0, 20])
    upright = VideoReader(remux(numbered, tmp_path / "rotated.mp4", rotation=rotation), backend=backend).read([0, 20])
    np.testing.assert_array_equal(upright, np.rot90(stored, quarters, axes=(1, 2)))


@backends
def test_size_resizes_the_upright_picture(numbered, tmp_path, remux, backend):
    path = remux(numbered, tmp_path / "rotated.mp4", rotation=90)
    small = VideoReader(path, backend=backend, size=(30, 20)).read([2, 5])
    np.testing.assert_array_equal(small, resize(VideoReader(path).read([2, 5]), (30, 20)))


@backends
@pytest.mark.parametrize("fps", [10, 24, 25, 30, 60])
def test_another_rate_takes_the_nearest_frames(numbered, backend, fps):
    reader = VideoReader(numbered, backend=backend, fps=fps)
    assert len(reader) == round(40 / 25 * fps)
    np.testing.assert_allclose(reader.timestamps, np.arange(len(reader)) / fps)
    distance = np.abs(np.array(numbers_of(reader.read(range(len(reader))))) / 25 - reader.timestamps)
    assert distance.max() <= 0.02 + 1e-9 or fps > 25  # half a frame; past the last frame it stays
    assert distance[:-2].max() <= 0.02 + 1e-9


@backends
def test_variable_rate_is_resampled_by_time_stamps(uneven, backend):
    path = uneven([0, 4, 20, 24, 28, 60, 64])
    reader = VideoReader(path, backend=backend, fps=10)
    #                    0.0 0.1 0.2 0.3 0.4 0.5 0.6 s;  0.4 is nearer to 0.28 than to 0.60
    assert numbers_of(reader.read(range(7))) == [0, 1, 2, 4, 4, 5, 5]


@given(
    times=st.lists(st.integers(0, 2000), min_size=1, max_size=40, unique=True),
    tail=st.integers(1, 200),
    fps=st.floats(1, 120),
)
def test_resampling_picks_a_nearest_frame_for_every_tick(times, tail, fps):
    stamps = (np.sort(times) - min(times)) / 100
    duration = float(stamps[-1]) + tail / 100
    source, wanted = _resample(stamps, duration, fps)
    assert len(source) == len(wanted) == max(1, round(duration * fps))
    best = np.abs(stamps[None] - wanted[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(stamps[source] - wanted), best, atol=1e-5)
    assert (np.diff(source) >= 0).all()


def test_resampling_to_the_own_rate_keeps_every_frame():
    for fps in (23.976, 25, 30000 / 1001, 30, 60):
        source, _ = _resample(np.arange(1000) / fps, 1000 / fps, fps)
        np.testing.assert_array_equal(source, np.arange(1000))


def test_ties_belong_to_the_earlier_frame():
    source, _ = _resample(np.arange(6) / 25, 6 / 25, 50)
    assert source.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("fps", [0, -25, float("nan")])
def test_impossible_rate(numbered, fps):
    with pytest.raises(MediaError, match="above zero"):
        VideoReader(numbered, fps=fps)


@backends
def test_frames_that_the_container_hides_are_not_counted(tmp_path, encode, remux, backend):
    """A cut without re-encoding keeps the frames from the key frame on, which the decoder needs, and hides them."""
    cut = remux(encode("whole.mp4"), tmp_path / "cut.mp4", shift=Fraction(-17, 25))
    reader = VideoReader(cut, backend=backend)
    assert len(reader) == 23
    assert numbers_of(reader.read([0, 1, 9, 22])) == [17, 18, 26, 39]
    assert reader.timestamps[0] == 0


@backends
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mpeg4"), ("a.ts", "libx264"), ("a.flv", "libx264"), ("a.mpg", "mpeg1video"), ("a.mkv", "libx264")],
)
def test_every_container_is_read_alike_forwards_and_backwards(encode, backend, name, codec):
    path = encode(name, codec, b_frames=0 if codec == "mpeg1video" else 2)
    forwards = VideoReader(path, backend=backend).read(range(40))
    assert numbers_of(forwards) == list(range(40))
    reader = VideoReader(path, backend=backend)
    np.testing.assert_array_equal(np.stack([reader[i] for i in range(39, -1, -1)])[::-1], forwards)


def test_without_a_table_of_frames_reading_forwards_never_starts_over(encode, monkeypatch):
    reader = VideoReader(encode("a.avi", "mpeg4", gop=2), fps=8)
    opened = []
    monkeypatch.setattr(decoders, "open_container", lambda *args: opened.append(args) or open_container(*args))
    assert numbers_of(np.concatenate(list(reader.stream(4)))) == [ceil(k * 25 / 8 - 0.5) for k in range(13)]
    assert len(opened) == 2  # once to open, once for the first frame


def test_without_decord_pyav_reads(numbered, monkeypatch):
    expected = VideoReader(numbered).read([3, 12])
    monkeypatch.setitem(sys.modules, "decord", None)
    np.testing.assert_array_equal(VideoReader(numbered).read([3, 12]), expected)


@backends
def test_odd_sizes_are_read(tmp_path, backend):
    path = tmp_path / "odd.mkv"
    frames = np.random.default_rng(0).integers(0, 256, (3, 33, 47, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 47, 33, "bgr0"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    np.testing.assert_array_equal(VideoReader(path, backend=backend).read([0, 1, 2]), frames)


def damage(path: Path, number: int) -> None:
    """Overwrites a packet with zeros."""
    with av.open(str(path)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][number]
    content = bytearray(path.read_bytes())
    content[position : position + size] = bytes(size)
    path.write_bytes(content)


@backends
@pytest.mark.parametrize("gop", [1, 10])
def test_the_damaged_frame_is_named(encode, backend, one_sentence, gop):
    path = encode("damaged.mp4", gop=gop, b_frames=0)
    damage(path, 20 + gop // 2)
    reader = VideoReader(path, backend=backend)
    with pytest.raises(MediaError, match=rf"is damaged: frame {20 + gop // 2} of 40 \(") as caught:
        for _ in reader.stream():
            pass
    one_sentence(caught, path)


@backends
def test_frames_that_need_no_damaged_one_are_still_read(encode, backend):
    path = encode("damaged.mp4", gop=10, b_frames=0)
    damage(path, 25)
    reader = VideoReader(path, backend=backend)
    for indices in ([24, 25], [26], [29]):  # from the damage to the next key frame
        with pytest.raises(MediaError, match="is damaged"):
            reader.read(indices)
    assert numbers_of(reader.read([2, 24, 30, 35])) == [2, 24, 30, 35]


def test_unknown_backend_is_named_with_the_known_ones(numbered):
    with pytest.raises(MediaError, match=r"'opencv'.*decord, torchcodec, pyav"):
        VideoReader(numbered, backend="opencv")[0]


def test_missing_torchcodec_says_how_to_get_it(numbered, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(MediaError, match="pip install torchcodec"):
        VideoReader(numbered, backend="torchcodec")[0]


def test_pickled_readers_open_their_own_decoder(numbered):
    reader = VideoReader(numbered, fps=30, size=(32, 32))
    expected = reader[11]
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy[11], expected)


def _read_in_child(reader: VideoReader, queue) -> None:
    queue.put(numbers_of(reader.read([402, 2])))


@backends
def test_a_used_reader_works_in_a_forked_worker(tmp_path, backend):
    """The child has no copy of the decoder's threads: with the parent's decoder it would wait for them for ever."""
    write_video(tmp_path / "a.mp4", (numbered_frames(50) for _ in range(10)), 25, preset="ultrafast")
    reader = VideoReader(tmp_path / "a.mp4", backend=backend)
    assert numbers_of(reader.read([5])) == [5]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=_read_in_child, args=(reader, queue))
    worker.start()
    worker.join(30)
    worker.kill()
    worker.join()
    assert worker.exitcode == 0
    assert queue.get() == [2, 2]
    assert numbers_of(reader.read([6, 307])) == [6, 7]


class _Cycle:
    """Garbage that only the collector finds, holding a frame with the threads that convert its colours."""

    def __init__(self) -> None:
        self.me = self
        self.frame = av.VideoFrame(640, 640, "rgb24")
        self.frame.reformat(format="yuv420p", threads=4)


def test_a_forked_worker_does_not_free_ffmpeg_objects_that_were_garbage_in_its_parent():
    gc.collect()
    gc.disable()
    try:
        _Cycle()
        worker = multiprocessing.get_context("fork").Process(target=gc.collect)
        worker.start()
        worker.join(15)
        worker.kill()
        worker.join()
        assert worker.exitcode == 0
    finally:
        gc.enable()
    gc.collect()


def _resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_streaming_takes_constant_memory(tmp_path):
    """1500 frames of 128x128 are 74 MB: held together, they would show."""
    path = tmp_path / "long.mp4"
    write_video(path, (numbered_frames(50, 128, 128) for _ in range(30)), 25, preset="ultrafast")
    reader = VideoReader(path)
    used = [_resident_megabytes() for _ in reader.stream(16)]
    assert len(reader) == 1500
    assert max(used[10:]) - used[9] < 20


@needs_torchcodec
@pytest.mark.shared
@pytest.mark.parametrize("name", ["WDA_AlexandriaOcasioCortez_000", "d0", "d10", "d12", "d14", "d18", "d20", "s13"])
def test_both_backends_agree_on_real_clips(shared_clips, name):
    decord = VideoReader(shared_clips / f"{name}.mp4", fps=25)
    torchcodec = VideoReader(shared_clips / f"{name}.mp4", fps=25, backend="torchcodec")
    indices = [0, 1, len(decord) // 2, len(decord) - 1]
    difference = np.abs(decord.read(indices).astype(int) - torchcodec.read(indices))
    assert difference.max() <= 1


@needs_torchcodec
def test_both_backends_agree_on_our_own_files(tmp_path):
    smooth = resize(np.random.default_rng(0).integers(0, 256, (12, 8, 12, 3), dtype=np.uint8), (64, 96))
    write_video(tmp_path / "a.mp4", smooth, 25)
    decord, torchcodec = (VideoReader(tmp_path / "a.mp4", backend=b).read(range(12)) for b in ("decord", "torchcodec"))
    assert np.abs(decord.astype(int) - torchcodec).max() <= 1


@pytest.mark.shared
def test_real_clip_at_the_rate_of_the_store(shared_clips):
    reader = VideoReader(shared_clips / "d14.mp4", fps=25, size=(64, 64))
    assert len(reader) == round(536 / 30 * 25)
    original = VideoReader(shared_clips / "d14.mp4", size=(64, 64))
    np.testing.assert_array_equal(reader[100], original[120])  # both at 4.00 s
