"""The command on real recordings, with MediaPipe and real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.datamodules.store import ClipStore
from src.datamodules.tables import read_rows
from src.face.detector import FaceDetector
from src.media import VideoReader, probe, read_audio, write_video
from tests.datamodules.preprocess_fakes import record
from tools.preprocess import main

REPO = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SHARED_DIR", REPO / "../shared")).resolve()
CLIPS = SHARED / "data" / "clips"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}"),
]


def start(*overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPO / "tools/preprocess.py"), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "VISEME_MODELS": str(SHARED / "models")}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*overrides: str) -> str:
    """What the command says when it succeeds."""
    with start(*overrides) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


@pytest.fixture
def fail(monkeypatch, capsys):
    """The sentence with which the command ends, run in this process."""
    monkeypatch.setenv("VISEME_MODELS", str(SHARED / "models"))

    def run(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", ["preprocess.py", *overrides])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def excerpt(path: Path, name: str, n: int) -> Path:
    """The first `n` frames of a real clip, with their sound."""
    source = CLIPS / f"{name}.mp4"
    sound = read_audio(source, duration=n / 25) if probe(source).has_audio else None
    write_video(path, VideoReader(source, fps=25).read(range(n)), 25, audio=sound)
    return path


def test_good_and_bad_recordings_become_a_store(tmp_path, fail):
    """Every file of `raw` is a clip or a line; the landmarks lie on the faces of the crops; the sound is in time."""
    raw = tmp_path / "raw"
    excerpt(raw / "d0.mp4", "d0", 40)
    excerpt(raw / "d20.mp4", "d20", 70)
    excerpt(raw / "s13.mp4", "s13", 30)
    (raw / "empty.mp4").touch()
    (raw / "text.mp4").write_text("this is no video")
    (raw / "half.mp4").write_bytes((CLIPS / "d18.mp4").read_bytes()[:90_000])
    record(raw / "one.mp4", 1)
    finish(f"raw={raw}", f"root={tmp_path / 'store'}", "workers=2", "clips.max_seconds=2")

    store = ClipStore(tmp_path / "store")
    store.verify()
    assert {clip.source: clip.has_audio for clip in store} == {"d0.mp4": False, "d20.mp4": True}
    assert [clip.n_frames for clip in store if clip.source == "d20.mp4"] == [35, 35]
    failures = {row["source"]: row["reason"] for row in read_rows(tmp_path / "store/failures.csv")}
    assert failures.keys() == {"empty.mp4", "half.mp4", "one.mp4", "s13.mp4", "text.mp4"}
    assert "no face was found in any of its 30 frames" in failures["s13.mp4"]
    assert "lasts only 0.04 s" in failures["one.mp4"]
    assert "empty (0 bytes)" in failures["empty.mp4"]
    assert all(str(tmp_path) not in reason for reason in failures.values())

    with FaceDetector(mode="image", max_faces=1, model=SHARED / "models/face_landmarker.task") as detector:
        for clip in store:
            (face,) = detector.detect(clip.frames([30])[0])
            distance = np.linalg.norm(face.landmarks[:, :2] - clip.landmarks[30, :, :2], axis=1)
            assert np.median(distance) < 3, clip.id  # pixels of 256

    said = fail(f"raw={raw}", f"root={tmp_path / 'store'}", "clips.max_seconds=6")
    assert "was made with clips.max_seconds=2, this run has clips.max_seconds=6" in said


def test_mistakes_are_one_sentence(tmp_path, fail, monkeypatch):
    raw = tmp_path / "raw"
    record(raw / "a.mp4", 30)
    (tmp_path / "file").touch()
    for overrides, sentence in [
        ((f"raw={tmp_path}/none", f"root={tmp_path / 's'}"), "is no folder"),
        ((f"raw={raw}", f"root={tmp_path}/file/store"), "cannot be written"),
        ((f"raw={raw}",), "root has no value"),
        ((f"raw={raw}", "root=x", "clips.fsp=30"), "did you mean 'clips.fps'?"),
        ((f"raw={raw}", f"root={tmp_path / 's'}", "clips.max_gap=2.5"), "clips.max_gap=2.5: give a whole number"),
    ]:
        assert sentence in fail(*overrides)
    assert not (tmp_path / "s").exists()
    monkeypatch.setenv("VISEME_MODELS", "/nowhere")
    assert "/nowhere/face_landmarker.task is missing: run" in fail(f"raw={raw}", f"root={tmp_path / 's'}")
    assert not (tmp_path / "s/clips.csv").exists()


def test_killed_with_its_workers_at_work_it_continues(tmp_path):
    raw = tmp_path / "raw"
    for name in ("d0", "d18", "d20"):
        excerpt(raw / f"{name}.mp4", name, 30)
    arguments = (f"raw={raw}", "workers=2", "alignment=landmark_driven")
    finish(*arguments, f"root={tmp_path}/whole/store")

    root = tmp_path / "killed/store"
    with start(*arguments, f"root={root}") as process:
        while process.poll() is None and not (root / "recordings.csv").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (root / "report.html").exists()

    finish(*arguments, f"root={root}")
    whole, killed = (
        {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert killed.keys() == whole.keys()
    assert killed == whole
