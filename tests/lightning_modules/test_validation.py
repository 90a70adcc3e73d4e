"""When validations sample and measure."""

from types import SimpleNamespace

import pytest

from src.lightning_modules.validation import epoch_is_due


@pytest.mark.parametrize(
    ("every", "between", "due"),
    [(1, 1, [0, 1, 2, 3]), (2, 1, [0, 2, 4]), (4, 4, [3, 7]), (3, 2, [1, 3, 7]), (5, None, [0, 5])],
)
def test_what_is_due_between_two_validations_is_not_missed(every, between, due):
    step = between or 1
    validations = range(step - 1, 10, step)
    found = [
        epoch
        for epoch in validations
        if epoch_is_due(SimpleNamespace(check_val_every_n_epoch=between, current_epoch=epoch), every)
    ]
    assert found[: len(due)] == due
