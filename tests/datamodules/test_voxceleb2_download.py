"""Fetching VoxCeleb2 politely and cutting it right; nothing is fetched here."""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from src.datamodules.preprocessing.voxceleb2 import read_annotation
from src.datamodules.preprocessing.voxceleb2_download import (
    Download,
    Fetched,
    FetchError,
    GoneError,
    YtDlpFetcher,
    cut_utterance,
    summary,
    wanted_videos,
)
from src.datamodules.tables import read_rows
from src.errors import ConfigError, StoreError
from src.media import VideoReader, probe, read_audio, write_video, write_wav
from tests.commands import run_command

HEADER = (
    "Identity  : \t{}\nReference : \t{}\nOffset    : \t1\nFV Conf   : \t1\nASD Conf  : \t4\n\nFRAME \tX \tY \tW \tH \n"
)


def annotate(folder, identity: str, video: str, number: int, first: int, n_frames: int = 10):
    path = folder / identity / video / f"{number:05d}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{frame:06d} \t0.1 \t0.2 \t0.3 \t0.4 \n" for frame in range(first, first + n_frames))
    path.write_text(HEADER.format(identity, video) + rows)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A film of 100 frames, each as bright as its number, whose second half is loud."""
    folder = tmp_path_factory.mktemp("films")
    frames = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None] * 2, (100, 32, 32, 3))
    sound = (np.sin(np.arange(4 * 16000) * 0.3) * np.repeat([0.0, 0.5], 2 * 16000)).astype(np.float32)
    write_video(folder / "film.mp4", np.ascontiguousarray(frames), 25.0, audio=sound)
    write_wav(folder / "film.wav", sound)
    return folder


@pytest.fixture
def annotations(tmp_path):
    folder = tmp_path / "txt"
    annotate(folder, "id00002", "bbb", 1, 10)
    annotate(folder, "id00001", "aaa", 1, 20)
    annotate(folder, "id00001", "aaa", 2, 60)
    return folder


class Fetches:
    """Gives the film for every video, but for those that fail so many times."""

    def __init__(self, films, failing=(), error=FetchError, apart=False):
        self.films, self.error, self.apart = films, error, apart
        self.left = dict(failing)
        self.asked: list[str] = []

    def __call__(self, video, folder):
        self.asked.append(video)
        if self.left.get(video, 0):
            self.left[video] -= 1
            raise self.error(f"{video}: no answer.")
        return Fetched(self.films / "film.mp4", self.films / "film.wav" if self.apart else None)


def download(tmp_path, **options):
    waits: list[float] = []
    return Download(tmp_path / "clips", sleep=waits.append, **options), waits


@pytest.mark.parametrize("apart", [False, True])
def test_utterances_are_cut_at_their_frames_with_their_sound(tmp_path, films, annotations, apart):
    made, _ = download(tmp_path)
    result = made.run(made.pending(annotations), Fetches(films, apart=apart))
    assert (result.videos, result.utterances, result.failed) == (2, 3, 0)
    path = tmp_path / "clips" / "id00001" / "aaa" / "00002.mp4"
    info = probe(path)
    assert (info.n_frames, info.fps, info.has_audio) == (10, 25, True)
    brightness = VideoReader(path).read(range(10)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, 2 * np.arange(60, 70), atol=2)
    assert np.abs(read_audio(path)).max() > 0.3
    assert np.abs(read_audio(path.with_name("00001.mp4"))).max() < 0.05
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == ["id00001", "id00002"]  # no video is left


def test_what_is_there_is_not_fetched_again(tmp_path, films, annotations):
    made, _ = download(tmp_path)
    made.run(made.pending(annotations), Fetches(films))
    assert made.pending(annotations) == []
    (tmp_path / "clips" / "id00001" / "aaa" / "00002.mp4").unlink()
    (wanted,) = made.pending(annotations)
    assert [path.name for path in wanted.annotations] == ["00002.txt"]


def test_there_are_pauses_and_longer_ones_after_failures(tmp_path, films, annotations):
    made, waits = download(tmp_path, pause=5, retries=3, backoff=30)
    fetch = Fetches(films, {"aaa": 2})
    assert made.run(made.pending(annotations), fetch).failed == 0
    assert fetch.asked == ["aaa", "aaa", "aaa", "bbb"]
    assert waits == [30, 60, 5]


def test_a_video_that_fails_is_noted_and_left_alone_until_asked_for(tmp_path, films, annotations):
    made, _ = download(tmp_path, retries=1)
    result = made.run(made.pending(annotations), Fetches(films, {"aaa": 99}, GoneError))
    assert (result.videos, result.failed) == (1, 1)
    assert read_rows(tmp_path / "clips" / "failures.csv")[0] == {
        "identity": "id00001",
        "video": "aaa",
        "reason": "aaa: no answer.",
    }
    assert made.pending(annotations) == []
    again, _ = download(tmp_path, retry_failed=True)
    assert [wanted.video for wanted in again.pending(annotations)] == ["aaa"]


def test_a_video_that_gave_no_answer_is_asked_for_in_the_next_run(tmp_path, films, annotations):
    made, _ = download(tmp_path, retries=1)
    assert made.run(made.pending(annotations), Fetches(films, {"aaa": 99})).failed == 1
    assert not (tmp_path / "clips" / "failures.csv").exists()
    assert [wanted.video for wanted in made.pending(annotations)] == ["aaa"]


def test_a_network_that_is_down_ends_the_run_and_keeps_what_is_there(tmp_path, films, annotations):
    made, _ = download(tmp_path, retries=0, patience=2)
    with pytest.raises(FetchError, match="2 videos in a row gave no answer"):
        made.run(made.pending(annotations), Fetches(films, {"aaa": 99, "bbb": 99}))
    assert len(made.pending(annotations)) == 2


def test_a_video_that_is_gone_is_asked_for_once(tmp_path, films, annotations):
    made, waits = download(tmp_path, retries=3)
    fetch = Fetches(films, {"aaa": 99}, GoneError)
    made.run(made.pending(annotations), fetch)
    assert fetch.asked == ["aaa", "bbb"]
    assert waits == [5]


def test_a_run_says_beforehand_how_much_it_is(tmp_path, annotations):
    made, _ = download(tmp_path)
    assert summary(made.pending(annotations)) == {
        "videos": 2,
        "utterances": 3,
        "hours": pytest.approx(3 * 9 / 25 / 3600),
    }
    assert len(made.pending(annotations, limit=1)) == 1


def test_a_dry_run_of_the_command_fetches_nothing(tmp_path, annotations):
    options = [f"annotations={annotations}", f"root={tmp_path / 'clips'}", "dry_run=true"]
    done = run_command(tmp_path, "tools/download_voxceleb2.py", *options)
    assert done.returncode == 0, done.stderr
    assert "missing: 2 videos with 3 utterances" in done.stdout + done.stderr
    assert not (tmp_path / "clips").exists()


def test_another_video_is_no_utterance(tmp_path, films):
    annotation = read_annotation(annotate(tmp_path, "id00001", "aaa", 1, 200))
    with pytest.raises(StoreError, match=r"lasts 4.0 s, but an utterance begins at 8.0 s"):
        cut_utterance(Fetched(films / "film.mp4"), annotation, tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def test_a_folder_without_annotations_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(StoreError, match=r"vox2_dev_txt\.zip"):
        wanted_videos(tmp_path, tmp_path)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="retries=-1"):
        Download(tmp_path, retries=-1)


def test_without_yt_dlp_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(FetchError, match="pip install yt-dlp"):
        YtDlpFetcher()


@pytest.fixture
def server(films):
    """The address of a web server that has the film."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(films))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_yt_dlp_fetches_from_a_server_and_the_utterances_are_cut_with_their_sound(tmp_path, server, annotations):
    pytest.importorskip("yt_dlp")
    made, _ = download(tmp_path, pause=0)
    result = made.run(made.pending(annotations), YtDlpFetcher(address=server + "/film.mp4?v={video}"))
    assert (result.videos, result.utterances, result.failed) == (2, 3, 0)
    path = tmp_path / "clips" / "id00001" / "aaa" / "00002.mp4"
    brightness = VideoReader(path).read(range(10)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, 2 * np.arange(60, 70), atol=2)
    assert np.abs(read_audio(path)).max() > 0.3


def test_yt_dlp_says_that_a_server_has_no_such_film(tmp_path, server):
    pytest.importorskip("yt_dlp")
    with pytest.raises(FetchError, match=r"^abc: .*404"):
        YtDlpFetcher(address=server + "/{video}.mp4")("abc", tmp_path)


def fake_yt_dlp(error: str | None = None):
    """A yt-dlp that writes a file, or fails with a message; notes its options."""

    class DownloadError(Exception):
        pass

    class YoutubeDL:
        seen: list[dict] = []  # noqa: RUF012

        def __init__(self, options):
            self.options = options
            self.seen.append(options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def download(self, addresses):
            if error:
                raise DownloadError(error)
            suffix = "m4a" if self.options["format"].startswith("ba") else "mp4"
            with open(self.options["outtmpl"].replace("%(ext)s", suffix), "w") as file:  # noqa: PTH123
                file.write(addresses[0])

    return SimpleNamespace(YoutubeDL=YoutubeDL, utils=SimpleNamespace(DownloadError=DownloadError))


def test_pictures_and_sound_are_asked_for_apart_within_the_limits(monkeypatch, tmp_path):
    module = fake_yt_dlp()
    monkeypatch.setitem(sys.modules, "yt_dlp", module)
    found = YtDlpFetcher(max_height=480, rate_limit=1e6)("abc", tmp_path)
    assert (found.video.name, found.sound.name) == ("video.mp4", "sound.m4a")
    assert found.video.read_text() == "https://www.youtube.com/watch?v=abc"
    assert "height<=480" in module.YoutubeDL.seen[0]["format"]
    assert [options["ratelimit"] for options in module.YoutubeDL.seen] == [1e6, 1e6]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("ERROR: Private video", GoneError),
        ("ERROR: Unable to download webpage: timed out", FetchError),
        ("ERROR: HTTP Error 503: Service Unavailable", FetchError),
        ("ERROR: Video unavailable. This content isn't available, try again later.", FetchError),
    ],
)
def test_what_is_gone_is_told_from_what_failed(monkeypatch, tmp_path, message, kind):
    monkeypatch.setitem(sys.modules, "yt_dlp", fake_yt_dlp(message))
    with pytest.raises(FetchError) as caught:
        YtDlpFetcher()("abc", tmp_path)
    assert type(caught.value) is kind
