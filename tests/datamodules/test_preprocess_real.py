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
from tests.datamodules.preprocess_fakes import record

REPO = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SHARED_DIR", REPO / "../shared")).resolve()
CLIPS = SHARED / "data" / "clips"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}"),
]


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(REPO / "tools/preprocess.py"), *overrides]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "VISEME_MODELS": str(SHARED / "models"), **changes}


def preprocess(*overrides: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*overrides), env=environment(**changes), capture_output=True, text=True, check=False)


def raw_folder(root: Path, *names: str) -> Path:
    root.mkdir()
    for name in names:
        (root / name).symlink_to(CLIPS / name)
    return root


def test_good_and_bad_recordings_become_a_store(tmp_path):
    """Every file of `raw` is a clip or a line; the landmarks lie on the faces of the crops; the sound is in time."""
    raw = raw_folder(tmp_path / "raw", "d0.mp4", "d20.mp4", "s13.mp4")
    (raw / "empty.mp4").touch()
    (raw / "text.mp4").write_text("this is no video")
    (raw / "half.mp4").write_bytes((CLIPS / "d18.mp4").read_bytes()[:90_000])
    record(raw / "one.mp4", 1)
    result = preprocess(f"raw={raw}", f"root={tmp_path / 'store'}", "workers=2", "clips.max_seconds=5")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr

    store = ClipStore(tmp_path / "store")
    store.verify()
    assert {clip.source: clip.has_audio for clip in store} == {"d0.mp4": False, "d20.mp4": True}
    assert [clip.n_frames for clip in store if clip.source == "d20.mp4"] == [88, 87]
    failures = {row["source"]: row["reason"] for row in read_rows(tmp_path / "store/failures.csv")}
    assert failures.keys() == {"empty.mp4", "half.mp4", "one.mp4", "s13.mp4", "text.mp4"}
    assert "no face was found in any of its 103 frames" in failures["s13.mp4"]
    assert "lasts only 0.04 s" in failures["one.mp4"]
    assert "empty (0 bytes)" in failures["empty.mp4"]
    assert all(str(tmp_path) not in reason for reason in failures.values())

    with FaceDetector(mode="image", max_faces=1, model=SHARED / "models/face_landmarker.task") as detector:
        for clip in store:
            (face,) = detector.detect(clip.frames([30])[0])
            distance = np.linalg.norm(face.landmarks[:, :2] - clip.landmarks[30, :, :2], axis=1)
            assert np.median(distance) < 3, clip.id  # pixels of 256

    again = preprocess(f"raw={raw}", f"root={tmp_path / 'store'}", "clips.max_seconds=5")
    assert "is complete: nothing to do" in again.stderr
    other = preprocess(f"raw={raw}", f"root={tmp_path / 'store'}", "clips.max_seconds=6")
    assert other.returncode == 2
    assert "was made with clips.max_seconds=5, this run has clips.max_seconds=6" in other.stderr


def test_mistakes_are_one_sentence(tmp_path):
    raw = raw_folder(tmp_path / "raw", "d0.mp4")
    (tmp_path / "file").touch()
    for overrides, models, sentence in [
        ((f"raw={raw}", f"root={tmp_path / 's'}"), "/nowhere", "face_landmarker.task is missing: run"),
        ((f"raw={tmp_path}/none", f"root={tmp_path / 's'}"), "", "is no folder"),
        ((f"raw={raw}", f"root={tmp_path}/file/store"), "", "cannot be written"),
        ((f"raw={raw}",), "", "root has no value"),
        ((f"raw={raw}", "root=x", "clips.fsp=30"), "", "did you mean 'clips.fps'?"),
    ]:
        result = preprocess(*overrides, **({"VISEME_MODELS": models} if models else {}))
        assert result.returncode == 2, result.stderr
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "s/clips.csv").exists()


def test_killed_with_its_workers_at_work_it_continues(tmp_path):
    raw = raw_folder(tmp_path / "raw", "d0.mp4", "d12.mp4", "d18.mp4", "d20.mp4")
    arguments = (f"raw={raw}", "workers=2", "alignment=landmark_driven")
    assert preprocess(*arguments, f"root={tmp_path}/whole/store").returncode == 0

    root = tmp_path / "killed/store"
    with subprocess.Popen(command(*arguments, f"root={root}"), env=environment(), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (root / "recordings.csv").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (root / "report.html").exists()

    assert preprocess(*arguments, f"root={root}").returncode == 0
    whole, killed = (
        {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert killed.keys() == whole.keys()
    assert killed == whole
