"""Where networks of this room compute."""

import torch


def choose_device(device: str | None) -> torch.device:
    """The device of that name; None: a GPU where there is one, else the processor."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
