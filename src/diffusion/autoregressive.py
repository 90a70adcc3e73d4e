"""A video frame by frame, each from the frames before it and the sound around it  (arXiv:2301.03396, section 3.2, figure 2)."""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

FrameDenoiser = Callable[
    [Float[Tensor, "b c h w"], Float[Tensor, "b mc h w"], Float[Tensor, "b n d"], int], Float[Tensor, "b c h w"]
]
"""Frame i from its starting noise, the motion frames side by side on the channels (oldest first), its audio window and i."""

FrameNoises = Callable[[int], Float[Tensor, "b c h w"]]
"""Starting noise of frame i; asked for in order."""


def audio_windows(
    audio: Float[Tensor, "b f d"], frames: Int64[Tensor, " k"], radius: int, lengths: Int64[Tensor, " b"] | None = None
) -> Float[Tensor, "b k n d"]:
    """Rows i - radius .. i + radius of the features around each frame i, oldest first; beyond the ends the outermost row repeats.

    Args:
        audio: one row per frame, padded to the longest of the batch.
        frames: i.
        radius: rows before and after.
        lengths: rows of each sample that are its own, at least 1; a window never sees the padding behind them. None: all rows count,
            as in the original, whose shorter clips see zero padding at their end.
    """
    offsets = torch.arange(-radius, radius + 1, device=audio.device)
    rows = frames.to(audio.device)[:, None] + offsets  # k n
    full = torch.full((len(audio),), audio.shape[1], device=audio.device)
    last = (full if lengths is None else lengths.to(audio.device)) - 1
    rows = rows.clamp(min=0)[None].minimum(last[:, None, None])  # b k n
    return audio[torch.arange(len(audio), device=audio.device)[:, None, None], rows]


def generate_frames(
    denoise: FrameDenoiser,
    identity: Float[Tensor, "b c h w"],
    audio: Float[Tensor, "b f d"],
    noise: FrameNoises,
    *,
    n_motion_frames: int,
    audio_radius: int,
    motion_transform: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c2 h w"]] = lambda frame: frame,
    stabilize_every: int | None = None,
    lengths: Int64[Tensor, " b"] | None = None,
) -> Iterator[Float[Tensor, "b c h w"]]:
    """The frames, one after the other, as many as `audio` has rows; memory does not grow with their number.

    The first motion frames are the identity frame. Every generated frame joins them, unquantised, and the oldest leaves.

    Args:
        denoise: the sampler around the network.
        identity: RGB in [-1, 1].
        audio: features, one row per frame.
        noise: starting noise by frame.
        n_motion_frames: how many past frames the network sees; may be 0.
        audio_radius: rows of features before and after a frame's own.
        motion_transform: what becomes of a frame before it is a motion frame, such as grey.
        stabilize_every: before every so many frames the identity frame takes the place of the oldest motion frame, against drift.
        lengths: rows of each sample that are its own, see `audio_windows`; frames behind them are to be dropped.
    """
    anchor = motion_transform(identity)
    motion = deque([anchor] * n_motion_frames, maxlen=n_motion_frames)
    nothing = anchor[:, :0]
    for i in range(audio.shape[1]):
        if stabilize_every and i and i % stabilize_every == 0 and motion:
            motion[0] = anchor
        window = audio_windows(audio, torch.tensor([i]), audio_radius, lengths)[:, 0]
        frame = denoise(noise(i), torch.cat([nothing, *motion], dim=1), window, i)
        motion.append(motion_transform(frame))
        yield frame
