"""The layer plan of Speech-Driven Animation's audio encoder, and its recurrence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.adapters.sda_audio_encoder import from_official, to_official
from src.errors import CheckpointError
from src.nn.sda_audio_encoder import ConvLayer, SDAAudioEncoder, plan_layers


def test_published_layers():
    """0.2 s at 16 kHz, first kernel 5 ms, first stride 1 ms."""
    assert plan_layers(3200, (80, 16)) == [
        ConvLayer(80, 16, 32),
        ConvLayer(4, 2, 1),
        ConvLayer(4, 2, 1),
        ConvLayer(4, 2, 1),
        ConvLayer(10, 5, 3),
        ConvLayer(5, 1, 0),
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 5000))
def test_any_window_ends_in_one_sample(length):
    try:
        layers = plan_layers(length, None)
    except ValueError:
        assert all(length % d for d in range(2, length)), "only primes cannot be divided"
        return
    for layer in layers:
        length = layer.output_length(length)
    assert length == 1


def test_windows_one_by_one_give_what_all_at_once_give():
    torch.manual_seed(0)
    net = SDAAudioEncoder(feat_length=0.04, enc_code_size=8, rnn_code_size=4).eval()
    windows = torch.randn(2, 7, 640)
    with torch.no_grad():
        whole, last = net(windows)
        state, rows = None, []
        for i in range(7):
            row, state = net(windows[:, i : i + 1], state)
            rows.append(row)
    assert torch.allclose(torch.cat(rows, 1), whole, atol=1e-6)
    assert torch.allclose(state, last, atol=1e-6)


def test_names_go_both_ways():
    state_dict = SDAAudioEncoder(enc_code_size=8, rnn_code_size=4).state_dict()
    back = from_official(to_official(state_dict))
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[key], state_dict[key]) for key in back)


def test_unknown_names_are_refused():
    with pytest.raises(CheckpointError, match=r"unet.weight"):
        from_official({"unet.weight": torch.zeros(1)})
