"""Whether lips and voice belong together, as SyncNet hears and sees it: AV offset, AV confidence (LSE-C) and distance (LSE-D).

Windows of five frames and of the 0.2 s of sound are embedded; the distance of the two is taken at shifts of up to `max_shift` frames. The
offset is the shift with the least mean distance, the confidence how far that lies below the median of all shifts (Chung and Zisserman,
ACCV-W 2016; LSE-D and LSE-C: Prajwal et al., ACM MM 2020, arXiv:2008.10010).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from scipy.signal import medfilt
from torch import Tensor
from torchmetrics import Metric

from src.metrics.mfcc import Samples, mfcc, sound_windows
from src.nn.syncnet import LIP_FRAMES, SyncNet

FPS = 25
SAMPLES_PER_FRAME = 640
MAX_SHIFT = 15  # frames, the published value
LOST_WINDOWS = 5  # n frames give n - 5 windows, one less than would fit: the original's count
MIN_FRAMES = LOST_WINDOWS + 1
MEDIAN_KERNEL = 9  # frames
DISTANCE_EPSILON = 1e-6
BATCH = 20  # windows


@dataclass(frozen=True)
class SyncScores:
    """Scores of one video.

    Attributes:
        offset: frames; positive: the sound that fits lies that much earlier than the picture, so that the sound leads.
        confidence: LSE-C, median over the shifts of the mean distance, less its least value.
        min_distance: LSE-D, that least value.
        confidence_per_window: median of the mean distances less the window's own distance at the best shift, median-filtered.
    """

    offset: int
    confidence: float
    min_distance: float
    confidence_per_window: Float[np.ndarray, " w"]


def shift_distances(
    lips: Float[Tensor, "w d"], sounds: Float[Tensor, "w d"], max_shift: int = MAX_SHIFT
) -> Float[Tensor, "w shifts"]:
    """Distance of every window of lips to the windows of sound around it; zeros stand for sound before and after the clip.

    Column j is the shift j - max_shift.
    """
    padded = F.pad(sounds, (0, 0, max_shift, max_shift))
    columns = [
        F.pairwise_distance(lips, padded[shift : shift + len(lips)], eps=DISTANCE_EPSILON)
        for shift in range(2 * max_shift + 1)
    ]
    return torch.stack(columns, dim=1)


def sync_scores(lips: Float[Tensor, "w d"], sounds: Float[Tensor, "w d"], max_shift: int = MAX_SHIFT) -> SyncScores:
    """Scores of a video's embeddings; at least one window."""
    distances = shift_distances(lips, sounds, max_shift)
    mean = distances.mean(dim=0)
    best = int(mean.argmin())
    confidence = mean.median() - mean[best]
    per_window = (mean.median() - distances[:, best]).numpy(force=True)
    return SyncScores(
        offset=max_shift - best,
        confidence=float(confidence),
        min_distance=float(mean[best]),
        confidence_per_window=medfilt(per_window, kernel_size=MEDIAN_KERNEL),
    )


def unpadded_scores(lips: Float[Tensor, "w d"], sounds: Float[Tensor, "w d"], max_shift: int = 5) -> SyncScores:
    """Scores that count no sound beyond the clip, for clips of under 40 frames; never to be mixed with published values.

    In short clips most shifts of the published definition are averages over zeros, whose distance is the length of the lips' embedding.
    """
    shift = min(max_shift, len(lips) - 1)
    distances = shift_distances(lips, sounds, shift)
    window = torch.arange(len(lips))[:, None] + torch.arange(-shift, shift + 1)
    real = ((window >= 0) & (window < len(lips))).to(distances.device)
    mean = (distances * real).sum(dim=0) / real.sum(dim=0)
    best = int(mean.argmin())
    confidence = mean.median() - mean[best]
    per_window = (mean.median() - distances[:, best]).numpy(force=True)
    return SyncScores(shift - best, float(confidence), float(mean[best]), per_window)


class SyncEmbedder:
    """Embeds a video as its frames come, with its sound: memory does not grow with the video but for the embeddings.

    Args:
        network: with the published weights, in eval mode.
        audio: the sound of the clip from its first frame on, 16 kHz.
        n_frames: of the clip.
    """

    def __init__(self, network: SyncNet, audio: Samples, n_frames: int) -> None:
        self._network = network
        self._cepstra = mfcc(audio)
        self.n_windows = max(0, min(n_frames, len(audio) // SAMPLES_PER_FRAME) - LOST_WINDOWS)
        self._rest: UInt8[np.ndarray, "t 224 224 3"] = np.empty((0, 224, 224, 3), np.uint8)
        self._lips: list[Tensor] = []

    @torch.inference_mode()
    def add(self, crops: UInt8[np.ndarray, "t 224 224 3"]) -> None:
        """Embed the lips of the next frames: RGB crops of the face."""
        frames = np.concatenate([self._rest, crops])
        n_windows = len(frames) - LIP_FRAMES + 1
        if n_windows > 0:
            views = np.lib.stride_tricks.sliding_window_view(frames[..., ::-1], LIP_FRAMES, axis=0)  # w h w c t
            windows = torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 4, 1, 2)))
            self._lips += [self._network.embed_lips(part.float().to(self._device)) for part in windows.split(BATCH)]
        self._rest = frames[max(0, n_windows) :]

    @torch.inference_mode()
    def embeddings(self) -> tuple[Float[Tensor, "w d"], Float[Tensor, "w d"]]:
        """Of the lips and of the sound; empty for clips of fewer than six frames."""
        windows = torch.from_numpy(sound_windows(self._cepstra, self.n_windows))[:, None]
        sounds = [self._network.embed_audio(part.to(self._device)) for part in windows.split(BATCH)]
        if not self.n_windows or not self._lips:
            return torch.empty(0, 1), torch.empty(0, 1)
        lips = torch.cat(self._lips)[: self.n_windows]
        return lips, torch.cat(sounds)[: len(lips)]

    @property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device


class AudioVisualSync(Metric):
    """Mean over videos of AV offset, its magnitude, AV confidence (LSE-C) and distance (LSE-D).

    `compute` gives `av_offset`, `av_offset_magnitude`, `lse_c` and `lse_d`; videos of fewer than six frames do not count.

    Args:
        max_shift: largest shift that is tried, in frames; 15 is the published value.
    """

    full_state_update = False
    totals: Tensor
    videos: Tensor

    def __init__(self, max_shift: int = MAX_SHIFT) -> None:
        super().__init__()
        self.max_shift = max_shift
        self.add_state("totals", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, lips: Float[Tensor, "w d"], sounds: Float[Tensor, "w d"]) -> None:
        """Add one video's embeddings (`SyncEmbedder`)."""
        if not len(lips):
            return
        scores = sync_scores(lips, sounds, self.max_shift)
        values = [scores.offset, abs(scores.offset), scores.confidence, scores.min_distance]
        self.totals += torch.tensor(values, dtype=torch.float64, device=self.totals.device)
        self.videos += 1

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Means over the videos; NaN when there is none."""
        names = ("av_offset", "av_offset_magnitude", "lse_c", "lse_d")
        return dict(zip(names, (self.totals / self.videos).float().unbind(), strict=True))
