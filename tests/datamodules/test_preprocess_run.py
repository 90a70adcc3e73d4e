"""A whole run: parallel, resumable, never silent about what it leaves out."""

import dataclasses
import logging
import resource
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from src.datamodules.preprocessing import run as module
from src.datamodules.preprocessing.pool import CrashedError
from src.datamodules.preprocessing.recordings import Dataset
from src.datamodules.preprocessing.run import Preprocessing
from src.datamodules.preprocessing.worker import ClipOptions
from src.datamodules.store import ClipStore, read_clips
from src.datamodules.tables import read_rows
from src.errors import ConfigError, StoreError, VisemeError
from src.face.alignment import TemplateAlignment
from tests.datamodules.preprocess_fakes import record, use_discs

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.fixture(autouse=True)
def _discs(monkeypatch):
    use_discs(monkeypatch)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five recordings: a to c are good, d has no face, e is a text file."""
    for i, name in enumerate("abc"):
        record(tmp_path / f"raw/{name}.mp4", 30 + i)
    record(tmp_path / "raw/d.mp4", 30, hidden=range(30))
    (tmp_path / "raw/e.mp4").write_text("no video")
    return tmp_path / "raw"


def preprocessing(tmp_path: Path, root: str = "store", **changes) -> Preprocessing:
    return Preprocessing(
        **{
            "dataset": Dataset("folder"),
            "alignment": TemplateAlignment(64),
            "clips": ClipOptions(),
            "raw": tmp_path / "raw",
            "root": tmp_path / root,
            "fractions": FRACTIONS,
            "settings": {"seed": 0},
            "workers": 0,
        }
        | changes
    )


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_recording_is_a_clip_or_a_line(tmp_path, raw):
    preprocessing(tmp_path).run()
    store = ClipStore(tmp_path / "store")
    store.verify()
    assert [clip.id for clip in store] == ["a-0000", "b-0000", "c-0000"]
    assert sorted(clip.split for clip in store) == ["test", "train", "validation"]
    failures = read_rows(tmp_path / "store/failures.csv")
    assert [row["source"] for row in failures] == ["d.mp4", "e.mp4"]
    assert "no face was found in any of its 30 frames" in failures[0]["reason"]
    assert "e.mp4" in failures[1]["reason"]
    train = next(clip for clip in store if clip.split == "train")
    assert train.selection("landmark_driven")[0] == 5
    assert (tmp_path / "store/report.html").is_file()


def test_a_complete_store_is_left_alone(tmp_path, raw, caplog):
    caplog.set_level(logging.INFO)
    preprocessing(tmp_path).run()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.is_file() and p.name != ".lock"}
    preprocessing(tmp_path).run()
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "is complete: nothing to do" in caplog.text
    assert (
        "3 clips (0.1 minutes, 3 people; train 1, validation 1, test 1) from 3 of 5 recordings; 2 rejected"
        in caplog.text
    )


def test_new_files_join_and_people_keep_their_splits(tmp_path, raw):
    preprocessing(tmp_path).run()
    before = {clip.identity: clip.split for clip in read_clips(tmp_path / "store")}
    for name in ("A", "f", "g", "h"):
        record(raw / f"{name}.mp4", 30)
    preprocessing(tmp_path).run()
    after = {clip.identity: clip.split for clip in read_clips(tmp_path / "store")}
    assert after.items() >= before.items()
    assert after.keys() == {"a", "b", "c", "A", "f", "g", "h"}


def test_a_file_that_changed_is_done_again(tmp_path, raw):
    preprocessing(tmp_path).run()
    record(raw / "e.mp4", 40)
    record(raw / "a.mp4", 44)
    preprocessing(tmp_path).run()
    assert {clip.id: clip.n_frames for clip in ClipStore(tmp_path / "store")} == {
        "a-0000": 44, "b-0000": 31, "c-0000": 32, "e-0000": 40
    }  # fmt: skip
    assert [row["source"] for row in read_rows(tmp_path / "store/failures.csv")] == ["d.mp4"]


def test_a_bad_file_that_was_removed_leaves_the_list_and_a_good_one_stays_in_the_store(tmp_path, raw):
    preprocessing(tmp_path).run()
    for name in ("a", "d"):
        (raw / f"{name}.mp4").unlink()
    record(raw / "f.mp4", 30)
    preprocessing(tmp_path).run()
    assert [clip.id for clip in ClipStore(tmp_path / "store")] == ["a-0000", "b-0000", "c-0000", "f-0000"]
    assert [row["source"] for row in read_rows(tmp_path / "store/failures.csv")] == ["e.mp4"]


def test_retry_does_rejected_recordings_again(tmp_path, raw, monkeypatch):
    preprocessing(tmp_path).run()
    done = []
    work = module.Worker.__call__
    monkeypatch.setattr(module.Worker, "__call__", lambda self, r: done.append(r.source) or work(self, r))
    preprocessing(tmp_path, retry=True).run()
    assert done == ["d.mp4", "e.mp4"]
    assert len(read_rows(tmp_path / "store/failures.csv")) == 2


def test_other_settings_are_refused(tmp_path, raw):
    preprocessing(tmp_path).run()
    before = snapshot(tmp_path / "store")
    with pytest.raises(StoreError, match=r"was made with seed=0, this run has seed=1: choose another root="):
        preprocessing(tmp_path, settings={"seed": 1}).run()
    assert snapshot(tmp_path / "store") == before


def test_files_that_the_data_set_leaves_out_are_listed_once(tmp_path, raw):
    data = Dataset("folder", skip={"b": "corrupt in the released data"})
    for _ in range(2):
        preprocessing(tmp_path, dataset=data).run()
    failures = {row["source"]: row["reason"] for row in read_rows(tmp_path / "store/failures.csv")}
    assert failures["b.mp4"] == "left out by dataset=folder: corrupt in the released data."
    assert list(failures) == ["b.mp4", "d.mp4", "e.mp4"]


def test_splits_of_the_data_set_are_not_drawn_from(tmp_path, raw):
    data = Dataset("folder", split_identities={"test": ["a"], "validation": ["x"]})
    preprocessing(tmp_path, dataset=data).run()
    assert {c.identity: c.split for c in ClipStore(tmp_path / "store")} == {"a": "test", "b": "train", "c": "train"}


def test_a_run_without_a_clip_says_where_the_reasons_are(tmp_path, raw):
    for name in "abc":
        (raw / f"{name}.mp4").unlink()
    with pytest.raises(StoreError, match=r"None of the 2 recordings .* gave a clip \(2 rejected: .*failures.csv\)"):
        preprocessing(tmp_path).run()
    assert len(read_rows(tmp_path / "store/failures.csv")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, "workers=-1: give a number of processes"),
        ({"fractions": {"val": 1.0}}, "fractions.val: there is no such split"),
        ({"raw": Path("/nowhere")}, "raw=/nowhere is no folder"),
    ],
)
def test_mistakes_end_before_anything_is_written(tmp_path, raw, changes, message):
    with pytest.raises(ConfigError, match=message):
        preprocessing(tmp_path, **changes).run()
    assert not (tmp_path / "store").exists()


def test_a_recording_that_kills_its_process_is_a_line(tmp_path, raw, monkeypatch):
    def crash_on_b(function, items, workers):
        for item in items:
            yield item, CrashedError() if item.id == "b" else function(item)

    monkeypatch.setattr(module, "map_unordered", crash_on_b)
    preprocessing(tmp_path).run()
    failures = {row["source"]: row["reason"] for row in read_rows(tmp_path / "store/failures.csv")}
    assert "was killed or crashed" in failures["b.mp4"]
    assert [clip.id for clip in ClipStore(tmp_path / "store")] == ["a-0000", "c-0000"]


def with_little_room(task: Preprocessing, limit: int) -> None:
    """Exit status 2 and the sentence in `sentence.txt` when the run ends as a user's problem."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        task.run()
    except VisemeError as error:
        (task.raw / "sentence.txt").write_text(str(error))
        raise SystemExit(2) from error


@pytest.mark.parametrize("limit", [4_000, 60_000])
def test_a_full_disk_ends_the_run_and_leaves_no_half_clip(tmp_path, raw, limit):
    """Files may not grow beyond a limit: of the video, or of the landmarks (the disk is full for both)."""
    process = get_context("fork").Process(target=with_little_room, args=(preprocessing(tmp_path), limit))
    process.start()
    process.join()
    assert process.exitcode == 2
    sentence = (raw / "sentence.txt").read_text()
    assert f"The disk of {tmp_path / 'store'} is full: free some space and give the same command again" in sentence
    left = [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()]
    assert sorted(left) == [".lock", "settings.json"]
    preprocessing(tmp_path).run()
    assert len(ClipStore(tmp_path / "store")) == 3


def slowly(task: Preprocessing) -> None:
    commit = module.Ledger.commit

    def commit_and_wait(self, outcome):
        commit(self, outcome)
        time.sleep(0.2)

    module.Ledger.commit = commit_and_wait
    task.run()


@pytest.mark.parametrize("n_rows", [1, 3])
def test_killed_and_started_again_the_result_is_the_same(tmp_path, raw, n_rows):
    """kill -9 once `n_rows` recordings are done, that is, most likely in the midst of the next."""
    (raw / "e.mp4").write_bytes((raw / "a.mp4").read_bytes()[:3000])
    preprocessing(tmp_path, "whole/store").run()

    process = get_context("fork").Process(target=slowly, args=(preprocessing(tmp_path, "killed/store"),))
    process.start()
    table = tmp_path / "killed/store/recordings.csv"
    while process.is_alive() and (not table.is_file() or len(read_rows(table)) < n_rows):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed/store/report.html").exists()

    preprocessing(tmp_path, "killed/store").run()
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("table", ["clips.csv", "failures.csv"])
def test_rows_of_a_recording_that_was_not_finished_are_dropped(tmp_path, raw, table):
    """The machine stopped between the rows of a recording's clips and its own."""
    preprocessing(tmp_path, "whole").run()
    preprocessing(tmp_path).run()
    path = tmp_path / "store/recordings.csv"
    path.write_text("".join(line for line in path.open() if not line.startswith(("a.mp4", "d.mp4"))))
    with (tmp_path / "store" / table).open("a") as file:
        file.write("x-0000,unfini")
    preprocessing(tmp_path).run()
    store, whole = snapshot(tmp_path / "store"), snapshot(tmp_path / "whole")
    del store["report.html"], whole["report.html"]
    assert store == whole


def test_clips_are_the_same_for_any_order_of_the_recordings(tmp_path, raw, monkeypatch):
    preprocessing(tmp_path, "whole").run()
    monkeypatch.setattr(
        module, "map_unordered", lambda function, items, workers: ((item, function(item)) for item in items[::-1])
    )
    preprocessing(tmp_path).run()
    store, whole = snapshot(tmp_path / "store"), snapshot(tmp_path / "whole")
    del store["report.html"], whole["report.html"]
    assert store == whole


def test_a_store_inside_the_raw_folder_is_not_read_as_recordings(tmp_path, raw):
    for _ in range(2):
        preprocessing(tmp_path, "raw/store").run()
    assert len(ClipStore(raw / "store")) == 3
    assert len(read_rows(raw / "store/recordings.csv")) == 5


def test_the_report_shows_every_clip_and_every_rejection(tmp_path, raw):
    preprocessing(tmp_path).run()
    html = (tmp_path / "store/report.html").read_text()
    for text in ("a-0000", "b-0000", "c-0000", "d.mp4", "e.mp4", "no face was found in any of its 30 frames"):
        assert text in html
    assert html.count("data:image/jpeg;base64,") == 3 * 3
    assert "http" not in html.replace("http-equiv", "")  # nothing is loaded from elsewhere


def test_a_report_escapes_names(tmp_path):
    record(tmp_path / "raw/<b>bold & x.mp4", 30)
    preprocessing(tmp_path).run()
    html = (tmp_path / "store/report.html").read_text()
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold &amp; x" in html


def test_workers_default_to_the_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert preprocessing(tmp_path, workers=None)._workers() == 3
    assert dataclasses.replace(preprocessing(tmp_path), workers=2)._workers() == 2


def test_histograms_have_round_edges():
    from src.datamodules.preprocessing.report import _edges

    assert _edges(np.array([0.0, 10.0]), whole=False)[:3].tolist() == [0, 0.5, 1]
    assert _edges(np.array([7.0]), whole=False)[0] <= 7 < _edges(np.array([7.0]), whole=False)[-1]
    assert _edges(np.array([-3.0, 2.0]), whole=True).tolist() == np.arange(-6.5, 7).tolist()
