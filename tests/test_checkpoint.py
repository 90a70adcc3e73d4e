"""Checkpoints: every form is read, nothing in them can run, and what was written comes back."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from src.checkpoint import (
    Checkpoint,
    check_targets,
    instantiate,
    load,
    load_published,
    record,
    save_release,
    save_safetensors,
    weights_sha256,
)
from src.errors import CheckpointError

CONFIG = {
    "model": {"_target_": "src.nn.landmark_driven.LandmarkDrivenUNet", "block_out_channels": [8, 8]},
    "pipeline": {},
}


def lightning_file(path: Path, **extra) -> Path:
    content = {
        "state_dict": {"net.w": torch.ones(2)},
        "current_model_state": {"net.w": torch.zeros(2)},
        "viseme": record("landmark_driven", CONFIG),
    }
    torch.save(content | extra, path)
    return path


def test_averaged_weights_by_default_and_the_last_ones_on_request(tmp_path):
    path = lightning_file(tmp_path / "last.ckpt")
    assert load(path).state_dict["net.w"].tolist() == [1, 1]
    assert load(path, "last").state_dict["net.w"].tolist() == [0, 0]
    assert load(path).method == "landmark_driven"
    assert load(path).config == CONFIG


def test_a_release_folder_comes_back_to_the_last_bit(tmp_path):
    weights = {"net.w": torch.randn(3, 4), "net.half": torch.randn(5).to(torch.bfloat16), "net.count": torch.tensor(7)}
    save_release(tmp_path / "release", Checkpoint(tmp_path / "x.ckpt", "landmark_driven", weights, CONFIG))
    back = load(tmp_path / "release")
    assert (back.method, back.config) == ("landmark_driven", CONFIG)
    assert back.state_dict.keys() == weights.keys()
    for name, value in weights.items():
        assert back.state_dict[name].dtype == value.dtype
        assert torch.equal(back.state_dict[name], value)
    assert weights_sha256(weights) in (tmp_path / "release" / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "pipeline", "command"),
    [
        ("landmark_driven", {}, "source=face.png driving=clip.mp4 out="),
        (
            "diffused_heads",
            {"features": {"_target_": "src.audio.log_mel.LogMel"}},
            "source=face.png audio=speech.wav out=",
        ),
        ("diffused_heads", {}, "source=face.png audio=speech.wav features=THOSE_OF_ITS_TRAINING out="),
    ],
)
def test_the_model_card_says_what_drives_the_face(tmp_path, method, pipeline, command):
    checkpoint = Checkpoint(tmp_path / "x.ckpt", method, {"net.w": torch.ones(2)}, {"pipeline": pipeline})
    save_release(tmp_path / "release", checkpoint)
    assert command in (tmp_path / "release" / "README.md").read_text()


class Payload:
    """Pickled, it runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    witness = tmp_path / "ran"
    path = lightning_file(tmp_path / "evil.ckpt", hyper_parameters=Payload(witness))
    with pytest.raises(CheckpointError, match="refused for safety"):
        load(path)
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(CheckpointError):
        load(tmp_path / "plain.ckpt")
    assert not witness.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "src.checkpoint.torch.load",
        "src.cli.sys.exit",
        "src.checkpoint.load_pickled",
        "src.media.files.os.remove",
        "diffusers.schedulers.scheduling_ddim.torch.load",
        "src.nowhere.Nothing",
    ],
)
def test_a_configuration_in_a_checkpoint_may_only_build_our_classes(target):
    with pytest.raises(CheckpointError, match="refused for safety"):
        check_targets({"model": {"net": [{"_target_": target}]}})


def test_settings_that_the_code_does_not_know_are_a_sentence():
    settings = {"_target_": "src.nn.landmark_driven.LandmarkDrivenUNet", "colour": "blue"}
    with pytest.raises(CheckpointError, match="colour"):
        instantiate(settings)


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(
        CheckpointError, match="choose difftalk or difftalk_autoencoder or diffused_heads or landmark_driven"
    ):
        load_published(lightning_file(tmp_path / "x.ckpt"), "diffuse_heads")


def test_interpolations_in_a_checkpoint_are_refused():
    with pytest.raises(CheckpointError, match="interpolation"):
        instantiate({"_target_": "src.nn.landmark_driven.LandmarkDrivenUNet", "note": "${oc.env:HOME}"})


def test_what_training_records_is_allowed():
    check_targets(
        {
            "net": {"_target_": "src.nn.landmark_driven.LandmarkDrivenUNet"},
            "noise_schedule": {"_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler"},
            "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True},
            "lr_scheduler": {"_target_": "diffusers.optimization.get_scheduler", "_partial_": True},
        }
    )


def test_damaged_and_foreign_files_end_in_one_sentence(tmp_path):
    (tmp_path / "cut.ckpt").write_bytes(lightning_file(tmp_path / "whole.ckpt").read_bytes()[:500])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "folder").mkdir()
    for name, change in [
        ("list", {"viseme": [1]}),
        ("bare", {"viseme": {"method": "landmark_driven"}}),
        ("path", {"viseme": record("../../elsewhere", CONFIG)}),  # would name a file of settings
        ("values", {"state_dict": {"net.w": 1}}),
    ]:
        lightning_file(tmp_path / f"{name}.ckpt", **change)
    metadata = {"method": "landmark_driven", "config": "{"}
    save_file({"w": torch.ones(1)}, tmp_path / "config.safetensors", metadata=metadata)
    for name, says in [
        ("list.ckpt", "does not hold"),
        ("bare.ckpt", "does not hold"),
        ("path.ckpt", "does not hold"),
        ("values.ckpt", "does not hold"),
        ("config.safetensors", "no JSON"),
        ("nowhere.ckpt", "no such checkpoint"),
        ("cut.ckpt", "damaged"),
        ("empty.ckpt", "damaged"),
        ("cut.safetensors", "damaged"),
        ("foreign.ckpt", "not written by train.py"),
        ("foreign.safetensors", "does not say which method"),
        ("folder", "neither a release folder"),
    ]:
        with pytest.raises(CheckpointError, match=says) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_safetensors_carry_method_and_configuration_in_their_metadata(tmp_path):
    save_safetensors(tmp_path / "x.safetensors", "landmark_driven", CONFIG, {"w": torch.ones(2)}, source="model.ckpt")
    back = load(tmp_path / "x.safetensors")
    assert json.dumps(back.config) == json.dumps(CONFIG)
    assert back.fingerprint.startswith("x.safetensors ")
