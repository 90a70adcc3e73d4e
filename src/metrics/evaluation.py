"""Compares generated with real videos: clip by clip, then over the clips.

A clip that cannot be compared (a damaged file, too different a length) is listed with its reason and the others go on. Each quantity is
averaged over the clips in which it is defined, each clip counting once unless the quantity is pooled (blinks by seconds, words by
words); the number of clips left out stands beside it. Distances of whole sets come from features that the clips leave behind.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from src.errors import ConfigError, FaceError, VisemeError
from src.face.detector import FaceTracker
from src.metrics import weights
from src.metrics.cache import ResultCache
from src.metrics.clips import OpenClip, Rules, check_rates, open_clip
from src.metrics.face_measures import (
    BlinkReading,
    FaceMeasure,
    FaceReading,
    IdentityReading,
    LandmarkReading,
    PoseReading,
)
from src.metrics.frechet import VideoFeatures
from src.metrics.measures import (
    NO_STORE,
    ImageMeasure,
    Measure,
    MouthPixelMeasure,
    SharpnessMeasure,
    SmoothnessMeasure,
    Values,
)
from src.metrics.network_measures import (
    ClipFeatures,
    FrameFeatures,
    LpipsMeasure,
    SyncMeasure,
    SyncProtocol,
    WordMeasure,
)
from src.metrics.pairing import Pair
from src.metrics.perceptual import PerceptualDistance
from src.metrics.quantities import chosen_groups, names_of
from src.metrics.results import ClipScores, FailedClip, Result
from src.metrics.transcripts import SpeechRecogniser
from src.nn.s3fd import S3FD
from src.nn.syncnet import SyncNet

log = logging.getLogger(__name__)

NO_DETECTION = "needs face detection, which landmarks=false turns off"
NO_RECOGNISER = (
    "needs a speech recogniser of transformers, get one with asr=NAME, for example asr=openai/whisper-base.en"
)
UNDEFINED = "undefined: no frame with a face in both videos, or a curve that does not change"
FACE_GROUPS = ("landmarks", "mouth_sound", "blinks", "pose", "identity")

Trackers = tuple[FaceTracker, FaceTracker]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Options:
    """What is measured, and with what.

    Attributes:
        metrics: names of groups or quantities; None: everything.
        landmarks: detect faces in the generated frames.
        device: of the networks.
        lpips: backbone, `alex` or `vgg`.
        arcface: depth, 50 or 100.
        fid_antialias: reduce frames for FID with antialiasing; False compares with pytorch-fid and older papers.
        fvd: `squeezed` or `cropped`, see `src.metrics.frechet.VideoFeatures`.
        sync: `whole` or `tracks`, see `src.metrics.network_measures.SyncMeasure`.
        asr: a speech recogniser of transformers, for the word error rate.
        transcripts: what is said, by name of the clip.
    """

    metrics: tuple[str, ...] | None = None
    landmarks: bool = True
    device: str = "cpu"
    lpips: str = "alex"
    arcface: int = 50
    fid_antialias: bool = True
    fvd: str = "squeezed"
    sync: SyncProtocol = "whole"
    asr: str | None = None
    transcripts: Mapping[str, str] = field(default_factory=dict)


class Evaluator:
    """Measures one pair after the other; detectors and networks are opened once. A context manager.

    Args:
        rules: how two videos are made comparable.
        options: what is measured.
        networks: by group, in place of the published ones: for checks of the mechanism, since no other weights give a number that means
            anything.

    Raises:
        ConfigError: a metric that does not exist is asked for.
    """

    def __init__(self, rules: Rules, options: Options, networks: Mapping[str, nn.Module] | None = None) -> None:
        self._given = networks or {}
        self._rules = rules
        self._options = options
        self._groups = chosen_groups(options.metrics)
        self._stack = ExitStack()

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def __call__(self, pair: Pair) -> Result:
        """The scores of a pair, or why there are none."""
        try:
            clip = open_clip(pair, self._rules)
            measures, values = self._measures(clip)
            for generated, real in clip.frames():
                for measure in measures:
                    measure.add(generated, real)
            for measure in measures:
                values.update(measure.finish())
        except VisemeError as error:
            return FailedClip(pair.name, str(error))
        return ClipScores(
            clip.name, clip.n_frames, clip.fps, clip.size, _without_undefined(values), clip.loudness, clip.notes
        )

    def _measures(self, clip: OpenClip) -> tuple[list[Measure], Values]:
        """What can be measured on this clip, and the reasons for what cannot."""
        absent = Values()
        makers: dict[str, Callable[[], Measure | str]] = {
            "image": ImageMeasure,
            "lpips": lambda: _with(self._lpips, LpipsMeasure),
            "fid": lambda: _with(self._inception, FrameFeatures),
            "fvd": lambda: _with(self._i3d, ClipFeatures),
            "cpbd": SharpnessMeasure,
            "mouth_pixels": lambda: NO_STORE if clip.landmarks is None else MouthPixelMeasure(clip),
            "sync": lambda: self._sync(clip),
            "wer": lambda: self._words(clip),
        }
        made = {group: makers[group]() for group in self._groups if group in makers}
        smooth = tuple(name for group in ("frame_mse", "flow") if group in self._groups for name in names_of(group))
        if smooth:
            made["frame_mse"] = _made_or_reason(lambda: SmoothnessMeasure(smooth))
        measures = []
        for group, measure in made.items():
            if isinstance(measure, str):
                absent.leave_out(smooth if group == "frame_mse" else names_of(group), measure)
            else:
                measures.append(measure)
        faces = self._faces(clip, absent)  # after the pixels: its curve of the real mouth wins
        return [*measures, *([faces] if faces else [])], absent

    def _faces(self, clip: OpenClip, absent: Values) -> FaceMeasure | None:
        wanted = [group for group in FACE_GROUPS if group in self._groups]
        if not wanted:
            return None
        trackers = self._trackers if self._options.landmarks else NO_DETECTION
        if isinstance(trackers, str):
            for group in wanted:
                absent.leave_out(names_of(group), trackers)
            return None
        readings: list[FaceReading] = []
        if {"landmarks", "mouth_sound"} & {*wanted}:
            readings.append(LandmarkReading(clip))
        if "blinks" in wanted:
            readings.append(BlinkReading(clip))
        if "pose" in wanted:
            readings.append(PoseReading(clip))
        if "identity" in wanted:
            network = self._arcface
            if isinstance(network, str):
                absent.leave_out(names_of("identity"), network)
            else:
                readings.append(IdentityReading(network))
        return FaceMeasure(clip, trackers, readings)

    def _sync(self, clip: OpenClip) -> Measure | str:
        network = self._syncnet
        if isinstance(network, str):
            return network
        if self._options.sync == "whole":
            return SyncMeasure(clip, network)
        detector = self._s3fd
        return detector if isinstance(detector, str) else SyncMeasure(clip, network, "tracks", detector)

    def _words(self, clip: OpenClip) -> Measure | str:
        recogniser = self._recogniser
        if recogniser is None:
            return NO_RECOGNISER
        return WordMeasure(clip, recogniser, self._options.transcripts.get(clip.name))

    @cached_property
    def _trackers(self) -> Trackers | str:
        """A face tracker for each side, or the reason why there is none."""
        try:
            return self._stack.enter_context(FaceTracker()), self._stack.enter_context(FaceTracker())
        except FaceError as error:
            return str(error)

    def _network(self, group: str, file: str, load: Callable[[], nn.Module]) -> Any:
        """A network on the device, or the reason why there is none; a damaged file is an error."""
        if group in self._given:
            return self._given[group]
        return weights.missing(file) or load().to(self._options.device)

    @cached_property
    def _lpips(self) -> PerceptualDistance | str:
        backbone = self._options.lpips
        return self._network("lpips", weights.LPIPS[backbone], lambda: weights.lpips(backbone))

    @cached_property
    def _inception(self) -> nn.Module | str:
        return self._network("fid", weights.INCEPTION, lambda: weights.inception(self._options.fid_antialias))

    @cached_property
    def _i3d(self) -> nn.Module | str:
        return self._network("fvd", weights.I3D_FILE, lambda: VideoFeatures(weights.i3d(), self._options.fvd))

    @cached_property
    def _arcface(self) -> nn.Module | str:
        depth = self._options.arcface
        return self._network("identity", weights.ARCFACE[depth], lambda: weights.arcface(depth))

    @cached_property
    def _syncnet(self) -> SyncNet | str:
        return self._network("sync", weights.SYNCNET, weights.syncnet)

    @cached_property
    def _s3fd(self) -> S3FD | str:
        return self._network("tracks", weights.S3FD_FILE, weights.face_detector)

    @cached_property
    def _recogniser(self) -> SpeechRecogniser | None:
        return None if self._options.asr is None else SpeechRecogniser(self._options.asr, self._options.device)


def _with(network: Network | str, make: Callable[[Network], Measure]) -> Measure | str:
    """What measures with the network, or the reason why there is none."""
    return network if isinstance(network, str) else make(network)


def _made_or_reason(make: Callable[[], Measure]) -> Measure | str:
    try:
        return make()
    except ConfigError as error:
        return str(error)


def _without_undefined(values: Values) -> Values:
    """NaN becomes an absent value, with a reason, so that no mean can swallow it."""
    for name in [name for name, value in values.generated.items() if not -float("inf") < value < float("inf")]:
        del values.generated[name]
        values.absent.setdefault(name, UNDEFINED)
    return values


def evaluate(
    pairs: tuple[Pair, ...],
    rules: Rules,
    options: Options | None = None,
    workers: int = 1,
    cache: ResultCache | None = None,
) -> Iterator[Result]:
    """Compare each pair; a generator, so that a caller can show progress. With several workers results come as they are ready.

    Args:
        pairs: what to compare.
        rules: how two videos are made comparable.
        options: what is measured.
        workers: processes that measure clips side by side; 1: this one.
        cache: where results are kept, and found again by a later run.

    Raises:
        ConfigError: frame rates differ and `rules.resample` is off, or a metric does not exist; found before anything is computed.
        VisemeError: a worker's process died.
    """
    options = options or Options()
    chosen_groups(options.metrics)
    if not rules.resample and rules.fps is None:
        check_rates(pairs)
    waiting = []
    for pair in pairs:
        known = cache.read(pair) if cache else None
        if known is None:
            waiting.append(pair)
        else:
            yield known
    for pair, result in _compute(waiting, rules, options, min(workers, len(waiting))):
        if cache:
            cache.write(pair, result)
        yield result


def _compute(pairs: list[Pair], rules: Rules, options: Options, workers: int) -> Iterator[tuple[Pair, Result]]:
    if workers <= 1:
        with Evaluator(rules, options) as evaluator:
            for pair in pairs:
                yield pair, evaluator(pair)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(rules, options)) as pool:
        jobs = {pool.submit(_work, pair): pair for pair in pairs}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            raise VisemeError(
                "A process that compared videos died, probably for lack of memory: run the command again, which goes on "
                "where it stopped, with fewer workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_evaluators: list[Evaluator] = []  # of a worker's process: one


def _start_worker(rules: Rules, options: Options) -> None:
    torch.set_num_threads(1)
    _evaluators.append(Evaluator(rules, options))


def _work(pair: Pair) -> Result:
    return _evaluators[0](pair)
