"""The network of diffused_heads beyond what the golden tensors show."""

import inspect
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from src.errors import ConfigError
from src.nn.diffused_heads import DiffusedHeadsUNet, time_features

TINY = {
    "image_size": 16,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "num_head_channels": -1,
    "num_heads": 2,
    "norm_num_groups": 4,
}
IDENTITY = ("frame", "pre_gn", "post_gn")
AUDIO = ("pre_gn", "post_gn", "double_pre_gn", "attention")


def network(**changed: object) -> DiffusedHeadsUNet:
    """A small network without a zero in it: every condition leaves a trace."""
    torch.manual_seed(0)
    net = DiffusedHeadsUNet(**TINY | changed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def inputs(net: DiffusedHeadsUNet, height: int = 16, width: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "x": (2, 3, height, width),
        "identity": (2, 3, height, width),
        "motion": (2, net.motion_channels, height, width),
        "audio": (2, net.audio_window, net.audio_dim),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {"t": torch.tensor([3, 900])}


@pytest.mark.parametrize(("identity", "audio", "updown"), product(IDENTITY, AUDIO, [True, False]))
def test_every_condition_reaches_every_pixel_in_every_variant(identity, audio, updown):
    net = network(id_condition_type=identity, audio_condition_type=audio, resblock_updown=updown)
    tensors = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in inputs(net).items()}
    output = net(**tensors)
    assert output.shape == (2, 6, 16, 16)
    output.square().sum().backward()
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            assert (tensor.grad != 0).float().mean() > 0.99, name
    with torch.no_grad():
        assert not torch.allclose(net(**tensors | {"t": tensors["t"] + 50}), output)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()), "a weight does nothing"


@torch.no_grad()
def test_samples_of_a_batch_do_not_influence_each_other():
    net = network()
    tensors = inputs(net)
    alone = net(**{key: value[1:] for key, value in tensors.items()})
    torch.testing.assert_close(net(**tensors)[1:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_new_network_predicts_zero():
    torch.manual_seed(0)
    net = DiffusedHeadsUNet(**TINY)
    assert torch.equal(net(**inputs(net)), torch.zeros(2, 6, 16, 16))


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"audio_dim": 5},
        {"n_motion_frames": 0},
        {"n_motion_frames": 3, "grayscale_motion": False},
        {"n_audio_motion_embs": 0},
        {"out_channels": 3},
        {"attention_resolutions": ()},
        {"channel_mult": (1, 1, 2), "image_size": 24},
    ],
)
def test_what_the_original_cannot_set(options):
    net = network(**options)
    tensors = inputs(net)
    assert net(**tensors).shape == (2, options.get("out_channels", 6), 16, 16)


@torch.no_grad()
def test_sizes_other_than_the_training_size_work_if_they_divide():
    net = network()
    assert net(**inputs(net, 8, 24)).shape == (2, 6, 8, 24)
    with pytest.raises(ValueError, match=r"9x8.*multiples of 2"):
        net(**inputs(net, 9, 8))
    net = network(audio_condition_type="attention")
    with pytest.raises(ValueError, match="tied to 8x8 cells, not 4x12"):
        net(**inputs(net, 8, 24))


@torch.no_grad()
def test_inputs_that_do_not_fit_are_named():
    net = network()
    tensors = inputs(net)
    with pytest.raises(ValueError, match="6 channels of motion frames: the network takes 2"):
        net(**tensors | {"motion": torch.zeros(2, 6, 16, 16)})
    with pytest.raises(ValueError, match="5 rows of 7 values: the network takes 5 of 8"):
        net(**tensors | {"audio": torch.zeros(2, 5, 7)})
    with pytest.raises(ValueError, match="double_pre_gn cannot do without audio"):
        net(**tensors | {"audio": None})
    silent = network(audio_condition_type="pre_gn")
    assert silent(**tensors | {"audio": None}).shape == (2, 6, 16, 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_channels": 6}, r"level of 6 channels, which norm_num_groups=4 does not divide"),
        ({"image_size": 15}, r"image_size=15 is no multiple of 2"),
        ({"num_heads": 5}, r"num_heads=5 does not divide the 16 channels"),
        ({"num_head_channels": 6}, r"num_head_channels=6 does not divide the 16 channels"),
        ({"id_condition_type": "face"}, r"id_condition_type=face: choose frame, pre_gn or post_gn"),
        ({"audio_condition_type": "loud"}, r"audio_condition_type=loud: choose pre_gn, post_gn, double_pre_gn or"),
    ],
)
def test_mistaken_configurations_are_named(options, says):
    build = inspect.unwrap(
        DiffusedHeadsUNet.__init__
    )  # without the type checker of the tests, which would complain first
    with pytest.raises(ConfigError, match=says):
        build(DiffusedHeadsUNet.__new__(DiffusedHeadsUNet), **TINY | options)


def test_half_frequencies_span_one_decade():
    """cos before sin; frequencies from 1 to 10000^(-1/4), not to 1/10000."""
    features = time_features(torch.tensor([0, 1]), 256)
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    frequencies = features[1, 128:].asin()
    assert frequencies[0] == pytest.approx(1.0)
    assert frequencies[-1] == pytest.approx(10000 ** (-127 / 512), rel=1e-5)


@torch.no_grad()
def test_channels_last_gives_the_same_frames():
    net, other = network(), network(channels_last=True)
    other.load_state_dict(net.state_dict())
    assert other.input_blocks[0][0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other(**inputs(net)), net(**inputs(net)), atol=1e-4, rtol=1e-4)


def test_recomputed_activations_give_the_same_gradients():
    net, other = network(), network(gradient_checkpointing=True)
    for n in (net, other):
        n(**inputs(n)).square().mean().backward()
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("identity", IDENTITY)
def test_patches_keep_the_size_of_the_frames_and_every_pixel_counts(identity):
    net = network(patch_size=2, attention_resolutions=(4,), id_condition_type=identity)
    tensors = inputs(net)
    x = tensors["x"].requires_grad_()
    output = net(**tensors)
    assert output.shape == (2, 6, 16, 16)
    output[:, :3].square().sum().backward()
    assert (x.grad != 0).all()
    with pytest.raises(ValueError, match="multiples of 4"):
        net(**inputs(net, 14, 16))


def test_dropout_is_for_training_alone():
    net = network(dropout=0.5)
    tensors = inputs(net)
    with torch.no_grad():
        assert torch.equal(net(**tensors), net(**tensors))
        net.train()
        assert not torch.equal(net(**tensors), net(**tensors))


def test_names_of_weights_do_not_depend_on_memory_or_speed_options():
    keys = network().state_dict().keys()
    assert network(channels_last=True, gradient_checkpointing=True).state_dict().keys() == keys
