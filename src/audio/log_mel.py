"""Log-mel energies: speech features without pretrained weights."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from src.audio.features import SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechFeatures
from src.errors import ConfigError

N_FFT = 512
WINDOW = 400  # samples, 25 ms
BLOCK = 1500  # frames at a time: memory, not the result
FLOOR = -80.0  # decibels; quieter is silence
# Decibels; speech at ordinary levels gets a mean of about 0 and a standard deviation a little below 1.
CENTRE, SPREAD = -50.0, 20.0


class LogMel(SpeechFeatures):
    """Energies in mel bands of short windows, several per video frame side by side, the earliest first.

    With four hops, the windows of frame i are centred 5, 15, 25 and 35 ms after its beginning: symmetrical about its middle.
    A row depends on the sound up to 12.5 ms before and after its frame alone, so silence, level and length of the rest change
    nothing.

    Args:
        n_mels: bands between 0 and 8 kHz, on the mel scale (Slaney).
        hops: windows per video frame; a divisor of 640.
        name: of the folder in a clip store.
    """

    def __init__(self, n_mels: int = 80, hops: int = 4, name: str = "log_mel") -> None:
        super().__init__(name)
        if hops < 1 or SAMPLES_PER_FRAME % hops or SAMPLES_PER_FRAME // hops > WINDOW:
            raise ConfigError(f"features.hops={hops}: give 2, 4, 5, 8 or another divisor of {SAMPLES_PER_FRAME}.")
        if not 1 <= n_mels <= 128:
            raise ConfigError(f"features.n_mels={n_mels}: give 1 to 128 bands; narrower ones would be empty.")
        self.n_mels = n_mels
        self.hops = hops

    @property
    def dim(self) -> int:
        """Bands times windows per frame."""
        return self.n_mels * self.hops

    @property
    def settings(self) -> dict[str, Any]:
        """Bands and windows per frame."""
        return {"features": "log_mel", "n_mels": self.n_mels, "hops": self.hops}

    def encode(self, samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, "t d"]:
        """Decibels relative to a full-scale tone, shifted and scaled to about unit range."""
        hop = SAMPLES_PER_FRAME // self.hops
        margin = (N_FFT - hop) // 2  # half of what a window reaches beyond its hop
        padded = torch.from_numpy(np.pad(samples, margin))
        blocks = []
        for start in range(0, n_frames, BLOCK):
            stop = min(start + BLOCK, n_frames)
            sound = padded[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME + N_FFT - hop]
            blocks.append(self._energies(sound, hop).reshape(stop - start, self.dim).numpy())
        return np.concatenate(blocks)

    def _energies(self, sound: Tensor, hop: int) -> Tensor:
        """(windows, bands) of a piece of sound; a window every `hop` samples."""
        spectrum = torch.stft(sound, N_FFT, hop, WINDOW, self._window, center=False, return_complex=True)
        power = (2 / self._window.sum() * spectrum.abs()).square()  # 1 for a tone of amplitude 1
        decibels = 10 * (self._filters @ power).clamp_min(10 ** (FLOOR / 10)).log10()
        return ((decibels - CENTRE) / SPREAD).T.contiguous()

    @cached_property
    def _window(self) -> Tensor:
        return torch.hann_window(WINDOW)

    @cached_property
    def _filters(self) -> Tensor:
        """(bands, frequencies)."""
        from transformers.audio_utils import mel_filter_bank  # here: the library takes seconds to import

        filters = mel_filter_bank(
            num_frequency_bins=N_FFT // 2 + 1,
            num_mel_filters=self.n_mels,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            mel_scale="slaney",
        )
        return torch.from_numpy(filters.T.astype(np.float32))
