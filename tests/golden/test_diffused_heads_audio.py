"""diffused_heads against tensors of the original: windows of sound, the audio encoder and its key list."""

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.adapters.sda_audio_encoder import from_official, to_official
from src.audio.windows import frame_windows, window_hop
from src.datamodules.diffused_heads import audio_indices
from src.nn.sda_audio_encoder import SDAAudioEncoder
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases, load_case

FOLDER = GOLDEN_DIR / "diffused_heads"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

TOLERANCE = 1e-5
ENCODER_ARGUMENT = "rnn_code_size"  # of the audio encoder alone: tells its key lists from those of other networks


def assert_close(ours: Tensor, theirs: Tensor, what: str, atol: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    assert error <= atol, f"{what}: largest error {error:.2e}, tolerance {atol:.0e}"


def assert_same_statistics(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Mean, standard deviation and sum of magnitudes, the first two relative to the spread."""
    size = torch.stack([theirs[1], theirs[1], theirs[2]]).clamp_min(1e-12)
    assert_close(statistics(ours) / size, theirs / size, what)


def statistics(x: Tensor) -> Tensor:
    x = x.double()
    return torch.stack([x.mean(), x.std(), x.abs().sum()])


# --- weights


def weights_case(case: GoldenCase) -> GoldenCase:
    """The case itself, or the one that `weights_from` names."""
    name = case.meta.get("weights_from")
    return load_case(case.path.with_name(name + ".json")) if name else case


def official_weights(case: GoldenCase, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under their original names: stored, of another case, or made by the recipe."""
    origin = weights_case(case)
    if origin.weights:
        return origin.weights
    assert "crc32" in origin.meta["recipe"], f"{case.name} has no weights and no known recipe"
    return {key: recipe_weight(origin.meta["recipe_salt"], key, like[key]) for key in sorted(like)}


def recipe_weight(salt: str, key: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return like
    value = torch.randn(like.shape, generator=torch.Generator().manual_seed(zlib.crc32((salt + key).encode())))
    if value.ndim >= 2:
        return value / value[0].numel() ** 0.5
    if key.endswith("running_mean"):
        return 0.1 * value
    if key.endswith("running_var"):
        return 1 + 0.1 * value.abs()
    return 1 + 0.05 * value if key.endswith(".weight") else 0.02 * value


def encoder(case: GoldenCase) -> SDAAudioEncoder:
    net = SDAAudioEncoder(**arguments(case))
    net.load_state_dict(from_official(official_weights(case, to_official(net.state_dict()))), strict=True)
    return net.eval()


def arguments(case: GoldenCase) -> dict[str, Any]:
    constructor = case.meta["constructor"]
    return constructor.get("RNN", constructor)


# --- checks


def check_audio_windows(case: GoldenCase) -> None:
    inputs, outputs = case.inputs, case.outputs
    for name in (key.removesuffix("/audio") for key in inputs if key.endswith("/audio")):
        windows = torch.from_numpy(frame_windows(inputs[f"{name}/audio"].numpy()).copy())
        assert torch.equal(windows[:, ::80], outputs[f"{name}/windows_every80"]), f"windows of {name}"
        for i, theirs in enumerate(outputs[f"{name}/stats"]):
            assert_same_statistics(windows[i], theirs, f"window {i} of {name}")
    counts = [len(frame_windows(np.zeros(n, np.float32))) for n in inputs["sample_counts"].tolist()]
    assert counts == outputs["frame_counts"].tolist()
    for seconds, fps, rate, length, hop, animator_hop in outputs["sda_window_stride_table"].tolist():
        with torch.device("meta"):
            assert SDAAudioEncoder(feat_length=seconds, rate=int(rate)).window == length
        assert window_hop(fps, int(rate)) == hop == animator_hop
    for name, theirs in case.group("out/sampling_ids").items():
        n_frames, reach = (int(part[1:]) for part in name.split("_"))
        ours = np.stack([audio_indices(k, reach, n_frames) for k in range(n_frames)])
        assert ours.tolist() == theirs.tolist(), f"rows around each frame, {name}"


def check_sda_audio_encoder(case: GoldenCase) -> None:
    net, layers = encoder(case), {}
    for i, layer in enumerate(net.encoder.layers):
        layer.register_forward_hook(lambda module, args, output, i=i: layers.__setitem__(i, output))
    rate, sound = arguments(case)["rate"], case.inputs["audio"].numpy()
    windows = torch.from_numpy(frame_windows(sound, net.window, window_hop(25, rate)).copy())[None]
    with torch.no_grad():
        embeddings, _ = net(windows)
    for i, output in layers.items():  # in forward order: the first failure names the layer
        name = f"activations.{i}"
        assert list(output.shape) == case.meta["activation_shapes"][name], name
        assert_same_statistics(output, case.mids[f"stats/{name}"], name)
    assert_close(layers[len(layers) - 1].squeeze(-1), case.mids["frame_codes"], "frame_codes")
    assert_close(embeddings, case.outputs["embeddings"], "embeddings")

    state, rows = None, []
    with torch.no_grad():
        for i in range(windows.shape[1]):
            row, state = net(windows[:, i : i + 1], state)
            rows.append(row)
    assert_close(torch.cat(rows, 1), case.outputs["embeddings"], "embeddings, window by window")


def check_manifest(case: GoldenCase) -> None:
    with torch.device("meta"):
        net = SDAAudioEncoder(**arguments(case))
    ours = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in to_official(net.state_dict()).items()
    }
    assert ours == case.meta["keys"]
    assert len(ours) == case.meta["n_keys"]
    assert sum(p.numel() for p in net.parameters()) == case.meta["n_parameters"]
    assert from_official(to_official(net.state_dict())).keys() == net.state_dict().keys()


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function)
}


def is_about_audio(case: GoldenCase) -> bool:
    """Whether a case of the folder is checked here."""
    if case.check == "manifest":
        return ENCODER_ARGUMENT in arguments(case) if "constructor" in case.meta else False
    return case.check in CHECKS


@pytest.mark.parametrize("case", filter(is_about_audio, golden_cases("diffused_heads")), ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    CHECKS[case.check](case)
