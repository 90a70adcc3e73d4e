"""The video autoencoder of PVDM (arXiv:2302.07685), which MoDiTalker trains once for faces and once for drawn landmarks.

Legend: `b` clips, `t` frames, `c` channels of the latent, `d` width, `h w` cells of patch x patch pixels, `n` positions of the planes.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from src.errors import ConfigError, require_least
from src.nn.moditalker_mtov.planes import PLANES, PlaneShape, join
from src.nn.moditalker_mtov.timesformer import Attention, PatchEmbedding, TimeSformer

_READOUT_MLP = 512
ALONG = {"xy": "b d t h w -> (b h w) t d", "yt": "b d t h w -> (b t w) h d", "xt": "b d t h w -> (b t h) w d"}


class FeedForward(nn.Module):
    """Two layers with a GELU between them, of normalised tokens."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What is to be added to the tokens."""
        return self.layers(self.norm(x))


class ReadoutLayer(nn.Module):
    """Attention and a feed-forward network, added to the tokens."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, head_dim)
        self.feed_forward = FeedForward(dim, hidden)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The tokens after the layer."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)

    def of_first(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
        """The first token after the layer; no other is computed."""
        first = x[:, :1] + self.attention.of_first(x)
        return first + self.feed_forward(first)


class PlaneReadout(nn.Module):
    """What a plane keeps of the axis that it looks along: that axis is read by a transformer and shrinks to a single token.

    A learned token is appended to the sequence, but the result is what becomes of the first cell, as published weights have it.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        depth: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        hidden: int = _READOUT_MLP,
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, length + 1, dim))
        self.layers = nn.Sequential(*(ReadoutLayer(dim, heads, head_dim or dim // 8, hidden) for _ in range(depth)))

    def forward(self, sequences: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """A vector per sequence."""
        last = self.layers[-1]
        assert isinstance(last, ReadoutLayer)
        return last.of_first(self.layers[:-1](self.tokens(sequences)))[:, 0]

    def tokens(self, sequences: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """What the transformer sees: the learned token behind the sequence, and the learned positions."""
        x = torch.cat([sequences, self.token.expand(len(sequences), -1, -1)], dim=1)
        return x + self.positions


class TriplaneAutoencoder(nn.Module):
    """Clips <-> three planes of few channels, with values in (-1, 1).

    The defaults are the published networks: 62 064 399 parameters, 16 frames of 256x256 to 4 x 2048 values.

    Args:
        resolution: height and width of the frames, in pixels; a multiple of `patch`.
        frames: of a clip.
        dim: width of the transformers; a multiple of 8.
        latent_channels: of the planes.
        patch: height and width of a cell, in pixels. The original has 8.
        depth: layers of encoder and of decoder. The original has 8.
        heads, head_dim: of their attention. The original has 8 heads of 64.
        readout_depth: layers of the transformers that read the planes. The original has 4.
        gradient_checkpointing: recompute the layers' activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: sizes do not divide.
    """

    def __init__(
        self,
        resolution: int = 256,
        frames: int = 16,
        dim: int = 384,
        latent_channels: int = 4,
        patch: int = 8,
        depth: int = 8,
        heads: int = 8,
        head_dim: int = 64,
        readout_depth: int = 4,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if resolution % patch:
            raise ConfigError(f"resolution={resolution} is no multiple of patch={patch}: choose one.")
        if dim % 8 or head_dim % 4:
            raise ConfigError(f"dim={dim} must be a multiple of 8 and head_dim={head_dim} one of 4: choose others.")
        require_least("net.readout_depth", readout_depth, 1)
        self.resolution, self.frames, self.patch = resolution, frames, patch
        self.latent_channels = latent_channels
        side = resolution // patch
        self.shape = PlaneShape(frames, side, side)
        self.patch_embedding = PatchEmbedding(dim, patch)
        self.encoder = TimeSformer(dim, depth, heads, head_dim, gradient_checkpointing)
        lengths = {"xy": frames, "yt": side, "xt": side}
        self.readouts = nn.ModuleDict({name: PlaneReadout(dim, lengths[name], readout_depth) for name in PLANES})
        self.to_latent = nn.ModuleDict({name: nn.Conv2d(dim, latent_channels, 1) for name in PLANES})
        self.from_latent = nn.ModuleDict({name: nn.Conv2d(latent_channels, dim, 1) for name in PLANES})
        self.decoder = TimeSformer(dim, depth, heads, head_dim, gradient_checkpointing)
        self.to_pixels = nn.ConvTranspose2d(dim, 3, patch, stride=patch)

    def encode(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b c n"]:
        """Latents in (-1, 1) of RGB clips in [-1, 1].

        Raises:
            ValueError: clips of another size than the network's.
        """
        expected = (self.frames, 3, self.resolution, self.resolution)
        if tuple(video.shape[1:]) != expected:
            raise ValueError(f"clips of {tuple(video.shape[1:])}: the autoencoder takes {expected}")
        volume = self.encoder(self.patch_embedding(video)).movedim(-1, 1)  # b d t h w
        return join([self._read(name, volume) for name in PLANES]).tanh()

    def _read(self, name: str, volume: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b c rows columns"]:
        """A plane of the volume, before the tanh."""
        vectors = self.readouts[name](rearrange(volume, ALONG[name]))
        rows, columns = self.shape.sizes[name]
        plane = rearrange(vectors, "(b r s) d -> b d r s", r=rows, s=columns)
        return self.to_latent[name](plane)

    def expand(self, latent: Float[Tensor, "b c n"]) -> Float[Tensor, "b d t h w"]:
        """The sum of the planes, each repeated along the axis that it lacks."""
        xy, yt, xt = (self.from_latent[name](p) for name, p in zip(PLANES, self.shape.split(latent), strict=True))
        return xy[:, :, None] + yt[:, :, :, None] + xt[..., None]

    def decode(self, latent: Float[Tensor, "b c n"]) -> Float[Tensor, "b t 3 height width"]:
        """RGB clips in (-1, 1).

        Raises:
            ValueError: latents of another length.
        """
        cells = self.decoder(self.expand(latent).movedim(1, -1))  # b t h w d
        pixels = self.to_pixels(cells.flatten(0, 1).movedim(-1, 1))
        return (2 * pixels.sigmoid() - 1).unflatten(0, cells.shape[:2])

    def forward(self, video: Float[Tensor, "b t 3 height width"]) -> Float[Tensor, "b t 3 height width"]:
        """Reconstructions."""
        return self.decode(self.encode(video))
