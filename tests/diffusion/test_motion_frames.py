"""Motion frames: the transforms and augmentations of frames that condition the next one."""

import pytest
import torch

from src.diffusion.motion_frames import MotionAugmentation, blur_each, motion_transform, octave_noise
from src.errors import ConfigError


def frames(seed: int = 0, *shape: int) -> torch.Tensor:
    return torch.rand(shape or (4, 2, 3, 16, 16), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_grey_weighs_the_channels():
    red, green, blue = (torch.eye(3)[i].view(1, 3, 1, 1).expand(1, 3, 4, 4) for i in range(3))
    for picture, weight in ((red, 0.2989), (green, 0.587), (blue, 0.114)):
        assert motion_transform(picture, grayscale=True).unique().item() == pytest.approx(weight)


def test_any_leading_axes_go_through():
    x = frames()
    each = torch.stack([motion_transform(picture, grayscale=True, blur=True) for picture in x.flatten(0, 1)])
    assert torch.allclose(motion_transform(x, grayscale=True, blur=True).flatten(0, 1), each, atol=1e-6)
    assert motion_transform(x[:, :0], grayscale=True, blur=True).shape == (4, 0, 1, 16, 16)


def test_blur_keeps_a_plain_picture_and_the_size():
    plain = torch.full((1, 3, 9, 7), 0.25)
    assert torch.allclose(motion_transform(plain, blur=True), plain)


def test_nothing_changes_by_default():
    augment, x = MotionAugmentation(), frames()
    assert not augment.active
    motion, identity = augment(x, x[:, 0], generator())
    assert motion is x
    assert torch.equal(identity, x[:, 0])


def test_the_same_state_of_the_generator_gives_the_same_frames():
    augment = MotionAugmentation((0.0, 2.0), (0.0, 0.2), 0.5, (0.0, 0.1))
    x = frames()
    assert augment.active
    one, two, other = (augment(x, x[:, 0], generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])


def test_noise_has_a_strength_of_its_own_for_every_sample_within_the_range():
    augment, x = MotionAugmentation(motion_noise=(0.1, 0.3)), torch.zeros(64, 2, 3, 16, 16)
    motion, identity = augment(x, x[:, 0], generator())
    strengths = motion.flatten(1).std(dim=1)
    assert 0.09 < strengths.min() < 0.13
    assert 0.27 < strengths.max() < 0.32
    assert torch.equal(identity, x[:, 0])


def test_dropped_motion_frames_are_the_identity():
    augment, x, person = (
        MotionAugmentation(motion_dropout=0.3),
        torch.zeros(2000, 2, 3, 1, 1),
        torch.ones(2000, 3, 1, 1),
    )
    motion, _ = augment(x, person, generator())
    share = motion.flatten(1)
    assert torch.equal(share.amin(dim=1), share.amax(dim=1))  # all frames of a sample or none
    assert share[:, 0].mean().item() == pytest.approx(0.3, abs=0.03)


def test_every_sample_is_blurred_by_its_own_sigma():
    x = frames(0, 3, 2, 3, 20, 20)
    sigma = torch.tensor([0.0, 1.0, 2.0])
    blurred = blur_each(x, sigma)
    assert torch.allclose(blurred[0], x[0], atol=1e-6)
    roughness = blurred.diff(dim=-1).abs().flatten(1).mean(dim=1)
    assert roughness[0] > 2 * roughness[1] > 3 * roughness[2]
    alone = blur_each(x[1:2], sigma[1:2])
    assert torch.allclose(
        blurred[1:2], alone, atol=0.1
    )  # the longer kernel of the batch has a little more of the tails
    assert torch.allclose(blurred.mean(dim=(-2, -1)), x.mean(dim=(-2, -1)), atol=0.1)


def test_a_picture_smaller_than_the_kernel_is_blurred_as_far_as_it_goes():
    assert blur_each(frames(0, 1, 1, 3, 3, 3), torch.tensor([4.0])).shape == (1, 1, 3, 3, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"motion_noise": (0.3, 0.1)},
        {"motion_noise": (-0.1, 0.1)},
        {"motion_blur": (0, 9)},
        {"motion_dropout": 1.0},
        {"identity_noise": (0.1,)},
    ],
)
def test_ranges_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        MotionAugmentation(**change)


@pytest.mark.parametrize("octaves", [1, 3, 9])
def test_octave_noise_has_unit_variance_and_the_coarse_parts_that_were_asked_for(octaves):
    noise = octave_noise(torch.zeros(200, 3, 16, 16), octaves, torch.Generator().manual_seed(0))
    assert noise.var().item() == pytest.approx(1, abs=0.1)
    coarse = noise.reshape(200, 3, 4, 4, 4, 4).mean(dim=(3, 5)).var().item()  # means of 4x4 cells
    sizes = [2**octave for octave in range(min(octaves, 5))]
    expected = sum(1 if size >= 4 else (size / 4) ** 2 for size in sizes) / len(sizes)
    assert coarse == pytest.approx(expected, rel=0.15)
