"""Original checkpoint folders in all the forms in which they were written, and damaged ones."""

import json
from pathlib import Path

import hydra
import pytest
import torch
from safetensors.torch import save_file

from src.adapters.landmark_driven import (
    OLD_ATTENTION,
    from_official,
    load_diffusers_folder,
    release_config,
    to_official,
)
from src.checkpoint import check_targets
from src.errors import CheckpointError
from src.lightning_modules.landmark_driven import LandmarkDriven
from src.nn.landmark_driven import LandmarkDrivenUNet

TINY = {
    "sample_size": 16,
    "in_channels": 12,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
EMA = {"decay": 0.9999, "inv_gamma": 1.0, "optimization_step": 9, "power": 0.75, "use_ema_warmup": True}


@pytest.fixture
def net() -> LandmarkDrivenUNet:
    torch.manual_seed(0)
    return LandmarkDrivenUNet(**TINY)


def write_unet(folder: Path, weights: dict[str, torch.Tensor], suffix: str = "safetensors", **config: object) -> None:
    folder.mkdir(parents=True)
    content = {"_class_name": "UNet2DModel", "_diffusers_version": "0.26.0", **TINY, **config}
    (folder / "config.json").write_text(json.dumps(content))
    file = folder / f"diffusion_pytorch_model.{suffix}"
    if suffix == "bin":
        torch.save(weights, file)
    else:
        save_file(weights, file)


def assert_loads(folder: Path, expected: dict[str, torch.Tensor], **options: str) -> dict:
    arguments, state_dict, scheduler = load_diffusers_folder(folder, **options)
    net = LandmarkDrivenUNet(**arguments)
    net.load_state_dict(state_dict, strict=True)
    for key, value in expected.items():
        assert torch.equal(net.state_dict()[key], value), key
    return scheduler


def test_names_survive_the_way_there_and_back(net):
    official = to_official(net.state_dict())
    assert "mid_block.attentions.0.to_out.0.weight" in official
    assert not any(key.startswith("unet.") for key in official)
    back = from_official(official)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in net.state_dict().items())


def test_names_of_very_old_versions_are_understood(net):
    old = to_official(net.state_dict())
    for past, present in OLD_ATTENTION.items():
        old = {key.replace(f".{present}.", f".{past}."): value for key, value in old.items()}
    assert "down_blocks.1.attentions.0.proj_attn.bias" in old
    assert from_official(old).keys() == net.state_dict().keys()


def test_a_foreign_weight_is_named():
    with pytest.raises(CheckpointError, match=r"1 weights .*first: encoder\.conv\.weight"):
        from_official({"encoder.conv.weight": torch.zeros(1), "conv_in.bias": torch.zeros(1)})


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_finished_pipeline_folder_loads(net, tmp_path, suffix):
    write_unet(tmp_path / "unet", to_official(net.state_dict()), suffix)
    (tmp_path / "scheduler").mkdir()
    settings = {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
    scheduler = assert_loads(tmp_path, net.state_dict())
    assert (scheduler["beta_schedule"], scheduler["prediction_type"]) == ("squaredcos_cap_v2", "sample")


def test_a_training_state_loads_averaged_or_last_weights(net, tmp_path):
    """It has no scheduler: the original builds linear betas in code."""
    last = {key: value + 1 for key, value in net.state_dict().items()}
    write_unet(tmp_path / "unet", to_official(last))
    assert_loads(tmp_path, last)
    write_unet(tmp_path / "unet_ema", to_official(net.state_dict()), **EMA)
    scheduler = assert_loads(tmp_path, net.state_dict())
    assert (scheduler["num_train_timesteps"], scheduler["beta_schedule"]) == (1000, "linear")
    assert_loads(tmp_path, last, weights="last")


def test_the_release_configuration_rebuilds_the_model(net, tmp_path):
    write_unet(tmp_path / "unet", to_official(net.state_dict()))
    arguments, state_dict, scheduler = load_diffusers_folder(tmp_path)
    config = json.loads(json.dumps(release_config(arguments, scheduler)))
    check_targets(config)  # nothing in it may be refused as unsafe
    model = hydra.utils.instantiate(config["model"])
    assert isinstance(model, LandmarkDriven)
    model.load_state_dict({f"net.{key}": value for key, value in state_dict.items()}, strict=True)
    pipeline = hydra.utils.instantiate(config["pipeline"], model=model)
    assert pipeline.resolution == 16


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "unet/config.json").unlink(), r"config\.json is missing"),
        (lambda f: (f / "unet/config.json").write_text("{"), r"config\.json is damaged"),
        (lambda f: (f / "unet/config.json").write_text('{"_class_name": "VQModel"}'), "describes a VQModel"),
        (lambda f: (f / "unet/config.json").write_text('{"depth": 3}'), "has the setting 'depth'"),
        (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), r"safetensors is missing"),
        (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"12"), "are damaged"),
        (lambda f: _replace(f, "scheduler/scheduler_config.json", "{}"), "no scheduler 'None'"),
        (lambda f: _replace(f, "scheduler/scheduler_config.json", '{"_class_name": "os"}'), "no scheduler 'os'"),
        (lambda f: _pickle(f), "refused for safety"),
    ],
)
def test_damaged_folders_say_what_is_wrong(net, tmp_path, damage, says, capsys):
    write_unet(tmp_path / "unet", to_official(net.state_dict()))
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        load_diffusers_folder(tmp_path)
    assert "executed" not in capsys.readouterr().out


def _replace(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def _pickle(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Evil()}, folder / "unet/diffusion_pytorch_model.bin")
