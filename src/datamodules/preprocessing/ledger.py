"""What has become of each recording, kept so that a run which was killed continues where it stopped."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from src.datamodules.preprocessing.worker import Outcome
from src.datamodules.store import Clip, Failure, StoreWriter
from src.datamodules.tables import append_rows, cut_unfinished_line, read_rows, write_rows

RECORDING_COLUMNS = ("source", "bytes", "clips", "failures")
FAILURE_COLUMNS = ("source", "start", "end", "reason")


class Ledger:
    """The tables of a store that grow together: clips.csv, failures.csv and recordings.csv.

    The rows of a recording are appended in this order, so that a row in recordings.csv says: the others are complete. Rows of
    recordings without one are leftovers of a killed run: `keep` drops them.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._failures_path = writer.root / "failures.csv"
        self._recordings_path = writer.root / "recordings.csv"
        self._rows = {row["source"]: row for row in _recover(self._recordings_path)}
        self._failures = [_failure(row) for row in _recover(self._failures_path)]

    @property
    def clips(self) -> list[Clip]:
        """The clips so far."""
        return self._writer.clips

    @property
    def failures(self) -> list[Failure]:
        """What was rejected so far."""
        return self._failures

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each recording that is done."""
        return {source: int(row["bytes"]) for source, row in self._rows.items()}

    @property
    def sources_with_clips(self) -> set[str]:
        """The recordings that gave clips."""
        return {clip.source for clip in self.clips}

    @property
    def sources_with_failures(self) -> set[str]:
        """The recordings of which some part, or all, was rejected."""
        return {failure.source for failure in self.failures}

    def commit(self, outcome: Outcome) -> None:
        """Append what became of one recording."""
        self._writer.append(outcome.clips)
        append_rows(self._failures_path, FAILURE_COLUMNS, [_failure_row(failure) for failure in outcome.failures])
        row = {
            "source": outcome.source,
            "bytes": str(outcome.size),
            "clips": str(len(outcome.clips)),
            "failures": str(len(outcome.failures)),
        }
        append_rows(self._recordings_path, RECORDING_COLUMNS, [row])
        self._rows[outcome.source] = row
        self._failures += outcome.failures

    def keep(self, sources: Collection[str]) -> None:
        """Drop every recording but these, with its rows."""
        rows = {source: row for source, row in self._rows.items() if source in sources}
        clips = [clip for clip in self.clips if clip.source in rows]
        failures = [failure for failure in self._failures if failure.source in rows]
        if len(rows) < len(self._rows):  # first of the three: a recording without its row is done again
            write_rows(self._recordings_path, RECORDING_COLUMNS, list(rows.values()))
        if len(clips) < len(self.clips):
            self._writer.replace(clips)
        if len(failures) < len(self._failures):
            write_rows(self._failures_path, FAILURE_COLUMNS, [_failure_row(failure) for failure in failures])
        self._rows, self._failures = rows, failures

    def finish(self, clips: Iterable[Clip]) -> None:
        """Write the tables sorted, so that they do not depend on the order in which the workers came back."""
        self._failures.sort(key=lambda failure: (failure.source, failure.start or 0.0))
        self._rows = dict(sorted(self._rows.items()))
        write_rows(self._failures_path, FAILURE_COLUMNS, [_failure_row(failure) for failure in self._failures])
        write_rows(self._recordings_path, RECORDING_COLUMNS, list(self._rows.values()))
        self._writer.replace(clips)
        self._writer.finish()


def read_failures(root: Path) -> list[Failure]:
    """All rows of `root`/failures.csv; none where there is no such file."""
    path = root / "failures.csv"
    return [_failure(row) for row in read_rows(path)] if path.is_file() else []


def _recover(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    cut_unfinished_line(path)
    return read_rows(path)


def _failure(row: Mapping[str, str]) -> Failure:
    start, end = (float(row[name]) if row[name] else None for name in ("start", "end"))
    return Failure(row["source"], row["reason"], start, end)


def _failure_row(failure: Failure) -> dict[str, str]:
    start, end = ("" if value is None else f"{value:.6g}" for value in (failure.start, failure.end))
    return {"source": failure.source, "start": start, "end": end, "reason": failure.reason}
