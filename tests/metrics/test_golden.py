"""Values of the metrics as their original implementations compute them (`golden/evaluation`)."""

import pytest
import torch

from src.metrics.images import PSNR, SSIM, psnr, ssim
from src.metrics.landmarks import LandmarkDistance, landmark_distances
from tests.golden.conftest import GOLDEN_DIR, golden_cases

CASES = {
    check: [c for c in golden_cases("evaluation") if c.check == check] for check in ("ssim_psnr", "landmark_distance")
}

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not GOLDEN_DIR.is_dir(), reason=f"no golden fixtures at {GOLDEN_DIR}"),
]


@pytest.mark.parametrize("case", CASES["ssim_psnr"], ids=lambda case: case.name)
def test_ssim_and_psnr(case):
    pred, target, out = case.inputs["pred"], case.inputs["target"], case.outputs
    close = {"rtol": 0.0, "atol": float(case.meta.get("tolerance", 1e-5))}
    torch.testing.assert_close(ssim(pred, target), out["ssim_torchmetrics_per_image"], **close)
    torch.testing.assert_close(psnr(pred, target).double(), out["psnr_per_image_255"].double(), **close)
    torch.testing.assert_close(psnr(pred, target), out["psnr_torchmetrics_per_image"], **close)
    means = {}
    for metric in (SSIM(), PSNR()):
        metric.update(pred, target)
        means[type(metric)] = metric.compute()
    torch.testing.assert_close(means[SSIM], out["ssim_ignite"].squeeze().float(), **close)
    torch.testing.assert_close(means[PSNR], out["psnr_per_image_255"].mean().float(), **close)


# Output -> region, centred, unit.
LANDMARK_OUTPUTS = {
    "m_lmd_centred": ("mouth", True, "pixels"),
    "f_lmd_centred": ("face", True, "pixels"),
    "m_lmd_raw": ("mouth", False, "pixels"),
    "f_lmd_raw": ("face", False, "pixels"),
    "m_lmd_centred_over_eye_distance": ("mouth", True, "eye_distance"),
}


@pytest.mark.parametrize("case", CASES["landmark_distance"], ids=lambda case: case.name)
def test_landmark_distance(case):
    pred, target = case.inputs["pred"], case.inputs["target"]
    mouth = slice(48, 68)
    for name, expected in case.outputs.items():
        if name == "m_lmd_centred_per_frame":
            found = landmark_distances(pred[:, mouth], target[:, mouth])
        elif name == "m_lvd_raw":
            found = landmark_distances(pred[:, mouth].diff(dim=0), target[:, mouth].diff(dim=0), centred=False).mean()
        else:
            metric = LandmarkDistance(*LANDMARK_OUTPUTS[name])
            metric.update(pred, target, (256, 256))
            found = metric.compute()
        torch.testing.assert_close(
            found.double(), expected.double(), rtol=0.0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
