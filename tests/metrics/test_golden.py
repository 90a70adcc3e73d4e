"""Values of the metrics as their original implementations compute them (`golden/evaluation`)."""

import pytest
import torch

from src.metrics.blinks import Blinks, find_blinks, find_closings
from src.metrics.images import PSNR, SSIM, psnr, ssim
from src.metrics.landmarks import LandmarkDistance, landmark_distances
from src.metrics.smoothness import smoothness
from tests.golden.conftest import GOLDEN_DIR, golden_cases

CASES = {
    check: [c for c in golden_cases("evaluation") if c.check == check]
    for check in ("ssim_psnr", "landmark_distance", "blink", "smoothness")
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


@pytest.mark.parametrize("case", CASES["blink"], ids=lambda case: case.name)
def test_blinks(case):
    metric = Blinks()
    for series in case.meta["cases"]:
        number = series["index"]
        ratio = case.inputs[f"ear.{number}"]
        metric.update(ratio)
        assert find_closings(ratio.numpy()).tolist() == case.mids[f"peaks.{number}"].tolist()
        blinks = find_blinks(ratio.numpy())
        assert blinks[:, 0].tolist() == case.outputs[f"start.{number}"].tolist()
        assert blinks[:, 1].tolist() == case.outputs[f"end.{number}"].tolist()
    found, out = metric.compute(), case.outputs
    assert found["blinks_per_clip"].item() == pytest.approx(out["mean_blinks_per_video"].item(), abs=1e-6)
    assert found["blink_frames"].item() == pytest.approx(out["mean_blink_duration_frames"].item(), abs=1e-5)


@pytest.mark.parametrize("case", CASES["smoothness"], ids=lambda case: case.name)
def test_smoothness(case):
    pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)
    for name, frames in case.inputs.items():
        found = smoothness(frames.flip(-1).contiguous().numpy())
        out = {
            key.removeprefix(f"{name}."): value.item() for key, value in case.outputs.items() if key.startswith(name)
        }
        assert found.ofm == pytest.approx(out["flow_mean"], abs=0.05)
        assert found.ofm_std == pytest.approx(out["flow_std"], abs=0.1)
        assert found.f_mse == pytest.approx(out["mse_mean"], abs=1e-6)
        assert found.f_mse_std == pytest.approx(out["mse_std"], abs=1e-6)
        assert found.flow_magnitude == pytest.approx(out["plain_flow_magnitude_mean"], abs=1e-3)
        assert found.frame_mse == pytest.approx(out["plain_mse_mean"], abs=1e-6)
