"""Checkpoints in the original's forms, written with the libraries that it uses."""

import json
import os
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.transforms import Compose, GaussianBlur, Grayscale

from src.adapters.diffused_heads import PREFIXES, arguments_of, from_official, load_official, to_official
from src.checkpoint import check_targets, load, load_published
from src.errors import CheckpointError
from src.lightning_modules.diffused_heads import DiffusedHeads
from src.nn.diffused_heads import DiffusedHeadsUNet
from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "image_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "num_heads": 4,
    "num_head_channels": 16,
    "dropout": 0.1,
    "resblock_updown": True,
    "n_motion_frames": 2,
    "grayscale_motion": False,
    "n_audio_motion_embs": 2,
    "id_condition_type": "frame",
    "audio_condition_type": "double_pre_gn",
}
OTHERS = {
    "n_timesteps": 150,
    "lr": 5e-5,
    "bsz": 10,
    "vlb_weight": 1e-4,
    "lip_weight": 0.2,
    "precision": 32,
    "log_dir": "./logs",
}


def network(**changed: object) -> DiffusedHeadsUNet:
    torch.manual_seed(0)
    net = DiffusedHeadsUNet(**TINY | changed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return net.eval()


@pytest.fixture
def net() -> DiffusedHeadsUNet:
    return network()


def write_lightning(path: Path, weights: dict[str, Tensor], **changed: object) -> Path:
    """As Lightning writes it: each tensor twice, lists as OmegaConf's, the transforms pickled whole, the optimiser's state beside."""
    lists = OmegaConf.create({key: value for key, value in TINY.items() if isinstance(value, list)})
    hyper_parameters = {**TINY, **OTHERS, **lists, "motion_transforms": Compose([Grayscale(1)])}
    state_dict = {prefix + key: value for prefix in PREFIXES for key, value in weights.items()}
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "1.7.7",
        "state_dict": state_dict,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(9)}}}],
        "hyper_parameters": hyper_parameters,
    }
    torch.save(content | changed, path)
    return path


def assert_same_weights(ours: dict[str, Tensor], net: DiffusedHeadsUNet) -> None:
    expected = {f"net.{key}": value for key, value in net.state_dict().items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


VARIANTS = [
    {"id_condition_type": identity, "audio_condition_type": audio}
    for identity in ("frame", "pre_gn", "post_gn")
    for audio in ("pre_gn", "post_gn", "double_pre_gn", "attention")
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_names_survive_the_way_there_and_back(variant):
    net = network(**variant)
    official = to_official(net.state_dict())
    back = from_official(official)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in net.state_dict().items())


def test_a_foreign_weight_is_named():
    with pytest.raises(CheckpointError, match=r"1 weights are not of diffused_heads.*first: encoder\.weight"):
        from_official({"encoder.weight": torch.zeros(1), "out.0.bias": torch.zeros(1)})


def test_a_lightning_checkpoint_gives_weights_and_constructor_arguments(net, tmp_path):
    path = write_lightning(tmp_path / "epoch=3-step=9.ckpt", to_official(net.state_dict()))
    config, state_dict = load_official(path)
    assert_same_weights(state_dict, net)
    arguments = {key: value for key, value in config["model"]["net"].items() if not key.startswith("_")}
    assert arguments == TINY
    assert config["model"]["diffusion"]["n_timesteps"] == 150
    assert (config["model"]["vlb_weight"], config["model"]["lip_weight"]) == (1e-4, 0.2)
    assert config["model"]["motion_blur"] is False
    assert json.loads(json.dumps(config)) == config


def test_blurred_motion_frames_are_noticed(net, tmp_path):
    transforms = {**TINY, "motion_transforms": Compose([GaussianBlur((5, 5), (2.0, 2.0)), Grayscale(1)])}
    path = write_lightning(tmp_path / "x.ckpt", to_official(net.state_dict()), hyper_parameters=transforms)
    assert load_official(path)[0]["model"]["motion_blur"] is True


def test_the_release_configuration_rebuilds_the_model(net, tmp_path):
    config, state_dict = load_official(write_lightning(tmp_path / "x.ckpt", to_official(net.state_dict())))
    check_targets(config["model"])  # nothing in it may be refused as unsafe
    model = hydra.utils.instantiate(config["model"])
    assert isinstance(model, DiffusedHeads)
    model.load_state_dict(state_dict, strict=True)
    assert len(model.diffusion) == 150
    pipeline = hydra.utils.instantiate(config["pipeline"], model=model)
    assert pipeline.resolution == 16


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_of_the_two_copies_is_enough(net, tmp_path, prefix):
    weights = {prefix + key: value for key, value in to_official(net.state_dict()).items()}
    _, state_dict = load_official(write_lightning(tmp_path / "x.ckpt", {}, state_dict=weights))
    assert_same_weights(state_dict, net)


def test_two_copies_may_be_stored_apart_but_must_agree(net, tmp_path):
    official = to_official(net.state_dict())
    weights = {prefix + key: value.clone() for prefix in PREFIXES for key, value in official.items()}
    _, state_dict = load_official(write_lightning(tmp_path / "x.ckpt", {}, state_dict=weights))
    assert_same_weights(state_dict, net)
    weights["unet.out.2.bias"] += 1
    with pytest.raises(CheckpointError, match="two different networks"):
        load_official(write_lightning(tmp_path / "x.ckpt", {}, state_dict=weights))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_the_hyper_parameters_does_not_run(net, tmp_path):
    evil = {**TINY, "motion_transforms": Payload(tmp_path / "ran")}
    path = write_lightning(tmp_path / "x.ckpt", to_official(net.state_dict()), hyper_parameters=evil)
    _, state_dict = load_official(path)
    assert_same_weights(state_dict, net)
    assert not (tmp_path / "ran").exists()


class Official(nn.Module):
    """The network under its original names, called as the demo calls it."""

    def __init__(self, net: DiffusedHeadsUNet) -> None:
        super().__init__()
        for key, value in to_official(net.state_dict()).items():
            *path, name = key.split(".")
            owner: nn.Module = self
            for step in path:
                if step not in owner._modules:
                    owner.add_module(step, nn.Module())
                owner = owner._modules[step]
            owner.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return x * sum(p.sum() for p in self.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_a_torchscript_archive_gives_weights_and_what_they_reveal(net, tmp_path):
    torch.jit.trace(Official(net), torch.ones(1)).save(tmp_path / "script.pt")
    config, state_dict = load_official(tmp_path / "script.pt")
    assert_same_weights(state_dict, net)
    found = {key: value for key, value in config["model"]["net"].items() if not key.startswith("_")}
    unseen = {
        "image_size": 128,
        "attention_resolutions": [64],
    }  # the size leaves no trace, so the level is named by the published one
    assert {**TINY, **unseen} == {**TINY, **found}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"image_size": 128, "channel_mult": [1, 2, 3], "num_res_blocks": 2, "attention_resolutions": [32]},
        {"resblock_updown": False, "out_channels": 3, "grayscale_motion": True, "attention_resolutions": []},
        {
            "channel_mult": [2, 2, 1, 1],
            "n_motion_frames": 4,
            "n_audio_motion_embs": 0,
            "attention_resolutions": [16, 4],
        },
    ],
)
def test_weights_reveal_the_network(variant, changed):
    expected = {"image_size": 128} | TINY | variant | changed
    with torch.device("meta"):
        net = DiffusedHeadsUNet(**expected)
        found = arguments_of(to_official(net.state_dict()))
        rebuilt = DiffusedHeadsUNet(**TINY | found)
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == shapes
    assert {key: found[key] for key in (*variant, "resblock_updown")} == {
        key: expected[key] for key in (*variant, "resblock_updown")
    }


def test_foreign_files_end_in_one_sentence(tmp_path):
    torch.save({"weights": {}}, tmp_path / "no-state-dict.ckpt")
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "other-model.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"state_dict": {"unet.out.0.bias": torch.ones(1)}}, tmp_path / "one-layer.ckpt")
    for name, says in (
        ("no-state-dict.ckpt", "has no state_dict"),
        ("list.ckpt", "has no state_dict"),
        ("one-layer.ckpt", "not those of the original"),
        ("other-model.ckpt", "not of diffused_heads's network"),
    ):
        with pytest.raises(CheckpointError, match=says) as error:
            load_official(tmp_path / name)
        assert "\n" not in str(error.value)


def test_only_who_names_the_method_gets_the_original_form(net, tmp_path):
    path = write_lightning(tmp_path / "x.ckpt", to_official(net.state_dict()))
    with pytest.raises(CheckpointError, match="method=NAME"):
        load(path)
    with pytest.raises(CheckpointError, match="refused for safety"):
        load_published(path, "landmark_driven")
    checkpoint = load_published(path, "diffused_heads")
    assert checkpoint.method == "diffused_heads"
    assert_same_weights(checkpoint.state_dict, net)


@pytest.mark.slow
def test_the_command_turns_it_into_a_file_that_loads(net, tmp_path):
    write_lightning(tmp_path / "crema.ckpt", to_official(net.state_dict()))
    options = ["method=diffused_heads", "ckpt=crema.ckpt", "out=dh.safetensors"]
    done = run_command(tmp_path, "tools/convert_checkpoint.py", *options)
    assert done.returncode == 0
    checkpoint = load(tmp_path / "dh.safetensors")
    assert checkpoint.method == "diffused_heads"
    assert_same_weights(checkpoint.state_dict, net)
    assert checkpoint.config == load_official(tmp_path / "crema.ckpt")[0]
