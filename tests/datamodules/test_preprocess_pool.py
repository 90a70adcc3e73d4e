"""Work goes on when a process dies, and ends at once when the run does."""

import os
import signal
import time
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


def test_outside_a_worker_nothing_stops():
    check_stop()
