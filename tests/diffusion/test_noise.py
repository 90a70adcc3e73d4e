import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.diffusion.noise import FrameNoise, generators_from, randn_each

SHAPE = (3, 4, 4)


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(chunks: list[int], mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Starting noise, and the first numbers of the step generators, of all frames."""
    noise = FrameNoise(SHAPE, generator(), mode)
    starts, steps = zip(*(noise.draw(n) for n in chunks), strict=True)
    return torch.cat(starts), torch.cat([randn_each(generators, SHAPE) for generators in steps])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.sampled_from(["same", "random"]))
def test_the_batch_size_changes_nothing(chunks, mode):
    start, step = drawn(chunks, mode)
    whole_start, whole_step = drawn([sum(chunks)], mode)
    assert torch.equal(start, whole_start)
    assert torch.equal(step, whole_step)


def test_random_noise_is_what_one_draw_for_all_frames_gives():
    start, _ = drawn([2, 3], "random")
    assert torch.equal(start, torch.randn((5, *SHAPE), generator=generator()))


def test_same_noise_repeats_one_picture_but_not_the_noise_of_the_steps():
    start, step = drawn([2, 3], "same")
    assert torch.equal(start, torch.randn((1, *SHAPE), generator=generator()).expand_as(start))
    assert len(torch.unique(step.flatten(1), dim=0)) == 5
    assert not torch.isin(start, step).any()


def test_another_seed_gives_other_noise():
    first, second = (FrameNoise(SHAPE, generator(seed)).draw(1) for seed in (1, 2))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(randn_each(first[1], SHAPE), randn_each(second[1], SHAPE))


def test_noise_of_a_sample_depends_on_its_own_seed_alone():
    together = randn_each(generators_from([3, 9]), SHAPE)
    assert torch.equal(together[1:], randn_each(generators_from([9]), SHAPE))
