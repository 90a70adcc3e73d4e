"""HuBERT as AToM's published weights know it: two rows per video frame, side by side.

The original divides the normalised sound into pieces of 20 s that know nothing of each other, and begins its rows at sample 0: row j sees
samples [320 j, 320 j + 400), so that rows 2 i and 2 i + 1 lie 40 samples late in frame i. `TransformersFeatures` is the better choice for
training from the beginning; this is what the published weights, and data of GeneFace, were made with.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import nn

from src.audio.devices import choose_device
from src.audio.features import SpeechFeatures
from src.audio.transformers_encoders import load_pretrained
from src.errors import ConfigError

ROWS_PER_FRAME = 2
FIELD, STRIDE = 400, 320  # samples that a row sees, and from one row to the next
CHUNK = 1000 * STRIDE  # samples that pass at once


def normalised(samples: Float[np.ndarray, " s"]) -> Float32[np.ndarray, " s"]:
    """Sound of mean 0 and variance 1, over the whole recording."""
    samples = samples.astype(np.float64)
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


@torch.inference_mode()
def hubert_rows(model: nn.Module, samples: Float[np.ndarray, " s"]) -> Float32[np.ndarray, "r d"]:
    """The last layer's rows, 50 per second: one fewer than strides, because the last one would reach beyond the end.

    Args:
        model: of transformers, in eval mode.
        samples: 16 kHz mono.
    """
    sound = torch.from_numpy(normalised(samples)).to(next(model.parameters()).device)
    whole = len(sound) // CHUNK * CHUNK
    pieces = [sound[start : start + CHUNK + FIELD - STRIDE] for start in range(0, whole, CHUNK)]
    if len(sound) - whole >= FIELD:
        pieces.append(sound[whole:])
    rows = [model(piece[None]).last_hidden_state[0].float().cpu().numpy() for piece in pieces]
    expected = max((len(sound) - (FIELD - STRIDE)) // STRIDE, 0)
    found = np.concatenate(rows) if rows else np.zeros((0, int(model.config.hidden_size)), np.float32)  # ty: ignore
    return np.pad(found[:expected], ((0, max(expected - len(found), 0)), (0, 0)))


def paired(rows: Float32[np.ndarray, "r d"], n_frames: int) -> Float32[np.ndarray, "n d2"]:
    """Rows of 50 per second as frames of 25 per second, two side by side; zeros where there are no more."""
    rows = rows[: ROWS_PER_FRAME * n_frames]
    missing = ROWS_PER_FRAME * n_frames - len(rows)
    return np.pad(rows, ((0, missing), (0, 0))).reshape(n_frames, -1)


class HubertPairs(SpeechFeatures):
    """The last layer of HuBERT, two rows per video frame.

    Args:
        model: id on the Hugging Face hub, a local folder, or the name of a folder in the models folder (VISEME_MODELS).
        name: of the folder in a clip store.
        local_files_only: True: never ask the network.
        revision: branch, tag or commit on the hub; None: the newest.
        device: where to compute; None: a GPU where there is one.
        hidden_size: width of the model's layers, so that it need not be loaded where nothing is to be computed.
    """

    def __init__(
        self,
        model: str = "facebook/hubert-large-ls960-ft",
        name: str = "hubert_pairs",
        local_files_only: bool = False,
        revision: str | None = None,
        device: str | None = None,
        hidden_size: int = 1024,
    ) -> None:
        super().__init__(name)
        self.model = model
        self.hidden_size = hidden_size
        self.local_files_only = local_files_only
        self.revision = revision
        self.device = choose_device(device)

    @property
    def dim(self) -> int:
        """Twice the width of the model's hidden layers."""
        return ROWS_PER_FRAME * self.hidden_size

    @property
    def settings(self) -> dict[str, Any]:
        """Model and revision."""
        return {"features": "hubert_pairs", "model": self.model, "revision": self.revision}

    def encode(self, samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, "t d"]:
        """Two rows per frame; beyond the sound's end zeros, as the original pads."""
        return paired(hubert_rows(self._encoder, samples), n_frames)

    @cached_property
    def _encoder(self) -> Any:
        model, _ = load_pretrained(self.model, self.revision, self.local_files_only)
        if model.config.hidden_size != self.hidden_size:
            raise ConfigError(
                f"features.hidden_size={self.hidden_size}: {self.model} has {model.config.hidden_size}; give that number."
            )
        return model.to(self.device).eval()
