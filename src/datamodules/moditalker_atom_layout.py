"""LRS3 as AToM's original trains on it: GeneFace's binary files, how their items become batches, and which ones go together.

    <root>/train.data, val.data    items of `src.adapters.indexed_dataset`; one clip of at most 6.2 s each

An item has `mel` (Ta, 80) and `hubert` (Th, 1024), 50 rows per second; `coeff` (Tv, 257), coefficients of the 3D morphable face model, and
`idexp_lm3d` (Tv, 68, 3), landmarks in network units, 25 per second; `item_id`, `<speaker>_<clip>`.
`tools/preprocess.py dataset=lrs3_binary` takes such data over into a clip store.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from src.face.moditalker_atom_exact import quaternions

ROUND_TO = 8  # rows of sound in a batch are a multiple of it
MAX_ROWS = 60_000  # of sound, padding included, in a batch
EXPRESSION, ANGLES, TRANSLATION = slice(80, 144), slice(224, 227), slice(254, 257)
MOUTH = slice(48, 68)

Item = Mapping[str, Any]


def original_batches(
    sizes: Sequence[int], batch_size: int = 64, max_rows: int = MAX_ROWS, indices: Sequence[int] | None = None
) -> list[list[int]]:
    """Which items the original puts together: greedily, in the order of their sizes.

    A batch is closed when it has `batch_size` items, or when one more would make it more than `max_rows` rows with its padding.

    Args:
        sizes: of all items. The original means lengths, but takes the number of mel bands, so that nothing is sorted.
        batch_size: items of a batch at most.
        max_rows: rows of a batch at most.
        indices: the order; None: by size, and by number where sizes are equal.
    """
    order = np.argsort(np.asarray(sizes), kind="stable").tolist() if indices is None else list(indices)
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        grown = max(longest, sizes[index])
        if not batches or len(batches[-1]) == batch_size or (len(batches[-1]) + 1) * grown > max_rows:
            batches.append([])
            grown = sizes[index]
        batches[-1].append(index)
        longest = grown
    return batches


def collate(items: Sequence[Item]) -> dict[str, Float32[np.ndarray, "b *n"]]:
    """The original's batch: everything padded with zeros, rows of sound to a multiple of 8, frames to half of that.

    Returns:
        `mel` (b, 2t, 80), `hubert` (b, 2t, d), `f0` (b, 2t); `exp` (b, t, 64), `pose` (b, t, 7): translation and quaternion;
        `idexp_lm3d` (b, t, 204), `mouth_idexp_lm3d` (b, t, 60), `ref_mean_lm3d` (b, 204): their mean; `x_mask` (b, 2t), `y_mask` (b, t):
        1 where there is something.
    """
    rows = -(-max(len(item["mel"]) for item in items) // ROUND_TO) * ROUND_TO
    frames = rows // 2
    landmarks = [item["idexp_lm3d"] for item in items]
    coefficients = [np.asarray(item["coeff"]) for item in items]
    batch = {name: padded([item[name] for item in items], rows) for name in ("mel", "hubert", "f0")}
    batch |= {
        "exp": padded([c[:, EXPRESSION] for c in coefficients], frames),
        "pose": padded([np.hstack([c[:, TRANSLATION], quaternions(c[:, ANGLES])]) for c in coefficients], frames),
        "idexp_lm3d": padded([x.reshape(len(x), -1) for x in landmarks], frames),
        "mouth_idexp_lm3d": padded([x[:, MOUTH].reshape(len(x), -1) for x in landmarks], frames),
        "ref_mean_lm3d": np.stack([x.reshape(len(x), -1).mean(axis=0) for x in landmarks]).astype(np.float32),
    }
    masks = {mask: np.abs(batch[name]).sum(axis=-1) > 0 for mask, name in (("x_mask", "mel"), ("y_mask", "idexp_lm3d"))}
    return batch | {name: mask.astype(np.float32) for name, mask in masks.items()}


def padded(arrays: Sequence[Float[np.ndarray, "t *n"]], length: int) -> Float32[np.ndarray, "b length *n"]:
    """Arrays of one batch, with zeros behind them."""
    out = np.zeros((len(arrays), length, *arrays[0].shape[1:]), np.float32)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def residual_target(
    landmarks: Float32[np.ndarray, "b t 204"],
) -> tuple[Float32[np.ndarray, "b t 204"], Float32[np.ndarray, "b 204"]]:
    """What the original learns, and the face that it is counted from: the first frame. Padding becomes minus that frame, as there."""
    return landmarks - landmarks[:, :1], landmarks[:, 0]
