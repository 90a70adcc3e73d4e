import pytest
import torch

from src.errors import ConfigError
from src.nn.moditalker_mtov import PlaneShape, TriplaneAutoencoder
from src.nn.moditalker_mtov.planes import join


def tiny(**options) -> TriplaneAutoencoder:
    settings = {
        "resolution": 16,
        "frames": 4,
        "dim": 16,
        "latent_channels": 2,
        "patch": 4,
        "depth": 1,
        "heads": 2,
        "head_dim": 8,
    }
    return TriplaneAutoencoder(**settings | options)


def test_planes_are_split_as_they_were_joined():
    shape = PlaneShape(frames=2, height=3, width=4)
    latent = torch.arange(2.0 * shape.length).reshape(1, 2, shape.length)
    planes = shape.split(latent)
    assert [tuple(plane.shape[2:]) for plane in planes] == [(3, 4), (2, 4), (2, 3)]
    assert torch.equal(join(planes), latent)
    with pytest.raises(ValueError, match="27 positions: 2 frames of 3x4 cells have 26"):
        shape.split(torch.zeros(1, 2, 27))


@pytest.mark.parametrize(("resolution", "patch", "frames"), [(16, 4, 4), (16, 8, 6), (24, 4, 3)])
def test_the_latent_follows_patches_and_frames(resolution, patch, frames):
    net = tiny(resolution=resolution, patch=patch, frames=frames)
    video = torch.rand(2, frames, 3, resolution, resolution) * 2 - 1
    side = resolution // patch
    latent = net.encode(video)
    assert latent.shape == (2, 2, side * side + 2 * frames * side)
    assert latent.abs().max() < 1
    assert net.decode(latent).shape == video.shape


def test_planes_hold_what_their_names_say():
    net = tiny()
    planes = {name: torch.zeros(1, 2, *size) for name, size in net.shape.sizes.items()}
    for plane, still in (("xy", 2), ("yt", 3), ("xt", 4)):
        changed = planes | {plane: torch.randn(planes[plane].shape)}
        volume = net.expand(join(list(changed.values())))
        assert torch.allclose(
            volume, volume.mean(dim=still, keepdim=True), atol=1e-5
        )  # the same along the axis that it lacks


def test_clips_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"clips of \(4, 3, 20, 20\): the autoencoder takes \(4, 3, 16, 16\)"):
        tiny().encode(torch.zeros(1, 4, 3, 20, 20))


@pytest.mark.parametrize("options", [{"resolution": 18}, {"dim": 12}, {"head_dim": 6}])
def test_sizes_that_do_not_divide_are_told(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        tiny(**options)


def test_recomputed_activations_change_nothing():
    net = tiny()
    video = torch.rand(1, 4, 3, 16, 16)
    gradients = []
    for recompute in (False, True):
        net.encoder.gradient_checkpointing = net.decoder.gradient_checkpointing = recompute
        net.zero_grad()
        net(video).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
