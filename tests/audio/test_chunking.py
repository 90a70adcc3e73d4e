"""Chunks cover the sequence, and blending gives back what does not depend on the chunk."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.audio.chunking import blend_chunks, chunk_spans

sizes = st.integers(1, 30).flatmap(
    lambda context: st.tuples(st.integers(1, 1000), st.integers(4 * context, 200), st.just(context))
)


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_chunks_are_full_and_overlap_by_two_contexts(size):
    n, length, context = size
    spans = chunk_spans(n, length, context)
    assert spans[0][0] == 0
    assert spans[-1][1] == n
    assert all(stop - start == min(n, length) for start, stop in spans)
    assert all(before[1] - after[0] >= 2 * context for before, after in pairwise(spans))


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_rows_that_do_not_depend_on_their_chunk_come_out_as_they_are(size):
    n, length, context = size
    rows = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    blended = blend_chunks(lambda start, stop: rows[start:stop], n, length, context)
    assert blended == pytest.approx(rows, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_rows_near_the_ends_of_a_chunk_do_not_count(size):
    n, length, context = size
    rim = context // 2

    def encode(start: int, stop: int) -> np.ndarray:
        rows = np.zeros((stop - start, 1), np.float32)
        if start > 0:
            rows[:rim] = 1e6
        if stop < n:
            rows[len(rows) - rim :] = 1e6
        return rows

    assert np.abs(blend_chunks(encode, n, length, context)).max() == 0


def test_one_chunk_fades_into_the_next():
    rows = blend_chunks(lambda start, stop: np.full((stop - start, 1), float(start > 0), np.float32), 100, 60, 10)[:, 0]
    assert rows[0] == 0
    assert rows[-1] == 1
    assert np.all(np.diff(rows) >= 0)
    assert np.diff(rows).max() <= 0.11
