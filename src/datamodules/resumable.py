"""What DataModules that resume exactly have in common."""

from collections.abc import Sequence
from typing import Any, Generic, TypedDict, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from src.datamodules.sampling import ResumableSampler
from src.errors import ConfigError, require_least

C = TypeVar("C")
D = TypeVar("D", bound=Dataset)


def limited(clips: Sequence[C], limit: int | None) -> Sequence[C]:
    """The first clips, `datamodule.limit_clips` of them; ConfigError below 1."""
    if limit is not None:
        require_least("datamodule.limit_clips", limit, 1)
    return clips[:limit]


class WorkerOptions(TypedDict, total=False):
    """How batches are prepared.

    Attributes:
        num_workers: processes that decode, 0.
        persistent_workers: keep them between epochs, true.
        pin_memory: page-locked batches, for GPUs, true.
        prefetch_factor: batches that each worker prepares ahead, 2.
    """

    num_workers: int
    persistent_workers: bool
    pin_memory: bool
    prefetch_factor: int


class LoaderOptions(WorkerOptions, total=False):
    """Settings that all DataModules share.

    Attributes:
        val_batch_size: validation samples per process and step; None, the default: as many as in training.
    """

    val_batch_size: int | None


class ResumableDataModule(pl.LightningDataModule, Generic[D]):
    """Loaders whose training order depends on seed and epoch alone and is shared out to the processes with a stride.

    `state_dict` notes the position, so that a resumed run continues with the sample that would have come next. A subclass sets
    `train_dataset` and `val_dataset` in `setup`; their items must follow from the draw that they are asked for.

    Args:
        batch_size: training samples per process and step.
        val_batch_size: validation samples per process and step; None: `batch_size`.
        num_workers: processes that decode.
        persistent_workers: keep them between epochs.
        pin_memory: page-locked batches, for GPUs.
        prefetch_factor: batches that each worker prepares ahead.
        seed: of the order.

    Raises:
        ConfigError: a number below its minimum.
    """

    train_dataset: D
    val_dataset: D

    def __init__(
        self,
        batch_size: int,
        *,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        prefetch_factor: int = 2,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.val_batch_size = batch_size if val_batch_size is None else val_batch_size
        require_least("datamodule.batch_size", self.batch_size, 1)
        require_least("datamodule.val_batch_size", self.val_batch_size, 1)
        require_least("datamodule.num_workers", num_workers, 0)
        self.seed = seed
        self.loader_options: dict[str, Any] = {
            "num_workers": num_workers,
            "pin_memory": pin_memory and torch.cuda.is_available(),
            "persistent_workers": persistent_workers and num_workers > 0,
            "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        }
        self._resumed = {"epoch": 0, "position": 0, "batches": 0}

    def train_dataloader(self) -> DataLoader:
        """Shuffled; the last, smaller batch is kept."""
        sampler = self._sampler(self.train_dataset, shuffle=True, pad=True)
        sampler.resume(self._resumed["epoch"], self._resumed["position"])
        return DataLoader(self.train_dataset, self.batch_size, sampler=sampler, **self.loader_options)

    def val_dataloader(self) -> DataLoader:
        """In the order of the data set; ConfigError where it is smaller than the number of processes, which must all have a part."""
        sampler = self._sampler(self.val_dataset, shuffle=False, pad=False)
        if sampler.size < sampler.num_replicas:
            raise ConfigError(
                f"the validation data have {sampler.size} rows for {sampler.num_replicas} processes: prepare more of them, take fewer "
                "trainer.devices, or leave the validation out with trainer.limit_val_batches=0."
            )
        return DataLoader(self.val_dataset, self.val_batch_size, sampler=sampler, **self.loader_options)

    def _sampler(self, dataset: Dataset, *, shuffle: bool, pad: bool) -> ResumableSampler:
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return ResumableSampler(dataset, world_size, rank, seed=self.seed, shuffle=shuffle, pad=pad)

    def state_dict(self) -> dict[str, int]:
        """Where training stands: epoch, samples of all processes drawn in it, batches of the whole training."""
        assert self.trainer is not None, "only a trainer saves checkpoints"
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"]
        global_batch = self.batch_size * self.trainer.world_size
        epoch, batch = self._resumed["epoch"], self._resumed["position"] // global_batch
        new_epochs, batch = divmod(batch + batches - self._resumed["batches"], int(self.trainer.num_training_batches))
        return {"epoch": epoch + new_epochs, "position": batch * global_batch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the state's last sample."""
        self._resumed = state_dict
