import pytest
import torch
from torch import Tensor, nn

from src.errors import ConfigError
from src.nn.difftalk import DiffTalkNet

TINY = {
    "image_size": 8,
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "num_head_channels": 16,
    "context_dim": 32,
    "audio_dim": 12,
    "n_audio_rows": 5,
    "norm_num_groups": 8,
}
MERGED = {"context": "merged", "audio_dim": 464}


def network(**changed) -> DiffTalkNet:
    """A network whose last layers are not zero, as they are at the beginning."""
    torch.manual_seed(0)
    net = DiffTalkNet(**TINY | changed)
    for name, parameter in net.unet.named_parameters():
        if not parameter.any() and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def inputs(n: int = 2, rows: int = 5, dim: int = 12, side: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    latents = {k: torch.randn(n, 3, side, side, generator=generator) for k in ("noisy", "masked", "reference")}
    return latents | {
        "timestep": torch.tensor([3, 700])[:n],
        "audio": torch.randn(n, rows, dim, generator=generator),
        "landmarks": torch.rand(n, 39, 2, generator=generator) * 256,
    }


def test_official_size():
    with torch.device("meta"):
        net = DiffTalkNet(context="merged")
    assert sum(p.numel() for p in net.unet.parameters()) == 530_152_963
    assert sum(p.numel() for p in net.parameters()) == 530_210_440
    assert (net.audio_dim, net.n_audio_rows, net.stride) == (464, 8, 8)


@pytest.mark.parametrize("changed", [{}, MERGED])
def test_a_new_network_predicts_nothing(changed):
    torch.manual_seed(0)
    net = DiffTalkNet(**TINY | changed)
    assert not net(**inputs(dim=net.audio_dim)).any()


@pytest.mark.parametrize("changed", [{}, MERGED])
@pytest.mark.parametrize("name", ["noisy", "masked", "reference", "audio", "landmarks", "timestep"])
def test_every_condition_matters_and_only_to_its_sample(name, changed):
    net = network(**changed)
    given = inputs(dim=net.audio_dim)
    changed_inputs = {k: v.clone() for k, v in given.items()}
    changed_inputs[name][0] = given[name][0] * 0.5 + (100 if name == "timestep" else 0)
    with torch.no_grad():
        before, after = net(**given), net(**changed_inputs)
    assert (before - after)[0].abs().max() > 1e-5
    assert torch.allclose(before[1], after[1], atol=1e-6)


def test_attention_over_one_token_is_dead_and_over_several_is_not():
    for changed, alive in (({}, True), (MERGED, False)):
        net = network(**changed)
        net(**inputs(dim=net.audio_dim)).square().sum().backward()
        sizes = {k: p.grad.abs().max() for k, p in net.unet.named_parameters() if p.grad is not None and "attn2" in k}
        for name, size in sizes.items():
            if "to_q" in name or "to_k" in name:  # exactly zero in theory; the fused kernel rounds
                values = sizes[name.replace("to_q", "to_v").replace("to_k", "to_v")]
                assert bool(size > 1e-3 * values) == alive, name


def test_tokens_are_computed_once_for_all_steps():
    net, given = network(), inputs()
    with torch.no_grad():
        tokens = net.tokens(given["audio"], given["landmarks"])
        assert tokens.shape == (2, 6, 32)
        latents = (given["noisy"], given["timestep"], given["masked"], given["reference"])
        assert torch.equal(net.denoise(*latents, tokens), net(**given))


def test_every_row_of_the_sound_has_its_place():
    net, given = network(), inputs()
    backwards = given | {"audio": given["audio"].flip(1)}
    with torch.no_grad():
        assert not torch.allclose(net(**given), net(**backwards), atol=1e-5)


def test_the_published_form_takes_deepspeech_only():
    with pytest.raises(ConfigError, match="464 values a row, not 80: give those, or context=tokens"):
        network(context="merged", audio_dim=80)


def test_conditions_of_other_sizes_are_named():
    net = network()
    with pytest.raises(ValueError, match="4 rows of 12 values: the network takes 5 of 12"):
        net(**inputs(rows=4))
    with pytest.raises(ValueError, match="the network takes 39 points"):
        net.tokens(torch.zeros(1, 5, 12), torch.zeros(1, 68, 2))
    with pytest.raises(ValueError, match="7x7: both sides must be multiples of 2"):
        net(**inputs(side=7))


def test_widths_that_do_not_divide():
    with pytest.raises(ConfigError, match="a level of 16 channels, which norm_num_groups=12"):
        network(norm_num_groups=12)
    with pytest.raises(ConfigError, match="num_head_channels=24"):
        network(num_head_channels=24)
    assert network(num_head_channels=-1, num_heads=4)(**inputs()).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("option", ["channels_last", "gradient_checkpointing"])
def test_options_of_speed_and_memory_change_nothing(option):
    plain, other = network(), network(**{option: True}).train()
    other.load_state_dict(plain.state_dict())
    for net in (plain, other):
        net(**inputs()).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * max(1.0, a.grad.abs().max().item())), name


def test_other_sizes_than_that_of_the_training():
    assert network()(**inputs(side=12)).shape == (2, 3, 12, 12)
