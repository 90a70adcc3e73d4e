"""The motion decoder as AToM was published: its weights depend on everything that is peculiar about it.

- One vector modulates both branches, t + 2 f + a (time, face, audio): the lip-unrelated points hear, too.
- A decoder layer's result is a function of the cross-attention alone; what entered the layer is dropped, and so is its feed-forward net.
- Rotary embedding turns whole feature vectors before the projections, by the number of a token among all that are attended to.
- The windows have exactly `n_frames` frames, because the learned stand-ins for missing conditions have.

Parameters that the original has but never uses are left out.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from src.nn.moditalker_atom.layers import (
    EncoderLayer,
    Film,
    rotary_frequencies,
    rotate,
    sinusoidal_positions,
    summary,
    time_embedding,
)
from src.nn.moditalker_atom.regions import LIP_RELATED, N_VALUES, UNRELATED, region

TOKENS_PER_FRAME = 2  # of audio: HuBERT has 50 rows per second
TIME_TOKENS = 2


class Attention(nn.Module):
    """Multi-head attention whose queries and keys are turned before their projections."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, n_heads, dropout=dropout, batch_first=True)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m d"],
        frequencies: Float[Tensor, " half"] | None,
    ) -> Float[Tensor, "b n d"]:
        """What the tokens `x` gather from `memory`."""
        queries, keys = turned(x, frequencies), turned(memory, frequencies)
        return self.attention(queries, keys, memory, need_weights=False)[0]


class DecoderLayer(nn.Module):
    """One layer over both branches, which share its weights."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, n_heads, dropout)
        self.cross_attention = Attention(dim, n_heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.film1, self.film2, self.film3 = (Film(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(dim, 2 * dim)

    def forward(
        self,
        x: Float[Tensor, "b t d2"],
        condition: Float[Tensor, "b d"],
        memory: Float[Tensor, "b m d"],
        face_memory: Float[Tensor, "b m2 d"],
        frequencies: Float[Tensor, " half"] | None,
    ) -> Float[Tensor, "b t d2"]:
        """Features of both branches, from what the last cross-attention finds."""

        def look_around(z: Tensor) -> Tensor:
            return self.dropout(self.self_attention(z, z, frequencies))

        def look_at(z: Tensor, tokens: Tensor) -> Tensor:
            return self.dropout(self.cross_attention(z, tokens, frequencies))

        lip, face = x.chunk(2, dim=-1)
        lip = lip + self.film1(look_around(self.norm1(lip)), condition)
        face = face + self.film1(look_around(self.norm1(face)), condition)
        lip = lip + self.film2(look_at(self.norm2(lip), memory), condition)
        face = face + self.film2(look_around(self.norm2(face)), condition)
        found = look_at(self.norm3(lip + face), face_memory)
        return self.out(found + self.film3(found, condition))


def turned(x: Float[Tensor, "b n d"], frequencies: Float[Tensor, " half"] | None) -> Float[Tensor, "b n d"]:
    """Features turned by the numbers of their tokens; unchanged without frequencies."""
    if frequencies is None:
        return x
    return rotate(x, torch.arange(x.shape[1], device=x.device, dtype=torch.float32), frequencies)


class PublishedMotionDecoder(nn.Module):
    """Predicts clean residuals of landmarks from noisy ones, a reference face and speech features (section 3.2 of arXiv:2403.19144).

    Args:
        n_frames: of a window; there are no others.
        dim: width of the tokens.
        ff_dim: hidden width of the encoders' feed-forward nets.
        n_layers: of the decoder.
        n_heads: of every attention.
        dropout: of attention and feed-forward nets.
        audio_dim: numbers of speech features per frame: two rows of HuBERT side by side.
        rotary: rotary positions; False: sinusoidal ones are added.
    """

    frequencies: Tensor | None
    positions: Tensor | None

    def __init__(
        self,
        n_frames: int = 156,
        dim: int = 512,
        ff_dim: int = 1024,
        n_layers: int = 8,
        n_heads: int = 8,
        dropout: float = 0.1,
        audio_dim: int = 2048,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        self.n_frames: int | None = n_frames
        self.audio_dim = audio_dim
        n_tokens = TOKENS_PER_FRAME * n_frames
        self.register_buffer("frequencies", rotary_frequencies(dim) if rotary else None, persistent=False)
        self.register_buffer("positions", None if rotary else sinusoidal_positions(n_tokens, dim), persistent=False)
        self.position_dropout = nn.Dropout(dropout)
        self.lip_in = nn.Linear(3 * len(LIP_RELATED), dim)
        self.unrelated_in = nn.Linear(3 * len(UNRELATED), dim)
        self.audio_in = nn.Linear(audio_dim // TOKENS_PER_FRAME, dim)
        self.reference_in = nn.Linear(N_VALUES, dim)
        self.audio_layers, self.reference_layers = (
            nn.ModuleList(EncoderLayer(Attention(dim, n_heads, dropout), dim, ff_dim, dropout) for _ in range(2))
            for _ in range(2)
        )
        self.audio_summary, self.reference_summary = summary(dim), summary(dim)
        self.null_audio = nn.Parameter(torch.randn(1, n_tokens, dim))
        self.null_audio_summary = nn.Parameter(torch.randn(1, dim))
        self.null_reference = nn.Parameter(torch.randn(1, n_frames, dim))
        self.time_hidden = nn.Linear(dim, 4 * dim)
        self.time_condition = nn.Linear(4 * dim, dim)
        self.time_tokens = nn.Linear(4 * dim, TIME_TOKENS * dim)
        self.memory_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, n_heads, dropout) for _ in range(n_layers))
        self.out = nn.Linear(2 * dim, N_VALUES)

    def forward(
        self,
        noisy: Float[Tensor, "b t 204"],
        timestep: Int64[Tensor, " b"],
        reference: Float[Tensor, "b 204"],
        audio: Float[Tensor, "b t d"],
        keep: Bool[Tensor, " b"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t 204"]:
        """Residuals to the reference.

        Args:
            noisy: residuals at the noise level of `timestep`; t is `n_frames`.
            timestep: number of the noise level.
            reference: face that the residuals are counted from.
            audio: speech features of the frames.
            keep: False where both conditions are replaced by what stands for none; None: nowhere.
            valid: no use is made of it: the published weights were trained with padding like any other frames.
        """
        keep = torch.ones(len(noisy), dtype=torch.bool, device=noisy.device) if keep is None else keep
        time = F.mish(self.time_hidden(time_embedding(timestep, self.null_reference.shape[-1])))
        time_tokens = rearrange(self.time_tokens(time), "b (n d) -> b n d", n=TIME_TOKENS)
        audio_tokens = self.encode(self.audio_in, self.audio_layers, self._audio_tokens(audio))
        audio_tokens = torch.where(keep[:, None, None], audio_tokens, self.null_audio)
        faces = self.encode(self.reference_in, self.reference_layers, reference[:, None].expand(-1, noisy.shape[1], -1))
        faces = torch.where(keep[:, None, None], faces, self.null_reference)
        heard = self.audio_summary(audio_tokens.mean(dim=1))
        heard = torch.where(keep[:, None], heard, self.null_audio_summary)
        condition = self.time_condition(time) + 2 * self.reference_summary(faces.mean(dim=1)) + heard
        memory = self.memory_norm(torch.cat([audio_tokens, time_tokens, faces], dim=1))
        face_memory = memory[:, audio_tokens.shape[1] :]
        x = self.branches(noisy)
        for layer in self.layers:
            x = layer(x, condition, memory, face_memory, self.frequencies)
        return self.out(x)

    def branches(self, noisy: Float[Tensor, "b t 204"]) -> Float[Tensor, "b t d2"]:
        """Tokens of the lip-related and of the other points, side by side."""
        lip = self._placed(self.lip_in(region(noisy, LIP_RELATED)))
        unrelated = self._placed(self.unrelated_in(region(noisy, UNRELATED)))
        return torch.cat([lip, unrelated], dim=-1)

    def encode(self, project: nn.Module, layers: nn.ModuleList, rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Tokens of a condition."""
        x = self._placed(project(rows))
        for layer in layers:
            x = layer(x, self.frequencies)
        return x

    def _placed(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Tokens that know their place, where it is not told by rotation."""
        return tokens if self.positions is None else self.position_dropout(tokens + self.positions[: tokens.shape[1]])

    def _audio_tokens(self, audio: Float[Tensor, "b t d"]) -> Float[Tensor, "b n c"]:
        return rearrange(audio, "b t (n c) -> b (t n) c", n=TOKENS_PER_FRAME)
