"""Do metrics move as their definitions say? Real videos against altered copies of themselves, in order.

Networks with random weights stand in for published ones where these would need a download: what they give has no meaning but its order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from scipy.ndimage import gaussian_filter
from torch import nn

from src.media import VideoReader, probe, read_audio, write_video
from src.media.curves import Curve, pearson
from src.metrics.frechet import Features, FrechetDistance
from src.metrics.perceptual import PerceptualDistance
from src.metrics.results import ClipScores, Result

FPS = 25
REFERENCE_CRF, ALTERED_CRF = 1, 12  # H.264: hardly and slightly lossy
NOISE = (5, 15, 40)  # standard deviation in grey levels
BLUR = (1, 2, 4)  # standard deviation in pixels
LATE = (1, 3, 10)  # frames
LAGS = (-10, -5, -3, -2, -1, 0, 1, 2, 3, 5, 10)  # frames

Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class Footage:
    """A real video, cut and brought to one size: frames, sound (None where there is none)."""

    name: str
    frames: Frames
    audio: Float32[np.ndarray, " s"] | None

    def write(self, folder: Path, frames: Frames | None = None, crf: int = ALTERED_CRF) -> None:
        """Write it, or other frames with its sound."""
        folder.mkdir(parents=True, exist_ok=True)
        write_video(
            folder / f"{self.name}.mp4", self.frames if frames is None else frames, FPS, audio=self.audio, crf=crf
        )


def read_footage(path: Path, size: int, n_frames: int) -> Footage:
    """The beginning of a video at 25 fps, as squares of `size` pixels."""
    reader = VideoReader(path, fps=FPS, size=(size, size))
    frames = reader.read(range(min(n_frames, len(reader))))
    audio = read_audio(path, duration=len(frames) / FPS) if probe(path).has_audio else None
    return Footage(path.stem, frames, audio)


Alteration = Callable[[Footage, Footage], Frames]  # of a clip, and another one to take a person from


def alterations(seed: int = 0) -> dict[str, Alteration]:
    """What is done to a copy, by the name of its row."""
    return {
        "itself": lambda clip, _: clip.frames,
        **{f"noise {level}": _noisy(level, seed) for level in NOISE},
        **{f"blur {sigma}": _blurred(sigma) for sigma in BLUR},
        **{f"picture {frames} late": _late(frames) for frames in LATE},
        "shuffled": lambda clip, _: clip.frames[np.random.default_rng(seed).permutation(len(clip.frames))],
        "frozen": lambda clip, _: np.repeat(clip.frames[:1], len(clip.frames), axis=0),
        "another person": lambda clip, other: other.frames[np.arange(len(clip.frames)) % len(other.frames)],
    }


def _noisy(level: int, seed: int) -> Alteration:
    def alter(clip: Footage, _: Footage) -> Frames:
        noise = np.random.default_rng(seed).normal(0, level, clip.frames.shape)
        return (clip.frames + noise).round().clip(0, 255).astype(np.uint8)

    return alter


def _blurred(sigma: int) -> Alteration:
    return lambda clip, _: (
        gaussian_filter(clip.frames.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)
    )


def _late(n: int) -> Alteration:
    return lambda clip, _: clip.frames[np.maximum(np.arange(len(clip.frames)) - n, 0)]


def write_copies(footage: Sequence[Footage], out: Path) -> dict[str, Path]:
    """The real videos in `out/real`, and a folder of altered copies per row."""
    for clip in footage:
        clip.write(out / "real", crf=REFERENCE_CRF)
    folders = {}
    for name, alter in alterations().items():
        folders[name] = out / name.replace(" ", "_")
        for i, clip in enumerate(footage):
            clip.write(folders[name], alter(clip, footage[(i + 1) % len(footage)]))
    return folders


def lag_table(results: Sequence[Result], lags: Sequence[int] = LAGS) -> dict[int, float]:
    """Mean correlation of the mouth's opening with its sound moved by each lag in frames, over the clips that have both."""
    clips = [
        r for r in results if isinstance(r, ClipScores) and "generated" in r.values.curves and r.loudness is not None
    ]
    rows = {}
    for lag in lags:
        values = [pearson(*_overlap(clip.values.curves["generated"], clip.loudness, lag)) for clip in clips]
        known = [value for value in values if np.isfinite(value)]
        rows[lag] = float(np.mean(known)) if known else float("nan")
    return rows


def _overlap(mouth: Curve, sound: Curve | None, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The mouth, and the sound that lies `lag` frames later, where both are."""
    assert sound is not None, "clips without sound are left out before"
    return mouth[max(0, -lag) : len(mouth) - max(0, lag)], sound[max(0, lag) : len(sound) - max(0, -lag)]


def random_networks(seed: int = 0) -> Mapping[str, nn.Module]:
    """Small networks with random weights, by group of quantities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {
            "lpips": _random_lpips(),
            "fid": PooledFeatures(nn.Conv2d, 64),
            "fvd": PooledFeatures(nn.Conv3d, 32),
            "identity": nn.Sequential(PooledFeatures(nn.Conv2d, 512), nn.BatchNorm1d(512, affine=False)),
        }
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def _random_lpips() -> PerceptualDistance:
    distance = PerceptualDistance.untrained("alex")
    for layer in distance.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return distance


class PooledFeatures(nn.Module):
    """Three random convolutions and the means of what they give over space (and time).

    Args:
        conv: `nn.Conv2d` for pictures (b, 3, h, w), `nn.Conv3d` for clips (b, t, 3, h, w).
        width: number of features.
    """

    def __init__(self, conv: type[nn.Conv2d] | type[nn.Conv3d], width: int) -> None:
        super().__init__()
        self._clips = conv is nn.Conv3d
        self.layers = nn.Sequential(
            conv(3, 16, 3, stride=2), nn.ReLU(), conv(16, 32, 3, stride=2), nn.ReLU(), conv(32, width, 1), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (b, width) of uint8 or float samples."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = x.transpose(1, 2) if self._clips else x
        return self.layers(x - 0.5).flatten(2).mean(dim=2) * 1000


def bias_curve(features: Float32[np.ndarray, "n d"], sizes: Sequence[int], repeats: int = 4) -> dict[int, float]:
    """Frechet distance of two disjoint random parts of one set, by their size: what is not there but for the number of samples."""
    rng, rows = np.random.default_rng(0), {}
    for size in sizes:
        values = []
        for _ in range(repeats):
            drawn = torch.from_numpy(features[rng.permutation(len(features))[: 2 * size]])
            metric = FrechetDistance(Features(features.shape[1]))
            metric.update(drawn[:size], real=True)
            metric.update(drawn[size:], real=False)
            values.append(float(metric.compute()))
        rows[size] = float(np.mean(values))
    return rows
