"""Features of pretrained encoders are the model's own; long sound in chunks gives nearly those of one pass."""

import numpy as np
import pytest
import torch
import transformers

from src.audio import conv_front_end
from src.audio.transformers_encoders import TransformersFeatures, load_pretrained
from src.errors import ConfigError, FeatureError
from tests.audio.conftest import WHISPER_SECONDS, noise

FAMILY = [("hubert", "group"), ("wav2vec2", "group"), ("wav2vec2", "layer"), ("wavlm", "group")]
SHORT = {"chunk_seconds": 8, "context_seconds": 2}


def features(folder, **options) -> TransformersFeatures:
    return TransformersFeatures(str(folder), device="cpu", **options)


def one_pass(folder, sound: np.ndarray):
    """What the library gives for a sound that is padded by 2.5 ms on either side."""
    model, processor = load_pretrained(str(folder))
    values = processor(sound, sampling_rate=16000, return_tensors="np").input_values[0]
    with torch.no_grad():
        return model.eval()(torch.from_numpy(np.pad(values, 40))[None], output_hidden_states=True)


@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_a_row_is_the_mean_of_the_two_rows_of_the_model_in_its_frame(tiny, kind, norm):
    sound = noise(50 * 640 + 300)
    expected = one_pass(tiny(kind, norm), sound).last_hidden_state[0, :100].numpy().reshape(50, 2, -1).mean(axis=1)
    ours = features(tiny(kind, norm))(sound)
    assert ours.shape == (50, 32)
    assert ours == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2])
def test_layer_names_a_hidden_state(tiny, layer):
    sound = noise(20 * 640)
    output = one_pass(tiny("hubert"), sound)
    expected = output.hidden_states[layer][0].numpy().reshape(20, 2, -1).mean(axis=1)
    assert features(tiny("hubert"), layer=layer)(sound) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_chunks_give_nearly_the_features_of_one_pass(tiny, kind, norm):
    """Exactly those they cannot give: attention averages over the sound, and a chunk is a part of it."""
    sound = noise(20 * 16000)
    whole, chunked = features(tiny(kind, norm))(sound), features(tiny(kind, norm), **SHORT)(sound)
    error = np.abs(chunked - whole)
    assert whole.std() > 0.5
    assert error.mean() < 5e-3
    assert error.max() < 2e-2
    assert error.max() > 0, "nothing was done in chunks"


@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_chunks_are_exact_where_attention_adds_nothing(tiny, kind, norm):
    """All that differs is attention: normalisation, convolutions and positions are those of one pass."""
    whole, chunked = features(tiny(kind, norm)), features(tiny(kind, norm), **SHORT)
    for extractor in (whole, chunked):
        for layer in extractor._encoder.model.encoder.layers:
            torch.nn.init.zeros_(layer.attention.out_proj.weight)
            torch.nn.init.zeros_(layer.attention.out_proj.bias)
    sound = noise(20 * 16000)
    assert chunked(sound) == pytest.approx(whole(sound), abs=2e-5)


@pytest.mark.parametrize(("kind", "norm"), [("hubert", "group"), ("wav2vec2", "layer")])
def test_convolutions_in_blocks_are_those_of_one_pass(tiny, monkeypatch, kind, norm):
    model, _ = load_pretrained(str(tiny(kind, norm)))
    sound = torch.from_numpy(noise(3 * 16000 + 77, level=0.5))
    with torch.no_grad():
        expected = model.feature_extractor(sound[None])[0].T
        monkeypatch.setattr(conv_front_end, "BLOCK", 13)
        ours = conv_front_end.ConvFrontEnd(
            model.feature_extractor.conv_layers, list(model.config.conv_kernel), list(model.config.conv_stride)
        )(sound)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-5


def test_null_chunks_are_one_pass(tiny):
    sound = noise(12 * 16000)
    whole = features(tiny("hubert"), chunk_seconds=None)(sound)
    assert np.array_equal(whole, features(tiny("hubert"), chunk_seconds=60)(sound))


# --- Whisper


def test_whisper_rows_are_those_on_the_middles_of_the_frames(tiny):
    model, processor = load_pretrained(str(tiny("whisper")))
    sound = noise(40 * 640)
    mel = processor(sound, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.get_encoder()(mel).last_hidden_state[0, 1:80:2].numpy()
    assert features(tiny("whisper"))(sound) == pytest.approx(expected, abs=1e-5)


def test_whisper_takes_sound_longer_than_its_window(tiny):
    """Windows of 4 s, here: rows away from the seams are those of the window that they lie in."""
    sound = noise(10 * 16000)
    rows = features(tiny("whisper"), context_seconds=0.4)(sound)
    first = features(tiny("whisper"))(sound[: WHISPER_SECONDS * 16000])
    assert rows.shape == (250, 32)
    assert rows[:80] == pytest.approx(first[:80], abs=1e-5)
    last = features(tiny("whisper"))(sound[-WHISPER_SECONDS * 16000 :])
    assert rows[-70:] == pytest.approx(last[-70:], abs=1e-5)


# --- loading


def test_a_folder_in_the_models_folder_is_found_by_its_name(tiny, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tiny("hubert").parent))
    assert TransformersFeatures(f"someone/{tiny('hubert').name}", device="cpu").dim == 32


def test_building_an_extractor_loads_nothing():
    extractor = TransformersFeatures("/no/such/folder", device="cpu")
    with pytest.raises(FeatureError, match="there is no such folder"):
        _ = extractor.dim


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing/here"])
def test_a_missing_folder_is_one_sentence(model):
    with pytest.raises(FeatureError, match=rf"features.model={model}: there is no such folder"):
        _ = features(model).dim


def test_a_model_that_is_nowhere_says_how_to_get_it(monkeypatch):
    with pytest.raises(
        FeatureError, match=r"not on this machine: .*`hf download someone/no-such-encoder --local-dir"
    ) as error:
        _ = features("someone/no-such-encoder", local_files_only=True).dim
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_one_sentence(tmp_path, tiny):
    (tmp_path / "config.json").write_bytes((tiny("hubert") / "config.json").read_bytes())
    with pytest.raises(FeatureError, match=r"cannot be loaded \(.*\); copy or download it again") as error:
        _ = features(tmp_path).dim
    assert "\n" not in str(error.value)


def test_weights_that_need_unpickling_are_refused(tmp_path, tiny):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny("hubert") / name).read_bytes())
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"weight": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FeatureError):
        _ = features(tmp_path).dim
    assert not marker.exists()


def test_other_kinds_of_models_are_refused(tmp_path, tiny):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((tiny("hubert") / "preprocessor_config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"is of the type bert: give a model of the wav2vec 2.0 family"):
        _ = features(tmp_path).dim


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_does_not_exist_is_refused(tiny, layer):
    with pytest.raises(ConfigError, match=rf"features.layer={layer}: .* has 2 layers; give 0 to 2"):
        _ = features(tiny("hubert"), layer=layer).dim


@pytest.mark.parametrize(
    "options", [{"chunk_seconds": 4, "context_seconds": 2}, {"chunk_seconds": 0}, {"context_seconds": -1}]
)
def test_chunks_shorter_than_their_contexts_are_refused(options):
    with pytest.raises(ConfigError, match="a chunk must last at least four contexts"):
        features("any", **options)


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"features.device=abacus"):
        TransformersFeatures("any", device="abacus")
