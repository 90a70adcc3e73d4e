"""Checkpoints of the original, whole and first stages alone, written as Lightning writes them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.adapters.difftalk import (
    autoencoder_checkpoint_from_official,
    average_name,
    from_official,
    noise_schedule_config,
    to_official,
)
from src.adapters.difftalk_networks import (
    autoencoder_from_official,
    autoencoder_to_official,
    unet_from_official,
    unet_to_official,
)
from src.checkpoint import check_targets, instantiate, load, load_published, save_safetensors
from src.diffusion.noise_tables import scaled_linear_betas
from src.errors import CheckpointError
from src.nn.difftalk import DiffTalkNet, PatchDiscriminator, VQAutoencoder

AUTOENCODER = {"channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "latent_channels": 3, "n_codes": 16}
NET = {
    "model_channels": 32,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "context": "merged",
}


class Callback:
    """What an old Lightning names its callbacks' states by: a class of another library."""


@pytest.fixture(scope="module")
def networks() -> tuple[DiffTalkNet, VQAutoencoder, PatchDiscriminator]:
    torch.manual_seed(0)
    return DiffTalkNet(**NET).eval(), VQAutoencoder(**AUTOENCODER).eval(), PatchDiscriminator(channels=8, n_layers=2)


@pytest.fixture(scope="module")
def ours(networks) -> dict[str, Tensor]:
    net, first_stage, _ = networks
    return {
        **{f"net.{k}": v.clone() for k, v in net.state_dict().items()},
        **{f"first_stage.{k}": v.clone() for k, v in first_stage.state_dict().items()},
    }


@pytest.fixture(scope="module")
def averaged(ours) -> dict[str, Tensor]:
    return {k: v + 1 if k.startswith("net.unet.") else v for k, v in ours.items()}


def first_stage_file(path: Path, networks, *, training: bool) -> Path:
    _, first_stage, discriminator = networks
    state_dict = autoencoder_to_official(first_stage.state_dict())
    if training:
        state_dict |= {f"loss.discriminator.{k}": v for k, v in discriminator.state_dict().items()}
        state_dict |= {
            "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1),
            "loss.logvar": torch.zeros(1),
        }
    torch.save({"state_dict": state_dict, "epoch": 1, "callbacks": {Callback: {"best": 1.0}}}, path)
    return path


def second_stage_file(path: Path, ours, averaged) -> Path:
    torch.save({"state_dict": to_official(ours, averaged, 7), "callbacks": {Callback: {"best": 1.0}}}, path)
    return path


def assert_same(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, value in others.items():
        assert torch.equal(some[name], value), name


def test_there_and_back(ours, averaged):
    official = to_official(ours, averaged, 7)
    assert_same(from_official(official, "last"), ours)
    assert_same(from_official(official, "ema"), averaged)
    assert official["model_ema.num_updates"].item() == 7
    without = {k: v for k, v in official.items() if not k.startswith("model_ema.")}
    assert_same(from_official(without, "ema"), ours)


@pytest.mark.parametrize(
    "changed",
    [
        {"channel_mult": [1]},
        {"num_res_blocks": 3, "attention_resolutions": [1, 4]},
        {"attention_resolutions": [], "transformer_depth": 2},
    ],
)
def test_u_nets_of_other_depths(changed):
    with torch.device("meta"):
        state_dict = DiffTalkNet(**NET | changed).unet.state_dict()
    official = unet_to_official(state_dict)
    assert len(official) == len(state_dict)
    back = unet_from_official(official)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state_dict.items()}


def test_autoencoders_with_attention_in_their_levels():
    with torch.device("meta"):
        net = VQAutoencoder(32, [1, 2, 2], 2, attention_resolutions=[128], resolution=256)
    official = autoencoder_to_official(net.state_dict())
    assert official["encoder.down.1.attn.1.q.weight"].shape == (64, 64, 1, 1)
    assert official["decoder.up.1.attn.2.proj_out.weight"].shape == (64, 64, 1, 1)
    back = autoencoder_from_official(official)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in net.state_dict().items()}


@pytest.mark.parametrize("weights", ["ema", "last"])
def test_a_whole_checkpoint_becomes_a_model_that_computes_the_same(tmp_path, networks, ours, averaged, weights):
    path = second_stage_file(tmp_path / "epoch=3.ckpt", ours, averaged)
    converted = load_published(path, "difftalk", weights)
    assert converted.method == "difftalk"
    check_targets(converted.config)
    save_safetensors(tmp_path / "x.safetensors", "difftalk", converted.config, converted.state_dict)
    again = load(tmp_path / "x.safetensors")
    module = instantiate(again.config["model"])
    module.load_state_dict(again.state_dict, strict=True)
    expected = averaged if weights == "ema" else ours
    for name, value in expected.items():
        assert torch.equal(module.state_dict()[name], value), name
    assert module.net.audio_dim == 464
    assert module.first_stage.factor == 2
    assert module.mask.shape == "nose_tip"


def test_its_noise_is_that_of_the_file(tmp_path, ours):
    betas = scaled_linear_betas(100, 0.001, 0.02)
    torch.save({"state_dict": to_official(ours, betas=betas)}, tmp_path / "x.ckpt")
    config = load_published(tmp_path / "x.ckpt", "difftalk").config["model"]["noise_schedule"]
    assert torch.allclose(instantiate(config).betas, betas.float())
    published = instantiate(noise_schedule_config(scaled_linear_betas().float()))
    assert torch.allclose(published.betas, scaled_linear_betas().float(), rtol=1e-6)
    assert published.config.trained_betas is None


@pytest.mark.parametrize("training", [False, True])
def test_a_first_stage_alone_becomes_an_autoencoder(tmp_path, networks, training):
    path = first_stage_file(tmp_path / "model.ckpt", networks, training=training)
    converted = load_published(path, "difftalk_autoencoder")
    check_targets(converted.config)
    assert converted.method == "difftalk_autoencoder"
    net = instantiate(converted.config["model"]["net"])
    own = {k.removeprefix("net."): v for k, v in converted.state_dict.items() if k.startswith("net.")}
    net.load_state_dict(own, strict=True)
    assert_same(net.state_dict(), networks[1].state_dict())
    if training:
        module = instantiate(converted.config["model"])
        module.load_state_dict(converted.state_dict, strict=True)
        assert_same(module.discriminator.state_dict(), networks[2].state_dict())


def test_a_first_stage_is_not_taken_for_a_model(tmp_path, networks):
    path = first_stage_file(tmp_path / "model.ckpt", networks, training=True)
    with pytest.raises(
        CheckpointError, match=r"model.ckpt: the file holds only the first stage.*method=difftalk_autoencoder"
    ):
        load_published(path, "difftalk")


def test_the_first_stage_of_a_whole_checkpoint(tmp_path, networks, ours, averaged):
    path = second_stage_file(tmp_path / "x.ckpt", ours, averaged)
    converted = load_published(path, "difftalk_autoencoder")
    assert_same(converted.state_dict, {f"net.{k}": v for k, v in networks[1].state_dict().items()})


def test_what_is_missing_or_unknown_is_named(ours, averaged):
    official = to_official(ours, averaged)
    with pytest.raises(CheckpointError, match=r"1 weights are not of difftalk's networks \(first: head.weight\)"):
        from_official(official | {"head.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="are not of difftalk's network"):
        from_official(official | {"model.diffusion_model.extra.weight": torch.zeros(1)}, "last")
    with pytest.raises(CheckpointError, match="no weights under first_stage_model"):
        from_official({k: v for k, v in official.items() if not k.startswith("first_stage_model.")})
    average = f"model_ema.{average_name('out.2.weight')}"
    with pytest.raises(CheckpointError, match=r"lacks out.2.weight: convert with weights=last"):
        from_official({k: v for k, v in official.items() if k != average})
    with pytest.raises(CheckpointError, match="which the U-Net lacks: convert with weights=last"):
        from_official(official | {"model_ema.other": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="are not of difftalk's network"):
        autoencoder_checkpoint_from_official(
            autoencoder_to_official(VQAutoencoder(**AUTOENCODER).state_dict()) | {"x": torch.zeros(1)}
        )


@pytest.mark.parametrize("method", ["difftalk", "difftalk_autoencoder"])
@pytest.mark.parametrize("content", [{"state_dict": {}}, {"state_dict": {"w": torch.zeros(1)}}, [1, 2], {}])
def test_other_files_are_one_sentence(tmp_path, method, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError):
        load_published(tmp_path / "other.ckpt", method)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="damaged or no PyTorch"):
        load_published(tmp_path / "text.ckpt", method)
