import torch

from src.diffusion.pixels import to_signed, to_uint8, to_unit

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_grey_level_survives_the_way_to_the_network_and_back():
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_uint8(to_unit(to_signed(LEVELS, dtype))), LEVELS)


def test_black_is_minus_one_and_white_one():
    signed = to_signed(LEVELS)
    assert (signed[0].item(), signed[255].item()) == (-1.0, 1.0)
    assert torch.equal(signed, -signed.flip(0))


def test_float32_is_the_rounded_exact_value():
    exact = (2 * LEVELS.double() - 255) / 255
    assert torch.equal(to_signed(LEVELS), exact.float())


def test_rounding_down_never_brightens_and_loses_at_most_one_level():
    lost = LEVELS.int() - to_uint8(to_unit(to_signed(LEVELS)), "down").int()
    assert set(lost.tolist()) == {0, 1}


def test_values_outside_the_range_are_clipped():
    assert to_uint8(to_unit(torch.tensor([-3.0, 3.0]))).tolist() == [0, 255]
