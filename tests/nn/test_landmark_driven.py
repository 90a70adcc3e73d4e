"""The network of landmark_driven beyond what the golden tensors show."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from src.nn.landmark_driven import LandmarkDrivenUNet

TINY = {
    "sample_size": 16,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def inputs(height: int = 16, width: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 3, height, width, generator=generator)
    return noisy, torch.randn(2, 9, height, width, generator=generator), torch.tensor([3, 900])


@pytest.fixture
def net() -> LandmarkDrivenUNet:
    torch.manual_seed(0)
    return LandmarkDrivenUNet(**TINY).eval()


@torch.no_grad()
def test_every_condition_and_the_time_step_change_the_output(net):
    noisy, condition, timestep = inputs()
    out = net(noisy, condition, timestep)
    assert out.shape == noisy.shape
    for first in (0, 3, 6):
        other = condition.clone()
        other[:, first : first + 3] = 0
        assert not torch.allclose(net(noisy, other, timestep), out)
    assert not torch.allclose(net(noisy, condition, timestep + 50), out)


@torch.no_grad()
def test_one_time_step_serves_the_whole_batch(net):
    noisy, condition, _ = inputs()
    each = net(noisy, condition, torch.tensor([7, 7]))
    torch.testing.assert_close(net(noisy, condition, torch.tensor(7)), each)


@torch.no_grad()
def test_frames_need_not_be_of_the_training_size_but_divisible(net):
    noisy, condition, timestep = inputs(8, 24)
    assert net(noisy, condition, timestep).shape == noisy.shape
    with pytest.raises(ValueError, match=r"9x8.*multiples of 2"):
        net(*inputs(9, 8))


@torch.no_grad()
def test_channels_last_gives_the_same_frames(net):
    other = LandmarkDrivenUNet(**TINY, channels_last=True).eval()
    other.load_state_dict(net.state_dict())
    assert other.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other(*inputs()), net(*inputs()), atol=1e-5, rtol=1e-5)


def test_attention_runs_through_the_fused_kernels(net):
    processors = [module.processor for module in net.modules() if hasattr(module, "processor")]
    assert len(processors) == 1 + 1 + 2  # down, middle, up
    assert all(isinstance(processor, AttnProcessor2_0) for processor in processors)


@pytest.mark.slow
@torch.no_grad()
def test_compiling_in_place_keeps_names_and_results(net):
    keys, out = list(net.state_dict()), net(*inputs())
    net.compile(backend="eager")
    torch.testing.assert_close(net(*inputs()), out)
    assert list(net.state_dict()) == keys


def test_patches_keep_the_size_of_the_frames_and_every_pixel_counts():
    torch.manual_seed(0)
    net = LandmarkDrivenUNet(
        sample_size=16,
        patch_size=2,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    noisy = torch.randn(1, 3, 16, 16, requires_grad=True)
    output = net(noisy, torch.randn(1, 9, 16, 16), torch.tensor([5]))
    assert output.shape == noisy.shape
    output.square().sum().backward()
    assert (noisy.grad != 0).all()
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.randn(1, 3, 14, 16), torch.randn(1, 9, 14, 16), torch.tensor([5]))
