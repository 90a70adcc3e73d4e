"""What a user gives as voice -> speech features and sound."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32

from src.audio.features import SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechFeatures
from src.audio.imported import ImportedFeatures, read_embeddings
from src.datamodules.speech_features import stored_features
from src.datamodules.store import Clip
from src.errors import ConfigError, FeatureError, MediaError
from src.media import read_audio
from src.pipelines.sources import stored_clip

log = logging.getLogger(__name__)

Read = TypeVar("Read")

SILENCE = 1e-3  # loudest sample of a sound that counts as silent: -60 dB


def choose_voice(
    source: str | Path | Clip | np.ndarray,
    audio: str | Path | Clip | np.ndarray | None,
    driving: str | Path | Clip | None,
    features: SpeechFeatures | ImportedFeatures | None,
    dim: int,
    audio_emb: Path | None = None,
) -> tuple[Float32[np.ndarray, "f d"], Float32[np.ndarray, " s"]]:
    """Speech features and samples of the sound that was given, else of the driving clip, else of the source; see `read_voice`.

    Raises:
        ConfigError: only the source could bring a voice, and it has none.
    """
    return _of_voice(source, audio, driving, lambda voice: read_voice(voice, features, dim, audio_emb))


def choose_sound(
    source: str | Path | Clip | np.ndarray,
    audio: str | Path | Clip | np.ndarray | None,
    driving: str | Path | Clip | None,
) -> tuple[Float32[np.ndarray, " s"], Path | Float32[np.ndarray, " s"]]:
    """16 kHz samples of the sound that `choose_voice` would choose, for methods with features of their own; and the sound as it was given.

    Raises:
        ConfigError: only the source could bring a voice, and it has none.
    """
    return _of_voice(source, audio, driving, _read_sound)


def _of_voice(
    source: str | Path | Clip | np.ndarray,
    audio: str | Path | Clip | np.ndarray | None,
    driving: str | Path | Clip | None,
    read: Callable[[str | Path | Clip | np.ndarray], Read],
) -> Read:
    """What `read` gives of the sound that was given, else of the driving clip, else of the source."""
    voice = next((given for given in (audio, driving) if given is not None), source)
    if isinstance(voice, np.ndarray) and voice.ndim != 1:
        raise ConfigError("this method needs a voice: give audio=FILE.")
    try:
        return read(voice)
    except MediaError as error:
        if voice is source and (stored_clip(source) is not None or Path(str(source)).is_file()):
            raise ConfigError(f"source={source} brings no voice: give audio=FILE.") from error
        raise


def read_voice(
    voice: str | Path | Clip | Float32[np.ndarray, " s"],
    features: SpeechFeatures | ImportedFeatures | None,
    dim: int,
    audio_emb: Path | None = None,
) -> tuple[Float32[np.ndarray, "f d"], Float32[np.ndarray, " s"]]:
    """Speech features and samples of a voice, equally long to within a frame.

    Args:
        voice: a sound or video file, 16 kHz mono, or a clip of a clip store, `STORE@CLIP_ID`.
        features: of the training; of a stored clip those in its store are taken, where there are any.
        dim: numbers per row that the model takes.
        audio_emb: a file of rows that another program computed, in place of computed ones.

    Raises:
        ConfigError: there are no features, or they are not those of the model.
        FeatureError: the sound is shorter than a frame, or its features cannot be computed.
        MediaError, StoreError: a file cannot be read.
    """
    samples, _ = _read_sound(voice)
    rows = _rows(stored_clip(voice), samples, features, audio_emb)
    if rows.shape[1] != dim:
        raise ConfigError(
            f"the speech features have {rows.shape[1]} numbers per frame, the model was trained with {dim}: choose the "
            "features=... of its training."
        )
    return rows, samples


def _read_sound(
    voice: str | Path | Clip | Float32[np.ndarray, " s"],
) -> tuple[Float32[np.ndarray, " s"], Path | Float32[np.ndarray, " s"]]:
    """16 kHz samples, and the file they are from, where there is one; a warning where they are silent."""
    clip = stored_clip(voice)
    if isinstance(voice, np.ndarray):
        name, samples, given = "the given sound", voice, voice
    elif clip is not None:
        name, samples, given = f"clip {clip.id}", clip.audio(), clip.audio_path
    else:
        given = Path(str(voice))
        name, samples = str(voice), read_audio(given, SAMPLE_RATE)
    if len(samples) and np.abs(samples).max() < SILENCE:
        log.warning("audio: %s is silent; the mouth will hardly move", name)
    return samples, given


def _rows(
    clip: Clip | None,
    samples: Float32[np.ndarray, " s"],
    features: SpeechFeatures | ImportedFeatures | None,
    audio_emb: Path | None,
) -> Float32[np.ndarray, "f d"]:
    """Given features, else those in the store, else computed ones."""
    if audio_emb is not None:
        rows = read_embeddings(audio_emb)
        frames = len(samples) / SAMPLES_PER_FRAME
        if abs(len(rows) - frames) > 1 + 1e-6:
            raise FeatureError(
                f"pipeline.audio_emb={audio_emb} has {len(rows)} rows for {frames:.1f} frames of sound: they may differ by one."
            )
        return rows
    if features is None:
        raise ConfigError(
            "the checkpoint names no speech features: give features=sda or another, or pipeline.audio_emb=FILE."
        )
    if clip is not None and (rows := stored_features(clip, features)) is not None:
        return rows
    if isinstance(features, ImportedFeatures):
        raise ConfigError("imported features belong to clips of a store: give pipeline.audio_emb=FILE for other sound.")
    return features(samples)
