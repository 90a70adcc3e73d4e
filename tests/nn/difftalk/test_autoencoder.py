import pytest
import torch

from src.errors import ConfigError
from src.nn.difftalk import VQAutoencoder
from src.nn.difftalk.autoencoder import nearest

TINY = {"channels": 16, "channel_mult": (1, 1, 2), "num_res_blocks": 1, "n_codes": 32, "norm_num_groups": 8}


def autoencoder(**changed) -> VQAutoencoder:
    torch.manual_seed(0)
    return VQAutoencoder(**TINY | changed)


def frames(n: int = 2, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_official_size():
    with torch.device("meta"):
        net = VQAutoencoder()
    assert sum(p.numel() for p in net.parameters()) == 55_322_782
    assert (net.factor, net.latent_channels, net.n_codes) == (4, 3, 8192)


@pytest.mark.parametrize(("mult", "factor"), [((1,), 1), ((1, 2), 2), ((1, 1, 2, 2), 8)])
def test_the_factor_follows_the_levels(mult, factor):
    net = autoencoder(channel_mult=mult, latent_channels=4, z_channels=5)
    assert net.factor == factor
    latent = net.encode(frames())
    assert latent.shape == (2, 4, 16 // factor, 16 // factor)
    assert net.decode(latent).shape == (2, 3, 16, 16)


def test_quantised_latents_are_entries_and_the_nearest_ones():
    net = autoencoder()
    latent = torch.randn(2, 3, 4, 4) * 0.02
    quantised = net.quantise(latent)
    entries = net.vq.quantize.embedding.weight
    assert quantised.indices.shape == (2, 4, 4)
    assert torch.allclose(quantised.latent, entries[quantised.indices].permute(0, 3, 1, 2), atol=1e-7)
    distances = torch.cdist(latent.permute(0, 2, 3, 1).reshape(-1, 3), entries)
    assert torch.equal(quantised.indices.flatten(), distances.argmin(dim=1))


def test_nearest_takes_the_first_of_equals_and_any_number_of_vectors(monkeypatch):
    entries = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]])
    vectors = torch.tensor([[0.0, 0.9], [1.9, 0.1]]).repeat(5, 1)
    assert nearest(vectors, entries).tolist() == [0, 1] * 5
    monkeypatch.setattr("src.nn.difftalk.autoencoder._ROWS_AT_ONCE", 3)
    assert nearest(vectors, entries).tolist() == [0, 1] * 5


def test_gradients_go_straight_through_and_the_loss_has_the_published_order():
    net = autoencoder()
    latent = (torch.randn(1, 3, 2, 2) * 0.02).requires_grad_()
    quantised = net.quantise(latent)
    weight = torch.randn(1, 3, 2, 2)
    (quantised.latent * weight).sum().backward(retain_graph=True)
    assert latent.grad is not None
    assert torch.allclose(latent.grad, weight)
    entries = net.vq.quantize.embedding.weight
    assert entries.grad is None
    latent.grad = None
    quantised.loss.backward()
    distance = latent.detach() - quantised.latent.detach()
    assert quantised.loss.item() == pytest.approx(1.25 * distance.square().mean().item())
    assert torch.allclose(latent.grad, 2 * distance / distance.numel())  # 1 here, 0.25 at the entries
    assert entries.grad is not None
    assert torch.allclose(
        entries.grad.sum(dim=0), -0.25 * (2 * distance / distance.numel()).sum(dim=(0, 2, 3)), atol=1e-6
    )


def test_decoding_quantises_unless_told_otherwise():
    net = autoencoder().eval()
    latent = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        quantised = net.quantise(latent).latent
        assert torch.equal(net.decode(latent), net.decode(quantised, quantise=False))
        assert not torch.allclose(net.decode(latent), net.decode(latent, quantise=False))
        reconstruction, used = net(frames())
        assert torch.equal(reconstruction, net.decode(used.latent, quantise=False))


def test_half_precision_finds_the_same_entries():
    net = autoencoder()
    latent = torch.randn(2, 3, 4, 4) * 0.03
    with torch.autocast("cpu", torch.bfloat16):
        quantised = net.quantise(latent)
    assert torch.equal(quantised.indices, net.quantise(latent).indices)
    assert quantised.loss.dtype == torch.float32


@pytest.mark.parametrize("option", ["channels_last", "gradient_checkpointing"])
def test_options_of_speed_and_memory_change_nothing(option):
    plain, other = autoencoder(), autoencoder(**{option: True})
    for net in (plain, other):
        reconstruction, quantised = net(frames())
        (reconstruction.square().mean() + quantised.loss).backward()
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5), name


def test_attention_at_the_levels_that_the_resolution_names():
    net = autoencoder(attention_resolutions=(8,), resolution=16)
    attends = [hasattr(block, "attentions") for block in net.vq.encoder.down_blocks]
    assert attends == [False, True, False]
    assert net(frames())[0].shape == (2, 3, 16, 16)


def test_widths_and_sizes_that_do_not_divide():
    with pytest.raises(ConfigError, match="a level of 16 channels, which norm_num_groups=12"):
        autoencoder(norm_num_groups=12)
    with pytest.raises(ValueError, match="18x18 pixels: both sides must be multiples of 4"):
        autoencoder().encode(frames(side=18))


def test_the_last_layer_makes_the_pixels():
    net = autoencoder()
    assert net.last_layer.shape == (3, 16, 3, 3)
    assert net.last_layer is net.vq.decoder.conv_out.weight
