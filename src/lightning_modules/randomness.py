"""Training noise that depends on the seed, the step and the place in the global batch, and on nothing else.

A run that was killed and resumed, and a run on N processes with a batch of B/N each, then draw the very same noise as an
uninterrupted run on one process with a batch of B: no generator state has to be saved, and none can be forgotten.
"""

import hashlib
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that differs wherever one of `parts` differs."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class StepRandomness:
    """The random numbers of one training step.

    Args:
        module: the running LightningModule: gives epoch, rank, number of processes and device.
        seed: of the run.
        batch_idx: of the step within its epoch.
    """

    def __init__(self, module: pl.LightningModule, seed: int, batch_idx: int) -> None:
        trainer = module._trainer  # None outside a fit, where one process is all there is
        self.rank = trainer.global_rank if trainer else 0
        self.world_size = trainer.world_size if trainer else 1
        epoch = trainer.current_epoch if trainer else 0
        self.device = module.device
        self.generator = torch.Generator(self.device).manual_seed(seed_of(seed, epoch, batch_idx))

    def _own(self, draw: Callable[[int], Tensor], batch_size: int) -> Tensor:
        """Rows of this process: sample i of the global batch is row i // N of process i mod N, as the samplers shard it."""
        return draw(batch_size * self.world_size)[self.rank :: self.world_size]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal of the shape, dtype and device of `like`, (b, ...)."""
        return self._own(
            lambda b: torch.randn((b, *like.shape[1:]), generator=self.generator, device=self.device, dtype=like.dtype),
            like.shape[0],
        )

    def integers(self, high: int, batch_size: int) -> Tensor:
        """Uniform int64 in [0, high), (b,)."""
        return self._own(lambda b: torch.randint(high, (b,), generator=self.generator, device=self.device), batch_size)
