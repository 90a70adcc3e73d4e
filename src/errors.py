"""The errors that a user can solve.

The commands turn any `VisemeError` into one sentence on standard error and exit status 2 (`src.cli`); every other exception is a
defect of ours and keeps its traceback. A message is one sentence: what is wrong, where, and what to do.
"""

from collections.abc import Iterable


class VisemeError(Exception):
    """A problem that the user can solve; the message says what is wrong and what to do."""


class MediaError(VisemeError):
    """A video, sound or picture file that cannot be read or written."""


class FaceError(VisemeError):
    """No usable face, or the landmark model is missing."""


class FeatureError(VisemeError):
    """Speech features that cannot be made, or that do not fit the sound, the video or the network."""


class StoreError(VisemeError):
    """A clip store that is missing, incomplete or of another layout."""


class CheckpointError(VisemeError):
    """A checkpoint that is missing, unsafe, or of another method."""


class ConfigError(VisemeError):
    """An override or a configuration value that cannot be used."""


def require_choice(setting: str, value: object, choices: Iterable[object]) -> None:
    """ConfigError where `value` is none of `choices`."""
    known = list(choices)
    if value not in known:
        *others, last = map(str, known)
        raise ConfigError(f"{setting}={value}: choose {' or '.join([', '.join(others), last] if others else [last])}.")


def require_least(setting: str, value: float | int, least: int) -> None:
    """ConfigError where `value` is below `least`."""
    if value < least:
        raise ConfigError(f"{setting}={value}: give {least} or more.")
