"""What a video file holds, read from its packets: sizes, rates, time stamps, sound."""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.container import InputContainer
from jaxtyping import Bool, Float64, Int64

from src.errors import MediaError
from src.media.containers import ffmpeg_errors, open_container, video_streams

# Containers that round time stamps to milliseconds make a constant rate look uneven by a few per cent; a dropped frame doubles an interval.
UNEVEN = 0.25


@dataclass(frozen=True)
class VideoInfo:
    """The first video stream of a file, and its sound.

    Attributes:
        path: the file.
        width: pixels, as displayed (after rotation).
        height: pixels, as displayed (after rotation).
        fps: average frames per second.
        n_frames: number of frames that are shown, counted from the packets.
        duration: seconds from the first frame's appearance to the end of the last.
        rotation: degrees counter-clockwise by which the stored picture is turned for display: 0, 90, 180 or 270.
        variable_rate: some frame lasts clearly longer or shorter than the others.
        has_audio: there is a sound stream.
        audio_rate: samples per second of the sound; 0 without sound.
        codec: FFmpeg's name of the video codec, such as `h264`.
    """

    path: Path
    width: int
    height: int
    fps: float
    n_frames: int
    duration: float
    rotation: int
    variable_rate: bool
    has_audio: bool
    audio_rate: int
    codec: str


@dataclass(frozen=True)
class VideoIndex:
    """A video's description together with the time of each frame, in the order in which they are shown.

    Attributes:
        info: the description.
        container: FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        stamped: every frame has a time stamp of its own; old containers leave some or all to be guessed.
        pts: presentation time stamps in ticks of the container's clock, increasing.
        keyframe: can be decoded without the frames before it.
        timestamps: seconds since the first frame.
    """

    info: VideoInfo
    container: str
    stamped: bool
    pts: Int64[np.ndarray, " n"] = field(repr=False)
    keyframe: Bool[np.ndarray, " n"] = field(repr=False)
    timestamps: Float64[np.ndarray, " n"] = field(repr=False)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe the first video stream of `path`; reads all packets but decodes only the first frame.

    Raises:
        MediaError: the file is missing, empty, truncated, no video, or its first frames cannot be decoded.
    """
    return index_video(path).info


def index_video(path: str | os.PathLike[str]) -> VideoIndex:
    """Describe the first video stream of `path` and list the time stamps of its frames.

    Raises:
        MediaError: as `probe`.
    """
    path = Path(path)
    with open_container(path, "video") as container, ffmpeg_errors(path, "video"):
        stream = _video_stream(container, path)
        _check_whole(stream, path)
        packets, frame = _scan(container, stream)
        if frame is None or not packets:
            raise MediaError(f"No frame of {path} can be decoded; the file is damaged, copy or record it again.")
        return _describe(path, container, stream, packets, frame)


class _Packet(NamedTuple):
    """A frame that is shown, in ticks of the container's clock."""

    pts: int
    length: int
    keyframe: bool
    stamped: bool


def _video_stream(container: InputContainer, path: Path) -> Any:
    streams = video_streams(container)
    if not streams:
        raise MediaError(f"{path} has no video stream; give a video file.")
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        raise MediaError(f"{path} is a picture; give a video file.")
    streams[0].thread_count = 1
    return streams[0]


def _check_whole(stream: Any, path: Path) -> None:
    """An MP4 whose table of frames comes first opens well even when the frames themselves are cut off."""
    ends = np.array([entry.pos + entry.size for entry in stream.index_entries], dtype=np.int64)
    missing = int((ends > path.stat().st_size).sum())
    if missing:
        raise MediaError(
            f"{path} is truncated: {missing} of its {len(ends)} frames are missing; copy or download it again."
        )


def _scan(container: InputContainer, stream: Any) -> tuple[list[_Packet], Any]:
    """The packets that are shown, in that order, and the first decoded frame."""
    packets: list[_Packet] = []
    frame = None
    for packet in container.demux(stream):
        if frame is None:
            frame = next(iter(packet.decode()), None)
        if packet.size and not packet.is_discard:
            stamp = next((t for t in (packet.pts, packet.dts) if t is not None), len(packets))
            packets.append(_Packet(stamp, packet.duration or 0, packet.is_keyframe, packet.pts is not None))
    return sorted(packets), frame


def _describe(path: Path, container: InputContainer, stream: Any, packets: list[_Packet], frame: Any) -> VideoIndex:
    pts = np.array([packet.pts for packet in packets], dtype=np.int64)
    intervals = np.diff(pts)
    usual = float(np.median(intervals)) if len(intervals) else 0.0
    base = stream.time_base or Fraction(1, 1000)
    announced = stream.average_rate or stream.guessed_rate or Fraction(25)
    last = packets[-1].length or round(usual) or round(1 / (announced * base))
    duration = float((int(pts[-1] - pts[0]) + last) * base)
    variable = bool(len(intervals)) and float(np.abs(intervals - usual).max()) > UNEVEN * usual
    fps = len(pts) / duration
    if not variable and abs(float(announced) / fps - 1) < 0.005:
        fps = float(announced)  # exact where the container rounds its time stamps
    rotation = round(frame.rotation / 90) * 90 % 360
    width, height = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
    audio = container.streams.audio
    info = VideoInfo(
        path=path,
        width=width,
        height=height,
        fps=fps,
        n_frames=len(pts),
        duration=duration,
        rotation=rotation,
        variable_rate=variable,
        has_audio=bool(audio),
        audio_rate=audio[0].rate or 0 if audio else 0,
        codec=stream.codec_context.name,
    )
    return VideoIndex(
        info,
        container=container.format.name,
        stamped=all(packet.stamped for packet in packets),
        pts=pts,
        keyframe=np.array([packet.keyframe for packet in packets]),
        timestamps=(pts - pts[0]) * float(base),
    )
