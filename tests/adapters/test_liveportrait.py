"""The published files of LivePortrait, written small and as published."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from src.adapters.liveportrait import FILES, SMALL, SMALL_FILE, from_official, to_official
from src.checkpoint import check_targets, instantiate, load, load_published, save_safetensors
from src.errors import CheckpointError
from tests.portraits import SIZES, tiny_portrait


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return tiny_portrait().state_dict()


def published(folder: Path, weights: dict[str, Tensor], *, nested: bool = True) -> Path:
    for file, content in to_official(weights).items():
        place = folder / ("retargeting_models" if file == SMALL_FILE else "base_models") if nested else folder
        place.mkdir(parents=True, exist_ok=True)
        torch.save(content | ({"epoch": 3} if file == SMALL_FILE else {}), place / f"{file}.pth")
    return folder


def assert_same(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, value in others.items():
        assert torch.equal(some[name], value), name


def test_there_and_back(weights):
    official = to_official(weights)
    assert official.keys() == FILES.keys()
    assert all(key.startswith("detector.") for key in official["motion_extractor"])
    assert "up_0.conv_s.weight_orig" in official["spade_generator"]
    assert all(key.startswith("module.mlp.") for name in SMALL for key in official[SMALL_FILE][name])
    assert_same(from_official(official), weights)


@pytest.mark.parametrize("nested", [True, False])
def test_five_files_become_a_model_that_computes_the_same(tmp_path, weights, nested):
    folder = published(tmp_path / "liveportrait", weights, nested=nested)
    converted = load_published(folder, "liveportrait")
    check_targets(converted.config)
    save_safetensors(tmp_path / "x.safetensors", "liveportrait", converted.config, converted.state_dict)
    again = load(tmp_path / "x.safetensors")
    model = instantiate(again.config["model"])
    model.load_state_dict(again.state_dict, strict=True)
    assert_same(model.state_dict(), weights)
    expected = SIZES["warping"]["dense_motion_params"]
    assert again.config["model"]["warping"]["dense_motion_params"] == expected
    assert again.config["pipeline"]["_target_"].endswith("LivePortraitPipeline")


def test_safetensors_are_read_as_well(tmp_path, weights):
    for file, content in to_official(weights).items():
        flat = content
        if file == SMALL_FILE:
            flat = {
                f"{name}_module.{key.removeprefix('module.')}": value
                for name, own in content.items() for key, value in own.items()
            }  # fmt: skip
        save_file({key: value.contiguous() for key, value in flat.items()}, tmp_path / f"{file}.safetensors")
    assert_same(load_published(tmp_path, "liveportrait").state_dict, weights)


def test_all_missing_files_are_named(tmp_path, weights):
    folder = published(tmp_path, weights, nested=False)
    for file in ("warping_module", "spade_generator"):
        (folder / f"{file}.pth").unlink()
    with pytest.raises(CheckpointError, match=r"warping_module.pth, spade_generator.pth cannot be found"):
        load_published(folder, "liveportrait")
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_published(tmp_path / "nowhere", "liveportrait")


@pytest.mark.parametrize("content", [{"w": torch.zeros(1)}, [1], {}, {"w": Path("x")}])
def test_other_files_are_one_sentence(tmp_path, weights, content):
    folder = published(tmp_path, weights, nested=False)
    torch.save(content, folder / "appearance_feature_extractor.pth")
    with pytest.raises(CheckpointError, match=r"^[^\n]+\.$"):
        load_published(folder, "liveportrait")
