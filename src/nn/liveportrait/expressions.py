"""Edits of an expression: amounts of smile, blink, gaze and so on, as shifts of key points.

Every edit is a few coordinates times the amount. The factors are those of the official demonstration (KwaiVGI/LivePortrait) and, where it
has none, of the community's editor (PowerHouseMan/ComfyUI-AdvancedLivePortrait); amounts have their ranges.

| edit | range | what it does |
|---|---|---|
| `smile` | -0.3 ... 1.3 | lips and cheeks |
| `wink` | 0 ... 39 | closes one eye |
| `eyebrow` | -30 ... 30 | raises or lowers the brows |
| `pout` | -0.09 ... 0.09 | moves the lower lip sideways |
| `purse` | -20 ... 15 | rounds the lips |
| `grin` | 0 ... 15 | shows the teeth |
| `lip_open` | -90 ... 120 | opens the mouth |
| `move_x`, `move_y` | -0.19 ... 0.19 | moves the head |
| `pupil_x`, `pupil_y` | -30 ... 30, -63 ... 63 | turns the gaze |
| `lids` | -20 ... 5 | opens the lids of both eyes, or closes them |
| `blink` | -20 ... 5 | the same with the brows |
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from src.errors import ConfigError
from src.nn.liveportrait.keypoints import NUM_KEYPOINTS

X, Y, Z = range(3)
Shifts = Mapping[tuple[int, int], float]  # (key point, axis) -> factor

_LIDS: Shifts = {(11, Y): -0.001, (13, Y): 0.0003, (15, Y): -0.001, (16, Y): 0.0003}

# Edit -> shifts for positive amounts, and those for amounts up to 0 where they differ.
_EDITS: dict[str, tuple[Shifts, ...]] = {
    "smile": (
        {
            (20, Y): -0.01, (14, Y): -0.02, (17, Y): 0.0065, (17, Z): 0.003,
            (13, Y): -0.00275, (16, Y): -0.00275, (3, Y): -0.0035, (7, Y): -0.0035,
        },
    ),
    "wink": ({(11, Y): 0.001, (13, Y): -0.0003, (17, X): 0.0003, (17, Y): 0.0003, (3, Y): -0.0003},),
    "eyebrow": (
        {(1, Y): 0.001, (2, Y): -0.001},
        {(1, X): -0.001, (2, X): 0.001, (1, Y): 0.0003, (2, Y): -0.0003},
    ),
    "pout": ({(19, X): 1.0},),
    "purse": ({(14, Y): 0.001, (3, Y): -0.0005, (7, Y): -0.0005, (17, Z): -0.0005},),
    "grin": ({(20, Z): -0.001, (20, Y): -0.001, (14, Y): -0.001},),
    "lip_open": ({(19, Y): 0.001, (19, Z): 0.0001, (17, Y): -0.0001},),
    "move_x": ({(5, X): -1.0},),
    "move_y": ({(5, Y): 1.0},),
    "pupil_x": ({(11, X): 0.0007, (15, X): 0.001}, {(11, X): 0.001, (15, X): 0.0007}),
    "pupil_y": ({(11, Y): -0.001, (15, Y): -0.001},),
    "lids": (_LIDS,),
    "blink": ({**_LIDS, (1, Y): -0.00025, (2, Y): 0.00025},),
}  # fmt: skip

EDITS = tuple(_EDITS)
LID_SHARE = -0.5  # of a vertical turn of the gaze: the lids follow it


def edited(exp: Float[Tensor, "b 21 3"], edits: Mapping[str, float | int]) -> Float[Tensor, "b 21 3"]:
    """The expression with amounts of edits added to it.

    Raises:
        ConfigError: an edit that there is not.
    """
    shift = torch.zeros(NUM_KEYPOINTS, 3, dtype=torch.float64)
    for name, amount in edits.items():
        if name not in _EDITS:
            raise ConfigError(f"{name}={amount}: there is no such expression; choose from {', '.join(EDITS)}.")
        for (point, axis), factor in _EDITS[name][0 if amount > 0 else -1].items():
            shift[point, axis] += factor * amount
    return exp + shift.to(exp)


def gaze(pupil_x: float | int, pupil_y: float | int, *, lids: bool = True) -> dict[str, float | int]:
    """Edits that turn the gaze; `lids`: they follow it up and down."""
    return {"pupil_x": pupil_x, "pupil_y": pupil_y} | ({"lids": LID_SHARE * pupil_y} if lids else {})
