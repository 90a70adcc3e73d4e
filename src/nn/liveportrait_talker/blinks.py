"""When the eyes blink, and how far they are open then: what LivePortrait's eye network is told."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

OPENING = (1.0, 0.5, 0.0, 0.5, 1.0)  # of the eyes during a blink, in fractions of how far they are open otherwise
STILL_FRAMES = 20  # videos up to this length have no blinks
_SHORTEST_GAP, _LONGEST_GAP = 10, 70  # frames from the end of a blink to the next one


def draw_blinks(n_frames: int, draw: Callable[[int, int], int]) -> list[int]:
    """The first frames of blinks: at random, 10 to 69 frames apart, but no further than half of the video.

    Args:
        n_frames: of the video.
        draw: a uniform integer from the first number up to, without, the second.
    """
    starts: list[int] = []
    highest = min(n_frames // 2, _LONGEST_GAP)
    if n_frames <= STILL_FRAMES or highest <= _SHORTEST_GAP:
        return starts
    end = 0  # of the blink before
    while (start := end + draw(_SHORTEST_GAP, highest)) + len(OPENING) <= n_frames - 1:
        starts.append(start)
        end = start + len(OPENING)
    return starts


def eye_closing(n_frames: int, starts: Sequence[int]) -> Float32[Tensor, " t"]:
    """The signal that SadTalker's `ExpNet` was trained with: 0 where the eyes are open, 1 where they are closed."""
    closing = torch.zeros(n_frames)
    for start in starts:
        closing[start : start + len(OPENING)] = torch.tensor([0.5, 0.9, 1.0, 0.9, 0.5])
    return closing


def eye_openings(n_frames: int, starts: Sequence[int], left: float, right: float) -> Float32[Tensor, "t 2"]:
    """Eye-close ratios of both eyes, frame by frame.

    Args:
        n_frames: of the video.
        starts: first frames of blinks; none: the eyes stay as they are.
        left, right: ratios of the open eyes, usually those of the source picture.
    """
    openings = torch.ones(n_frames)
    for start in starts:
        openings[start : start + len(OPENING)] = torch.tensor(OPENING)
    return openings[:, None] * torch.tensor([left, right])
