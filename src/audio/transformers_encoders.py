"""Speech features of pretrained encoders, through transformers: wav2vec 2.0, HuBERT, WavLM and other models of that family; Whisper.

Their rows come every 20 ms. They are interpolated at the middles of the video frames by the centres of what the rows see:

    wav2vec 2.0 family   row j sees samples [320 j - 40, 320 j + 360) (the sound is padded by 40 zeros on either side): the mean of
                         the two rows that lie inside frame i becomes row i
    Whisper              row j is centred on sample 320 j: row 2 i + 1 lies on the middle of frame i and becomes row i

Sound up to `chunk_seconds` goes through the model in one pass. Longer sound is divided where the model looks at everything at once, in
its transformer: chunks overlap by `2 * context_seconds` and fade into each other. What is before the transformer in the wav2vec 2.0
family, normalisation of the sound and convolutions with their group norm, spans the whole sound exactly, however long it is.
"""

import logging
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from src.audio.chunking import blend_chunks
from src.audio.conv_front_end import ConvFrontEnd
from src.audio.devices import choose_device
from src.audio.features import SAMPLE_RATE, SpeechFeatures, rows_at_frames
from src.errors import ConfigError, FeatureError
from src.model_files import models_dir

log = logging.getLogger(__name__)


@runtime_checkable
class Encoder(Protocol):
    """Sound of any length -> rows at the model's own rate."""

    dim: int
    spacing: int  # samples from one row to the next
    first: float  # centre of row 0, samples after the beginning of the sound

    def __call__(self, samples: Float32[np.ndarray, " s"]) -> Float32[np.ndarray, "r d"]:
        """All rows."""
        ...


class TransformersFeatures(SpeechFeatures):
    """A hidden layer of a pretrained speech encoder, brought to 25 rows per second.

    Args:
        model: id on the Hugging Face hub, a local folder, or the name of a folder in the models folder (VISEME_MODELS).
        layer: which hidden state: 0 is what enters the first layer of the transformer, -1 what leaves the last one.
        name: of the folder in a clip store.
        chunk_seconds: longest sound that passes the transformer at once; Whisper's own limit is 30 s. None: any length, in memory and
            time that grow with it.
        context_seconds: how much of a chunk's ends is there for the sake of its middle.
        local_files_only: True: never ask the network.
        revision: branch, tag or commit on the hub; None: the newest.
        device: where to compute; None: a GPU where there is one.
    """

    def __init__(
        self,
        model: str,
        layer: int = -1,
        name: str = "transformers",
        chunk_seconds: float | int | None = 30.0,
        context_seconds: float | int = 3.0,
        local_files_only: bool = False,
        revision: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(name)
        if context_seconds < 0 or (chunk_seconds is not None and not 0 < 4 * context_seconds <= chunk_seconds):
            raise ConfigError(
                f"features.chunk_seconds={chunk_seconds}, context_seconds={context_seconds}: a chunk must last at least four contexts."
            )
        self.model = model
        self.layer = layer
        self.chunk_seconds = chunk_seconds
        self.context_seconds = context_seconds
        self.local_files_only = local_files_only
        self.revision = revision
        self.device = choose_device(device)

    @property
    def dim(self) -> int:
        """Width of the model's hidden layers."""
        return self._encoder.dim

    @property
    def settings(self) -> dict[str, Any]:
        """Model, layer and chunks."""
        names = ("model", "revision", "layer", "chunk_seconds", "context_seconds")
        return {"features": "transformers"} | {name: getattr(self, name) for name in names}

    @torch.inference_mode()
    def encode(self, samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, "t d"]:
        """Rows of the encoder, interpolated at the middles of the video frames."""
        encoder = self._encoder
        return rows_at_frames(encoder(samples), encoder.first, encoder.spacing, n_frames)

    @cached_property
    def _encoder(self) -> Encoder:
        model, processor = load_pretrained(self.model, self.revision, self.local_files_only)
        model = model.to(self.device).eval()
        self._check_layer(model)
        if model.config.model_type == "whisper":
            return WhisperEncoder(model, processor, self.layer, self.chunk_seconds, self.context_seconds)
        if not hasattr(getattr(model, "feature_extractor", None), "conv_layers"):
            raise ConfigError(
                f"features.model={self.model} is of the type {model.config.model_type}: give a model of the wav2vec 2.0 family "
                "(wav2vec2, hubert, wavlm, data2vec-audio, unispeech) or Whisper."
            )
        return Wav2Vec2Encoder(model, processor, self.layer, self.chunk_seconds, self.context_seconds)

    def _check_layer(self, model: Any) -> None:
        n = model.config.num_hidden_layers
        if not -n - 1 <= self.layer <= n:
            raise ConfigError(
                f"features.layer={self.layer}: {self.model} has {n} layers; give 0 to {n}, or -1 for the last one."
            )


class Wav2Vec2Encoder:
    """wav2vec 2.0 and its relatives: normalised sound -> convolutions (every 20 ms) -> transformer.

    Args:
        model: its front end is taken out of it: the model then takes rows of convolutions in place of sound.
        processor: the model's feature extractor.
        layer: which hidden state.
        chunk_seconds: see `TransformersFeatures`.
        context_seconds: idem.
    """

    def __init__(
        self, model: Any, processor: Any, layer: int, chunk_seconds: float | int | None, context_seconds: float | int
    ) -> None:
        self.model, self.processor, self.layer = model, processor, layer
        config = model.config
        self.front_end = ConvFrontEnd(
            model.feature_extractor.conv_layers, list(config.conv_kernel), list(config.conv_stride)
        )
        model.feature_extractor = nn.Identity()
        self.dim = config.hidden_size
        self.spacing = self.front_end.stride
        self.padding = (self.front_end.receptive_field - self.spacing) // 2  # then there are as many rows as strides
        self.first = self.front_end.receptive_field / 2 - self.padding
        self.chunk = None if chunk_seconds is None else _in_rows(chunk_seconds, self.spacing)
        self.context = _in_rows(context_seconds, self.spacing)

    def __call__(self, samples: Float32[np.ndarray, " s"]) -> Float32[np.ndarray, "r d"]:
        """All rows, one per 20 ms."""
        sound = self.processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np").input_values[0]
        sound = torch.from_numpy(np.pad(sound, self.padding)).to(self.model.device)
        rows = self.front_end(sound)  # n d

        def transform(start: int, stop: int) -> Float32[np.ndarray, "r d"]:
            output = self.model(rows[None, start:stop].mT, output_hidden_states=True)
            return _hidden_state(output, self.layer)

        return blend_chunks(transform, len(rows), self.chunk or len(rows), self.context)


class WhisperEncoder:
    """Whisper's encoder: log-mel of windows of 30 s, padded with silence -> convolutions (every 20 ms) -> transformer.

    Args:
        model: with or without its decoder.
        processor: the model's feature extractor.
        layer: which hidden state.
        chunk_seconds: see `TransformersFeatures`; at most what the model takes.
        context_seconds: idem.
    """

    def __init__(
        self, model: Any, processor: Any, layer: int, chunk_seconds: float | int | None, context_seconds: float | int
    ) -> None:
        self.encoder, self.processor, self.layer = model.get_encoder(), processor, layer
        self.dim = model.config.d_model
        self.spacing = processor.hop_length * self.encoder.conv1.stride[0] * self.encoder.conv2.stride[0]
        self.first = 0.0
        longest = model.config.max_source_positions
        self.chunk = longest if chunk_seconds is None else min(_in_rows(chunk_seconds, self.spacing), longest)
        self.context = min(_in_rows(context_seconds, self.spacing), self.chunk // 4)

    def __call__(self, samples: Float32[np.ndarray, " s"]) -> Float32[np.ndarray, "r d"]:
        """All rows, one per 20 ms."""

        def transform(start: int, stop: int) -> Float32[np.ndarray, "r d"]:
            sound = samples[start * self.spacing : stop * self.spacing]
            mel = self.processor(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            output = self.encoder(mel.to(self.encoder.device), output_hidden_states=True)
            return _hidden_state(output, self.layer)[: stop - start]

        return blend_chunks(transform, -(-len(samples) // self.spacing), self.chunk, self.context)


def _in_rows(seconds: float | int, spacing: int) -> int:
    return round(seconds * SAMPLE_RATE / spacing)


def _hidden_state(output: Any, layer: int) -> Float32[np.ndarray, "r d"]:
    states: tuple[Tensor, ...] = output.hidden_states
    is_last = layer in (-1, len(states) - 1)
    state = output.last_hidden_state if is_last else states[layer]
    return state[0].float().cpu().numpy()


def load_pretrained(model: str, revision: str | None = None, local_files_only: bool = False) -> tuple[Any, Any]:
    """The model and its feature extractor; weights are read from safetensors or as plain tensors, no code of the model's is run.

    A model that was downloaded before is taken from the cache without asking the network.

    Raises:
        FeatureError: it is neither a local folder nor in the cache nor to be had from the hub, or it is damaged.
    """
    folder = _local_folder(model)
    if folder is None and (Path(model).is_absolute() or model.startswith((".", "~"))):
        raise FeatureError(f"features.model={model}: there is no such folder with a model's config.json.")
    error: Exception | None = None
    for offline in (True,) if folder or local_files_only else (True, False):
        try:
            with _quiet_libraries():
                return _load(str(folder or model), revision=revision or "main", local_files_only=offline)
        except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as failure:
            log.debug("loading %s failed", model, exc_info=True)
            error = failure
    if folder:
        raise FeatureError(
            f"The speech encoder in {folder} cannot be loaded ({_reason(error)}); copy or download it again."
        ) from error
    raise FeatureError(
        f"The speech encoder {model} is not on this machine"
        + ("" if local_files_only else ", and the Hugging Face hub has no such model or cannot be reached")
        + f": download it where there is a network with `hf download {model} --local-dir {models_dir() / Path(model).name}`, "
        "copy that folder here, or correct features.model=."
    ) from error


def _load(place: str, **options: Any) -> tuple[Any, Any]:
    from transformers import AutoFeatureExtractor, AutoModel  # here: the library takes seconds to import

    processor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False, **options)
    return AutoModel.from_pretrained(place, trust_remote_code=False, weights_only=True, **options), processor


def _local_folder(model: str) -> Path | None:
    """The folder of that name, here or in the models folder."""
    candidates = (Path(model).expanduser(), models_dir() / model, models_dir() / Path(model).name)
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def _reason(error: Exception | None) -> str:
    """First line of what the library says."""
    return str(error).strip().split("\n")[0].rstrip(". ")[:200] or type(error).__name__


@contextmanager
def _quiet_libraries() -> Generator[None]:
    """Without bars, without the list of weights that the encoder does not need, without a line for every retry."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as library

    before = library.get_verbosity(), hub.get_verbosity()
    library.set_verbosity_error()
    hub.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        library.enable_progress_bar()
