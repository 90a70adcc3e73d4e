"""Noise that belongs to a sample or a frame, not to the batch in which it happens to be computed."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

NoiseMode = Literal["same", "random"]


def generators_from(seeds: Iterable[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator per seed."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def randn_each(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Float[Tensor, "b *shape"]:
    """Standard normal of `shape` from each generator, stacked on the generators' device."""
    return torch.stack([torch.randn(tuple(shape), generator=g, device=g.device) for g in generators])


class FrameNoise:
    """The noise of a video's frames, drawn frame by frame in order: batches of any size see the same numbers.

    On the CPU the starting noise equals one `torch.randn((t, c, h, w), generator=generator)` for all frames, as original
    implementations draw it, as long as a frame has a multiple of 16 values.

    Args:
        shape: (c, h, w) of a frame.
        generator: of the starting noise; its seed also determines the noise of the steps.
        mode: `random` draws independent starting noise for each frame; `same` repeats one noise picture, which is steadier, because
            the starting noise leaks into the colours of the result.
    """

    def __init__(self, shape: Sequence[int], generator: torch.Generator, mode: NoiseMode = "random") -> None:
        if mode not in ("same", "random"):
            raise ValueError(f"noise={mode!r}: choose 'same' or 'random'")
        self.shape = tuple(shape)
        self.generator = generator
        self.mode = mode
        self._shared: Tensor | None = None
        self._step_seeds = torch.Generator().manual_seed(generator.initial_seed() ^ 0x5EED)

    def draw(self, n: int) -> tuple[Float[Tensor, "n c h w"], list[torch.Generator]]:
        """Starting noise and step-noise generators of the next `n` frames."""
        seeds = torch.randint(2**62, (n,), generator=self._step_seeds).tolist()
        return self._start(n), generators_from(seeds, self.generator.device)

    def _start(self, n: int) -> Float[Tensor, "n c h w"]:
        if self.mode == "random":
            return randn_each([self.generator] * n, self.shape)
        if self._shared is None:
            self._shared = randn_each([self.generator], self.shape)
        return self._shared.expand(n, -1, -1, -1)
