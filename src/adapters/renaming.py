"""State dicts under other names, by a table."""

import re
from collections.abc import Mapping

from torch import Tensor

from src.errors import CheckpointError


def rename(state_dict: Mapping[str, Tensor], table: Mapping[str, str], method: str) -> dict[str, Tensor]:
    """The tensors under the names that the table gives them.

    Args:
        state_dict: tensors by name.
        table: whole names; `{}` stands for one number, the same ones in the same order in both names.
        method: slug, for the error.

    Raises:
        CheckpointError: names that are not in the table.
    """
    rules = [(re.compile(re.escape(old).replace(r"\{\}", r"(\d+)")), new) for old, new in table.items()]
    renamed, unknown = {}, []
    for key, value in state_dict.items():
        found = ((match, new) for old, new in rules if (match := old.fullmatch(key)))
        match, new = next(found, (None, ""))
        if match is None:
            unknown.append(key)
        else:
            renamed[new.format(*match.groups())] = value
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} weights are not of {method}'s network (first: {', '.join(sorted(unknown)[:3])}): "
            f"give a checkpoint of the original {method.replace('_', '-')} model."
        )
    return renamed
