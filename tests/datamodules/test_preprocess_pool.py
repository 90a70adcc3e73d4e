"""Work goes on when a process dies, and ends at once when the run does."""

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from src.datamodules.preprocessing.pool import CrashedError, StoppedError, check_stop, map_unordered
from src.errors import StoreError


def work(item: str) -> str:
    """Runs in a worker; the item says how it ends."""
    if item.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "full":
        raise StoreError("the disk is full")
    if item.startswith("/"):  # a long task that notes how it ended
        try:
            for _ in range(500):
                check_stop()
                time.sleep(0.02)
        except StoppedError:
            Path(item).write_text("stopped")
            raise
    return item.upper()


def test_every_item_comes_back_once():
    assert dict(map_unordered(work, ["a", "b", "c"], 2)) == {"a": "A", "b": "B", "c": "C"}
    assert dict(map_unordered(work, ["a", "b"], 0)) == {"a": "A", "b": "B"}
    assert list(map_unordered(work, [], 2)) == []


def test_an_item_that_kills_its_process_is_named_and_the_others_are_done():
    results = dict(map_unordered(work, ["a", "kill1", "b", "c", "d"], 2))
    assert isinstance(results.pop("kill1"), CrashedError)
    assert results == {"a": "A", "b": "B", "c": "C", "d": "D"}


def test_an_exception_stops_the_other_workers_and_is_raised(tmp_path):
    note = tmp_path / "note"
    start = time.monotonic()
    with pytest.raises(StoreError, match="the disk is full"):
        list(map_unordered(work, [str(note), "full"], 2))
    assert note.read_text() == "stopped"
    assert time.monotonic() - start < 9  # less than the long task would take


def note_and_wait(item: str) -> None:
    """Runs in a worker: tells its process, and waits if it is asked to."""
    path, _, seconds = item.partition(" ")
    Path(path).write_text(str(os.getpid()))
    time.sleep(float(seconds))


def run_of_two(first: str, second: str) -> None:
    list(map_unordered(note_and_wait, [f"{first} 0", f"{second} 60"], 2))


def test_workers_of_a_killed_run_end_whether_idle_or_at_work(tmp_path):
    notes = [tmp_path / "idle", tmp_path / "busy"]
    run = get_context("spawn").Process(target=run_of_two, args=tuple(map(str, notes)))
    run.start()
    while not all(note.exists() and note.read_text() for note in notes):
        assert run.is_alive()
        time.sleep(0.05)
    run.kill()
    run.join()
    deadline = time.monotonic() + 20
    workers = [int(note.read_text()) for note in notes]
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their run"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may have waited for it yet


def test_outside_a_worker_nothing_stops():
    check_stop()
