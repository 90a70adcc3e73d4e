"""The encoder of Speech-Driven Animation: its files in all forms, and a state that runs through the sound."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from src.adapters.sda_audio_encoder import to_official
from src.audio import sda
from src.audio.sda import SDAFeatures
from src.audio.windows import frame_windows
from src.errors import CheckpointError
from src.nn.sda_audio_encoder import SDAAudioEncoder
from tests.audio.conftest import noise


@pytest.fixture(scope="module")
def encoder() -> SDAAudioEncoder:
    torch.manual_seed(0)
    return SDAAudioEncoder().eval()


def expected(encoder: SDAAudioEncoder, sound: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return encoder(torch.from_numpy(frame_windows(sound).copy())[None])[0][0].numpy()


def dat_content(encoder: SDAAudioEncoder) -> dict[str, object]:
    """What a published file holds."""
    return {
        "encoder": to_official(encoder.state_dict()),
        "mean_face": np.zeros((68, 2)),
        "img_size": (128, 96),
        "audio_rate": 16000,
        "audio_feat_len": 0.2,
        "aud_enc_dim": 256,
        "rnn_gen_dim": 256,
        "video_rate": 25,
    }


@pytest.mark.parametrize("form", ["state_dict", "legacy_state_dict", "dat", "legacy_dat", "safetensors", "torchscript"])
def test_every_form_of_the_file_gives_the_same_features(tmp_path, encoder, form):
    path = tmp_path / {"safetensors": "encoder.safetensors", "dat": "crema.dat", "legacy_dat": "crema.dat"}.get(
        form, "encoder.pt"
    )
    if form == "safetensors":
        save_file(to_official(encoder.state_dict()), path)
    elif form == "torchscript":
        save_torchscript(encoder, path)
    else:
        content = dat_content(encoder) if form.endswith("dat") else to_official(encoder.state_dict())
        torch.save(content, path, _use_new_zipfile_serialization=not form.startswith("legacy"))
    sound = noise(20 * 640 + 100)
    assert SDAFeatures(path, device="cpu")(sound) == pytest.approx(expected(encoder, sound), abs=1e-5)


def save_torchscript(encoder: SDAAudioEncoder, path: Path) -> None:
    """An archive whose modules bear the original's names."""

    class Convolutions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = encoder.encoder.layers
            self.cl = torch.nn.ModuleList(layer[0] for layer in layers)
            self.activations = torch.nn.ModuleList(torch.nn.Sequential(*layer[1:]) for layer in layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv, activation in zip(self.cl, self.activations):  # noqa: B905 (TorchScript has no strict)
                x = activation(conv(x))
            return x

    class Original(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.rnn = Convolutions(), encoder.gru

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(self.encoder(x).squeeze(-1)[None])[0]

    torch.jit.script(Original().eval()).save(str(path))


def test_blocks_change_nothing(tmp_path, encoder, monkeypatch):
    torch.save(to_official(encoder.state_dict()), tmp_path / "encoder.pt")
    monkeypatch.setattr(sda, "BLOCK", 3)
    sound = noise(20 * 640)
    assert SDAFeatures(tmp_path / "encoder.pt", device="cpu")(sound) == pytest.approx(
        expected(encoder, sound), abs=1e-6
    )


def test_rows_depend_on_the_past_and_three_frames_of_future_at_most(tmp_path, encoder):
    torch.save(to_official(encoder.state_dict()), tmp_path / "encoder.pt")
    features, sound = SDAFeatures(tmp_path / "encoder.pt", device="cpu"), noise(30 * 640)
    changed = sound.copy()
    changed[20 * 640 :] = 0
    difference = np.abs(features(sound) - features(changed)).max(axis=1)
    assert np.all(difference[:18] < 1e-6)  # window 18 is the first to reach sample 640 * 18 + 1920
    assert np.all(difference[18:] > 0)


def test_settings_of_a_file_go_first_and_other_rates_are_resampled(tmp_path):
    torch.manual_seed(1)
    fast = SDAAudioEncoder(rate=50_000, enc_code_size=64, rnn_code_size=32).eval()
    content = {**dat_content(fast), "audio_rate": 50_000, "aud_enc_dim": 64, "rnn_gen_dim": 32}
    torch.save(content, tmp_path / "grid.dat")
    features = SDAFeatures(tmp_path / "grid.dat", device="cpu")
    assert features.dim == 32
    assert features(noise(20 * 640 + 5), 20).shape == (20, 32)


def test_network_settings_describe_files_that_state_none(tmp_path):
    small = SDAAudioEncoder(enc_code_size=32, rnn_code_size=16, n_layers=1)
    torch.save(to_official(small.state_dict()), tmp_path / "small.pt")
    network = {"enc_code_size": 32, "rnn_code_size": 16, "n_layers": 1}
    assert SDAFeatures(tmp_path / "small.pt", device="cpu", network=network).dim == 16
    with pytest.raises(CheckpointError, match=r"does not fit the encoder .* set features.network"):
        _ = SDAFeatures(tmp_path / "small.pt", device="cpu").dim


def test_settings_follow_the_content_not_the_place(tmp_path, encoder):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"the same bytes")
    assert SDAFeatures(tmp_path / "a.pt").settings == SDAFeatures(tmp_path / "b.pt").settings


# --- bad files


def test_a_missing_file_says_what_to_download(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no such audio encoder; download .* features.checkpoint=FILE"):
        _ = SDAFeatures(tmp_path / "none.dat").dim


@pytest.mark.parametrize("suffix", [".dat", ".pt", ".safetensors"])
def test_a_damaged_file_is_one_sentence(tmp_path, suffix):
    path = tmp_path / f"encoder{suffix}"
    path.write_bytes(b"not a checkpoint at all" * 10)
    with pytest.raises(CheckpointError, match=r"damaged|refused for safety"):
        _ = SDAFeatures(path).dim


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cannot_run_code(tmp_path, legacy):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"encoder": Malicious()}, tmp_path / "evil.dat", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError):
        _ = SDAFeatures(tmp_path / "evil.dat").dim
    assert not marker.exists()


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.zeros(2)}, {"encoder": {"cl": torch.zeros(1)}}])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_something_else_is_refused(tmp_path, content, legacy):
    torch.save(content, tmp_path / "other.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="holds no audio encoder"):
        _ = SDAFeatures(tmp_path / "other.pt").dim
