"""Published files of the networks between a voice and LivePortrait's lips."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from src.adapters import liveportrait
from src.adapters.liveportrait_talker import (
    EXP_NET,
    EXP_NET_TABLE,
    MAPPING_FILE,
    MAPPING_NET_TABLE,
    METHOD,
    SADTALKER_FILE,
    load_exp_net,
    load_mapping_net,
    read_sadtalker,
    to_official,
)
from src.checkpoint import load_downloaded, load_published, record, save_safetensors
from src.errors import CheckpointError
from src.nn.liveportrait_talker import ExpNet, MappingNet, TalkingPortrait
from src.pipelines.loading import load_pipeline
from tests.portraits import write_published


def official_mapping_net() -> dict[str, torch.Tensor]:
    return to_official(MappingNet(n_coefficients=4, width=8).state_dict(), MAPPING_NET_TABLE)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "older form"])
@pytest.mark.parametrize("training", [False, True], ids=["published", "training checkpoint"])
def test_mapping_net_is_read_from_both_files_in_both_forms(tmp_path: Path, training: bool, legacy: bool):
    weights, path = official_mapping_net(), tmp_path / "mapping.pt"
    content = {"state_dict": {f"mappingnet.{k}": v for k, v in weights.items()}, "epoch": 3} if training else weights
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    net = load_mapping_net(path)
    back = to_official(net.state_dict(), MAPPING_NET_TABLE)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_files_that_are_no_mapping_net_are_refused(tmp_path: Path):
    path = tmp_path / "mapping.pt"
    torch.save({"layer.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="not of liveportrait_talker's network"):
        load_mapping_net(path)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_mapping_net(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_mapping_net(path)


def test_missing_weights_are_an_error(tmp_path: Path):
    weights = official_mapping_net()
    del weights["encoder1.1.bias"]
    torch.save(weights, tmp_path / "mapping.pt")
    with pytest.raises(CheckpointError, match="does not hold the weights of MappingNet"):
        load_mapping_net(tmp_path / "mapping.pt")


def test_one_network_is_taken_from_sadtalkers_file(tmp_path: Path):
    net, path = ExpNet(), tmp_path / "sadtalker.safetensors"
    weights = {EXP_NET + key: value for key, value in to_official(net.state_dict(), EXP_NET_TABLE).items()}
    save_file(weights | {"generator.first.weight": torch.zeros(1)}, path)
    loaded = load_exp_net(path)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match="no weights below audio2pose"):
        read_sadtalker(path, "audio2pose.")
    with pytest.raises(CheckpointError, match="no such file"):
        read_sadtalker(tmp_path / "other.safetensors", EXP_NET)


# --- all published files together


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, TalkingPortrait]:
    """A folder as `tools/download_models.py` fills it, of a small renderer, and the networks in it."""
    folder = tmp_path_factory.mktemp("published")
    return folder, write_published(folder)


@pytest.mark.slow
def test_seven_published_files_are_one_network(published, monkeypatch, tmp_path):
    folder, model = published
    checkpoint = load_published(folder, METHOD)
    assert checkpoint.state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(value, checkpoint.state_dict[key]) for key, value in model.state_dict().items())
    monkeypatch.setenv("VISEME_MODELS", str(folder))
    assert load_downloaded(METHOD).config == checkpoint.config
    pipeline = load_pipeline(checkpoint, device="cpu", options={"still": True})
    assert pipeline.head_pose.still
    save_safetensors(tmp_path / "talker.safetensors", METHOD, checkpoint.config, checkpoint.state_dict)
    trained = tmp_path / "last.ckpt"
    net = MappingNet(width=4)
    config = {
        "model": {
            "_target_": "src.lightning_modules.liveportrait_talker.LivePortraitTalker",
            "net": {"_target_": "src.nn.liveportrait_talker.MappingNet", "width": 4},
        },
        "pipeline": checkpoint.config["pipeline"],
    }
    weights = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": weights, "viseme": record(METHOD, config)}, trained)
    for models in (folder, tmp_path / "talker.safetensors"):
        joined = load_pipeline(trained, device="cpu", options={"models": str(models)}).model
        assert torch.equal(joined.mapping_net.first.weight, net.first.weight)
        assert torch.equal(joined.exp_net.head.weight, model.exp_net.head.weight)
        assert torch.equal(joined.motion_extractor.fc_kp.weight, model.motion_extractor.fc_kp.weight)


def test_missing_files_are_named_together(tmp_path, monkeypatch):
    (tmp_path / SADTALKER_FILE).touch()
    with pytest.raises(CheckpointError) as caught:
        load_published(tmp_path, METHOD)
    names = [f"{name}.pth" for name in liveportrait.FILES]
    assert str(caught.value) == (
        f"{tmp_path} lacks {', '.join([*names, MAPPING_FILE])}: fetch what is missing with "
        "python tools/download_models.py method=liveportrait_talker, or give the folder that the files lie in."
    )
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"tools/download_models\.py method=liveportrait_talker"):
        load_downloaded(METHOD)
