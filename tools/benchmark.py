"""Measure speed and memory: `python tools/benchmark.py benchmark.which=[loader,training]` (see --help).

Every number is the median of repetitions after a warm-up. What is compared (the loader with bare decoding, preprocessing with the
detector alone) takes turns within one run, so that a ratio survives a machine whose speed changes.
"""

import json
import logging
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from src.audio.sadtalker_mel import N_MELS, STEPS
from src.cli import command
from src.datamodules.preprocessing.recordings import Recording
from src.datamodules.preprocessing.worker import ClipOptions, Worker
from src.datamodules.store import Clip, ClipStore, StoreWriter
from src.datamodules.synthetic.clip import SyntheticClip, synthesise_clip
from src.errors import ConfigError, FaceError
from src.face.alignment import SquareCropAlignment
from src.face.detector import FaceTracker
from src.media import VideoReader, atomic_path, write_video
from src.metrics.clips import Rules
from src.metrics.evaluation import Options, evaluate
from src.metrics.pairing import Pair, Reference
from src.nn.liveportrait_talker import INFERENCE_WINDOW, TalkingPortrait
from src.nn.liveportrait_talker.driving import driving_key_points
from src.nn.liveportrait_talker.exp_net import EXPRESSIONS
from src.nn.liveportrait_talker.face_regressor import INPUT_SIZE

log = logging.getLogger(__name__)

MEASURED = Options(
    ("image", "cpbd", "frame_mse", "mouth_pixels")
)  # by evaluate.py's benchmark: needs no detector and no weights


@dataclass(frozen=True)
class Row:
    """One measured number: `spread` is half the distance between the quartiles over the median; `note` says what it stands beside."""

    benchmark: str
    what: str
    value: float
    unit: str
    spread: float | None = None
    note: str = ""


@dataclass
class Bench:
    """What the measurements share: settings, device, data; everything is made when it is first needed."""

    cfg: DictConfig
    stack: ExitStack
    skipped: dict[str, str] = field(default_factory=dict)

    @cached_property
    def options(self) -> DictConfig:
        """The settings below `benchmark`."""
        return self.cfg.benchmark

    @cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        name = self.options.device
        if name not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"benchmark.device={name}: choose auto, cpu or cuda.")
        if name == "cuda" and not torch.cuda.is_available():
            raise ConfigError("benchmark.device=cuda: PyTorch sees no GPU; choose cpu or auto.")
        return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

    @cached_property
    def folder(self) -> Path:
        """Removed at the end."""
        return Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="viseme-benchmark-")))

    @cached_property
    def root(self) -> Path:
        """The clip store."""
        return Path(self.options.root) if self.options.root else self._rendered_store()

    def clip(self, seed: int, size: int) -> SyntheticClip:
        """A rendered clip."""
        return synthesise_clip(seed, seed, self.options.frames, size)

    def _rendered_store(self) -> Path:
        root = self.folder / "store"
        with StoreWriter(root) as writer:
            for i in range(self.options.clips):
                clip = self.clip(i, self.options.size)
                split = "validation" if i == self.options.clips - 1 else "train"
                writer.add(
                    f"c{i:04d}",
                    f"person{i}",
                    [clip.frames],
                    clip.landmarks,
                    clip.blendshapes,
                    audio=clip.audio,
                    split=split,
                )
            writer.finish()
        return root

    def datamodule(self, **replaced: Any) -> pl.LightningDataModule:
        """The experiment's data on the store of the benchmark."""
        with open_dict(self.cfg):
            self.cfg.datamodule.root = str(self.root)
        datamodule: pl.LightningDataModule = hydra.utils.instantiate(self.cfg.datamodule, **replaced)
        datamodule.prepare_data()
        datamodule.setup("fit")
        return datamodule

    def loader(self, **replaced: Any) -> DataLoader:
        """Training batches."""
        return self.datamodule(**replaced).train_dataloader()

    def module(self) -> pl.LightningModule:
        """The experiment's LightningModule on the device."""
        return hydra.utils.instantiate(self.cfg.model).to(self.device)

    def precision(self) -> Any:
        """What the trainer's precision means for one forward pass."""
        if "bf16" in str(self.cfg.trainer.precision):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


Task = Callable[[], object]


def seconds(tasks: Mapping[str, Task], repeats: int, wait: Task = lambda: None) -> dict[str, list[float]]:
    """Durations of the tasks, which take turns, after one round of warm-up."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            wait()
            if turn:
                found[name].append(time.perf_counter() - start)
    return found


def spread(values: list[float]) -> float | None:
    """Half the distance between the quartiles over the median; None for fewer than three values."""
    if len(values) < 3:
        return None
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def rate(benchmark: str, what: str, times: list[float], amount: int, unit: str, note: str = "") -> Row:
    """`amount` per median duration."""
    return Row(benchmark, what, amount / statistics.median(times), unit, spread(times), note)


def ratio(a: list[float], b: list[float]) -> str:
    """How many times faster `b` was than `a`, turn by turn, in per cent."""
    return f"{100 * statistics.median(y / x for x, y in zip(a, b, strict=True)):.0f} %"


def render(bench: Bench) -> Iterator[Row]:
    """Synthetic heads: whole clips with sound."""
    size, frames = bench.options.size, bench.options.frames
    times = seconds({"clip": lambda: bench.clip(0, size)}, bench.options.repeats)["clip"]
    yield rate("render", f"synthetic clip {size}x{size} with sound", times, frames, "frames/s")


def preprocessing(bench: Bench) -> Iterator[Row]:
    """A recording becomes clips; beside it the detector alone on decoded frames, the floor of the room."""
    tracker = bench.stack.enter_context(FaceTracker())
    path = Path(bench.options.raw) if bench.options.raw else bench.folder / "raw.mp4"
    if not bench.options.raw:
        clip = bench.clip(0, 2 * bench.options.size)
        write_video(path, clip.frames, 25.0, audio=clip.audio)
    frames = VideoReader(path, fps=25.0).read(range(min(bench.options.frames, len(VideoReader(path, fps=25.0)))))
    recording = Recording(path, path.name, "recording", "someone", "train", path.stat().st_size)
    made: list[int] = []

    def detect() -> None:
        tracker.reset()
        for frame in frames:
            tracker.track(frame)

    def prepare() -> None:
        with tempfile.TemporaryDirectory(dir=bench.folder) as root:
            outcome = Worker(Path(root), SquareCropAlignment(), ClipOptions())(recording)
        made.append(outcome.n_frames if outcome.clips else 0)

    times = seconds({"detector": detect, "worker": prepare}, bench.options.repeats)
    if not made[-1]:
        raise FaceError(f"{path}: no face was found; choose another video with benchmark.raw.")
    per_frame = [[t / n for t in times[name]] for name, n in (("worker", made[-1]), ("detector", len(frames)))]
    what = f"{frames.shape[2]}x{frames.shape[1]}, one process"
    yield rate("preprocessing", f"detector alone, {what}", times["detector"], len(frames), "frames/s")
    yield rate(
        "preprocessing",
        f"recording to clips, {what}",
        times["worker"],
        made[-1],
        "frames/s",
        f"{ratio(*per_frame)} of the detector",
    )


def loader(bench: Bench) -> Iterator[Row]:
    """Training samples from the loader; beside it the bare decoding of as many random frames, in one thread."""
    n_batches, clips = bench.options.batches, ClipStore(bench.root, bench.cfg.datamodule.get("train_split")).clips
    for number, workers in enumerate(bench.options.workers):
        data = bench.loader(num_workers=workers)
        batch, samples = data.batch_size or 1, cast(Sized, data.dataset)
        amount = min(n_batches * batch, len(samples))
        rng = np.random.default_rng(0)
        picks = [(clips[rng.integers(len(clips))], rng.random()) for _ in range(amount)]
        tasks = {"decode": partial(_decode, picks), "loader": partial(_take, data, n_batches)}
        times = seconds(tasks, bench.options.repeats)
        if number == 0:
            yield rate("loader", "bare decoding of random frames", times["decode"], amount, "frames/s")
        note = f"{ratio(times['loader'], times['decode'])} of bare decoding"
        yield rate("loader", f"{workers} workers, batches of {batch}", times["loader"], amount, "samples/s", note)


def _decode(picks: list[tuple[Clip, float]]) -> None:
    for clip, place in picks:
        clip.frames([int(place * clip.n_frames)])


def _take(data: DataLoader, n_batches: int) -> None:
    for i, _ in enumerate(data, start=1):
        if i == n_batches:
            return


PARTS = ("data", "forward", "backward", "optimiser")


def training(bench: Bench) -> Iterator[Row]:
    """Where the time of a training step goes; the loader prepares the next batch meanwhile."""
    module: Any = bench.module().train()
    module.log = lambda *_args, **_options: None  # there is no trainer that could take it
    optimizer: torch.optim.Optimizer = hydra.utils.instantiate(bench.cfg.model.optimizer)(module.parameters())
    data = bench.loader(num_workers=bench.options.workers[-1])
    batches = _endless(data)
    steps = [_timed_step(bench, module, optimizer, batches, i) for i in range(bench.options.steps + 2)][2:]  # warm-up
    times = [sum(step.values()) for step in steps]
    size, weights = data.batch_size or 1, sum(p.numel() for p in module.parameters())
    what = f"batches of {size}, {weights / 1e6:.1f} M weights"
    yield rate("training", what, times, size, "samples/s", str(bench.cfg.trainer.precision))
    for name in PARTS:
        part = [step[name] for step in steps]
        share = statistics.median(part) / statistics.median(times)
        yield Row("training", name, 1000 * statistics.median(part), "ms/step", spread(part), f"{100 * share:.0f} %")


def _timed_step(
    bench: Bench, module: Any, optimizer: torch.optim.Optimizer, batches: Iterator[dict[str, torch.Tensor]], number: int
) -> dict[str, float]:
    """Seconds of each part of one training step."""
    marks = [time.perf_counter()]

    def mark() -> None:
        bench.wait()
        marks.append(time.perf_counter())

    batch = {key: value.to(bench.device, non_blocking=True) for key, value in next(batches).items()}
    mark()
    with bench.precision():
        loss = module.training_step(batch, number)
    mark()
    loss.backward()
    mark()
    torch.nn.utils.clip_grad_norm_(module.parameters(), bench.cfg.trainer.gradient_clip_val or float("inf"))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    mark()
    return {name: end - start for name, start, end in zip(PARTS, marks, marks[1:], strict=False)}


def _endless(data: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from data


def latents(bench: Bench) -> Iterator[Row]:
    """Training steps on pictures, which the frozen first stage encodes, and on latents that were computed before."""
    module: Any = bench.module().train()
    if not hasattr(module, "first_stage"):
        raise ConfigError("benchmark.which=latents is for methods with a first stage: give experiment=difftalk_...")
    module.log = lambda *_args, **_options: None
    optimizer = hydra.utils.instantiate(bench.cfg.model.optimizer)([p for p in module.parameters() if p.requires_grad])
    batch = {key: value.to(bench.device) for key, value in next(iter(bench.loader(num_workers=0))).items()}
    names = ("latent", "masked_latent", "reference_latent")
    cached = dict(zip(names, module.latents_of(batch), strict=True))
    cached |= {key: value for key, value in batch.items() if key not in ("target", "reference")}

    def step(batch: dict[str, torch.Tensor]) -> None:
        with bench.precision():
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tasks = {"pictures": partial(step, batch), "latents": partial(step, cached)}
    times, size = seconds(tasks, bench.options.repeats, bench.wait), len(batch["index"])
    note = (
        f"{statistics.median(times['pictures']) / statistics.median(times['latents']):.2f} times as fast as on pictures"
    )
    yield rate("latents", f"steps on pictures, batches of {size}", times["pictures"], size, "samples/s")
    yield rate("latents", f"steps on latents, batches of {size}", times["latents"], size, "samples/s", note)


def sampling(bench: Bench) -> Iterator[Row]:
    """Generated frames by sampler and number of steps."""
    module: Any = bench.module().eval()
    n = bench.options.sample_batch
    datamodule: Any = bench.datamodule(num_workers=0)
    batch = {key: value.to(bench.device) for key, value in datamodule.preview(n).items()}
    frames = len(batch["index"])

    def generate(sampler: str, steps: int) -> None:
        generator = torch.Generator(bench.device).manual_seed(0)
        with bench.precision(), torch.inference_mode():
            module.sample(batch, generator, sampler=sampler, steps=steps)

    tasks: dict[str, Task] = {}
    for choice in bench.options.samplers:
        sampler, _, steps = choice.partition(":")
        if not steps.isdecimal():
            raise ConfigError(f"benchmark.samplers: {choice!r} is no sampler:steps, such as ddim:50.")
        tasks[f"{sampler}, {steps} steps"] = partial(generate, sampler, int(steps))
    times = seconds(tasks, max(1, bench.options.repeats // 2), bench.wait)
    first = next(iter(times))
    for name, taken in times.items():
        note = (
            ""
            if name == first
            else f"{statistics.median(times[first]) / statistics.median(taken):.1f} times as fast as the first"
        )
        what = f"{name}, batches of {frames}"
        yield Row("sampling", what, statistics.median(taken) / frames, "s/frame", spread(taken), note)


def talker(bench: Bench) -> Iterator[Row]:
    """LivePortraitTalker at its published sizes, with random weights: every network, and the chain from sound to frames by batch size."""
    model = TalkingPortrait().eval().requires_grad_(False).to(bench.device)
    model.generator.fold_spectral_norm()
    with bench.precision(), torch.inference_mode():
        networks = _networks(model)
        chains: dict[str, Task] = {f"batches of {n}": _chain(model, n) for n in bench.options.talker_batches}
        times = seconds(networks | chains, bench.options.repeats, bench.wait)
    for name in networks:
        yield Row("talker", name, statistics.median(times[name]), "s/frame", spread(times[name]))
    first, *_ = chains
    per_frame = {
        name: [t / n for t in times[name]] for name, n in zip(chains, bench.options.talker_batches, strict=True)
    }
    side = f"{model.input_size}x{model.input_size} to {model.output_size}x{model.output_size}"
    for name, taken in per_frame.items():
        note = "" if name == first else f"{ratio(taken, per_frame[first])} of the speed of the first"
        yield Row(
            "talker", f"sound to frames, {side}, {name}", statistics.median(taken), "s/frame", spread(taken), note
        )


def _networks(model: TalkingPortrait) -> dict[str, Task]:
    """One frame through every network."""
    device, side = model.device, model.input_size
    face, aligned = (torch.rand(1, 3, n, n, device=device) for n in (side, INPUT_SIZE))
    volume, points = model.volume(face), model.motion(face).points()
    features = model.warping(volume, points, points).features
    mels, reference = torch.randn(1, 1, N_MELS, STEPS, device=device), torch.randn(1, 1, EXPRESSIONS, device=device)
    window = torch.randn(1, EXPRESSIONS, sum(INFERENCE_WINDOW) + 1, device=device)
    return {
        "appearance extractor, once per picture": lambda: model.volume(face),
        "motion extractor, once per picture": lambda: model.motion(face),
        "face regressor, once per source": lambda: model.expression(aligned),
        "ExpNet": lambda: model.exp_net(mels, reference),
        "MappingNet": lambda: model.mapping_net(window),
        "stitching and eyes": lambda: (model.stitch(points, points), model.eye_correction(points, points[:, 0])),
        "warping": lambda: model.warping(volume, points, points),
        "generator": lambda: model.generator(features),
    }


def _chain(model: TalkingPortrait, n: int) -> Task:
    """What every frame costs: lips of the sound, key points, rendering; `n` frames at a time."""
    face = torch.rand(1, 3, model.input_size, model.input_size, device=model.device)
    volume, motion = model.volume(face), model.motion(face)
    mels, reference = (
        torch.randn(n, N_MELS, STEPS, device=model.device),
        torch.randn(1, EXPRESSIONS, device=model.device),
    )

    def run() -> None:
        lips = model.lips(mels, reference)
        x_s, x_d = driving_key_points(motion, lips, stitching=model.stitching)
        model.render(volume, x_s, x_d)

    return run


def evaluation(bench: Bench) -> Iterator[Row]:
    """Metrics without detector, weights and optical flow, of a video against itself; beside it the bare decoding of both videos."""
    clip = ClipStore(bench.root).clips[0]
    reference = Reference(
        clip.video_path, clip.array_path(), clip.array_path("valid"), clip.audio_path if clip.has_audio else None
    )
    pair = Pair(clip.id, clip.video_path, reference)

    def read() -> None:
        for _ in range(2):
            for _ in VideoReader(clip.video_path).stream():
                pass

    tasks = {"decode": read, "evaluate": lambda: list(evaluate((pair,), Rules(), MEASURED))}
    times = seconds(tasks, bench.options.repeats)
    note = f"{ratio(times['evaluate'], times['decode'])} of bare decoding"
    yield rate(
        "evaluation",
        f"metrics without weights, {clip.width}x{clip.height}",
        times["evaluate"],
        clip.n_frames,
        "frames/s",
        note,
    )


BENCHMARKS = {f.__name__: f for f in (render, preprocessing, loader, training, latents, sampling, talker, evaluation)}


def measure(bench: Bench) -> list[Row]:
    """The chosen benchmarks, each with its peak memory."""
    rows: list[Row] = []
    for name in bench.options.which:
        log.info("measuring %s", name)
        _reset_peak()
        try:
            rows += BENCHMARKS[name](bench)
        except FaceError as error:
            bench.skipped[name] = str(error)
            continue
        rows.append(Row(name, "peak memory", _peak_memory(), "MiB"))
        if bench.device.type == "cuda":
            rows.append(Row(name, "peak GPU memory", torch.cuda.max_memory_allocated() / 2**20, "MiB"))
    return rows


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # the peak then starts from the memory in use now


def _peak_memory() -> float:
    """MiB of resident memory since the last reset (on Linux; elsewhere of the whole run)."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": cores,
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def table(rows: list[Row]) -> Table:
    """Rows for the screen."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("benchmark", "what", "value", "unit", "spread", ""):
        shown.add_column(name, justify="right" if name in ("value", "spread") else "left")
    for row in rows:
        value = f"{row.value:.3f}" if row.value < 10 else f"{row.value:,.0f}"
        shown.add_row(
            row.benchmark,
            row.what,
            value,
            row.unit,
            "" if row.spread is None else f"± {100 * row.spread:.0f} %",
            row.note,
        )
    return shown


@command("benchmark")
def main(cfg: DictConfig) -> None:
    """Measure, show, write."""
    options = cfg.benchmark
    if unknown := sorted(set(options.which) - BENCHMARKS.keys()):
        raise ConfigError(f"benchmark.which: there is no {unknown[0]!r}; choose of {', '.join(BENCHMARKS)}.")
    for name in ("samplers", "workers", "talker_batches"):
        if not options[name]:
            raise ConfigError(f"benchmark.{name}={options[name]}: give one or more.")
    if options.threads:
        torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        bench = Bench(cfg, stack)
        about = machine(bench.device)
        rows = measure(bench)
    screen = Console(width=None if sys.stdout.isatty() else 120)
    screen.print(", ".join(f"{key} {value}" for key, value in about.items() if value is not None), highlight=False)
    screen.print(table(rows))
    for name, reason in bench.skipped.items():
        screen.print(f"{name}: not measured: {reason}", style="yellow", highlight=False)
    document = {"machine": about, "rows": [asdict(row) for row in rows], "not_measured": bench.skipped}
    with atomic_path(options.out) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")
    screen.print(f"written: {options.out}", highlight=False)


if __name__ == "__main__":
    main()
