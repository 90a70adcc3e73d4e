"""Compares generated with real videos: clip by clip, then over the clips.

A clip that cannot be compared (a damaged file, too different a length) is listed with its reason and the others go on. Each quantity is
averaged over the clips in which it is defined, each clip counting once; the number of clips left out stands beside it.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from src.errors import FaceError, VisemeError
from src.face.detector import FaceTracker
from src.metrics.clips import OpenClip, Rules, check_rates, open_clip
from src.metrics.measures import (
    AUDIO,
    LANDMARK,
    NO_STORE,
    PIXEL,
    PIXEL_AUDIO,
    QUANTITIES,
    ImageMeasure,
    LandmarkMeasure,
    Measure,
    MouthPixelMeasure,
    Values,
)
from src.metrics.pairing import Pair

log = logging.getLogger(__name__)

NO_DETECTION = "needs face detection, which landmarks=false turns off"
UNDEFINED = "undefined: no frame with a face in both videos, or a curve that does not change"

Trackers = tuple[FaceTracker, FaceTracker]


@dataclass(frozen=True)
class ClipScores:
    """The values of one pair of videos."""

    name: str
    n_frames: int
    fps: float
    size: tuple[int, int]
    values: Values
    loudness: np.ndarray | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FailedClip:
    """A pair that could not be compared, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Aggregate:
    """A quantity over all clips: mean and standard deviation (n - 1) over the `n` clips in which it is defined, out of `clips`.

    `real` and `still` are means too, NaN where the quantity has none. `reason` says why the quantity is not computed at all.
    """

    mean: float
    std: float
    n: int
    clips: int
    real: float
    still: float
    reason: str = ""

    @property
    def failed(self) -> int:
        """Clips without a value."""
        return self.clips - self.n


def evaluate(pairs: tuple[Pair, ...], rules: Rules, landmarks: bool = True) -> Iterator[ClipScores | FailedClip]:
    """Compare each pair; a generator, so that a caller can show progress.

    Args:
        pairs: what to compare.
        rules: how two videos are made comparable.
        landmarks: detect faces in the generated frames; where that is impossible the reason is reported instead.

    Raises:
        ConfigError: frame rates differ and `rules.resample` is off; found before anything is computed.
    """
    if not rules.resample:
        check_rates(pairs)
    with ExitStack() as stack:
        trackers = _open_trackers(stack) if landmarks else NO_DETECTION
        for pair in pairs:
            try:
                yield _evaluate_pair(pair, rules, trackers)
            except VisemeError as error:
                yield FailedClip(pair.name, str(error))


def _open_trackers(stack: ExitStack) -> Trackers | str:
    """A face tracker for each side, or the reason why there is none."""
    try:
        return stack.enter_context(FaceTracker()), stack.enter_context(FaceTracker())
    except FaceError as error:
        return str(error)


def _evaluate_pair(pair: Pair, rules: Rules, trackers: Trackers | str) -> ClipScores:
    clip = open_clip(pair, rules)
    measures, values = _measures(clip, trackers)
    for generated, real in clip.frames():
        for measure in measures:
            measure.add(generated, real)
    for measure in measures:
        values.update(measure.finish())
    return ClipScores(
        clip.name, clip.n_frames, clip.fps, clip.size, _without_undefined(values), clip.loudness, clip.notes
    )


def _measures(clip: OpenClip, trackers: Trackers | str) -> tuple[list[Measure], Values]:
    """What can be measured on this clip, and the reasons for what cannot."""
    measures: list[Measure] = [ImageMeasure()]
    absent = Values()
    if clip.landmarks is None:
        absent.leave_out(PIXEL + PIXEL_AUDIO, NO_STORE)
    else:
        measures.append(MouthPixelMeasure(clip))
    if isinstance(trackers, str):
        absent.leave_out(LANDMARK + AUDIO, trackers)
    else:
        measures.append(LandmarkMeasure(clip, trackers))  # after the pixels: its curve of the real mouth wins
    return measures, absent


def _without_undefined(values: Values) -> Values:
    """NaN becomes an absent value, with a reason, so that no mean can swallow it."""
    for name in [name for name, value in values.generated.items() if not np.isfinite(value)]:
        del values.generated[name]
        values.absent.setdefault(name, UNDEFINED)
    return values


def aggregate(results: Iterable[ClipScores | FailedClip]) -> dict[str, Aggregate]:
    """Each quantity over the clips."""
    results = list(results)
    scores = [result for result in results if isinstance(result, ClipScores)]
    return {name: _aggregate(name, scores, len(results)) for name in QUANTITIES}


def _aggregate(name: str, scores: list[ClipScores], clips: int) -> Aggregate:
    defined = [s.values for s in scores if name in s.values.generated]
    values = [v.generated[name] for v in defined]
    reasons = Counter(s.values.absent[name] for s in scores if name in s.values.absent)
    return Aggregate(
        mean=_finite_mean(values),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        n=len(values),
        clips=clips,
        real=_finite_mean([v.real.get(name, np.nan) for v in defined]),
        still=_finite_mean([v.still.get(name, np.nan) for v in defined]),
        reason="" if values or not reasons else reasons.most_common(1)[0][0],
    )


def _finite_mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
