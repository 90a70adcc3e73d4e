"""Long sequences in overlapping chunks."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32


def chunk_spans(n_rows: int, length: int, context: int) -> list[tuple[int, int]]:
    """First and one past the last row of each chunk: all of `length` rows, neighbours share `2 * context` rows or more.

    What fits into one chunk is one chunk. The last chunk ends with the sequence and overlaps its neighbour by what is needed for that.
    """
    if n_rows <= length:
        return [(0, n_rows)]
    starts = [*range(0, n_rows - length, length - 2 * context), n_rows - length]
    return [(start, start + length) for start in starts]


def blend_chunks(
    encode: Callable[[int, int], Float32[np.ndarray, "r d"]], n_rows: int, length: int, context: int
) -> Float32[np.ndarray, "n d"]:
    """Rows of a long sequence from those of its chunks.

    Where chunks overlap, one fades into the next. A row within half the context of a chunk's end that is not the sequence's does not
    count at all, one with the whole context and half of it again counts fully.

    Args:
        encode: (start, stop) -> the rows of that chunk.
        n_rows: in all.
        length: rows of a chunk.
        context: rows on either side of a chunk that serve its other rows as context.
    """
    spans = chunk_spans(n_rows, length, context)
    if len(spans) == 1:
        return encode(0, n_rows)
    total, weights = None, np.zeros((n_rows, 1), np.float32)
    for start, stop in spans:
        rows = encode(start, stop)
        total = np.zeros((n_rows, rows.shape[1]), np.float32) if total is None else total
        weight = _weights(start, stop, n_rows, context)[:, None]
        total[start:stop] += weight * rows
        weights[start:stop] += weight
    assert total is not None
    total /= weights
    return total


def _weights(start: int, stop: int, n_rows: int, context: int) -> Float32[np.ndarray, " r"]:
    index = np.arange(start, stop)
    to_begin = np.where(start == 0, np.inf, index - start + 0.5)
    to_end = np.where(stop == n_rows, np.inf, stop - index - 0.5)
    distance = np.minimum(to_begin, to_end)
    return np.clip((distance - context / 2) / max(context, 1), 0, 1).astype(np.float32)
