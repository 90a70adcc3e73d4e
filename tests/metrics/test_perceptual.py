"""LPIPS behaves like a distance, and asks for its weights in one sentence."""

import pytest
import torch
from torch import Tensor

from src.errors import CheckpointError
from src.metrics.perceptual import LEVELS, VGG_FILE, PerceptualDistance

LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # VGG16's convolutions


def vgg_weights() -> dict[str, Tensor]:
    generator, weights, channels = torch.Generator().manual_seed(0), {}, 3
    for layer, width in zip(LAYERS, (width for level in LEVELS for width in level), strict=True):
        weights[f"features.{layer}.weight"] = (
            torch.randn(width, channels, 3, 3, generator=generator) / (4.5 * channels) ** 0.5
        )
        weights[f"features.{layer}.bias"] = torch.zeros(width)
        channels = width
    return weights


@pytest.fixture(scope="module")
def distance(tmp_path_factory: pytest.TempPathFactory) -> PerceptualDistance:
    path = tmp_path_factory.mktemp("vgg") / "mine.pth"
    torch.save(vgg_weights() | {"classifier.0.weight": torch.zeros(1)}, path)
    return PerceptualDistance(path)


def test_zero_for_the_same_pictures_and_more_for_stranger_ones(distance):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(2, 3, 32, 32, generator=generator)
    assert distance(x, x).tolist() == [0, 0]
    near, far = distance(x, x + 0.05 * noise), distance(x, x + 0.5 * noise)
    assert (near > 0).all()
    assert (far > 2 * near).all()
    assert torch.allclose(distance(x + noise, x), distance(x, x + noise))


def test_it_is_the_mean_of_weighted_squares(distance):
    x, y = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    whole = distance(x, y)
    halved = PerceptualDistance.from_lpips(
        {f"net.slice1.{k.removeprefix('features.')}": v for k, v in vgg_weights().items()}
        | {f"lin{i}.model.1.weight": distance.channel_weights(i).view(1, -1, 1, 1) / 2 for i in range(5)}
    )
    assert torch.allclose(halved(x, y), whole / 2)


def test_eval_mode_and_frozen_whatever_the_model_around_it_does(distance):
    around = torch.nn.Sequential(distance).train()
    assert not distance.training
    assert not any(module.training for module in distance.modules())
    assert not any(p.requires_grad for p in around.parameters())


def test_gradients_reach_the_pictures_even_where_nothing_is_seen(distance):
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distance(x, torch.rand(1, 3, 16, 16)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"download_models.py names=\[vgg16-397923af.pth\].*model.perceptual_weight=0"
    ):
        PerceptualDistance()


def test_a_damaged_or_foreign_file_says_so(tmp_path):
    torch.save(vgg_weights(), tmp_path / VGG_FILE)
    with pytest.raises(CheckpointError, match="is damaged: remove it"):
        PerceptualDistance(tmp_path / VGG_FILE)
    for name, content in {"other.pth": {"weight": torch.zeros(1)}, "list.pth": [1], "text.pth": None}.items():
        if content is None:
            (tmp_path / name).write_text("no weights")
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match="does not hold the weights of torchvision's VGG16"):
            PerceptualDistance(tmp_path / name)
    torch.save(vgg_weights() | {"features.0.weight": torch.zeros(3)}, tmp_path / "shapes.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of torchvision's VGG16"):
        PerceptualDistance(tmp_path / "shapes.pth")
