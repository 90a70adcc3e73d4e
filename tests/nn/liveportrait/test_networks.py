"""LivePortrait's networks: shapes, identity, precision, folding."""

import pytest
import torch

from src.errors import ConfigError
from src.nn.liveportrait import AppearanceFeatureExtractor, LivePortrait, MotionExtractor
from src.nn.liveportrait.motion_extractor import GlobalResponseNorm
from src.nn.liveportrait.warping import heatmaps, identity_grid, sample_volume, sparse_motion
from tests.portraits import tiny_portrait, wild_portrait

POINTS = 0.3 * torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(1))


def image(n: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Decibels, of frames in [0, 1]."""
    return (-10 * (a - b).square().mean().log10()).item()


def test_a_portrait_becomes_frames_of_twice_its_size():
    model = tiny_portrait()
    motion = model.motion(image())
    frames = model.render(model.volume(image(1)), motion.points()[:1], motion.points())
    assert frames.shape == (2, 3, model.output_size, model.output_size)
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_folded_weights_make_the_same_frames():
    model = tiny_portrait()
    points = model.motion(image()).points()
    volume = model.volume(image())
    before = model.render(volume, points, points)
    model.generator.fold_spectral_norm()
    assert torch.allclose(model.render(volume, points, points), before, atol=1e-6)
    assert not any("parametrizations" in key for key in model.state_dict())


def test_memory_layout_changes_nothing():
    model = tiny_portrait()
    points = model.motion(image()).points()
    before = model.render(model.volume(image()), points, points)
    for net in (model.generator, model.motion_extractor):
        net.to(memory_format=torch.channels_last)
    x = image().contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model.render(model.volume(x), points, points), before, atol=1e-5)


MOVED = torch.linspace(0.9, 1.1, 63).reshape(1, 21, 3) * POINTS


def moved_frames(model: LivePortrait) -> torch.Tensor:
    return model.render(model.volume(image(1)), POINTS, MOVED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_40_db(dtype):
    model = wild_portrait()
    full = moved_frames(model)
    with torch.autocast("cpu", dtype):
        half = moved_frames(model)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert full.std() > 0.1
    assert psnr(half, full) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_networks_keep_40_db(dtype):
    model = wild_portrait()
    full, keys = moved_frames(model), list(model.state_dict())
    for network in (model.warping, model.generator):
        network.compile(backend="eager")  # what is traced; the code made of it takes minutes to compile
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        made = moved_frames(model)
    assert psnr(made, full) >= (80 if dtype == torch.float32 else 40)
    assert list(model.state_dict()) == keys


def test_the_response_norm_does_not_overflow_in_half_precision():
    norm = GlobalResponseNorm(4)
    torch.nn.init.ones_(norm.gamma)
    x = torch.full((1, 16, 16, 4), 3000.0, dtype=torch.float16)
    assert torch.isfinite(norm.half()(x)).all()


def test_key_points_that_stay_shift_nothing():
    points = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    grid = identity_grid((3, 4, 6), points)
    assert grid[0, 0, 0].tolist() == [-1, -1, -1]
    assert grid[2, 3, 5].tolist() == [1, 1, 1]
    shifts = sparse_motion(grid, points, points)
    torch.testing.assert_close(shifts, grid.expand_as(shifts), rtol=0, atol=1e-6)
    assert heatmaps(grid, points, points).abs().max() == 0


def test_a_key_point_is_looked_up_where_it_was():
    source, driving = torch.tensor([[[0.5, 0.0, 0.0]]]), torch.tensor([[[-0.5, 0.0, 0.0]]])
    grid = identity_grid((1, 1, 5), source)
    assert sparse_motion(grid, source, driving)[0, 1, 0, 0, :, 0].tolist() == [0, 0.5, 1, 1.5, 2]
    heat = heatmaps(grid, source, driving)[0, :, 0, :, 0, 0]
    assert heat.shape == (2, 1)


def test_volumes_are_looked_up_by_width_first():
    volume = torch.arange(8.0).view(1, 1, 2, 2, 2)
    centre = torch.tensor([0.5, -0.5, -0.5]).view(1, 1, 1, 1, 3)
    assert sample_volume(volume, centre).item() == 1


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(
        ConfigError, match="max_features=512: give the product of reshape_channel=32 and reshape_depth=8"
    ):
        AppearanceFeatureExtractor(reshape_depth=8)


def test_published_sizes():
    with torch.device("meta"):
        assert sum(p.numel() for p in MotionExtractor().parameters()) == 28_118_728
        assert sum(p.numel() for p in AppearanceFeatureExtractor().parameters()) == 836_224
