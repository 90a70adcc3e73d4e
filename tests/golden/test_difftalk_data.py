"""Data of difftalk against tensors of the original: the cases of the folder whose `check` is one of these."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from src.audio.deepspeech import deepspeech_input, logit_windows, resample_rows, rows_of_windows
from src.audio.windows import audio_windows
from src.datamodules.difftalk_layout import original_candidates, original_item, original_references
from src.face.repainting import MaskRule, kept_masks, resized_masks
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases

FOLDER = GOLDEN_DIR / "difftalk"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

RULES = {"train": MaskRule("nose_tip"), "inference": MaskRule("nose_base")}


def assert_close(ours: np.ndarray, theirs: torch.Tensor, atol: float, what: str) -> None:
    expected = theirs.numpy()
    assert ours.shape == expected.shape, f"{what}: shape {ours.shape}, expected {expected.shape}"
    error = np.abs(ours.astype(np.float64) - expected).max(initial=0)
    assert error <= atol, f"{what}: largest error {error:.2e}, tolerance {atol:.0e}"


def check_dataset(case: GoldenCase) -> None:
    size = case.meta["size"]
    for name, sample in case.meta["samples"].items():
        image, points = (case.inputs[f"{name}/{part}"].numpy() for part in ("image", "landmarks68"))
        assert list(image.shape[1::-1]) == sample["source_size_wh"]
        for variant, rule in RULES.items():
            reference = case.inputs[f"{name}/reference_{variant}"].numpy()
            item = original_item(image, reference, points, size, rule)
            assert sample[f"mask_row_{variant}"] == np.argmin(item["kept"][:, 0])
            for part, value in item.items():
                key = f"{name}/{variant}/{part}"
                if part != "kept" and key in case.outputs:
                    assert_close(value, case.outputs[key], 1e-5, key)
        mask = case.outputs[f"{name}/inference/inference_mask"]
        canvas = image.shape[1::-1]  # the original takes width for height; of a square source it is the same
        polygon = kept_masks(points[None], canvas, MaskRule("jaw"))
        assert_close(resized_masks(polygon, (mask.shape[0], mask.shape[1]))[0], mask, 0, f"{name} polygon")


def check_reference_choice(case: GoldenCase) -> None:
    counts = {int(clip): count for clip, count in case.meta["data_txt"].items()}
    for id, (first, last, number) in case.meta["candidates_min_max_count"].items():
        clip, frame = map(int, id.split("_"))
        candidates = original_candidates(frame, counts[clip])
        assert (min(candidates), max(candidates), len(candidates)) == (first, last, number), id
    for seed, chosen in case.meta["chosen"].items():
        ids = [tuple(map(int, id.split("_"))) for id in chosen]
        ours = original_references(ids, counts, int(seed.removeprefix("seed")))
        assert [f"{clip}_{frame}" for (clip, _), frame in zip(ids, ours, strict=True)] == list(chosen.values()), seed


def check_audio_windows(case: GoldenCase) -> None:
    vectors = deepspeech_input(case.inputs["pcm16"].numpy())
    assert_close(vectors, case.mids["input_vectors"], 1e-5, "input vectors")
    logits = np.tanh(vectors.astype(np.float64) @ case.inputs["W"].numpy())
    n_rows = len(case.mids["logits_50hz"])
    logits = resample_rows(logits, 50, 50, n_rows)
    assert_close(logits, case.mids["logits_50hz"], 1e-5, "logits")
    windows = logit_windows(logits)
    assert_close(windows, case.outputs["windows"], 1e-5, "windows")
    stacks = audio_windows(rows_of_windows(windows), (-4, 3)).reshape(case.outputs["audio_smooth"].shape)
    assert_close(stacks, case.outputs["audio_smooth"], 1e-5, "windows of neighbours")
    expected, described = case.outputs["interp"], case.meta["tensors"]["in/interp_features, out/interp"]
    rates = re.search(r"from ([\d.]+) rows/s to ([\d.]+) rows/s", described)
    assert rates, f"{case.name}: no rates in {described!r}"
    other_rate = resample_rows(case.inputs["interp_features"].numpy(), float(rates[1]), float(rates[2]), len(expected))
    assert_close(other_rate, expected, 1e-12, "another rate")


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    "dataset": check_dataset,
    "reference_choice": check_reference_choice,
    "audio_windows": check_audio_windows,
}

CASES = [case for case in golden_cases("difftalk") if case.check in CHECKS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    CHECKS[case.check](case)
