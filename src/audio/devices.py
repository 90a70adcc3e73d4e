"""Where networks of this room compute."""

import torch

from src.errors import ConfigError


def choose_device(device: str | None) -> torch.device:
    """The device of that name; None: a GPU where there is one, else the processor.

    Raises:
        ConfigError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"features.device={device}: there is no such device; give cpu, cuda or null.") from error
    return torch.device(device)
