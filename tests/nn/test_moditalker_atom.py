"""The repaired motion decoder: who hears, what padding is, and that time is relative."""

import torch

from src.nn.moditalker_atom import LIP_RELATED, UNRELATED, MotionDecoder
from src.nn.moditalker_atom.regions import region, values_of

T = 9


def make_decoder() -> MotionDecoder:
    torch.manual_seed(0)
    return MotionDecoder(dim=16, ff_dim=24, n_layers=2, n_heads=2, dropout=0.0, audio_dim=6, n_encoder_layers=1).eval()


def conditions(n_frames: int = T) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy": torch.randn(2, n_frames, 204, generator=generator),
        "timestep": torch.tensor([3, 700]),
        "reference": torch.randn(2, 204, generator=generator),
        "audio": torch.randn(2, n_frames, 6, generator=generator),
    }


def test_lips_hear_the_voice_and_the_upper_face_does_not():
    net, given = make_decoder(), conditions()
    given["audio"].requires_grad_()
    made = net(**given)
    for points, hears in ((LIP_RELATED, True), (UNRELATED, False)):
        given["audio"].grad = None
        region(made, points).sum().backward(retain_graph=True)
        assert bool(given["audio"].grad is not None and given["audio"].grad.abs().sum() > 0) == hears


def test_every_value_has_its_place_in_the_output():
    places = torch.cat([values_of(LIP_RELATED), values_of(UNRELATED)])
    assert places.sort().values.equal(torch.arange(204))
    net, given = make_decoder(), conditions()
    last = net.lip_out[1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.ones_(last.bias)
    made = net(**given)
    assert region(made, LIP_RELATED).eq(1).all()
    assert not region(made, UNRELATED).eq(1).any()


def test_padding_changes_nothing():
    net, given = make_decoder(), conditions()
    valid = torch.ones(2, T, dtype=torch.bool)
    valid[:, 6:] = False
    short = {k: v[:, :6] if v.ndim == 3 else v for k, v in given.items()}
    torch.testing.assert_close(net(**given, valid=valid)[:, :6], net(**short), atol=1e-5, rtol=0)


def test_sound_and_motion_share_one_clock():
    """Where a window begins makes no difference: positions are relative, and those of sound and motion are the same."""
    net, given = make_decoder(), conditions()
    late = {k: torch.cat([torch.randn_like(v[:, :4]), v], dim=1) if v.ndim == 3 else v for k, v in given.items()}
    valid = torch.arange(T + 4).expand(2, -1) >= 4
    torch.testing.assert_close(net(**late, valid=valid)[:, 4:], net(**given), atol=1e-5, rtol=0)


def test_without_conditions_voice_and_person_make_no_difference():
    net, given = make_decoder(), conditions()
    other = given | {"audio": torch.randn(2, T, 6), "reference": torch.randn(2, 204)}
    keep = torch.tensor([True, False])
    first, second = net(**given, keep=keep), net(**other, keep=keep)
    torch.testing.assert_close(first[1], second[1])
    assert not torch.allclose(first[0], second[0])


def test_every_parameter_learns():
    net, given = make_decoder(), conditions()
    net(**given, keep=torch.tensor([True, False])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
