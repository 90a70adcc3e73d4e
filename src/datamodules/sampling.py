"""The order of training samples: fixed by seed and epoch alone, so that any run can continue at the very next sample."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, DistributedSampler


class ResumableSampler(DistributedSampler):
    """Draws of a data set in a global order that is then dealt out to processes like cards.

    Process r of N takes the draws r, r + N, ... of the epoch's order: N processes with batches of B/N see the same global batches as one
    process with batches of B. A draw is `epoch * len(dataset) + index`, which tells a data set that varies its samples from epoch to
    epoch which variant is meant.

    Args:
        dataset: of known length.
        num_replicas: number of processes.
        rank: of this process.
        seed: of the order.
        shuffle: a new random order in every epoch; False: the order of the data set.
        pad: repeat samples until every process has the same number, as training in step needs it; evaluation must not count twice.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_replicas: int = 1,
        rank: int = 0,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pad: bool = True,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.size = len(dataset)  # ty: ignore[invalid-argument-type] (a data set that is indexed has a length)
        self.pad = pad
        self._resume_at = (0, 0)

    def resume(self, epoch: int, position: int) -> None:
        """Let `epoch` begin after its first `position` global draws (those of all processes together); later epochs are whole."""
        self.epoch = epoch
        self._resume_at = (epoch, position)

    def __len__(self) -> int:
        """Draws of this process in a whole epoch, also where a resumed epoch is shorter: batches keep their numbers."""
        return len(self._own(torch.arange(self.size)))

    def __iter__(self) -> Iterator[int]:
        epoch, position = self._resume_at
        order = self._own(self._order())
        if self.epoch == epoch:
            order = order[position // self.num_replicas :]
        return iter((self.epoch * self.size + order).tolist())

    def _order(self) -> torch.Tensor:
        """The indices of all processes in this epoch."""
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(self.size, generator=generator)

    def _own(self, order: torch.Tensor) -> torch.Tensor:
        """Every N-th one for this process, repeated from the start where `pad` asks for it."""
        if self.pad:
            missing = -len(order) % self.num_replicas
            order = torch.cat([order, order.repeat(missing // len(order) + 1)[:missing]])
        return order[self.rank :: self.num_replicas]


def wandering_order(
    n: int, seed: int, *, rank: int = 0, num_replicas: int = 1, shuffle: bool = True, window: float = 0.5
) -> Iterator[int]:
    """Endless indices below n as StyleGAN's loaders, and MoDiTalker's, draw them: a shuffled circle in which each index, once taken, trades
    places with one of those before it. For repeating runs of theirs; `ResumableSampler` is what this project trains with.

    Args:
        n: of the data set.
        seed: of the order.
        rank, num_replicas: of this process among all.
        shuffle: False: in the order of the data set.
        window: how far back the trading reaches, as a share of the data set.
    """
    order, rng, reach = np.arange(n), None, 0
    if shuffle:
        rng = np.random.RandomState(seed)
        rng.shuffle(order)
        reach = round(n * window)
    for step in itertools.count():
        i = step % n
        if step % num_replicas == rank:
            yield int(order[i])
        if rng is not None and reach >= 2:
            j = (i - rng.randint(reach)) % n
            order[i], order[j] = order[j], order[i]
