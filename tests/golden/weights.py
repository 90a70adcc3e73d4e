"""Where the weights of a golden case are: in its own file, in that of another case, or in the recipe that its JSON states."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from src.metrics.perceptual import BACKBONES, PerceptualDistance
from tests.golden.conftest import GoldenCase

# Values of a network's weights under the original's names by the recipe that the case states.
Recipe = Callable[[GoldenCase, Mapping[str, Tensor]], dict[str, Tensor]]


def below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def weights_of(
    case: GoldenCase, official: Mapping[str, Tensor], recipe: Recipe, prefixes: Sequence[str] = ("",)
) -> dict[str, Tensor]:
    """Weights under the original's names: what the file stores, for the rest those of the case named, or made by the recipe.

    Args:
        case: any.
        official: our network's state under these names: shapes, and the constants that recipes leave as they are.
        recipe: of the folder.
        prefixes: what may stand before the names in the file, where it holds several networks; the first one found counts.

    Returns:
        At least the keys of `official`; with them whatever else the file stores of this network.
    """
    stored = case.group("weight")
    prefix = next((p for p in prefixes if any(f"{p}{key}" in stored for key in official)), prefixes[0])
    found = below(stored, prefix)
    if not prefix and len(prefixes) > 1:  # other networks may lie beside it
        found = {key: value for key, value in found.items() if key in official}
    if official.keys() <= found.keys():
        return found
    if shared := case.shares():
        origin, before = shared
        lying = origin.group("weight")  # a network of several that lie below one prefix
        if inner := next((p for p in prefixes if p and any(f"{before}{p}{key}" in lying for key in official)), None):
            return below(lying, f"{before}{inner}") | found
        theirs = weights_of(origin, {f"{before}{key}": value for key, value in official.items()}, recipe, prefixes)
        return below(theirs, before) | found
    stated = case.meta.get("recipe") or case.meta.get("weight_recipe")
    missing = sorted(official.keys() - found.keys())
    assert stated, f"{case.name} has no {missing[0]} among its weights, names no other case and states no recipe"
    assert "crc32" in stated, f"{case.name}: unknown recipe"
    return recipe(case, official) | found


def lpips_state(backbone: str = "vgg") -> dict[str, Tensor]:
    """State of a whole LPIPS network under the names of its package, of the right shapes only."""
    distance = PerceptualDistance.untrained(backbone)
    ends, widths = BACKBONES[backbone].ends, BACKBONES[backbone].widths
    state = {}
    for key, value in distance.features.state_dict().items():
        level = next(i for i, end in enumerate(ends, start=1) if int(key.partition(".")[0]) < end)
        state[f"net.slice{level}.{key}"] = value
    return state | {f"lin{i}.model.1.weight": torch.ones(1, width, 1, 1) for i, width in enumerate(widths)}
