"""Metrics and their networks against the originals' values, by what the field `check` of a case says."""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.text import char_error_rate
from torchvision.ops import nms

from src.face.arcface_crop import aligned_faces, template_transforms
from src.face.landmarks import eye_aspect_ratio, eye_aspect_ratios
from src.face.tracks import crop_face, crop_path, intersection_over_union, track_faces
from src.metrics.blinks import Blinks, OnlineBlinkDetector, find_blinks, find_closings
from src.metrics.cpbd import cpbd, edge_widths, sobel_edges
from src.metrics.frechet import Features, FrechetDistance, cropped_clips, frechet_distance, grey_levels
from src.metrics.head_motion import beat_alignment, motion_beats
from src.metrics.identity import IdentitySimilarity, embed_faces
from src.metrics.images import PSNR, SSIM, psnr, ssim
from src.metrics.landmarks import LandmarkDistance, landmark_distances
from src.metrics.mfcc import filterbank, mfcc, power_spectra
from src.metrics.perceptual import BACKBONES, LPIPS, PerceptualDistance
from src.metrics.smoothness import smoothness
from src.metrics.sync import AudioVisualSync, SyncEmbedder, shift_distances, sync_scores
from src.metrics.transcripts import WordErrors
from src.nn.arcface import IResNet
from src.nn.i3d import I3D
from src.nn.s3fd import S3FD, decode, detections, network_input, priors
from src.nn.syncnet import SyncNet
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases
from tests.golden.weights import lpips_state, weights_of

FOLDER = GOLDEN_DIR / "evaluation"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

TOLERANCE = 1e-5  # of the largest magnitude, at least of 1


# --- helpers


def assert_close(ours: Any, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    ours = torch.as_tensor(ours, dtype=torch.float64).detach().reshape(theirs.shape)
    scale = max(theirs.abs().max().item(), 1.0) if theirs.numel() else 1.0
    error = (ours - theirs.double()).abs().max().item() / scale if theirs.numel() else 0.0
    assert error <= tolerance, f"{what}: largest error {error:.2e}, tolerance {tolerance:.0e}"


def assert_relative(ours: Any, theirs: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Within a share of the largest magnitude, however small that is."""
    ours = torch.as_tensor(ours, dtype=torch.float64).detach().reshape(theirs.shape)
    error = ((ours - theirs.double()).abs().max() / theirs.abs().max().double()).item()
    assert error <= tolerance, f"{what}: largest error {error:.2e} of the largest value, tolerance {tolerance:.0e}"


def assert_equal(ours: Any, theirs: Tensor, what: str) -> None:
    assert torch.equal(torch.as_tensor(np.ascontiguousarray(ours)).to(theirs.dtype), theirs), what


def load(net: nn.Module, case: GoldenCase) -> Any:
    """The network with the weights of the case, in eval mode."""
    net.load_state_dict(weights_of(case, net.state_dict(), recipe_weights), strict=True)
    return net.eval()


def recipe_weights(case: GoldenCase, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: recipe_weight(case, key, value) for key, value in official.items()}


def recipe_weight(case: GoldenCase, key: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros_like(like)
    value = torch.randn(
        like.shape, generator=torch.Generator().manual_seed(zlib.crc32((case.meta["salt"] + key).encode()))
    )
    leaf = key.rpartition(".")[2]
    if leaf == "running_var":
        return 1 + 0.1 * value.abs()
    if leaf == "running_mean":
        return 0.1 * value
    if leaf == "bias":
        return 0.02 * value
    weight = 1 + 0.05 * value if value.ndim == 1 else value / value[0].numel() ** 0.5
    factor = re.search(r"recipe value \* ([\d.]+)", case.meta.get("recipe_overrides", {}).get(key, ""))
    return weight * float(factor.group(1)) if factor else weight


def tolerance_of(case: GoldenCase, otherwise: float) -> float:
    """The first number of the case's tolerance, or the one for which it states none."""
    found = re.search(r"\d+(\.\d+)?e-\d+", str(case.meta.get("tolerance", "")))
    return float(found[0]) if found else otherwise


@contextmanager
def recorded(net: nn.Module, names: Sequence[str]):
    """Outputs of the named sub-modules during the block."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        outputs[name] = output.detach()

    hooks = [net.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    yield outputs
    for hook in hooks:
        hook.remove()


def check_activations(found: Mapping[str, Tensor], case: GoldenCase) -> None:
    """Shape, first values and statistics (mean, standard deviation, sum of magnitudes) of every named layer."""
    for name, output in found.items():
        assert list(output.shape) == case.mids[f"{name}.shape"].tolist(), name
        head = case.mids[f"{name}.head"]
        assert_close(output.flatten()[: len(head)], head, name)
        x = output.double()
        statistics = torch.stack([x.mean(), x.std(), x.abs().sum()])
        theirs = case.mids[f"{name}.stats"]
        scale = torch.stack([theirs[1], theirs[1], theirs[2]])  # a mean near zero is as exact as the deviation is large
        assert_close(statistics / scale, theirs / scale, f"{name}, statistics")


def layers_of(case: GoldenCase) -> list[str]:
    return [key.removesuffix(".shape") for key in case.mids if key.endswith(".shape")]


# --- networks


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "IResNet-50": lambda: IResNet(50),
    "IResNet-100": lambda: IResNet(100),
    "S3FD": S3FD,
    "SyncNet": SyncNet,
    "I3D": I3D,
}


def check_manifest(case: GoldenCase) -> None:
    """Names, shapes and kinds of all weights are those of the published file: it loads as it is."""
    build = next(build for title, build in NETWORKS.items() if case.meta["network"].startswith(title))
    with torch.device("meta"):
        net = build()
    ours = {key: (list(value.shape), str(value.dtype)) for key, value in net.state_dict().items()}
    published = case.meta["tensors"]
    assert ours == {key: (value["shape"], f"torch.{value['dtype']}") for key, value in published.items()}
    assert sum(p.numel() for p in net.parameters()) == case.meta["parameters"]


@torch.inference_mode()
def check_syncnet_forward(case: GoldenCase) -> None:
    net = load(SyncNet(case.meta["constructor"]["num_layers_in_fc_layers"]), case)
    with recorded(net, layers_of(case)) as found:
        lips, sound = net.embed_lips(case.inputs["lip_uint8_bgr"].float()), net.embed_audio(case.inputs["mfcc"])
    check_activations(found, case)
    assert_relative(net.lip_features(case.inputs["lip_uint8_bgr"].float()), case.outputs["lipfeat"], "lipfeat")
    assert_relative(lips, case.outputs["lip"], "lip")
    assert_relative(sound, case.outputs["audio"], "audio")


def check_syncnet_evaluate(case: GoldenCase) -> None:
    """Chunk by chunk, as videos are read."""
    width = case.meta.get("constructor", {}).get("num_layers_in_fc_layers", 1024)
    net, frames = load(SyncNet(width), case), case.inputs["frames_bgr"].flip(-1).numpy()
    embedder = SyncEmbedder(net, case.inputs["audio_int16"].numpy(), len(frames))
    for start in range(0, len(frames), case.meta["batch_size"]):
        embedder.add(frames[start : start + case.meta["batch_size"]])
    lips, sounds = embedder.embeddings()
    columns = case.mids["im_feat"].shape[1]
    assert_relative(lips[:, :columns], case.mids["im_feat"], "im_feat")
    assert_relative(sounds[:, :columns], case.mids["cc_feat"], "cc_feat")
    distances = shift_distances(lips, sounds, case.meta["vshift"])
    assert_relative(distances, case.outputs["dists"], "dists")
    assert_relative(distances.mean(dim=0), case.mids["mean_dist_per_shift"], "mean_dist_per_shift")
    scores = sync_scores(lips, sounds, case.meta["vshift"])
    assert scores.offset == case.outputs["offset"].item()
    assert_close(scores.confidence, case.outputs["confidence"], "confidence", 1e-4 * distances.max().item())
    assert_relative(scores.min_distance, case.outputs["min_dist"], "min_dist")


def check_syncnet_offset(case: GoldenCase) -> None:
    for series in case.meta["cases"]:
        i, shift = series["index"], series["vshift"]
        lips, sounds = case.inputs[f"im_feat.{i}"], case.inputs[f"cc_feat.{i}"]
        out = {key.removesuffix(f".{i}"): value for key, value in case.outputs.items() if key.endswith(f".{i}")}
        distances = shift_distances(lips, sounds, shift)
        scores = sync_scores(lips, sounds, shift)
        assert_close(distances, out["dists"], "dists")
        assert_close(distances.mean(dim=0), out["mean_dist"], "mean_dist")
        assert_close(scores.min_distance, out["min_dist"], "min_dist")
        assert scores.offset == out["offset"].item() == shift - out["argmin"].item()
        assert_close(scores.confidence, out["confidence"], "confidence")
        unfiltered = distances.mean(dim=0).median() - distances[:, shift - scores.offset]
        assert_close(unfiltered, out["framewise_conf"], "framewise_conf")
        assert_close(scores.confidence_per_window, out["framewise_conf_medfilt9"], "framewise_conf_medfilt9")
        metric = AudioVisualSync(shift)
        metric.update(lips, sounds)
        assert metric.compute()["av_offset"].item() == scores.offset


def check_mfcc_frontend(case: GoldenCase) -> None:
    assert_close(filterbank(), case.mids["filterbank"], "filterbank", 1e-12)
    for name, samples in case.inputs.items():
        assert_close(mfcc(samples.numpy()), case.outputs[name], name, 1e-9)
    for key, energies in case.mids.items():
        kind, _, name = key.partition(".")
        if name:
            power = power_spectra(case.inputs[name].numpy())
            ours = power.sum(axis=1) if kind == "frame_energy" else power @ filterbank().T
            assert_relative(ours, energies, key, 1e-9)


@torch.inference_mode()
def check_s3fd_forward(case: GoldenCase) -> None:
    net, picture = load(S3FD(), case), case.inputs["image_rgb"]
    seen, size = network_input(picture.permute(2, 0, 1).float()), tuple(picture.shape[:2])
    assert_close(seen, case.mids["net_input"], "net_input")
    offsets, scores = net(seen)
    assert_close(offsets, case.outputs["loc"], "loc")
    assert_close(scores, case.outputs["conf_softmax"], "conf_softmax")
    assert_close(priors(*size), case.mids["priors"], "priors")
    assert_close(decode(offsets[0], priors(*size)), case.mids["decoded"], "decoded")
    best = case.outputs["detect_class1_top30"]
    assert_close(detections(offsets[0], scores[0], size)[: len(best)], best, "detections")
    boxes = case.inputs["nms_dets"]  # over scales
    assert_equal(nms(boxes[:, :4], boxes[:, 4], 0.1), case.outputs["nms_keep"], "nms_keep")


def check_face_track_crop(case: GoldenCase) -> None:
    options, rows, out = case.meta["options"], case.inputs["detections"].numpy(), case.outputs
    n_frames = int(rows[:, 0].max()) + 1
    boxes = [rows[rows[:, 0] == frame, 1:] for frame in range(n_frames)]
    tracks = track_faces(
        boxes,
        max_gap=options["num_failed_det"],
        min_track=options["min_track"],
        min_face=options["min_face_size"],
        same_face=options["iou"],
    )
    assert len(tracks) == sum(key.endswith(".bbox") for key in out)
    for i, track in enumerate(tracks):
        assert_equal(track.frames, out[f"track{i}.frame"], f"frames of track {i}")
        assert_close(track.boxes, out[f"track{i}.bbox"], f"boxes of track {i}", 1e-9)
    path = crop_path(tracks[0].boxes, options["medfilt"])
    for name, series in (("x", path.x), ("y", path.y), ("s", path.half)):
        assert_close(series, out[f"crop.{name}"], name, 1e-9)
    frames = case.inputs["frames_bgr"].numpy()
    crops = np.stack(
        [
            crop_face(frames[frame], x, y, half, options["crop_scale"])
            for frame, x, y, half in zip(tracks[0].frames, path.x, path.y, path.half, strict=True)
        ]
    )
    expected = out["crops_first_mid_last"].numpy()
    shown = crops[[0, len(crops) // 2, -1]]
    assert np.abs(shown.astype(int) - expected).max() <= 1
    means = crops.mean(axis=(1, 2, 3)) - out["crops_mean_per_frame"].numpy()
    assert np.abs(means).max() <= 0.5, f"means of the crops differ by {np.abs(means).max()} grey levels"
    assert 0 < intersection_over_union(boxes[0][0], boxes[1][0]) <= 1


@torch.inference_mode()
def check_i3d_forward(case: GoldenCase) -> None:
    net = load(I3D(), case)
    size = (case.meta["frames"], 224, 224)
    clip = F.interpolate(case.inputs["low"], size=size, mode="trilinear", align_corners=False) * 2 - 1
    with recorded(net, layers_of(case)) as found:
        logits = net(clip)
    check_activations(found, case)
    assert_relative(net.features(clip), case.outputs["features1024"], "features")
    assert_relative(logits, case.outputs["logits"], "logits")


def check_arcface(case: GoldenCase) -> None:
    net = load(IResNet(int(case.check.removeprefix("arcface_r"))), case)
    embeddings = embed_faces(net, case.inputs["aligned_rgb"])
    assert_relative(embeddings, case.outputs["embedding"], "embedding")
    metric = IdentitySimilarity()
    metric.update(embeddings[:1], embeddings[1:])
    assert_close(metric.compute(), case.outputs["cosine_0_1"], "cosine")
    points, image = case.inputs["landmarks5"].numpy()[None], case.inputs["image"].numpy()[None]
    assert_close(template_transforms(points)[0, :2], case.outputs["align_matrix"], "align_matrix")
    difference = aligned_faces(image, points)[0].astype(int) - case.outputs["aligned"].numpy()
    assert np.abs(difference).max() <= 1


def check_lpips(case: GoldenCase) -> None:
    backbone = case.check.removeprefix("lpips_")
    features = {key: value for key, value in lpips_state(backbone).items() if key.startswith("net.")}
    assert set(case.meta.get("backbone_keys", features)) == features.keys()
    weights = weights_of(case, features, recipe_weights)  # with heads where a file stores them
    distance = PerceptualDistance.from_lpips(published_heads(backbone) | weights, backbone)
    a, b = case.inputs["a"], case.inputs["b"]
    x, y = a.float() / 127.5 - 1, b.float() / 127.5 - 1
    assert_relative(distance.per_layer(x, y), case.outputs["per_layer"], "per layer")
    assert_relative(distance(x, y), case.outputs["lpips"], "lpips")
    metric = LPIPS(distance)
    metric.update(a, b)
    assert_relative(metric.compute(), case.outputs["torchmetrics"].mean(), "torchmetrics")
    assert_relative(distance(a.float() / 255, b.float() / 255), case.outputs["wrong_range"], "wrong range")


def published_heads(backbone: str) -> dict[str, Tensor]:
    from importlib import resources

    file = resources.files("torchmetrics.functional.image") / "lpips_models" / BACKBONES[backbone].channel_file
    return torch.load(str(file), map_location="cpu", weights_only=True)


# --- definitions


def check_frechet(case: GoldenCase) -> None:
    for sample in case.meta["cases"]:
        i = sample["index"]
        real, fake = case.inputs[f"real.{i}"], case.inputs[f"fake.{i}"]
        for name, features in (("real", real), ("fake", fake)):
            assert_close(features.mean(dim=0), case.mids[f"mu_{name}.{i}"], "mean", 1e-10)
            assert_close(features.T.cov(), case.mids[f"cov_{name}.{i}"], "covariance", 1e-10)
        metric = FrechetDistance(Features(real.shape[1]))
        for part in real.split(50):
            metric.update(part, real=True)
        metric.update(fake, real=False)
        found, numerics = metric.compute(), ("eigvals_torchmetrics", "sqrtm_scipy", "svd_float32")
        eigenvalues, roots, single = (case.outputs[f"{name}.{i}"].double() for name in numerics)
        # As exact as float64 where it is determined; where it is not, no further away than the original's ways of computing are.
        exact = 1e-8 * eigenvalues.abs() + (abs(eigenvalues - roots) if sample["rank_deficient"] else 0)
        assert abs(found - eigenvalues) <= exact, f"eigenvalues {i}: {found} instead of {eigenvalues}"
        assert abs(found - roots) <= exact, f"sqrtm {i}: {found} instead of {roots}"
        assert abs(found - single) <= abs(eigenvalues - single) + exact, f"float32 {i}: {found} instead of {single}"
    analytic = [case.inputs[f"analytic.{name}"] for name in ("mu1", "cov1", "mu2", "cov2")]
    assert_relative(frechet_distance(*analytic), case.outputs["analytic.exact"], "analytic", 1e-8)
    assert_relative(frechet_distance(*analytic), case.outputs["analytic.sqrtm_scipy"], "analytic", 1e-8)
    check_stream(case)


class Stub(nn.Module):
    """The fixture's feature network."""

    num_features = 12

    def forward(self, clips: Tensor) -> Tensor:
        levels = (clips * 255).clamp(0, 255)
        return F.adaptive_avg_pool3d(levels / 127.5 - 1, (1, 2, 2)).flatten(1)


def check_stream(case: GoldenCase) -> None:
    metric, real, fake = FrechetDistance(Stub()), case.inputs["stream.real"], case.inputs["stream.fake"]
    before = real.clone()
    for clips, is_real in ((real, True), (fake, False)):
        for part in clips.split(8):
            metric.update(part, real=is_real)
    assert torch.equal(real, before)  # the original scales the caller's clips
    assert_relative(metric.compute(), case.outputs["stream.fvd"], "stream", 1e-5)
    assert_relative(metric.real_features_sum, case.mids["stream.real_sum"], "real_sum", 1e-6)
    assert_relative(metric.real_features_cov_sum, case.mids["stream.real_outer"], "real_outer", 1e-6)
    metric.reset()
    assert metric.real_features_num_samples == case.outputs["stream.real_count_after_reset"]
    assert metric.fake_features_num_samples == case.outputs["stream.fake_count_after_reset"]


def check_fvd_preprocess(case: GoldenCase) -> None:
    clips, out = case.inputs["video_uint8"].permute(0, 1, 4, 2, 3), case.outputs
    before = clips.clone()
    for name in out:
        resized = re.fullmatch(r"(pvdm_res|lm_resize)(\d+)(_antialias|_no_antialias|\.shape)?", name)
        if resized and resized[1] == "lm_resize":
            ours = grey_levels(clips, int(resized[2]), antialias=resized[3] == "_antialias")
            assert_close(ours, out[name], name)
        elif resized and resized[3] == ".shape":
            assert list(cropped_clips(clips, int(resized[2])).shape) == out[name].tolist()
        elif resized:
            assert_close(cropped_clips(clips, int(resized[2])), out[name], name)
        elif name.endswith((".sub", ".stats")):
            stem, kind = name.split(".")
            x = (
                grey_levels(clips)
                if stem == "lm_noresize"
                else cropped_clips(clips, int(stem.removeprefix("pvdm_res")))
            )
            if kind == "sub":
                stride = 4 if stem == "lm_noresize" else 16
                assert_close(x[..., ::stride, ::stride], out[name], name)
            else:
                x = x.double()
                statistics = torch.stack([x.mean(), x.std(), x.abs().sum()])
                assert_relative(statistics, out[name], name, 1e-5)
        else:
            pytest.fail(f"{case.name}: unknown output {name}")
    assert torch.equal(clips, before)


def check_ssim_psnr(case: GoldenCase) -> None:
    pred, target, out, exact = case.inputs["pred"], case.inputs["target"], case.outputs, tolerance_of(case, TOLERANCE)
    assert_close(ssim(pred, target), out["ssim_torchmetrics_per_image"], "ssim")
    assert_close(ssim(pred, target, border="left_out"), out["ssim_matlab_style"], "ssim, borders left out")
    assert_close(ssim(pred, target, border="left_out"), out["ssim_skimage_gaussian"], "ssim of scikit-image")
    assert_close(
        [
            structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=255)
            for x, y in zip(pred, target, strict=True)
        ],
        out["ssim_skimage_default"],
        "another window",
    )
    for name in ("psnr_per_image_255", "psnr_torchmetrics_per_image"):
        assert_close(psnr(pred, target), out[name], name, exact)
    for name in ("psnr_torchmetrics_pooled", "psnr_clip_minus1_1"):
        assert_close(psnr(pred.flatten(0, 1)[None], target.flatten(0, 1)[None]), out[name], name, exact)
    for metric, expected in ((SSIM(), out["ssim_ignite"]), (PSNR(), out["psnr_per_image_255"].mean())):
        metric.update(pred, target)
        assert_close(metric.compute(), expected, type(metric).__name__, exact)


def check_cpbd(case: GoldenCase) -> None:
    for name, image in case.inputs.items():
        assert_close(cpbd(image.numpy()), case.outputs[name], name, 1e-9)
        if (key := f"{name}.edge_widths") in case.mids:
            assert_equal(sobel_edges(image.numpy()), case.mids[f"{name}.sobel_edges"], f"{name}: edges")
            assert_equal(edge_widths(image.numpy()), case.mids[key], f"{name}: widths")


# Output -> region, centred, unit.
LANDMARK_OUTPUTS = {
    "m_lmd_centred": ("mouth", True, "pixels"),
    "f_lmd_centred": ("face", True, "pixels"),
    "m_lmd_raw": ("mouth", False, "pixels"),
    "f_lmd_raw": ("face", False, "pixels"),
    "m_lmd_centred_over_eye_distance": ("mouth", True, "eye_distance"),
}


def check_landmark_distance(case: GoldenCase) -> None:
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
        assert_close(found, expected, name)


def check_blink(case: GoldenCase) -> None:
    metric, out = Blinks(), case.outputs
    for series in case.meta["cases"]:
        number = series["index"]
        ratio = case.inputs[f"ear.{number}"]
        metric.update(ratio)
        assert_close(-ratio.diff(), case.mids[f"neg_derivative.{number}"], "derivative", 1e-12)
        assert find_closings(ratio.numpy()).tolist() == case.mids[f"peaks.{number}"].tolist()
        blinks = find_blinks(ratio.numpy())
        assert blinks[:, 0].tolist() == out[f"start.{number}"].tolist()
        assert blinks[:, 1].tolist() == out[f"end.{number}"].tolist()
        online = OnlineBlinkDetector()
        lengths = [online(value) for value in ratio.tolist()]
        assert [-1 if length is None else length for length in lengths] == out[f"online.{number}"].tolist()
    found, points = metric.compute(), case.inputs["landmarks68"].numpy()
    assert_close(found["blinks_per_clip"], out["mean_blinks_per_video"], "blinks per clip")
    assert_close(found["blink_frames"], out["mean_blink_duration_frames"], "frames per blink")
    assert_close(eye_aspect_ratio(points), out["avg_ear"], "eye aspect ratio")
    one, other = torch.from_numpy(eye_aspect_ratios(points)).T
    sides = [(one, other), (other, one)]  # which eye is called left is a matter of taste
    assert any(
        torch.allclose(left, out["left_ear"], atol=1e-9) and torch.allclose(right, out["right_ear"], atol=1e-9)
        for left, right in sides
    )


def check_smoothness(case: GoldenCase) -> None:
    pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)
    for name, frames in case.inputs.items():
        found = smoothness(frames.flip(-1).contiguous().numpy())
        out = {
            key.removeprefix(f"{name}."): value.item()
            for key, value in case.outputs.items()
            if key.startswith(f"{name}.")
        }
        assert found.ofm == pytest.approx(out["flow_mean"], abs=0.05)
        assert found.ofm_std == pytest.approx(out["flow_std"], abs=0.1)
        assert found.f_mse == pytest.approx(out["mse_mean"], abs=1e-6)
        assert found.f_mse_std == pytest.approx(out["mse_std"], abs=1e-6)
        assert found.flow_magnitude == pytest.approx(out["plain_flow_magnitude_mean"], abs=1e-3)
        assert found.frame_mse == pytest.approx(out["plain_mse_mean"], abs=1e-6)


def check_beat_align(case: GoldenCase) -> None:
    moved = motion_beats(case.inputs["keypoints"].numpy())
    assert_equal(moved, case.mids["motion_beats"], "beats of the motion")
    assert_close(beat_alignment(moved, case.inputs["audio_beats"].numpy()), case.outputs["beat_align"], "alignment")


def check_wer(case: GoldenCase) -> None:
    corpus = WordErrors()
    for pair in case.meta["pairs"]:
        alone = WordErrors()
        for metric in (alone, corpus):
            metric.update([pair["hypothesis"]], [pair["reference"]])
        assert alone.compute().item() == pytest.approx(pair["wer"], abs=1e-6)
        assert char_error_rate(pair["hypothesis"], pair["reference"]).item() == pytest.approx(pair["cer"], abs=1e-6)
    assert corpus.compute().item() == pytest.approx(case.meta["corpus_wer"], abs=1e-6)


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    "manifest": check_manifest,
    "syncnet_forward": check_syncnet_forward,
    "syncnet_evaluate": check_syncnet_evaluate,
    "syncnet_offset": check_syncnet_offset,
    "mfcc_frontend": check_mfcc_frontend,
    "s3fd_forward": check_s3fd_forward,
    "face_track_crop": check_face_track_crop,
    "i3d_forward": check_i3d_forward,
    "arcface_r50": check_arcface,
    "arcface_r100": check_arcface,
    "lpips_alex": check_lpips,
    "lpips_vgg": check_lpips,
    "frechet": check_frechet,
    "fvd_preprocess": check_fvd_preprocess,
    "ssim_psnr": check_ssim_psnr,
    "cpbd": check_cpbd,
    "landmark_distance": check_landmark_distance,
    "blink": check_blink,
    "smoothness": check_smoothness,
    "beat_align": check_beat_align,
    "wer": check_wer,
}


@pytest.mark.parametrize("case", golden_cases("evaluation"), ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    assert case.check in CHECKS, f"{case.name}: no check is known for {case.check!r}"
    CHECKS[case.check](case)
