"""Train, validation and test by identity: no person is in two splits."""

from collections.abc import Collection, Mapping

import numpy as np

from src.datamodules.store import SPLITS
from src.errors import ConfigError


def assign_splits(
    identities: Collection[str], fractions: Mapping[str, float], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A split for every identity, the same for the same arguments on every machine.

    Identities are drawn in a random order; each goes to the split that is furthest behind its share. Train, test and
    validation, in this order, get one identity each before any gets a second, where their fractions are above zero.

    Args:
        identities: the people; their order does not matter.
        fractions: share of the identities by split; they are scaled to sum to one.
        seed: of the random order.
        fixed: splits that are decided already (by the data set, or by an earlier run) and stay as they are.

    Raises:
        ConfigError: fractions that name another split, are negative, or are all zero.
    """
    if unknown := sorted(fractions.keys() - set(SPLITS)):
        raise ConfigError(f"fractions.{unknown[0]}: there is no such split, choose from {', '.join(SPLITS)}.")
    total = sum(fractions.values())
    if min(fractions.values(), default=0) < 0 or total <= 0:
        raise ConfigError(f"fractions={dict(fractions)}: give shares of at least 0 and one above 0.")
    shares = {split: fractions[split] / total for split in ("train", "test", "validation") if fractions.get(split)}

    chosen = {name: split for name, split in (fixed or {}).items() if name in set(identities)}
    counts = dict.fromkeys(shares, 0)
    for split in chosen.values():
        if split in counts:
            counts[split] += 1
    free = sorted(set(identities) - chosen.keys())
    for index in np.random.default_rng(seed).permutation(len(free)):
        empty = [split for split in shares if counts[split] == 0]
        split = empty[0] if empty else min(shares, key=lambda split: (counts[split] + 1) / shares[split])
        chosen[free[index]] = split
        counts[split] += 1
    return chosen
