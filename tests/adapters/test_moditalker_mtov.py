import pytest
import torch

from src.adapters.moditalker_mtov import (
    autoencoder_from_official,
    autoencoder_to_official,
    discriminators_from_official,
    load_official,
    load_official_autoencoder,
    unet_arguments,
    unet_from_official,
    unet_to_official,
)
from src.errors import CheckpointError
from src.nn.moditalker_mtov import MToVUNet, TriplaneAutoencoder

SIZES = {
    "resolution": 16,
    "frames": 4,
    "dim": 16,
    "patch": 4,
    "depth": 1,
    "heads": 2,
    "head_dim": 8,
    "readout_depth": 1,
}
UNET_SIZES = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 2, "attention_resolutions": [2]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The published files, small."""
    path = tmp_path_factory.mktemp("published")
    for name in ("autoencoder_rgb.pth", "autoencoder_motion.pth"):
        torch.save(autoencoder_to_official(TriplaneAutoencoder(**SIZES).state_dict()), path / name)
    unet = unet_to_official(MToVUNet(**UNET_SIZES).state_dict())
    unused = {"diffusion_model.output_bg_blocks.0.0.in_layers.0.weight": torch.zeros(3)}
    torch.save(unet | unused, path / "ema_model_9000.pth")
    torch.save(unet, path / "ema_model_10000.pth")
    return path


def test_there_and_back_changes_nothing():
    for net, there, back in (
        (TriplaneAutoencoder(**SIZES), autoencoder_to_official, autoencoder_from_official),
        (MToVUNet(**UNET_SIZES), unet_to_official, unet_from_official),
    ):
        own = net.state_dict()
        again = back(there(own))
        assert again.keys() == own.keys()
        assert all(torch.equal(again[key], own[key]) for key in own)


def test_sizes_are_read_off_the_weights():
    official = unet_to_official(MToVUNet(**UNET_SIZES).state_dict())
    assert unet_arguments(official).items() >= UNET_SIZES.items()
    assert (
        unet_arguments(unet_to_official(MToVUNet(channel_mult=(1,), model_channels=32).state_dict()))["num_res_blocks"]
        == 2
    )


def test_an_autoencoder_is_read_as_it_is_published(folder):
    config, state_dict = load_official_autoencoder(folder / "autoencoder_rgb.pth")
    assert config["model"]["net"].items() >= SIZES.items()
    net = TriplaneAutoencoder(**{k: v for k, v in config["model"]["net"].items() if not k.startswith("_")})
    net.load_state_dict({key.removeprefix("net."): value for key, value in state_dict.items()}, strict=True)


def test_the_newest_unet_and_both_autoencoders_make_a_model(folder):
    config, state_dict = load_official(folder)
    parts = {key.partition(".")[0] for key in state_dict}
    assert parts == {"net", "autoencoder", "landmark_autoencoder"}
    assert config["model"]["net"].items() >= {"size": 4, "frames": 4}.items()
    assert config["model"]["sampler"] == "published"


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"lacks diffusion_model\.pth, autoencoder_rgb\.pth, autoencoder_motion\.pth"
    ):
        load_official(tmp_path)


def test_weights_of_something_else_are_told(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not those of MToV's autoencoder"):
        load_official_autoencoder(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not of moditalker_mtov's network"):
        unet_from_official({"diffusion_model.other.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="not of the losses"):
        discriminators_from_official({"generator.weight": torch.zeros(1)})
