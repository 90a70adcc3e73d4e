"""Weights of golden cases: stored, shared with another case, made by a recipe, or partly one and partly another."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.golden.conftest import load_case
from tests.golden.weights import weights_of

OFFICIAL = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3)}


def recipe(case, official):
    return {key: torch.full_like(value, case.meta["salt"] + len(key)) for key, value in official.items()}


@pytest.fixture
def case(tmp_path):
    """Writes a case: its JSON, and the tensors that it stores."""

    def write(name, tensors=None, **meta):
        (tmp_path / f"{name}.json").write_text(json.dumps({"check": "net", **meta}))
        if tensors:
            save_file({f"weight/{key}": value for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
        return load_case(tmp_path / f"{name}.json")

    return write


STORED = {"a.weight": torch.rand(3, 2), "a.bias": torch.rand(3)}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_stored_weights(case):
    assert equal(weights_of(case("stored", STORED), OFFICIAL, recipe), STORED)


@pytest.mark.parametrize(
    "named",
    ["stored", "stored.safetensors", {"file": "stored.safetensors", "prefix": ""}, {"file": "stored.safetensors", "prefix": ["a.", "b."]}],
)  # fmt: skip
def test_weights_of_another_case(case, named):
    case("stored", STORED)
    shared = case("shared", weights_from=named)
    assert equal(weights_of(shared, OFFICIAL, recipe), STORED)
    assert equal(shared.weights, STORED)


def test_weights_below_a_prefix_of_another_case(case):
    case("stored", {f"net.{key}": value for key, value in STORED.items()} | {"other.bias": torch.rand(1)})
    shared = case("shared", weights_from={"file": "stored.safetensors", "prefix": "net."})
    assert equal(weights_of(shared, OFFICIAL, recipe), STORED)


def test_weights_of_a_case_that_shares_another_ones(case):
    case("stored", STORED)
    case("between", weights_from="stored")
    assert equal(weights_of(case("shared", weights_from="between"), OFFICIAL, recipe), STORED)


def test_made_weights_and_those_of_a_case_with_a_recipe(case):
    made = weights_of(case("made", recipe="crc32", salt=4), OFFICIAL, recipe)
    assert equal(made, {"a.weight": torch.full((3, 2), 12.0), "a.bias": torch.full((3,), 10.0)})
    shared = case("shared", weights_from={"file": "made.safetensors", "prefix": "net."})
    below = weights_of(shared, OFFICIAL, recipe)
    assert equal(below, {"a.weight": torch.full((3, 2), 16.0), "a.bias": torch.full((3,), 14.0)})


def test_stored_weights_replace_those_of_the_recipe(case):
    partly = case("partly", {"a.bias": STORED["a.bias"]}, recipe="crc32", salt=1)
    weights = weights_of(partly, OFFICIAL, recipe)
    assert torch.equal(weights["a.bias"], STORED["a.bias"])
    assert (weights["a.weight"] == 9).all()


def test_one_of_several_networks(case):
    both = case(
        "both", {"one.a.weight": STORED["a.weight"], "one.a.bias": STORED["a.bias"], "two.a.bias": torch.rand(3)}
    )
    assert equal(weights_of(both, OFFICIAL, recipe, ("one.", "")), STORED)
    with pytest.raises(AssertionError, match=r"no a\.weight among its weights"):
        weights_of(both, OFFICIAL, recipe, ("two.", ""))


def test_weights_that_are_nowhere(case):
    with pytest.raises(AssertionError, match="states no recipe"):
        weights_of(case("nothing"), OFFICIAL, recipe)
    with pytest.raises(AssertionError, match="unknown recipe"):
        weights_of(case("strange", recipe="dice"), OFFICIAL, recipe)
