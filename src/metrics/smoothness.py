"""How smoothly a video moves: optical flow magnitude (OFM) and frame-wise mean squared error (F-MSE), as published and as meant.

Diffused Heads (arXiv:2301.03396, table 1) introduced both. Its script (https://github.com/MStypulkowski/diffused-heads, branch train)
colours the flow and squares in bytes, so that neither published number is what its name says; `ofm` and `f_mse` repeat it for comparison
with the paper, `flow_magnitude` and `frame_mse` are the plain quantities. Lower is smoother, and a frozen face is smoothest: the real
video's value belongs beside each.
"""

from dataclasses import dataclass, fields
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics import Metric

from src.errors import ConfigError

SIDE = 128  # pixels: all videos are brought to squares of this side
FARNEBACK = {
    "pyr_scale": 0.5,
    "levels": 7,
    "winsize": 5,
    "iterations": 15,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}


@dataclass(frozen=True)
class Smoothness:
    """Numbers of one video, over all pairs of consecutive frames at 128x128; NaN for a video of one frame.

    Attributes:
        ofm: mean of the flow's magnitude after it was stretched to 0..255 in each pair, truncated, and given the JET colours: a
            statistic of colours, about 44 for a frozen picture. The published number.
        ofm_std: its standard deviation.
        f_mse: mean squared difference in bytes, where 16 squared is 0 and nothing exceeds 255. The published number.
        f_mse_std: its standard deviation.
        flow_magnitude: mean magnitude of the flow, in pixels.
        frame_mse: mean squared difference, in squared grey levels.
    """

    ofm: float
    ofm_std: float
    f_mse: float
    f_mse_std: float
    flow_magnitude: float
    frame_mse: float


def smoothness(frames: UInt8[np.ndarray, "t h w 3"]) -> Smoothness:
    """The numbers of a video, RGB.

    Raises:
        ConfigError: OpenCV, whose Farneback flow these are defined by, lacks a system library.
    """
    meter = SmoothnessMeter()
    meter.add(frames)
    return meter.result()


class SmoothnessMeter:
    """Measures a video as its frames come.

    Args:
        flow: measure the optical flow, too, which takes most of the time; without, its numbers are NaN.

    Raises:
        ConfigError: OpenCV, whose resizing and flow these numbers are defined by, lacks a system library.
    """

    def __init__(self, flow: bool = True) -> None:
        self._cv2 = _opencv()
        self._flow = flow
        self._before: np.ndarray | None = None
        self._coloured, self._wrapped, self._magnitude, self._squared = (_Moments() for _ in range(4))

    def add(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """See the next frames, RGB."""
        for frame in frames:
            # No averaging where the picture shrinks, and BGR: both as the original has it.
            picture = self._cv2.resize(np.ascontiguousarray(frame[..., ::-1]), (SIDE, SIDE))
            if self._before is not None:
                self._compare(self._before, picture)
            self._before = picture

    def _compare(self, before: np.ndarray, picture: np.ndarray) -> None:
        difference = picture - before  # bytes, modulo 256
        self._wrapped.add(difference * difference)
        self._squared.add((picture.astype(np.float64) - before) ** 2)
        if self._flow:
            coloured, magnitude = self._flow_of(before, picture)
            self._coloured.add(coloured)
            self._magnitude.add(magnitude)

    def _flow_of(self, before: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The flow's magnitude as colours of its stretched range, and in pixels."""
        cv2 = self._cv2
        greys = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (before, picture))
        flow = cv2.calcOpticalFlowFarneback(*greys, None, **FARNEBACK)
        magnitude = cv2.cartToPolar(flow[..., 0], flow[..., 1])[0]
        stretched = cv2.normalize(magnitude, None, 0, 255, cv2.NORM_MINMAX)
        return cv2.applyColorMap(stretched.astype(np.uint8), cv2.COLORMAP_JET), magnitude

    def result(self) -> Smoothness:
        """The numbers of what was seen."""
        return Smoothness(
            ofm=self._coloured.mean,
            ofm_std=self._coloured.std,
            f_mse=self._wrapped.mean,
            f_mse_std=self._wrapped.std,
            flow_magnitude=self._magnitude.mean,
            frame_mse=self._squared.mean,
        )


def _opencv() -> ModuleType:
    """OpenCV, loaded where it is needed: its wheel asks for system libraries that everything else does without."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"OpenCV, which measures the optical flow, cannot be loaded ({error}): "
            "install its system libraries, on Debian and Ubuntu with `apt install libgl1 libglib2.0-0`."
        ) from error
    return cv2


class _Moments:
    """Mean and standard deviation of all numbers that were added."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        exact = values.astype(np.float64)
        self._count += exact.size
        self._sum += exact.sum()
        self._squares += (exact**2).sum()

    @property
    def mean(self) -> float:
        return float(self._sum / self._count) if self._count else float("nan")

    @property
    def std(self) -> float:
        return float(np.sqrt(max(0.0, self._squares / self._count - self.mean**2))) if self._count else float("nan")


class VideoSmoothness(Metric):
    """Mean over videos of each number of `Smoothness`; the closer to the real videos' values, the better.

    `compute` gives them by name; a video of one frame does not count.
    """

    full_state_update = False
    totals: Tensor
    videos: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names = [field.name for field in fields(Smoothness)]
        self.add_state("totals", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, frames: UInt8[Tensor, "t 3 h w"]) -> None:
        """Add one whole video, RGB."""
        if len(frames) < 2:
            return
        numbers = smoothness(frames.permute(0, 2, 3, 1).numpy(force=True))
        self.totals += torch.tensor(
            [getattr(numbers, name) for name in self.names], dtype=torch.float64, device=self.totals.device
        )
        self.videos += 1

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Means over the videos; NaN when there is none."""
        return dict(zip(self.names, (self.totals / self.videos).float().unbind(), strict=True))
