"""Tiny pretrained encoders with random weights, and sounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
WHISPER_SECONDS = 4  # of the tiny Whisper's windows


def noise(n: int, seed: int = 0, level: float = 0.05) -> np.ndarray:
    """Noise whose loudness changes ten times a second, float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.random(n // 1600 + 1), 1600)[:n]
    return np.clip(level * loudness * rng.standard_normal(n), -1, 1).astype(np.float32)


def click_track(n: int, at: int, level: float = 0.9, background: float = 0.02) -> np.ndarray:
    """Faint noise and one sample that is loud."""
    samples = noise(n, level=background)
    samples[at] += level
    return samples


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny encoder: tiny("hubert", "group"), ("wav2vec2", "layer"), ("wavlm", "group"), ("whisper")."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(kind: str, norm: str = "group", normalize: bool = True) -> Path:
        key = (kind, norm, normalize)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model, processor = _whisper() if kind == "whisper" else _wav2vec2(kind, norm, normalize)
            model.eval().save_pretrained(made[key])
            processor.save_pretrained(made[key])
        return made[key]

    return make


def _wav2vec2(kind: str, norm: str, normalize: bool) -> tuple[Any, Any]:
    prefix = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}[kind]
    config = getattr(transformers, f"{prefix}Config")
    model = getattr(transformers, f"{prefix}Model")
    arguments = {**SIZES, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    return model(config(**arguments)), transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize)


def _whisper() -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_source_positions=50 * WHISPER_SECONDS,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperModel(config), transformers.WhisperFeatureExtractor(chunk_length=WHISPER_SECONDS)
