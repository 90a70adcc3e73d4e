"""The clip store: what is written is read back, nothing half-written is ever visible."""

import csv
import pickle
import resource
import signal
import wave
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.datamodules.selection import kept_frames
from src.datamodules.store import COLUMNS, Clip, ClipStore, StoreWriter, read_clips, samples_of, write_clip
from src.datamodules.tables import append_rows, read_rows
from src.errors import StoreError
from src.media import VideoReader, probe
from tests.golden.conftest import GOLDEN_DIR

T, SIZE = 30, 64


def pictures(seed: int = 0, n: int = T, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """A smooth pattern that moves: survives compression, differs from frame to frame."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 3 * t + seed) / 9) + np.cos((y - 2 * t) / 7) for t in range(n)]
    grey = (128 + 50 * np.stack(waves)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def arrays(seed: int = 0, n: int = T) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, SIZE, (n, 478, 3)).astype(np.float32), rng.uniform(0, 1, (n, 52)).astype(np.float32)


def add(writer: StoreWriter, id: str, **options) -> Clip:
    landmarks, blendshapes = arrays()
    options = {"audio": np.linspace(-1, 1, samples_of(T, 25.0), dtype=np.float32), "split": "train"} | options
    return writer.add(id, options.pop("identity", id), [pictures()], landmarks, blendshapes, **options)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "store", SIZE) as writer:
        add(writer, "b", split="test", source="raw/b.mov", start=1.24, yaw=-3.25, av_offset=-2)
        add(writer, "a", audio=None)
        writer.finish()
    return tmp_path / "store"


def test_a_clip_comes_back_as_it_was_written(store):
    landmarks, blendshapes = arrays()
    clip = ClipStore(store, "test")[0]
    assert (clip.id, clip.identity, clip.source, clip.start, clip.n_frames, clip.fps) == (
        "b",
        "b",
        "raw/b.mov",
        1.24,
        T,
        25,
    )
    assert (clip.size, clip.duration, clip.has_audio, clip.yaw, clip.pitch, clip.av_offset) == (
        (SIZE, SIZE),
        T / 25,
        True,
        -3.25,
        None,
        -2,
    )
    np.testing.assert_array_equal(clip.landmarks, landmarks)
    np.testing.assert_array_equal(clip.blendshapes, blendshapes.astype(np.float16))
    assert clip.valid.all()
    frames = clip.frames([7, 3])
    assert np.abs(frames.astype(int) - pictures()[[7, 3]]).mean() < 2
    assert clip.frames().shape == (T, SIZE, SIZE, 3)


def test_every_frame_of_the_video_is_a_key_frame_and_it_has_no_sound(store):
    import av

    path = ClipStore(store)[0].video_path
    assert not probe(path).has_audio
    assert probe(path).fps == 25
    with av.open(str(path)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def test_sound_is_exactly_as_long_as_the_video_and_cut_by_frames(store):
    clip = ClipStore(store, "test")[0]
    with wave.open(str(clip.audio_path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (
            16000,
            1,
            2,
            T * 640,
        )
    assert len(clip.audio()) == T * 640
    np.testing.assert_array_equal(clip.audio(4, 2), clip.audio()[4 * 640 : 6 * 640])
    with pytest.raises(IndexError):
        clip.audio(T - 1, 2)


@pytest.mark.parametrize("length", [0, 100, T * 640 + 500])
def test_sound_of_another_length_is_cut_or_padded_with_silence(tmp_path, length):
    with StoreWriter(tmp_path, SIZE) as writer:
        clip = add(writer, "a", audio=np.full(length, 0.5, np.float32))
    sound = clip.audio()
    assert len(sound) == T * 640
    assert (sound[: min(length, len(sound))] == 0.5).all()
    assert (sound[length:] == 0).all()


def test_a_clip_without_sound_is_noted_and_says_so(store):
    silent = next(clip for clip in ClipStore(store) if not clip.has_audio)
    assert not silent.audio_path.exists()
    with pytest.raises(StoreError, match=r"Clip a of .* has no sound"):
        silent.audio()


def test_crops_of_odd_size_keep_their_size(tmp_path):
    landmarks, blendshapes = arrays()
    with StoreWriter(tmp_path, (45, 33)) as writer:
        clip = writer.add("a", "a", pictures(height=45, width=33), landmarks, blendshapes, split="train")
    assert clip.frames([0]).shape == (1, 45, 33, 3)
    assert read_clips(tmp_path)[0].size == (45, 33)


def test_a_clip_is_small_to_pickle_and_reads_in_another_process(store):
    clip = ClipStore(store, "test")[0]
    here = clip.frames([5])  # an open reader must not travel
    assert len(pickle.dumps(clip)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clip)).frames([5]), here)
    with get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(clip.frames, ([5],)), here)


def test_many_open_clips_stay_bounded(store):
    from src.datamodules.store import reading as module

    for i in range(2 * module.OPEN_READERS):
        module._open_video(store / "video" / ("a.mp4" if i % 2 else "b.mp4"), i)
    assert module._open_video.cache_info().currsize == module.OPEN_READERS


def test_splits_select_clips_and_an_empty_one_is_explained(store):
    assert [clip.id for clip in ClipStore(store)] == ["a", "b"]
    assert [clip.id for clip in ClipStore(store, "train")] == ["a"]
    with pytest.raises(StoreError, match=r"no clips of split 'validation' \(clips per split: test: 1, train: 1\)"):
        ClipStore(store, "validation")
    with pytest.raises(StoreError, match=r"There is no split 'val'"):
        ClipStore(store, "val")


def test_a_missing_store_says_what_prepares_one(tmp_path):
    with pytest.raises(StoreError, match=r"is no clip store .* prepare one with tools/preprocess.py"):
        ClipStore(tmp_path)


def test_missing_files_are_counted_in_one_message(store):
    (store / "video/a.mp4").unlink()
    (store / "landmarks/b.valid.npy").unlink()
    with pytest.raises(StoreError, match=r"lacks 2 files of its 2 clips \(first: .*a.mp4\)"):
        ClipStore(store)


def test_a_whole_store_verifies(store):
    assert len(ClipStore(store)) == 2
    ClipStore(store).verify()  # raises where anything is missing or of another length, as the tests below show


def test_lengths_that_disagree_are_found(store):
    clips = ClipStore(store)
    np.save(store / "landmarks/b.npy", arrays(n=T - 1)[0])
    with pytest.raises(StoreError, match=r"b.npy has shape \(29, 478, 3\), expected \(30, 478, 3\)"):
        clips.verify()
    text = (store / "clips.csv").read_text()
    (store / "clips.csv").write_text(text.replace(f",{T},", f",{T - 1},"))
    with pytest.raises(StoreError, match=r"a.mp4 has 30 frames but .*clips.csv says 29"):
        ClipStore(store)[0].frames([0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("n_frames", "frames", "lacks the column 'n_frames'"), (",30,", ",x,", "damaged"), ("true", "yes", "damaged")],
)
def test_a_damaged_table_is_refused(store, old, new, message):
    (store / "clips.csv").write_text((store / "clips.csv").read_text().replace(old, new))
    with pytest.raises(StoreError, match=message):
        ClipStore(store)


@pytest.mark.parametrize("id", ["", "a.b", "../a", "a/b", "-a", "é", "a b", "x" * 300])
def test_ids_are_safe_file_names(tmp_path, id):
    with StoreWriter(tmp_path, SIZE) as writer, pytest.raises(StoreError, match=r"cannot be the id of a clip"):
        add(writer, id)
    assert not (tmp_path / "clips.csv").exists()


def test_ids_are_unique(store):
    with StoreWriter(store, SIZE) as writer:
        assert "a" in writer
        with pytest.raises(StoreError, match=r"already has a clip a"):
            add(writer, "a")


def test_a_clip_of_another_size_or_length_is_refused_and_leaves_no_row(tmp_path):
    landmarks, blendshapes = arrays()
    with StoreWriter(tmp_path, SIZE) as writer:
        with pytest.raises(StoreError, match=r"Clip a is 50x50, the store 64x64"):
            writer.add("a", "a", pictures(height=50, width=50), landmarks, blendshapes)
        with pytest.raises(StoreError, match=r"Clip a has 29 frames but landmarks of 30"):
            writer.add("a", "a", pictures(n=29), landmarks, blendshapes)
        with pytest.raises(StoreError, match=r"differ in length"):
            writer.add("a", "a", pictures(), landmarks, blendshapes[:5])
    assert not (tmp_path / "clips.csv").exists()


def test_frames_that_fail_half_way_leave_nothing(tmp_path):
    def failing():
        yield pictures()[0]
        raise RuntimeError("the source broke")

    landmarks, blendshapes = arrays()
    with StoreWriter(tmp_path, SIZE) as writer, pytest.raises(RuntimeError, match=r"the source broke"):
        writer.add("a", "a", failing(), landmarks, blendshapes)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("settings.json", ".lock")]


def test_other_settings_are_refused_by_name(tmp_path):
    StoreWriter(tmp_path, settings={"alignment": {"size": [128, 128]}, "seed": 0}).close()
    StoreWriter(tmp_path, settings={"alignment": {"size": (128, 128)}, "seed": 0}).close()
    with pytest.raises(StoreError, match=r"was made with alignment.size=\[128, 128\], this run has alignment.size=64"):
        StoreWriter(tmp_path, settings={"alignment": {"size": 64}, "seed": 0})


def test_one_writer_at_a_time(tmp_path):
    with StoreWriter(tmp_path), pytest.raises(StoreError, match=r"Another run is writing"):
        StoreWriter(tmp_path)
    StoreWriter(tmp_path).close()


def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .* choose another root="):
        StoreWriter(tmp_path / "file" / "store")


def test_finish_sorts_the_rows_and_writes_the_selection(store):
    assert [row["id"] for row in csv.DictReader((store / "clips.csv").open())] == ["a", "b"]
    a, b = ClipStore(store)
    np.testing.assert_array_equal(a.selection("landmark_driven"), kept_frames(T, "train"))
    assert len(b.selection("landmark_driven")) == 0
    with pytest.raises(StoreError, match=r"selection/other.csv is missing"):
        a.selection("other")


def test_missing_features_say_what_to_do(store):
    clip = ClipStore(store)[0]
    with pytest.raises(StoreError, match=r"extract the hubert features"):
        clip.features("hubert")
    (store / "features/hubert").mkdir(parents=True)
    np.save(store / "features/hubert/a.npy", np.ones((T, 4), np.float32))
    assert clip.features("hubert").shape == (T, 4)


def test_transforms_and_mask_are_kept(tmp_path):
    transforms = np.stack([np.eye(3) * (t + 1) for t in range(T)])
    valid = np.arange(T) % 3 > 0
    with StoreWriter(tmp_path, SIZE) as writer:
        clip = add(writer, "a", transforms=transforms, valid=valid)
        rendered = add(writer, "b")
    np.testing.assert_array_equal(clip.transforms, transforms)
    np.testing.assert_array_equal(clip.valid, valid)
    assert clip.n_valid == valid.sum()
    with pytest.raises(StoreError, match=r"clip b has no transforms"):
        _ = rendered.transforms


def test_files_without_a_row_are_written_again(tmp_path):
    """A run that was killed between a clip's files and its row."""
    landmarks, blendshapes = arrays()
    write_clip(tmp_path, "a", "a", pictures(seed=9), landmarks + 1, blendshapes)
    with StoreWriter(tmp_path, SIZE) as writer:
        assert "a" not in writer
        add(writer, "a")
    np.testing.assert_array_equal(ClipStore(tmp_path)[0].landmarks, landmarks)


def test_finish_removes_what_killed_runs_left_and_nothing_else(store):
    landmarks, blendshapes = arrays()
    write_clip(store, "orphan", "a", pictures(), landmarks, blendshapes, audio=np.zeros(9, np.float32))
    (store / "video/.a.12-ab.tmp.mp4").write_text("half")
    (store / ".clips.12-ab.tmp.csv").write_text("half")
    (store / "video/notes.txt").write_text("mine")
    before = snapshot(store)
    with StoreWriter(store, SIZE) as writer:
        writer.finish()
    gone = before.keys() - snapshot(store).keys()
    assert gone == {name for name in before if "orphan" in name or ".tmp." in name}
    ClipStore(store).verify()


def test_an_unfinished_last_row_is_cut_off(store):
    with (store / "clips.csv").open("a") as file:
        file.write("c,c,train,30,25,4")
    with StoreWriter(store, SIZE) as writer:
        assert len(writer) == 2
        add(writer, "c")
    assert [clip.id for clip in read_clips(store)] == ["a", "b", "c"]


def append_with_little_room(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    append_rows(path, ("a",), [{"a": "x" * 3000}])
    with pytest.raises(StoreError, match=r"t.csv cannot grow \(.*\): free some space"):
        append_rows(path, ("a",), [{"a": "y" * 3000}])


def test_an_append_that_meets_a_full_disk_takes_its_bytes_back(tmp_path):
    """In a process of its own, whose files may not grow beyond 4096 bytes."""
    process = get_context("fork").Process(target=append_with_little_room, args=(tmp_path / "t.csv",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert read_rows(tmp_path / "t.csv") == [{"a": "x" * 3000}]


def test_cells_with_commas_quotes_and_other_scripts_survive(tmp_path):
    rows = [{"a": 'say "hi", ok', "b": "日本"}, {"a": "", "b": "ü"}]
    append_rows(tmp_path / "t.csv", ("a", "b"), rows[:1])
    append_rows(tmp_path / "t.csv", ("a", "b"), rows[1:])
    assert read_rows(tmp_path / "t.csv") == rows


def test_a_row_keeps_every_column(tmp_path):
    clip = Clip(
        root=tmp_path, id="a", identity="p", split="", n_frames=3, fps=25.0, height=4, width=5, has_audio=True,
        source="x, y.mp4", start=0.04, n_valid=2, source_fps=29.97, face_size=100.5, yaw=-1.5, pitch=2.0, roll=0.25,
        mouth_range=0.125, av_offset=-3, av_correlation=0.5,
    )  # fmt: skip
    assert set(clip.row()) == set(COLUMNS)
    assert Clip.from_row(tmp_path, clip.row()) == clip


def write_eight(root: Path, tell: Connection) -> None:
    with StoreWriter(root, SIZE, settings={"seed": 1}) as writer:
        for i in range(8):
            if f"c{i}" not in writer:
                add(writer, f"c{i}", audio=None)
                tell.send(i)
        writer.finish()


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_killed_and_started_again_the_store_is_the_same(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fork = get_context("fork")
    receiver, sender = fork.Pipe()
    write_eight(whole, sender)
    assert [receiver.recv() for _ in range(8)] == list(range(8))

    process = fork.Process(target=write_eight, args=(killed, sender))
    process.start()
    while receiver.recv() < 2:
        pass
    process.kill()
    process.join()
    assert 3 <= len(read_clips(killed)) < 8
    ClipStore(killed).verify()

    write_eight(killed, sender)
    assert snapshot(killed) == snapshot(whole)


@pytest.mark.golden
@pytest.mark.skipif(not GOLDEN_DIR.is_dir(), reason=f"no golden fixtures at {GOLDEN_DIR}")
def test_kept_frames_are_those_of_the_original():
    expected = load_file(GOLDEN_DIR / "landmark_driven/frames_kept.safetensors")
    for name, frames in expected.items():
        split, length = name.removeprefix("out/").split("_")
        np.testing.assert_array_equal(kept_frames(int(length), split), frames, err_msg=name)


@pytest.mark.parametrize("n", [0, 1, 10, 11, 25])
def test_kept_frames_are_int64_and_never_the_reference(n):
    for split in ("train", "validation", "test"):
        frames = kept_frames(n, split)
        assert frames.dtype == np.int64
        assert not len(frames) or 0 < frames.min() <= frames.max() < n
    assert len(kept_frames(n, "test")) == 0


def test_a_video_reader_opens_at_first_use(store, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "src.datamodules.store.reading.VideoReader", lambda path: opened.append(path) or VideoReader(path)
    )
    clips = list(ClipStore(store))
    assert opened == []
    clips[0].frames([0])
    clips[0].frames([1])
    assert opened == [clips[0].video_path]
