"""Speech features of the audio encoder of Speech-Driven Animation, which Diffused Heads was trained with."""

import codecs
import os
import pickle
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.signal import resample
from torch import Tensor

from src.adapters.inert import Inert, StoredTensor, TorchArchive, module_tensors
from src.adapters.sda_audio_encoder import from_official
from src.audio.devices import choose_device
from src.audio.features import FPS, SAMPLE_RATE, SpeechFeatures
from src.audio.windows import frame_windows, window_hop
from src.errors import CheckpointError
from src.model_files import sha256_of
from src.nn.sda_audio_encoder import SDAAudioEncoder

BLOCK = 250  # frames at a time: memory, not the result

# Names that a published `.dat` file gives its settings, and the network's.
SETTINGS = {
    "audio_rate": "rate",
    "audio_feat_len": "feat_length",
    "aud_enc_dim": "enc_code_size",
    "rnn_gen_dim": "rnn_code_size",
}

# What a `.dat` file holds beside tensors: arrays of numbers. The older name is the one that NumPy 1 wrote.
_ARRAY_TYPES: list[Any] = [
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.ndarray,
    np.dtype,
    codecs.encode,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdg"),
]


class SDAFeatures(SpeechFeatures):
    """Windows of 0.2 s around the middle of every video frame, encoded one after the other by a causal recurrent network.

    Its state is zero at the beginning of a sound and carried from window to window, so the rows of a sound do not depend on how it is
    divided into blocks.

    Args:
        checkpoint: a `.dat` file of Speech-Driven Animation, the encoder's state dict (`.pt`, `.pth`, `.safetensors`), or a TorchScript
            archive, of which the weights are read (Diffused Heads' `audio_encoder.pt`).
        name: of the folder in a clip store.
        device: where to compute; None: a GPU where there is one.
        network: arguments of `SDAAudioEncoder` that differ from the published encoder's; those that a `.dat` file states go first.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        name: str = "sda",
        device: str | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name)
        self.checkpoint = Path(checkpoint).expanduser()
        self.device = choose_device(device)
        self.network = dict(network or {})

    @property
    def dim(self) -> int:
        """Numbers of an embedding, 256 in the published encoder."""
        return self._encoder.gru.hidden_size

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The content of the checkpoint decides; where it lies does not."""
        return {"features": "sda", "sha256": sha256_of(require_checkpoint(self.checkpoint)), "network": self.network}

    @torch.inference_mode()
    def encode(self, samples: Float32[np.ndarray, " s"], n_frames: int) -> Float32[np.ndarray, "t d"]:
        """Embeddings after each frame's window."""
        rate = self._encoder.rate
        if rate != SAMPLE_RATE:
            samples = resample(samples, len(samples) * rate // SAMPLE_RATE).astype(
                np.float32
            )  # by Fourier, as the original
        windows = frame_windows(samples, self._encoder.window, window_hop(FPS, rate))[:n_frames]
        state, blocks = None, []
        for start in range(0, n_frames, BLOCK):
            block = torch.from_numpy(windows[start : start + BLOCK].copy())[None].to(self.device)
            rows, state = self._encoder(block, state)
            blocks.append(rows[0].cpu().numpy())
        return np.concatenate(blocks)

    @cached_property
    def _encoder(self) -> SDAAudioEncoder:
        return load_sda_encoder(self.checkpoint, **self.network).to(self.device)


def load_sda_encoder(path: Path, **network: Any) -> SDAAudioEncoder:
    """The encoder of a checkpoint, ready to be used.

    Args:
        path: see `SDAFeatures`.
        network: arguments of `SDAAudioEncoder`; what the file states goes first.

    Raises:
        CheckpointError: the file is missing, damaged, refused for safety, or of another network.
    """
    content, state_dict = _read(require_checkpoint(path))
    found = {ours: content[theirs] for theirs, ours in SETTINGS.items() if isinstance(content.get(theirs), int | float)}
    arguments = {**network, **found}
    try:
        encoder = SDAAudioEncoder(**_whole_numbers(arguments))
        encoder.load_state_dict(from_official(_of_encoder(state_dict, path)), strict=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit the encoder that {arguments or 'the published settings'} describe: set features.network to its settings."
        ) from error
    return encoder.eval()


def require_checkpoint(path: Path) -> Path:
    """`path`, or a CheckpointError that says what to do."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no such audio encoder; download Diffused Heads' audio_encoder.pt or a .dat file of "
            "Speech-Driven Animation (docs/data.md says where) and set features.checkpoint=FILE."
        )
    return path


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """What a `.dat` file states beside the weights, and all tensors of the encoder; no code of the file is run."""
    try:
        if path.suffix == ".safetensors":
            return {}, load_file(path)
        if zipfile.is_zipfile(path):
            return _read_archive(TorchArchive(path))
        with torch.serialization.safe_globals(_ARRAY_TYPES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, arrays and plain values and was refused for safety; save its state dict alone."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch file; copy or download it again.") from error
    content = content if isinstance(content, dict) else {}
    encoder = content.get("encoder", content)
    return content, {key: value for key, value in encoder.items() if isinstance(value, Tensor)}


def _read_archive(archive: TorchArchive) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """As `_read`, from a file of `torch.save` or a TorchScript archive."""
    content = archive.content
    if isinstance(content, Inert):
        return {}, archive.load_tensors(dict(module_tensors(content)))
    content = content if isinstance(content, dict) else {}
    encoder = content.get("encoder", content)
    tensors = {key: value for key, value in encoder.items() if isinstance(value, StoredTensor)}
    return content, archive.load_tensors(tensors)


def _of_encoder(state_dict: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The encoder's tensors under their original names, whatever module they lie in."""
    first = "encoder.cl.0.weight"
    prefix = next((key.removesuffix(first) for key in state_dict if key.endswith(first)), None)
    if prefix is None:
        raise CheckpointError(f"{path} holds no audio encoder of Speech-Driven Animation ({first}); give another file.")
    parts = (f"{prefix}encoder.", f"{prefix}rnn.")
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(parts)}


def _whole_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes as int: files of other programs may hold them as floats."""
    sizes = ("rate", "enc_code_size", "rnn_code_size", "n_layers")
    return {key: int(value) if key in sizes else value for key, value in arguments.items()}
