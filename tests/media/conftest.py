"""Small files whose every frame tells which one it is."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from src.media import write_video

STEP = 5  # grey levels between one frame and the next


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    folder = Path(os.environ.get("SHARED_DIR", "../shared")) / "data" / "clips"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder


def numbered_frames(n: int, height: int = 64, width: int = 96) -> np.ndarray:
    """`n` (at most 51) frames: frame k is grey level 5 k, with a white corner at the top left."""
    levels = (np.arange(n) * STEP).astype(np.uint8)
    frames = np.repeat(levels, height * width * 3).reshape(n, height, width, 3)
    frames[:, : height // 4, : width // 4] = 255
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which of the numbered frames these are, read from their lower right quarter."""
    _, height, width, _ = frames.shape
    levels = frames[:, height // 2 + 2 :, width // 2 + 2 :].mean(axis=(1, 2, 3))
    return np.rint(levels / STEP).astype(int).tolist()


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """40 numbered frames of 96x64 pixels at 25 frames per second."""
    path = tmp_path / "numbered.mp4"
    write_video(path, numbered_frames(40), 25)
    return path


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """40 numbered frames at 25 frames per second by any codec, in any container, with a key frame every `gop` frames."""

    def write(name: str, codec: str = "libx264", gop: int = 12, b_frames: int = 2) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, bit_rate=1_000_000)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.gop_size, stream.max_b_frames = gop, b_frames
            for picture in numbered_frames(40):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def remux() -> Callable[..., Path]:
    """Copies the packets of a video, changing time stamps or the rotation flag."""

    def copy(source: Path, target: Path, *, rotation: int = 0, shift: Fraction = Fraction(0)) -> Path:
        with av.open(str(source)) as old, av.open(str(target), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            stream.set_display_rotation(rotation)
            for packet in old.demux(video=0):
                if packet.dts is None:
                    continue
                packet.pts += int(shift / packet.time_base)
                packet.dts += int(shift / packet.time_base)
                packet.stream = stream
                new.mux(packet)
        return target

    return copy


@pytest.fixture
def uneven(tmp_path: Path) -> Callable[[Sequence[int]], Path]:
    """A video of numbered frames shown at the given times, in hundredths of a second."""

    def write(times: Sequence[int]) -> Path:
        path = tmp_path / "uneven.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=100)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 100)
            for time, picture in zip(times, numbered_frames(len(times)), strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def one_sentence() -> Callable[[pytest.ExceptionInfo[Exception], Path | str], str]:
    """Checks that an error is one sentence which names the file; returns it."""

    def check(caught: pytest.ExceptionInfo[Exception], name: Path | str) -> str:
        message = str(caught.value)
        assert str(name) in message
        assert message.endswith(".")
        assert "\n" not in message
        assert ". " not in message.replace(str(name), "")
        return message

    return check
