import pytest
import torch

from src.errors import ConfigError
from src.nn.moditalker_mtov import MToVUNet


def tiny(**options) -> MToVUNet:
    settings = {
        "size": 8, "frames": 4, "latent_channels": 2, "model_channels": 16, "channel_mult": (1, 2), "num_res_blocks": 1,
        "attention_resolutions": (1,), "num_heads": 2, "norm_num_groups": 8,
    }  # fmt: skip
    net = MToVUNet(**settings | options)
    for name, parameter in net.named_parameters():
        if "out_conv" in name or "proj." in name:  # which begin at zero
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def inputs(net: MToVUNet, b: int = 1) -> dict[str, torch.Tensor]:
    generator, n, c = torch.Generator().manual_seed(0), net.shape.length, net.latent_channels
    return {
        "noisy": torch.randn(b, c, n, generator=generator),
        "timestep": torch.arange(b) * 100,
        "conditions": torch.randn(b, net.n_conditions * c, n, generator=generator),
        "picture": torch.randn(b, c, n, generator=generator),
    }


def test_every_position_of_every_plane_sees_all_others():
    net = tiny()
    given = inputs(net)
    given["noisy"].requires_grad_()
    picture, beside = net.shape.picture, net.shape.frames * net.shape.width
    for position in (0, picture, picture + beside):  # one of each plane
        (gradient,) = torch.autograd.grad(net(**given)[..., position].sum(), given["noisy"])
        assert (gradient.abs().sum(dim=1) > 0).all()


def test_of_the_person_only_the_first_plane_is_looked_at():
    net = tiny()
    given = inputs(net)
    whole = net(**given)
    given["picture"] = given["picture"][..., : net.shape.picture]
    assert torch.equal(net(**given), whole)


def test_clips_of_a_batch_know_nothing_of_each_other():
    net = tiny()
    given = inputs(net, 3)
    together = net(**given)
    alone = torch.cat([net(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_number_of_conditions_is_the_networks():
    net = tiny(n_conditions=3)
    assert net(**inputs(net)).shape == (1, 2, net.shape.length)
    with pytest.raises(ValueError, match="conditions of 4 channels: the network takes 3 latents of 2"):
        net(**inputs(net) | {"conditions": torch.zeros(1, 4, net.shape.length)})


@pytest.mark.parametrize("options", [{"size": 7}, {"frames": 3}, {"norm_num_groups": 5}, {"num_heads": 3}])
def test_sizes_that_do_not_divide_are_told(options):
    with pytest.raises(ConfigError, match="must"):
        tiny(**options)


def test_recomputed_activations_change_nothing():
    net, gradients = tiny(), []
    for recompute in (False, True):
        net.gradient_checkpointing = recompute
        net.zero_grad()
        net(**inputs(net)).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))
