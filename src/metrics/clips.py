"""A generated video beside its real one, opened for comparison: same frames, same size, same rate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from src.errors import ConfigError, MediaError
from src.media import VideoInfo, VideoReader, probe, read_audio
from src.media.curves import audio_envelope
from src.metrics.pairing import Pair, Reference

SAME_RATE = 5e-4  # relative: 29.97 and 30 fps drift apart by a frame every 33 s
SAME_ASPECT = 0.02

Side = Literal["generated", "real"]


@dataclass(frozen=True)
class Rules:
    """How two videos are made comparable.

    Attributes:
        resample: bring the real video to the generated one's frame rate instead of refusing another rate.
        fps: bring both videos to this rate; None: the generated one's.
        size: side of the squares that both are brought to; the generated video is never enlarged. None: the generated one's size.
        max_frames: compare only this many frames; None: all.
        skip_frames: leave out this many first frames (1 for methods that return the source picture as their first frame).
        max_length_difference: largest difference of the numbers of frames; the longer video is cut.
        max_lag: largest shift between mouth and sound that is tried, in frames.
        chunk: frames in memory at a time.
        backend: decoder of `src.media.VideoReader`.
    """

    resample: bool = False
    fps: float | int | None = None
    size: int | None = None
    max_frames: int | None = None
    skip_frames: int = 0
    max_length_difference: int = 2
    max_lag: int = 5
    chunk: int = 16
    backend: str = "decord"


@dataclass(frozen=True)
class OpenClip:
    """Two videos over the same `n_frames` frames.

    Attributes:
        size: height and width of the generated frames, to which the real ones are resized.
        landmarks: points of the real face in pixels of that size, gaps interpolated; None where nothing is known about it.
        face_known: frames in which the real face was detected.
        loudness: of the sound in each frame; None without sound.
        notes: what was cut or resampled, in words.
        rules: how the two were made comparable.
        sounds: files with the voice that drove the generated video (its own, or else the real one's) and with that of the real one.
    """

    name: str
    n_frames: int
    fps: float
    size: tuple[int, int]
    landmarks: Float32[np.ndarray, "t 478 3"] | None
    face_known: Bool[np.ndarray, " t"] | None
    loudness: Float[np.ndarray, " t"] | None
    notes: tuple[str, ...]
    rules: Rules
    sounds: Mapping[Side, Path | None]
    _generated: VideoReader = field(repr=False)
    _reference: VideoReader = field(repr=False)

    def frames(self) -> Iterator[tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "t h w 3"]]]:
        """Generated and real frames, a chunk at a time: the memory does not grow with the length."""
        for indices in self._chunks():
            yield self._generated.read(indices), self._reference.read(indices)

    def _chunks(self) -> Iterator[range]:
        first, end = self.rules.skip_frames, self.rules.skip_frames + self.n_frames
        for start in range(first, end, self.rules.chunk):
            yield range(start, min(start + self.rules.chunk, end))

    def moments(self, n: int) -> tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "t h w 3"]]:
        """Generated and real frames at up to `n` moments, evenly spread in time."""
        chosen = np.unique(np.linspace(0, self.n_frames - 1, min(n, self.n_frames)).round().astype(np.int64))
        indices = self.rules.skip_frames + chosen
        return self._generated.read(indices), self._reference.read(indices)

    def frames_of(self, side: Side) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """Frames of one video, a chunk at a time."""
        reader = self._generated if side == "generated" else self._reference
        for indices in self._chunks():
            yield reader.read(indices)

    def sound(self, side: Side) -> Float32[np.ndarray, " s"] | None:
        """Sound of the frames, 16 kHz; None where there is none."""
        path = self.sounds[side]
        if path is None:
            return None
        return read_audio(path, start=self.rules.skip_frames / self.fps, duration=self.n_frames / self.fps)


def check_rates(pairs: tuple[Pair, ...]) -> None:
    """ConfigError that lists the pairs whose frame rates differ; videos that cannot be read are left to `open_clip`."""
    wrong = []
    for pair in pairs:
        try:
            generated, reference = probe(pair.generated), probe(pair.reference.video)
        except MediaError:
            continue
        if not _same_rate(generated, reference):
            wrong.append(f"{pair.name} ({_rate(generated)} and {_rate(reference)})")
    if wrong:
        raise ConfigError(
            f"Generated and real frame rates differ in {', '.join(wrong)}: "
            "set resample=true to bring the real videos to the generated rate."
        )


def _rate(info: VideoInfo) -> str:
    return f"{info.fps:.4g} fps" + (", variable" if info.variable_rate else "")


def _has_rate(info: VideoInfo, fps: float | int) -> bool:
    return abs(info.fps - fps) <= SAME_RATE * fps and not info.variable_rate


def _same_rate(a: VideoInfo, b: VideoInfo) -> bool:
    return abs(a.fps - b.fps) <= SAME_RATE * a.fps and not a.variable_rate and not b.variable_rate


def open_clip(pair: Pair, rules: Rules) -> OpenClip:
    """Open both videos of a pair.

    Raises:
        MediaError: one cannot be read, they differ in shape or by more frames than allowed, or nothing is left to compare.
    """
    generated_info, reference_info = probe(pair.generated), probe(pair.reference.video)
    notes: list[str] = []
    _check_aspect(generated_info, reference_info)
    size = _common_size(generated_info, reference_info, rules, notes)
    fps = _common_rate(generated_info, reference_info, rules, notes)
    generated, reference = (
        VideoReader(info.path, backend=rules.backend, fps=fps, size=size if size != (info.height, info.width) else None)
        for info in (generated_info, reference_info)
    )
    n_frames = _common_length(len(generated), len(reference), rules, notes)
    kept = slice(rules.skip_frames, rules.skip_frames + n_frames)
    sounds = _sounds(pair, generated_info, reference_info)
    points, known = _known_landmarks(pair.reference, reference, kept, size)
    return OpenClip(
        name=pair.name,
        n_frames=n_frames,
        fps=generated.fps,
        size=size,
        landmarks=points,
        face_known=known,
        loudness=_loudness(sounds["generated"], kept, generated.fps),
        notes=tuple(notes),
        rules=rules,
        sounds=sounds,
        _generated=generated,
        _reference=reference,
    )


def _common_size(generated: VideoInfo, reference: VideoInfo, rules: Rules, notes: list[str]) -> tuple[int, int]:
    """Height and width at which both are compared."""
    size = (generated.height, generated.width)
    if rules.size is not None:
        if min(size) < rules.size:
            raise MediaError(
                f"{generated.path} has {size[1]}x{size[0]} pixels, fewer than size={rules.size}: generate at that size, "
                "or set size to a smaller one for all methods that are compared."
            )
        size = (rules.size, rules.size)
        if (generated.height, generated.width) != size:
            notes.append(f"generated frames resized from {generated.width}x{generated.height}")
    if (reference.height, reference.width) != size:
        notes.append(f"real frames resized from {reference.width}x{reference.height}")
    return size


def _common_rate(generated: VideoInfo, reference: VideoInfo, rules: Rules, notes: list[str]) -> float | None:
    """The rate to which both are resampled; None where they are as they should be."""
    if rules.fps is None:
        if _same_rate(generated, reference):
            return None
        notes.append(f"resampled from {_rate(reference)} to {_rate(generated)}")
        return generated.fps
    others = [info for info in (generated, reference) if not _has_rate(info, rules.fps)]
    notes += [f"{info.path.name} resampled from {_rate(info)} to {rules.fps:g} fps" for info in others]
    return float(rules.fps) if others else None


def _check_aspect(generated: VideoInfo, reference: VideoInfo) -> None:
    ratio = (generated.width * reference.height) / (generated.height * reference.width)
    if abs(ratio - 1) > SAME_ASPECT:
        raise MediaError(
            f"{generated.path} has {generated.width}x{generated.height} pixels but its real video {reference.width}x{reference.height}, "
            "another shape: crop both alike."
        )


def _common_length(generated: int, reference: int, rules: Rules, notes: list[str]) -> int:
    """Number of frames to compare, after the skipped ones."""
    difference = abs(generated - reference)
    if difference > rules.max_length_difference:
        raise MediaError(
            f"The generated video has {generated} frames and the real one {reference}: generate the same part, "
            f"or set max_length_difference={difference} to cut to the shorter."
        )
    if difference:
        notes.append(f"cut to the shorter: {generated} generated frames, {reference} real ones")
    n_frames = min(generated, reference) - rules.skip_frames
    if rules.max_frames is not None and n_frames > rules.max_frames:
        notes.append(f"only the first {rules.max_frames} of {n_frames} frames")
        n_frames = rules.max_frames
    if n_frames < 1:
        raise MediaError(f"No frame is left to compare after skip_frames={rules.skip_frames}: choose a smaller number.")
    return n_frames


def _known_landmarks(
    reference: Reference, reader: VideoReader, kept: slice, size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "t 478 3"] | None, Bool[np.ndarray, " t"] | None]:
    """The store's landmarks of the kept frames, in pixels of the generated size."""
    if reference.landmarks is None:
        return None, None
    rows = _source_frames(reader)[kept]
    landmarks = np.load(reference.landmarks, mmap_mode="r", allow_pickle=False)
    if len(landmarks) != reader.info.n_frames:
        raise MediaError(
            f"{reference.landmarks} has {len(landmarks)} rows but {reference.video} {reader.info.n_frames} frames: prepare the store again."
        )
    known = np.ones(len(rows), bool) if reference.valid is None else np.load(reference.valid, allow_pickle=False)[rows]
    return _resized(landmarks[rows], (reader.info.height, reader.info.width), size), known


def _resized(
    landmarks: Float32[np.ndarray, "t 478 3"], old: tuple[int, int], new: tuple[int, int]
) -> Float32[np.ndarray, "t 478 3"]:
    """Landmarks of resized frames: pixel edges map to pixel edges, depth grows with the width."""
    scale = np.array([new[1] / old[1], new[0] / old[0], new[1] / old[1]], np.float32)
    centre = np.array([0.5, 0.5, 0.0], np.float32)
    return (landmarks + centre) * scale - centre


def _source_frames(reader: VideoReader) -> Int64[np.ndarray, " n"]:
    """The frame of a video of constant rate that each frame of a (resampling) reader shows."""
    nearest = np.rint(reader.timestamps * reader.info.fps - 1e-6).astype(np.int64)
    return nearest.clip(0, reader.info.n_frames - 1)


def _sounds(pair: Pair, generated: VideoInfo, reference: VideoInfo) -> dict[Side, Path | None]:
    """The files with the sound of each side."""
    real = pair.reference.audio or (reference.path if reference.has_audio else None)
    return {"generated": generated.path if generated.has_audio else real, "real": real}


def _loudness(sound: Path | None, kept: slice, fps: float) -> Float[np.ndarray, " t"] | None:
    """Loudness of the voice that drove the generated video."""
    return None if sound is None else audio_envelope(read_audio(sound), kept.stop, fps)[kept]
