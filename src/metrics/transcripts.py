"""Word error rate: what a recogniser reads in a video against what was said.

A recogniser of sound on a generated video hears the voice that drove it: that number says nothing about the lips, and serves as a lower
bound. What counts is a lip reader; whatever maps a video to words can be given.
"""

import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import word_error_rate

from src.errors import ConfigError


def normalised(text: str) -> str:
    """Lower case, without punctuation (apostrophes inside words stay) and with single spaces, as both sides need it."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)
    return " ".join(re.sub(r"[^\w\s']|_", " ", text).split())


def read_transcripts(path: Path) -> dict[str, str]:
    """What is said, by name of the clip: a CSV file with the columns `name` and `text`.

    Raises:
        ConfigError: the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"transcripts={path} cannot be read ({error.strerror}): give a CSV file.") from error
    if not rows or not {"name", "text"} <= rows[0].keys():
        raise ConfigError(f"transcripts={path}: give a CSV file with the columns name and text, and a row per clip.")
    return {row["name"]: row["text"] for row in rows}


class WordErrors(Metric):
    """Edits over reference words of all clips together, 0 or more (above 1 where words are invented), lower is better.

    Attributes:
        skipped: number of clips whose reference is empty.
    """

    full_state_update = False
    higher_is_better = False
    edits: Tensor
    words: Tensor
    skipped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("edits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("words", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recognised: Sequence[str], references: Sequence[str]) -> None:
        """Add clips. Texts are compared as they are: case and punctuation count unless both sides are `normalised`."""
        for found, said in zip(recognised, references, strict=True):
            n_words = len(said.split())
            if n_words:
                self.edits += word_error_rate(found, said).double() * n_words
                self.words += n_words
            else:
                self.skipped += 1

    def compute(self) -> Float[Tensor, ""]:
        """Over all words; NaN when there is none."""
        return (self.edits / self.words).float()


@runtime_checkable
class Recogniser(Protocol):
    """Tells what is said in sound of 16 kHz."""

    def __call__(self, samples: Float32[ndarray, " s"]) -> str:
        """The words."""
        ...


class SpeechRecogniser:
    """Words of a sound, by a model of transformers.

    Args:
        model: name on the Hugging Face hub, or a folder, of a speech recogniser such as Whisper.
        device: PyTorch device.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import pipeline

        try:
            self._pipeline = pipeline("automatic-speech-recognition", model=model, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"asr={model} cannot be loaded ({str(error).splitlines()[0]}): give a speech recogniser of transformers, "
                "by name with a network or as a folder."
            ) from error

    def __call__(self, samples: Float32[ndarray, " s"]) -> str:
        """What is said in the sound, 16 kHz; long sound is read in pieces of 30 s."""
        result = self._pipeline({"raw": samples, "sampling_rate": 16000}, chunk_length_s=30)
        return str(result["text"]) if isinstance(result, dict) else str(result)
