"""What the U-Net of the second stage attends to: tokens made of speech features and landmarks.

`MergedContext` is the published form: sound and landmarks become one token. Attention over a single token is constant, so there they act
only as offsets of channels. `TokenContext` gives every row of the sound a token of its own, and the landmarks others.

Legend: `b` batch, `n` rows of speech features, `d` values per row, `e` width of a token.
"""

from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import ConfigError

LOGIT_STEPS, N_LOGITS = 16, 29  # a window of DeepSpeech: time steps, characters and blank
WINDOW_DIM = LOGIT_STEPS * N_LOGITS
N_LANDMARKS = 39
LANDMARK_SIZE = 256.0  # pixels of the frames that landmarks are given in
SLOPE = 0.02


class ContextEncoder(Protocol):
    """What both forms have in common."""

    dim: int
    n_rows: int
    audio_dim: int

    def __call__(self, audio: Tensor, landmarks: Tensor) -> Tensor:
        """Tokens (b, m, e) of audio (b, n, d) and landmarks (b, 39, 2)."""
        ...


class AudioNet(nn.Module):
    """A vector for each window of DeepSpeech's logits: four strided convolutions over time and two linear layers (AD-NeRF's)."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        widths = (N_LOGITS, 32, 32, 64, 64)
        convs = [nn.Conv1d(c, d, 3, stride=2, padding=1) for c, d in pairwise(widths)]
        self.convs = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.LeakyReLU(SLOPE))))
        self.fc = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, dim))

    def forward(self, windows: Float[Tensor, "m 16 29"]) -> Float[Tensor, "m e"]:
        """A vector per window."""
        return self.fc(self.convs(windows.transpose(1, 2)).squeeze(2))


class AudioAttentionNet(nn.Module):
    """Merges the vectors of neighbouring windows with weights that depend on all of them.

    As in the original, the weights are found from the first `dim` channels, half of them, and applied to all.

    Args:
        dim: channels that the weights depend on.
        n_windows: how many windows there are.
    """

    def __init__(self, dim: int = 32, n_windows: int = 8) -> None:
        super().__init__()
        self.dim = dim
        convs = [nn.Conv1d(c, d, 3, padding=1) for c, d in pairwise((dim, 16, 8, 4, 2, 1))]
        self.convs = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.LeakyReLU(SLOPE))))
        self.fc = nn.Linear(n_windows, n_windows)

    def weights(self, windows: Float[Tensor, "b n e"]) -> Float[Tensor, "b 1 n"]:
        """How much each window counts; they sum up to 1."""
        return self.fc(self.convs(windows[..., : self.dim].transpose(1, 2))).softmax(dim=2)

    def forward(self, windows: Float[Tensor, "b n e"]) -> Float[Tensor, "b e"]:
        """The weighted sum."""
        return (self.weights(windows) @ windows).squeeze(1)


class LandmarkNet(nn.Module):
    """A vector of the 39 landmarks, in pixels of a 256x256 frame, not normalised: x0, y0, x1, y1, ..."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(2 * N_LANDMARKS, 128),
            nn.LeakyReLU(SLOPE),
            nn.Linear(128, 64),
            nn.LeakyReLU(SLOPE),
            nn.Linear(64, dim),
        )

    def forward(self, landmarks: Float[Tensor, "b 39 2"]) -> Float[Tensor, "b e"]:
        """The vector."""
        return self.fc(landmarks.flatten(1))


class MergedContext(nn.Module):
    """The published form: one token, half of it sound and half of it landmarks.

    Args:
        audio_dim: width of a row of speech features; only 464, a window of DeepSpeech's logits, fits the published layers.
        n_rows: rows per frame.
        dim: width of the token.

    Raises:
        ConfigError: speech features of another kind.
    """

    def __init__(self, audio_dim: int = WINDOW_DIM, n_rows: int = 8, dim: int = 128) -> None:
        super().__init__()
        if audio_dim != WINDOW_DIM:
            raise ConfigError(
                f"context=merged takes DeepSpeech features of {WINDOW_DIM} values a row, not {audio_dim}: give those, or context=tokens."
            )
        self.audio_dim, self.n_rows, self.dim = audio_dim, n_rows, dim
        self.audio = AudioNet(dim // 2)
        self.audio_attention = AudioAttentionNet(dim // 4, n_rows)
        self.landmarks = LandmarkNet(dim // 2)

    def forward(self, audio: Float[Tensor, "b n d"], landmarks: Float[Tensor, "b 39 2"]) -> Float[Tensor, "b 1 e"]:
        """The token."""
        windows = audio.reshape(-1, LOGIT_STEPS, N_LOGITS)
        sound = self.audio_attention(self.audio(windows).view(*audio.shape[:2], -1))
        return torch.cat([sound, self.landmarks(landmarks)], dim=1)[:, None]


class TokenContext(nn.Module):
    """A token for every row of speech features, which knows its neighbours and its place, and some for the landmarks.

    Args:
        audio_dim: width of a row of speech features.
        n_rows: rows per frame.
        dim: width of a token.
        n_landmark_tokens: tokens of the landmarks.
    """

    def __init__(
        self, audio_dim: int = WINDOW_DIM, n_rows: int = 8, dim: int = 128, n_landmark_tokens: int = 1
    ) -> None:
        super().__init__()
        self.audio_dim, self.n_rows, self.dim = audio_dim, n_rows, dim
        self.audio = nn.Sequential(
            nn.Conv1d(audio_dim, dim, 3, padding=1), nn.SiLU(), nn.Conv1d(dim, dim, 3, padding=1)
        )
        self.landmarks = nn.Sequential(
            nn.Linear(2 * N_LANDMARKS, dim),
            nn.SiLU(),
            nn.Linear(dim, n_landmark_tokens * dim),
            nn.Unflatten(1, (n_landmark_tokens, dim)),
        )
        self.places = nn.Parameter(torch.randn(n_rows + n_landmark_tokens, dim) * dim**-0.5)
        self.norm = nn.LayerNorm(dim)

    def forward(self, audio: Float[Tensor, "b n d"], landmarks: Float[Tensor, "b 39 2"]) -> Float[Tensor, "b m e"]:
        """The tokens: of the sound, oldest row first, then of the landmarks."""
        sound = self.audio(audio.transpose(1, 2)).transpose(1, 2)
        face = self.landmarks((landmarks / (LANDMARK_SIZE / 2) - 1).flatten(1))
        return self.norm(torch.cat([sound, face], dim=1) + self.places)
