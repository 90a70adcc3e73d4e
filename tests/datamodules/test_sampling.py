"""The order of training samples across epochs, processes and interruptions."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler

from src.datamodules.resumable import ResumableDataModule
from src.datamodules.sampling import ResumableSampler
from src.errors import ConfigError


def draws(size: int, world: int = 1, rank: int = 0, epoch: int = 0, **options) -> list[int]:
    sampler = ResumableSampler(range(size), world, rank, seed=7, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_sees_every_sample_once_in_an_order_of_its_own():
    first, second = draws(50), [draw - 50 for draw in draws(50, epoch=1)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == draws(50)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.booleans())
def test_processes_share_out_the_order_of_one_process(size, world, shuffle):
    whole = draws(size, shuffle=shuffle, epoch=3)
    dealt = [draws(size, world, rank, 3, shuffle=shuffle, pad=False) for rank in range(world)]
    assert [dealt[i % world][i // world] for i in range(size)] == whole


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5))
def test_with_padding_every_process_has_the_same_number(size, world):
    dealt = [draws(size, world, rank) for rank in range(world)]
    assert {len(share) for share in dealt} == {-(-size // world)}
    assert {draw for share in dealt for draw in share} == set(range(size))


@settings(deadline=None)
@given(st.integers(4, 60), st.integers(1, 3), st.integers(0, 3))
def test_a_resumed_epoch_continues_where_it_stopped_and_the_next_one_is_whole(size, world, batches):
    position = batches * world  # of all processes together
    for rank in range(world):
        sampler = ResumableSampler(range(size), world, rank, seed=7)
        sampler.resume(2, position)
        whole = draws(size, world, rank, epoch=2)
        assert list(sampler) == whole[batches:]
        assert len(sampler) == len(whole)
        sampler.set_epoch(3)
        assert list(sampler) == draws(size, world, rank, epoch=3)


def test_lightning_leaves_the_sampler_in_place():
    """Lightning replaces samplers that are no DistributedSampler when it trains on several processes."""
    loader = DataLoader(range(8), sampler=ResumableSampler(range(8)))
    assert isinstance(loader.sampler, DistributedSampler)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy._lightning_module = LightningModule()
    assert not trainer._data_connector._requires_distributed_sampler(loader)


def test_a_validation_that_not_every_process_has_a_part_of_is_refused():
    module = ResumableDataModule(1)
    module.val_dataset = range(2)
    module.trainer = SimpleNamespace(world_size=2, global_rank=1)
    assert len(module.val_dataloader()) == 1
    module.trainer = SimpleNamespace(world_size=3, global_rank=0)
    with pytest.raises(ConfigError, match="the validation data have 2 rows for 3 processes"):
        module.val_dataloader()


@pytest.mark.parametrize("pad", [True, False])
def test_more_processes_than_samples(pad):
    dealt = [draws(2, 3, rank, pad=pad) for rank in range(3)]
    assert [len(share) for share in dealt] == ([1, 1, 1] if pad else [1, 1, 0])
