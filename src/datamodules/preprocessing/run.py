"""A folder of raw recordings becomes a clip store, in parallel, and again where it stopped."""

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from src.datamodules.preprocessing.ledger import Ledger
from src.datamodules.preprocessing.pool import CrashedError, map_unordered
from src.datamodules.preprocessing.recordings import Recording, RecordingSource
from src.datamodules.preprocessing.report import write_report
from src.datamodules.preprocessing.splits import assign_splits
from src.datamodules.preprocessing.worker import ClipOptions, Outcome, Worker, check_detector
from src.datamodules.store import SPLITS, Clip, Failure, StoreWriter
from src.errors import ConfigError, StoreError
from src.face.alignment import Alignment

log = logging.getLogger(__name__)

CRASHED = (
    "its process was killed or crashed: the file may be damaged, or memory may be short (try fewer workers); "
    "it is tried again with retry=true."
)


@dataclass(frozen=True)
class Preprocessing:
    """Prepares the clip store at `root` from the recordings below `raw`.

    Args:
        dataset: which files are recordings, of whom, in which split.
        alignment: where the face crop lies.
        clips: what a clip is.
        raw: folder of raw recordings.
        root: the store; one that was begun before is continued.
        fractions: share of the people by split, for the splits that the data set does not give.
        seed: of the division into splits.
        settings: plain values that determine the contents; a store made with others is refused.
        workers: processes; None for one per core, 0 to work in this one.
        retry: do recordings of which something was rejected again.
    """

    dataset: RecordingSource
    alignment: Alignment
    clips: ClipOptions
    raw: Path
    root: Path
    fractions: Mapping[str, float]
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workers: int | None = None
    retry: bool = False

    def run(self) -> None:
        """Do what is missing, then write splits, selections and report; nothing where the store is complete.

        Raises:
            ConfigError: no raw videos, or values that contradict each other.
            StoreError: the store cannot be written, was made with other settings, or not one clip was accepted.
            FaceError: the detector cannot be set up.
        """
        workers = self._workers()
        assign_splits((), self.fractions, self.seed)  # bad fractions end the run before the work, not after it
        recordings, unusable = self.dataset.scan(self.raw, exclude=self.root)
        with StoreWriter(self.root, self.alignment.size, fps=self.clips.fps, settings=self.settings) as writer:
            ledger = Ledger(writer)
            pending = self._pending(ledger, recordings, unusable)
            if not pending and self._is_finished(ledger):
                log.info("%s is complete: nothing to do.", self.root)
            else:
                if any(isinstance(item, Recording) for item in pending):
                    check_detector(self.clips)
                self._work(ledger, pending, workers)
                ledger.finish(self._with_splits(ledger.clips))
                write_report(self.root)
            self._summarise(ledger, len(recordings) + len(unusable))

    def _workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.workers is not None and self.workers < 0:
            raise ConfigError(
                f"workers={self.workers}: give a number of processes, or null for one per core ({cores})."
            )
        return cores if self.workers is None else self.workers

    def _pending(
        self, ledger: Ledger, recordings: Sequence[Recording], unusable: Sequence[Failure]
    ) -> list[Recording | Failure]:
        """What is still to be done; rows that no longer hold (a file that changed, or a bad one that is gone) are dropped."""
        found = {recording.source: recording.size for recording in recordings} | dict.fromkeys(
            (failure.source for failure in unusable), UNUSABLE
        )
        done = {
            source
            for source, size in ledger.sizes.items()
            if (size == found[source] if source in found else source in ledger.sources_with_clips)
            and not (self.retry and source in found and source in ledger.sources_with_failures)
        }
        ledger.keep(done)
        return [item for item in [*unusable, *recordings] if item.source not in done]

    def _is_finished(self, ledger: Ledger) -> bool:
        """Whether an earlier run came to its end (it writes the report last)."""
        return all(clip.split for clip in ledger.clips) and (self.root / "report.html").is_file()

    def _work(self, ledger: Ledger, pending: Sequence[Recording | Failure], workers: int) -> None:
        for item in pending:
            if isinstance(item, Failure):
                ledger.commit(Outcome(item.source, UNUSABLE, failures=[item]))
        recordings = [item for item in pending if isinstance(item, Recording)]
        if not recordings:
            return
        worker = Worker(self.root, self.alignment, self.clips)
        log.info("%d recordings to do in %d processes", len(recordings), workers or 1)
        with _progress() as progress:
            bar = progress.add_task("preprocess", total=len(recordings), clips=0, rejected=0)
            for recording, outcome in map_unordered(worker, recordings, min(workers, len(recordings))):
                if isinstance(outcome, CrashedError):
                    outcome = Outcome(recording.source, recording.size, failures=[Failure(recording.source, CRASHED)])
                ledger.commit(outcome)
                progress.update(bar, advance=1, clips=len(ledger.clips), rejected=len(ledger.failures))

    def _with_splits(self, clips: Iterable[Clip]) -> list[Clip]:
        """The clips, each in a split: the data set's own, an earlier run's, or one by its identity."""
        clips = list(clips)
        fractions = {split: share for split, share in self.fractions.items() if split not in self.dataset.given_splits}
        fixed = {clip.identity: clip.split for clip in clips if clip.split}
        drawn = assign_splits({clip.identity for clip in clips}, fractions, self.seed, fixed)
        return [clip if clip.split else dataclasses.replace(clip, split=drawn[clip.identity]) for clip in clips]

    def _summarise(self, ledger: Ledger, n_recordings: int) -> None:
        rejected = f"{len(ledger.failures)} rejected: {self.root / 'failures.csv'}"
        if not ledger.clips:
            raise StoreError(f"None of the {n_recordings} recordings below {self.raw} gave a clip ({rejected}).")
        splits = Counter(clip.split for clip in ledger.clips)
        log.info(
            "%d clips (%.1f minutes, %d people; %s) from %d of %d recordings; %s; look at %s",
            len(ledger.clips),
            sum(clip.duration for clip in ledger.clips) / 60,
            len({clip.identity for clip in ledger.clips}),
            ", ".join(f"{split} {splits[split]}" for split in SPLITS),
            len(ledger.sources_with_clips),
            n_recordings,
            rejected if ledger.failures else "nothing rejected",
            self.root / "report.html",
        )


UNUSABLE = -1  # in place of the bytes of a file that was not opened


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("recordings, {task.fields[clips]} clips, {task.fields[rejected]} rejected"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
