"""The motion decoder of AToM, repaired: the default for new training.

What differs from the published one (`src.nn.moditalker_atom.published`):

- every step of a layer is added to what entered it, and the feed-forward net takes part;
- the lip-related branch alone hears the voice: the other one knows time and reference face only;
- rotary positions turn queries and keys per head, in frames: sound and motion of the same instant have the same position, and every lip
  token begins with the sound of its own frame;
- a vector in place of a missing condition, so that windows may have any length, and padding that nothing looks at.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from src.nn.moditalker_atom.layers import (
    EncoderLayer,
    FeedForward,
    Film,
    rotary_frequencies,
    rotate,
    summary,
    time_embedding,
)
from src.nn.moditalker_atom.regions import LIP_RELATED, N_VALUES, UNRELATED, region, values_of


class RotaryAttention(nn.Module):
    """Attention between tokens of frames: queries and keys are turned by their frame, head by head."""

    frequencies: Tensor

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.queries, self.keys, self.values, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.register_buffer("frequencies", rotary_frequencies(dim // n_heads), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        memory: Float[Tensor, "b m d"],
        seen: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the frames `x` gather from the frames `memory`, both counted from the same instant; `seen` says which of them count."""
        q, k, v = (
            self._heads(project(y)) for project, y in ((self.queries, x), (self.keys, memory), (self.values, memory))
        )
        mask = None if seen is None else seen[:, None, None]
        dropout = self.dropout if self.training else 0.0
        found = scaled_dot_product_attention(self._turned(q), self._turned(k), v, attn_mask=mask, dropout_p=dropout)
        return self.out(rearrange(found, "b head t c -> b t (head c)"))

    def _heads(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b head n c"]:
        return rearrange(x, "b n (head c) -> b head n c", head=self.n_heads)

    def _turned(self, x: Float[Tensor, "b head n c"]) -> Float[Tensor, "b head n c"]:
        return rotate(x, torch.arange(x.shape[2], device=x.device, dtype=torch.float32), self.frequencies)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention of the lip-related branch to the voice, feed-forward net; both branches share the weights."""

    def __init__(self, dim: int, ff_dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = RotaryAttention(dim, n_heads, dropout)
        self.cross_attention = RotaryAttention(dim, n_heads, dropout)
        self.feed_forward = FeedForward(dim, ff_dim, dim, dropout)
        self.film1, self.film2, self.film3 = (Film(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        lip: Float[Tensor, "b t d"],
        unrelated: Float[Tensor, "b t d"],
        told: Float[Tensor, "b d"],
        untold: Float[Tensor, "b d"],
        voice: Float[Tensor, "b t d"],
        seen: Bool[Tensor, "b t"] | None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d"]]:
        """Both branches; `told` and `untold` modulate the lip-related and the other one."""
        conditions = torch.cat([told, untold])
        both = torch.cat([lip, unrelated])
        normed = self.norm1(both)
        seen_twice = None if seen is None else seen.repeat(2, 1)
        both = both + self.dropout(self.film1(self.self_attention(normed, normed, seen_twice), conditions))
        lip, unrelated = both.chunk(2)
        lip = lip + self.dropout(self.film2(self.cross_attention(self.norm2(lip), voice, seen), told))
        both = torch.cat([lip, unrelated])
        both = both + self.dropout(self.film3(self.feed_forward(self.norm3(both)), conditions))
        lip, unrelated = both.chunk(2)
        return lip, unrelated


class MotionDecoder(nn.Module):
    """Predicts clean residuals of landmarks from noisy ones, a reference face and speech features; windows of any length.

    Args:
        dim: width of the tokens.
        ff_dim: hidden width of the feed-forward nets.
        n_layers: of the decoder.
        n_heads: of every attention.
        dropout: of attention and feed-forward nets.
        audio_dim: numbers of speech features per frame.
        n_encoder_layers: of the voice.
    """

    places: Tensor

    def __init__(
        self,
        dim: int = 512,
        ff_dim: int = 1024,
        n_layers: int = 8,
        n_heads: int = 8,
        dropout: float = 0.1,
        audio_dim: int = 2048,
        n_encoder_layers: int = 2,
    ) -> None:
        super().__init__()
        self.n_frames: int | None = None  # any
        self.audio_dim = audio_dim
        self.dim = dim
        self.lip_in = nn.Linear(3 * len(LIP_RELATED), dim)
        self.unrelated_in = nn.Linear(3 * len(UNRELATED), dim)
        self.audio_in = nn.Linear(audio_dim, dim)
        self.audio_layers = nn.ModuleList(
            EncoderLayer(RotaryAttention(dim, n_heads, dropout), dim, ff_dim, dropout) for _ in range(n_encoder_layers)
        )
        self.audio_norm = nn.LayerNorm(dim)
        self.reference_in = nn.Linear(N_VALUES, dim)
        self.reference_summary, self.audio_summary = summary(dim), summary(dim)
        self.time_in = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
        self.null_audio = nn.Parameter(0.02 * torch.randn(dim))
        self.null_reference = nn.Parameter(0.02 * torch.randn(dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, ff_dim, n_heads, dropout) for _ in range(n_layers))
        self.lip_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * len(LIP_RELATED)))
        self.unrelated_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * len(UNRELATED)))
        order = torch.cat([values_of(LIP_RELATED), values_of(UNRELATED)])
        self.register_buffer("places", order.argsort(), persistent=False)

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
            noisy: residuals at the noise level of `timestep`.
            timestep: number of the noise level.
            reference: face that the residuals are counted from.
            audio: speech features of the frames.
            keep: False where both conditions are replaced by what stands for none; None: nowhere.
            valid: False for padding, which no other frame looks at; None: there is none.
        """
        voice, heard = self._voice(audio, keep, valid)
        face = self.reference_in(reference)
        face = face if keep is None else torch.where(keep[:, None], face, self.null_reference)
        untold = self.time_in(time_embedding(timestep, self.dim)) + self.reference_summary(face)
        told = untold + heard
        lip = self.lip_in(region(noisy, LIP_RELATED)) + voice
        unrelated = self.unrelated_in(region(noisy, UNRELATED))
        for layer in self.layers:
            lip, unrelated = layer(lip, unrelated, told, untold, voice, valid)
        return torch.cat([self.lip_out(lip), self.unrelated_out(unrelated)], dim=-1)[..., self.places]

    def _voice(
        self, audio: Float[Tensor, "b t d"], keep: Bool[Tensor, " b"] | None, valid: Bool[Tensor, "b t"] | None
    ) -> tuple[Float[Tensor, "b t dim"], Float[Tensor, "b dim"]]:
        """Tokens of the voice, and one vector that sums them up."""
        x = self.audio_in(audio)
        for layer in self.audio_layers:
            x = layer(x, valid)
        x = self.audio_norm(x)
        x = x if keep is None else torch.where(keep[:, None, None], x, self.null_audio)
        return x, self.audio_summary(_mean(x, valid))


def _mean(x: Float[Tensor, "b t d"], valid: Bool[Tensor, "b t"] | None) -> Float[Tensor, "b d"]:
    """Mean over the frames that count."""
    if valid is None:
        return x.mean(dim=1)
    weights = valid[..., None].to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
