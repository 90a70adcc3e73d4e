import shutil

import numpy as np
import pytest

from src.errors import MediaError
from src.media import VideoReader, probe, write_image, write_video, write_wav
from tests.media.conftest import numbered_frames


def test_a_written_video_is_described_as_it_was_written(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, numbered_frames(30, 48, 80), 24, audio=np.zeros(22050, np.float32), audio_rate=22050)
    info = probe(path)
    assert (info.width, info.height, info.n_frames, info.fps, info.codec) == (80, 48, 30, 24, "h264")
    assert info.duration == pytest.approx(30 / 24)
    assert (info.rotation, info.variable_rate, info.has_audio, info.audio_rate) == (0, False, True, 22050)


def test_a_video_without_sound(numbered):
    info = probe(numbered)
    assert not info.has_audio
    assert info.audio_rate == 0


@pytest.mark.parametrize("fps", [30000 / 1001, 12.5, 23.976, 50])
def test_fractional_rates_survive(tmp_path, fps):
    write_video(tmp_path / "a.mp4", numbered_frames(10), fps)
    info = probe(tmp_path / "a.mp4")
    assert info.fps == pytest.approx(fps, rel=1e-6)
    assert not info.variable_rate


@pytest.mark.parametrize(("rotation", "size"), [(0, (96, 64)), (90, (64, 96)), (180, (96, 64)), (270, (64, 96))])
def test_size_is_that_of_the_upright_picture(numbered, tmp_path, remux, rotation, size):
    info = probe(remux(numbered, tmp_path / "rotated.mp4", rotation=rotation))
    assert (info.rotation, (info.width, info.height)) == (rotation, size)


def test_a_one_frame_clip_lasts_one_frame(tmp_path):
    write_video(tmp_path / "one.mp4", numbered_frames(1), 25)
    info = probe(tmp_path / "one.mp4")
    assert (info.n_frames, info.fps, info.variable_rate) == (1, 25, False)
    assert info.duration == pytest.approx(0.04)


def test_uneven_intervals_are_a_variable_rate_with_the_average_as_fps(uneven):
    info = probe(uneven([0, 4, 8, 16, 20, 40]))
    assert info.variable_rate
    assert info.fps == pytest.approx(6 / info.duration)
    assert info.duration >= 0.40


def test_milliseconds_of_a_container_are_no_variable_rate(tmp_path, numbered):
    """Matroska rounds time stamps to milliseconds: 33, 33, 34 ms."""
    import av

    write_video(tmp_path / "a.mp4", numbered_frames(40), 30)
    with av.open(str(tmp_path / "a.mp4")) as old, av.open(str(tmp_path / "a.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    info = probe(tmp_path / "a.mkv")
    assert not info.variable_rate
    assert info.fps == 30


def test_missing_file(tmp_path, one_sentence):
    with pytest.raises(MediaError, match="no such file") as caught:
        probe(tmp_path / "nothing.mp4")
    one_sentence(caught, tmp_path / "nothing.mp4")


def test_folder(tmp_path, one_sentence):
    with pytest.raises(MediaError, match="is a folder") as caught:
        probe(tmp_path)
    one_sentence(caught, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"This is no video.\n" * 50, "no video"), (bytes(range(256)) * 40, "no video")],
    ids=["zero bytes", "text", "binary"],
)
def test_files_that_only_have_the_name_of_a_video(tmp_path, one_sentence, content, reason):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        probe(path)
    one_sentence(caught, path)


def test_sound_only_file(tmp_path, one_sentence):
    path = tmp_path / "a.wav"
    write_wav(path, np.zeros(1600))
    with pytest.raises(MediaError, match="no video stream") as caught:
        probe(path)
    one_sentence(caught, path)


def test_picture(tmp_path, one_sentence):
    path = tmp_path / "face.png"
    write_image(path, numbered_frames(1)[0])
    with pytest.raises(MediaError, match="is a picture") as caught:
        probe(path)
    one_sentence(caught, path)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_file_whose_table_comes_first(tmp_path, one_sentence, keep):
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    write_video(path, noise, 25)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(MediaError, match=r"is truncated: \d+ of its 20 frames") as caught:
        probe(path)
    one_sentence(caught, path)


def test_truncated_file_whose_table_comes_last(tmp_path, numbered, remux, one_sentence):
    path = remux(numbered, tmp_path / "late.mp4")  # without faststart
    assert path.read_bytes().find(b"moov") > path.read_bytes().find(b"mdat")
    path.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
    with pytest.raises(MediaError, match="truncated") as caught:
        probe(path)
    one_sentence(caught, path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "fps", "n_frames", "size", "audio_rate"),
    [("d0", 25, 78, (512, 512), 0), ("d10", 30, 448, (512, 512), 44100), ("s13", 25, 103, (720, 1080), 44100)],
)
def test_real_clips(shared_clips, name, fps, n_frames, size, audio_rate):
    info = probe(shared_clips / f"{name}.mp4")
    assert (info.fps, info.n_frames, (info.width, info.height), info.audio_rate) == (fps, n_frames, size, audio_rate)
    assert info.duration == pytest.approx(n_frames / fps)
    assert not info.variable_rate


@pytest.mark.shared
def test_truncated_real_clip(shared_clips, tmp_path, one_sentence):
    path = tmp_path / "d12.mp4"
    shutil.copy(shared_clips / "d12.mp4", path)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(MediaError, match="truncated") as caught:
        VideoReader(path)
    one_sentence(caught, path)
