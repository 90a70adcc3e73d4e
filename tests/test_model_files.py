"""Downloading model files, from a server on this machine."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import VisemeError
from src.model_files import MODEL_FILES, ModelFile, download, files_of, is_complete, model_path, models_dir

CONTENT = bytes(range(256)) * 4096  # 1 MiB
FILE = ModelFile(
    "a.bin", "http://127.0.0.1:9/a.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "tests", "none"
)


class Server(http.server.ThreadingHTTPServer):
    """Answers with `content`; breaks off after `limit` bytes of a response; ignores ranges where `resumes` is False."""

    content = CONTENT
    limit: int | None = None
    resumes = True
    status = 200
    content_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.resumes and self.headers.get("Range") == f"bytes={len(server.content)}-":
            self.send_error(416)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.resumes else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start:][: server.limit])

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_whole(server, tmp_path):
    steps: list[tuple[int, int]] = []
    path = download(FILE, tmp_path / "new", mirror=server.address, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert steps[-1] == (FILE.size, FILE.size)
    assert download(FILE, tmp_path / "new", mirror=server.address + "/") == path
    assert len(server.ranges) == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


SHORT = ModelFile("a.bin", FILE.url, None, FILE.sha256[:8], "tests", "none")  # as its publisher describes it


@pytest.mark.parametrize("present", [0, 300_000, len(CONTENT)])
def test_a_file_of_unknown_size_is_continued_and_known_by_the_first_digits(server, tmp_path, present):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:present])
    steps: list[tuple[int, int]] = []
    path = download(SHORT, tmp_path, mirror=server.address, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert is_complete(SHORT, path)
    assert server.ranges == [f"bytes={present}-" if present else None]
    assert present == len(CONTENT) or steps[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_of_unknown_size_with_other_digits_is_refused(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(VisemeError, match="sha256"):
        download(SHORT, tmp_path, mirror=server.address)
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_no_model_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    unknown = ModelFile("a.bin", FILE.url, None, "", "tests", "none")
    with pytest.raises(VisemeError, match=r"^a.bin: http\S+ answered with a web page; [^\n]+\.$"):
        download(unknown, tmp_path, mirror=server.address)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_is_continued_where_it_stopped(server, tmp_path):
    server.limit = 300_000
    with pytest.raises(
        VisemeError, match=r"^a.bin: the download from 127.0.0.1:\d+ stopped .* continues where it stopped\.$"
    ):
        download(FILE, tmp_path, mirror=server.address)
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").stat().st_size == 300_000
    server.limit = None
    assert download(FILE, tmp_path, mirror=server.address).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_server_that_does_not_resume_sends_everything_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    server.resumes = False
    assert download(FILE, tmp_path, mirror=server.address).read_bytes() == CONTENT


def test_a_part_that_is_complete_needs_no_server(tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert download(FILE, tmp_path, mirror="http://127.0.0.1:9").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more"])
def test_another_content_is_removed_and_named(server, tmp_path, content):
    server.content = content
    with pytest.raises(VisemeError, match=r"sha256 .*, not .*; it was removed: try again or give another mirror\.$"):
        download(FILE, tmp_path, mirror=server.address)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_replaced(server, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * FILE.size)
    assert not is_complete(FILE, path)
    assert download(FILE, tmp_path, mirror=server.address).read_bytes() == CONTENT


def test_a_missing_address_is_named(server, tmp_path):
    server.status = 404
    with pytest.raises(VisemeError, match=r"^a.bin: http://127.0.0.1:\d+/a.bin answered 404 Not Found; .*\.$"):
        download(FILE, tmp_path, mirror=server.address)


def test_a_silent_server_and_a_strange_address_are_named(tmp_path):
    with pytest.raises(VisemeError, match=r"stopped \(.*refused.*\); check the network"):
        download(FILE, tmp_path)
    with pytest.raises(VisemeError, match=r"file:///etc/a.bin is no http or https address"):
        download(FILE, tmp_path, mirror="file:///etc")


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(VisemeError, match=r"taken.* cannot be written \(.*\); free some space or set VISEME_MODELS"):
        download(FILE, tmp_path / "taken", mirror=server.address)


def test_the_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", "/somewhere")
    assert model_path("face_landmarker.task") == Path("/somewhere/face_landmarker.task")
    monkeypatch.delenv("VISEME_MODELS")
    assert models_dir() == Path("models")


@pytest.mark.shared
def test_the_listed_landmark_model_is_the_one_at_hand():
    folder = Path(os.environ.get("SHARED_DIR", "../shared")) / "models"
    present = [file for name, file in MODEL_FILES.items() if (folder / name).exists()]
    if not present:
        pytest.skip(f"no models in {folder}")
    assert all(is_complete(file, folder / file.name) for file in present)


def test_the_tool_ends_a_failed_download_in_one_sentence(server, tmp_path):
    server.status = 503
    done = subprocess.run(
        [sys.executable, "tools/download_models.py", f"mirror={server.address}"],
        env={**os.environ, "VISEME_MODELS": str(tmp_path), "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: face_landmarker.task: http://127.0.0.1:")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


UNKNOWN = ModelFile("a.bin", FILE.url, None, "", "tests", "none")  # its publisher says nothing of it


def test_a_file_without_a_published_sha256_is_noted_and_compared_afterwards(server, tmp_path):
    path = download(UNKNOWN, tmp_path, mirror=server.address)
    assert (tmp_path / "a.bin.sha256").read_text().split() == [hashlib.sha256(CONTENT).hexdigest()]
    assert is_complete(UNKNOWN, path)
    path.write_bytes(CONTENT[:-1])
    assert not is_complete(UNKNOWN, path)
    server.content = CONTENT[::-1]
    with pytest.raises(VisemeError, match=r"sha256 .*, not .*; it was removed"):
        download(UNKNOWN, tmp_path, mirror=server.address)
    server.content = CONTENT
    assert is_complete(UNKNOWN, download(UNKNOWN, tmp_path, mirror=server.address))


def test_a_size_alone_is_compared_too(server, tmp_path):
    server.content = CONTENT + b"more"
    sized = ModelFile("a.bin", FILE.url, len(CONTENT), "", "tests", "none")
    with pytest.raises(VisemeError, match=f"has {len(CONTENT) + 4} bytes, not {len(CONTENT)}; it was removed"):
        download(sized, tmp_path, mirror=server.address)
    assert not list(tmp_path.iterdir())


def test_every_file_of_the_talker_has_an_address_and_is_fetched_on_request():
    names = files_of("liveportrait_talker")
    assert len(names) == 7
    assert set(files_of("liveportrait")) < set(names)
    assert all(MODEL_FILES[name].on_request and MODEL_FILES[name].url.endswith(name) for name in names)
    assert files_of("difftalk") == []
