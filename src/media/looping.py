"""Short videos that have to last longer."""

import numpy as np
from jaxtyping import Int64


def ping_pong(n_frames: int, n_wanted: int) -> Int64[np.ndarray, " t"]:
    """Frame numbers that run through a video forwards and backwards, in turn; first and last frame come twice at the turning points."""
    position = np.arange(n_wanted) % (2 * n_frames)
    return np.where(position < n_frames, position, 2 * n_frames - 1 - position)
