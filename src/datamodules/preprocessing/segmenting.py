"""Cutting a recording into clips: one shot, one visible face, bounded length."""

from dataclasses import dataclass
from enum import Enum


class Rejection(Enum):
    """Why a stretch of a recording gives no clip."""

    NO_FACE = "no face"
    SHORT = "too short"


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop - 1` of a recording: a clip, or, with a reason, a stretch that gives none."""

    start: int
    stop: int
    rejected: Rejection | None = None

    def __len__(self) -> int:
        return self.stop - self.start


class Segmenter:
    """Cuts a stream of frames into segments, with no more memory than the longest clip.

    A clip begins and ends with a frame in which the face was found and lies within one shot. Short gaps of the detector are
    bridged. A long stretch gives clips of `max_frames`; its rest is joined with the last of them and halved when it is too
    short to stand alone, so that nothing is lost.

    Args:
        min_frames: shorter stretches are rejected.
        max_frames: length of a clip at most; at least twice `min_frames`.
        max_gap: frames in a row without the face that do not end a clip.
    """

    def __init__(self, min_frames: int, max_frames: int, max_gap: int) -> None:
        assert 2 <= 2 * min_frames <= max_frames, "the halves of a long stretch must be long enough"
        self.min_frames = min_frames
        self.max_frames = max_frames
        self.max_gap = max_gap
        self._next = 0  # index of the next frame
        self._start: int | None = None  # of the open clip
        self._found: list[bool] = []  # since then
        self._lost = 0  # where the stretch without a face began, while no clip is open

    @property
    def needed_from(self) -> int:
        """Index of the first frame that a later clip may still contain."""
        return self._next if self._start is None else self._start

    def update(self, found: bool, cut: bool = False) -> list[Segment]:
        """Segments that the next frame completes: `found` tells whether it shows the face, `cut` whether it begins a shot."""
        done = self._close(self._next) if cut else []
        index, self._next = self._next, self._next + 1
        if self._start is None:
            if not found:
                return done
            done += self._faceless(index)
            self._start = index
        self._found.append(found)
        if not any(self._found[-self.max_gap - 1 :]):
            done += self._close(self._start + _last(self._found) + 1)
        elif found and len(self._found) >= self.max_frames + self.min_frames:
            done += self._split(self.max_frames)
        return done

    def finish(self) -> list[Segment]:
        """Segments that the end of the recording completes."""
        done = self._close(self._next)
        return done + self._faceless(self._next)

    def _close(self, stop: int) -> list[Segment]:
        """End the open clip before frame `stop`, trailing frames without the face left out."""
        if self._start is None:
            return []
        done = []
        length = _last(self._found[: stop - self._start]) + 1
        if length > self.max_frames:
            done += self._split(length // 2)
            length = _last(self._found) + 1
        segment = self._piece(self._start, length)
        self._start, self._found, self._lost = None, [], segment.stop
        return [*done, segment]

    def _piece(self, start: int, length: int) -> Segment:
        return Segment(start, start + length, Rejection.SHORT if length < self.min_frames else None)

    def _split(self, length: int) -> list[Segment]:
        """Take the first `length` frames of the open clip; both parts begin and end with the face found."""
        start, found = self._start or 0, self._found
        kept = _last(found[:length]) + 1
        skipped = found[length:].index(True)
        self._start, self._found = start + length + skipped, found[length + skipped :]
        return [self._piece(start, kept)]

    def _faceless(self, stop: int) -> list[Segment]:
        if self._start is None and stop - self._lost > self.max_gap:
            return [Segment(self._lost, stop, Rejection.NO_FACE)]
        return []


def _last(found: list[bool]) -> int:
    """Index of the last True; -1 without any."""
    return next((i for i in range(len(found) - 1, -1, -1) if found[i]), -1)
