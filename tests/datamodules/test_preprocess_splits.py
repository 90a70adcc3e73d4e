"""No person is in two splits, and the division is the same everywhere."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.datamodules.preprocessing.splits import assign_splits
from src.errors import ConfigError

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
PEOPLE = [f"p{i:03d}" for i in range(100)]


def test_shares_are_kept():
    assert Counter(assign_splits(PEOPLE, FRACTIONS, 0).values()) == {"train": 80, "validation": 10, "test": 10}


def test_neither_the_order_nor_the_machine_matters_but_the_seed_does():
    assert assign_splits(PEOPLE[::-1], FRACTIONS, 0) == assign_splits(PEOPLE, FRACTIONS, 0)
    assert assign_splits(PEOPLE, FRACTIONS, 1) != assign_splits(PEOPLE, FRACTIONS, 0)
    assert assign_splits(["a", "b", "c", "d"], FRACTIONS, 0) == {
        "c": "train",
        "a": "test",
        "b": "validation",
        "d": "train",
    }


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (0, {}),
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "test": 1, "validation": 1}),
        (7, {"train": 5, "test": 1, "validation": 1}),
    ],
)
def test_tiny_sets_have_train_first_then_test(n, counts):
    assert Counter(assign_splits(PEOPLE[:n], FRACTIONS, 0).values()) == counts


def test_splits_without_a_share_stay_empty():
    assert set(assign_splits(PEOPLE, {"train": 1, "test": 0}, 0).values()) == {"train"}


def test_earlier_decisions_stay_and_count():
    fixed = assign_splits(PEOPLE[:50], FRACTIONS, 0)
    grown = assign_splits(PEOPLE, FRACTIONS, 0, fixed)
    assert grown.items() >= fixed.items()
    assert Counter(grown.values()) == {"train": 80, "validation": 10, "test": 10}
    given_test = dict.fromkeys(PEOPLE[:90], "test")
    assert set(assign_splits(PEOPLE, {"train": 1}, 0, given_test).values()) == {"train", "test"}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [({"val": 1}, "fractions.val: there is no such split"), ({"train": 0}, "above 0"), ({"train": -1}, "at least 0")],
)
def test_bad_fractions_are_one_sentence(fractions, message):
    with pytest.raises(ConfigError, match=message):
        assign_splits(PEOPLE, fractions, 0)


@given(
    st.sets(st.text(max_size=3), max_size=40), st.integers(0, 3), st.floats(0.1, 1), st.floats(0, 1), st.floats(0, 1)
)
def test_everyone_is_in_one_split_with_a_share(people, seed, train, validation, test):
    fractions = {"train": train, "validation": validation, "test": test}
    splits = assign_splits(people, fractions, seed)
    assert splits.keys() == people
    assert all(fractions[split] > 0 for split in splits.values())
    if len(people) >= 2 and test > 0:
        assert {"train", "test"} <= set(splits.values())
