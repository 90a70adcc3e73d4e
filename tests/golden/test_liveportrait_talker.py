"""liveportrait_talker against tensors of the original, by what the field `check` of a case says."""

import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from torch import Tensor, nn

from src.adapters.liveportrait_talker import (
    EXP_NET,
    EXP_NET_TABLE,
    FACE_REGRESSOR,
    FACE_REGRESSOR_TABLE,
    FAN_TABLE,
    MAPPING_NET_TABLE,
    POSE_VAE,
    POSE_VAE_TABLE,
    RETINAFACE_TABLE,
    from_official,
    mapping_net_arguments,
    pose_vae_from_official,
    to_official,
)
from src.audio.features import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from src.audio.sadtalker_mel import mel_filters, mel_spectrogram, mel_windows, n_video_frames, window_starts
from src.datamodules.liveportrait_talker_layout import cropped_face, expression_window
from src.datamodules.preprocessing.voxceleb2 import in_frame, read_annotation, search_boxes
from src.face.liveportrait_talker import (
    STANDARD_POINTS,
    even_sized,
    eye_close_ratios,
    face_rectangle,
    fan_input,
    five_points,
    from_heatmap_cells,
    paste_rectangles,
    regressor_crop,
    smooth_poses,
    to_grey_levels,
    wflw_to_ibug68,
)
from src.media.looping import ping_pong
from src.nn.fan import FAN, HEATMAP_SIZE, heatmap_peaks
from src.nn.liveportrait import KeypointMLP, Motion
from src.nn.liveportrait.keypoints import LIP, kalman_smooth
from src.nn.liveportrait_talker import (
    ExpNet,
    FaceRegressor,
    MappingNet,
    PoseVAE,
    coefficient_windows,
    lip_loss,
    motion_coefficients,
)
from src.nn.liveportrait_talker.blinks import draw_blinks, eye_closing, eye_openings
from src.nn.liveportrait_talker.driving import Eyes, driving_key_points
from src.nn.liveportrait_talker.head_motion import (
    Sway,
    speaking,
    speaking_weights,
    sway_rotations,
    sway_times,
    swell,
)
from src.nn.liveportrait_talker.mapping_net import (
    INFERENCE_WINDOW,
    LOWER_UPPER_LIP,
    SADTALKER_WINDOW,
    TRAINING_WINDOW,
)
from src.nn.liveportrait_talker.pose_vae import CHUNK
from src.nn.retinaface import MEAN, RetinaFace, anchors, detections
from src.pipelines.head_pose_cache import read_rotations, write_rotations
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases
from tests.golden.weights import weights_of

FOLDER = GOLDEN_DIR / "liveportrait_talker"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

TOLERANCE = 1e-5  # of the largest magnitude


# --- helpers


def as_tensor(values: Any) -> Tensor:
    return torch.from_numpy(values.copy()) if isinstance(values, np.ndarray) else torch.as_tensor(values)


def assert_close(ours: Any, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    ours = as_tensor(ours)
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    scale = max(theirs.abs().max().item(), 1.0) if theirs.numel() else 1.0
    error = (ours.detach().double() - theirs.double()).abs().max().item() / scale if theirs.numel() else 0.0
    assert error <= tolerance, f"{what}: largest error {error:.2e}, tolerance {tolerance:.0e}"


def assert_equal(ours: Any, theirs: Tensor, what: str) -> None:
    ours = as_tensor(ours)
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    assert torch.equal(ours.to(theirs.dtype), theirs), f"{what}: {(ours != theirs).sum().item()} values differ"


def weights_for(case: GoldenCase, official: Mapping[str, Tensor], network: str = "") -> dict[str, Tensor]:
    """Weights under their original names.

    Args:
        case: any; where it has several networks, their names stand before the keys of stored weights, and before `_gain`.
        official: our network's state under these names.
        network: its name, where the case has several.
    """
    prefixes = (f"{network}.", f"{network}/", "") if network else ("",)
    weights = weights_of(case, official, partial(recipe_weights, network=network), prefixes)
    return {key: weights[key] for key in official}


def recipe_weights(case: GoldenCase, official: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    salt = case.meta["recipe_salt"]
    gain = case.meta.get(f"{network}_gain", case.meta.get("recipe_gain", 1.0))
    return {key: recipe_weight(key, value, salt, gain) for key, value in official.items()}


def recipe_weight(key: str, like: Tensor, salt: int, gain: float) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros_like(like)
    generator = torch.Generator().manual_seed((zlib.crc32(key.encode()) + salt) & 0xFFFFFFFF)
    value = torch.randn(like.shape, generator=generator)
    if key.endswith("running_var"):
        return 1 + 0.1 * value.abs()
    if key.endswith("running_mean"):
        return 0.1 * value
    if value.ndim >= 2:
        return value * gain / value[0].numel() ** 0.5
    return 1 + 0.05 * value if key.endswith("weight") else 0.02 * value


def load(net: nn.Module, case: GoldenCase, table: Mapping[str, str], network: str = "") -> Any:
    """The network with the case's weights, in eval mode."""
    weights = weights_for(case, to_official(net.state_dict(), table), network)
    own = pose_vae_from_official(weights) if isinstance(net, PoseVAE) else from_official(weights, table)
    net.load_state_dict(own, strict=True)
    return net.eval()


def mapping_net(case: GoldenCase, constructor: Mapping[str, Any], network: str = "") -> MappingNet:
    """The case's MappingNet of the original's arguments; our reader of arguments agrees with them."""
    names = {"n_coefficients": "coeff_nc", "width": "descriptor_nc", "n_layers": "layer", "n_key_points": "num_kp"}
    net = MappingNet(**{ours: constructor[theirs] for ours, theirs in names.items()})
    load(net, case, MAPPING_NET_TABLE, network)
    assert mapping_net_arguments(net.state_dict()) == {name: constructor[theirs] for name, theirs in names.items()}
    return net


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


def statistics(x: Tensor) -> Tensor:
    return torch.stack([x.mean(), x.std(), x.abs().sum()])


# --- networks


def check_mappingnet_forward(case: GoldenCase) -> None:
    net = mapping_net(case, case.meta["constructor"])
    lengths, mids = case.meta["lengths"], case.mids
    for length in lengths:
        with torch.no_grad(), recorded(net, ["first"]) as seen:
            offsets = net(case.inputs[f"semantics_{length}"])
        if length == lengths[0]:
            x = seen["first"]
            ours = {"first": x}
            for i, layer in enumerate(net.layers):
                x = layer(torch.nn.functional.leaky_relu(x, 0.1)) + x[..., 3:-3]
                ours[f"encoder{i}"] = x
            ours["pooled"] = x.mean(dim=-1)
            for name, theirs in mids.items():
                assert_close(ours[name], theirs, name)
        assert_close(offsets.flatten(1), case.outputs[f"exp_{length}"], f"offsets of windows of {length} frames")


def check_mappingnet_train_step(case: GoldenCase) -> None:
    net = mapping_net(case, case.meta["constructor"]).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=case.meta["lr"])
    inputs, outputs = case.inputs, case.outputs
    assert case.meta["reduction"] == "mean"
    assert tuple(case.meta["lip_keypoints"]) == LIP
    loss = lip_loss(net(inputs["threedmm"]), inputs["motion_exp"])
    for name in ("loss", "log_basic_loss", "log_lip_exp_l1"):
        assert_close(loss, outputs[name], name)
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    for name, theirs in case.group("out/grad").items():
        assert_close(to_official(gradients, MAPPING_NET_TABLE)[name], theirs, f"gradient of {name}")
    optimizer.step()
    for name, theirs in case.group("out/updated").items():
        assert_close(to_official(net.state_dict(), MAPPING_NET_TABLE)[name], theirs, f"{name} after a step")
    after = lip_loss(net(inputs["threedmm"]), inputs["motion_exp"])
    assert_close(after, outputs["loss_after"], "loss after a step")


def check_audio2exp_forward(case: GoldenCase) -> None:
    net = load(ExpNet(), case, EXP_NET_TABLE)
    inputs, outputs = case.inputs, case.outputs
    mels, reference = inputs["indiv_mels"].squeeze(2), inputs["source_coeff"][..., :64]
    names = [f"encoder.layers.{i}" for i in range(len(net.encoder.layers))]
    with torch.no_grad(), recorded(net, [*names, "encoder"]) as seen:
        without_blinks = net(mels, reference)
        with_blinks = net(mels, reference, inputs["ratio"])
    levels = torch.stack([torch.stack([seen[name].mean(), seen[name].std()]) for name in names])
    assert_close(levels, case.mids["encoder_block_mean_std"], "levels of the encoder's layers")
    assert_close(seen["encoder"].flatten(0, 1), case.mids["audio_embedding"], "embeddings")
    assert_close(with_blinks, outputs["exp"], "expression")
    assert_close(without_blinks, outputs["exp_zero"], "expression without blinks")
    with torch.no_grad():
        assert_close(net(mels, reference, inputs["ratio_zero"]), outputs["exp_zero"], "expression with zeros")


def check_face_recon_forward(case: GoldenCase) -> None:
    net = load(FaceRegressor(), case, FACE_REGRESSOR_TABLE)
    stages = ["backbone.maxpool", *(f"backbone.layer{i}" for i in range(1, 5))]
    for i in range(case.meta["n"]):
        with torch.no_grad(), recorded(net, [*stages, "backbone"]) as seen:
            coefficients = net(case.inputs[f"image_{i}"].float() / 255)
        for row, stage in zip(case.mids[f"stage_stats_{i}"], stages, strict=True):
            scale = torch.stack([row[1], row[1], row[2]])
            assert_close(statistics(seen[stage]) / scale, row / scale, f"{stage} of {i}")
        assert_close(seen["backbone"][0], case.mids[f"features_{i}"], f"features of {i}")
        assert_close(coefficients, case.outputs[f"coeff_{i}"], f"coefficients of {i}")
        assert_close(motion_coefficients(coefficients)[0], case.outputs[f"coeff70_{i}"], f"kept coefficients of {i}")


def check_audio2pose_forward(case: GoldenCase) -> None:
    constructor = case.meta["constructor"]
    assert constructor["seq_len"] == CHUNK
    net = load(PoseVAE(), case, POSE_VAE_TABLE)
    assert {n: net.decoder.state_dict()[n].shape for n in ("styles", "hidden.bias", "poses.bias")} == {
        "styles": (constructor["num_classes"], constructor["latent_size"]),
        "hidden.bias": (constructor["decoder_layer_sizes"][0],),
        "poses.bias": (constructor["decoder_layer_sizes"][1],),
    }
    mels, reference = case.inputs["indiv_mels"].squeeze(2), case.inputs["source_coeff"][:, 0, 64:70]
    first_motion: list[Tensor] = []
    hook = net.decoder.register_forward_hook(lambda _, __, output: first_motion.append(output))
    with torch.no_grad(), recorded(net, ["encoder"]) as seen:
        poses = net(mels, reference, case.inputs["z"], case.meta["style_class"])
    hook.remove()
    assert_close(seen["encoder"][:, :CHUNK], case.mids["audio_embedding"], "embeddings")
    assert_close(first_motion[0], case.mids["motion_0"], "first chunk")
    assert_close(poses, case.outputs["pose"], "poses")
    assert_close(smooth_poses(poses[0].numpy())[None], case.outputs["pose_smooth"], "smoothed poses")


def check_fan_landmarks_forward(case: GoldenCase) -> None:
    constructor = case.meta["constructor"]
    net = load(FAN(), case, FAN_TABLE)
    assert (len(net.stacks), net.stacks[0].heatmaps.out_channels) == (
        constructor["num_modules"],
        constructor["num_landmarks"] + 1,
    )
    picture = case.inputs["image"].numpy()
    prepared = torch.from_numpy(fan_input(picture))
    assert_close(torch.stack([prepared.mean(), prepared.std()]), case.mids["net_input_stats"], "input")
    with torch.no_grad():
        heatmaps = net(prepared)[0]
    for i, stack in enumerate(heatmaps):
        assert_close(stack[::7, ::8, ::8], case.mids[f"heatmap_{i}"], f"heat maps of stack {i}")
        assert_close(statistics(stack) / stack.abs().sum(), case.mids["heatmap_stats"][i] / stack.abs().sum(), f"{i}")
    cells = heatmap_peaks(heatmaps[-1:, :-1])[0].numpy()
    points = from_heatmap_cells(cells, HEATMAP_SIZE, picture.shape[:2])
    sure = case.mids["peak_margin"] > 1e-4
    assert_close(torch.from_numpy(points)[sure], case.outputs["landmarks98"][sure], "landmarks")


def check_fan_heatmap_decode(case: GoldenCase) -> None:
    for name in case.meta["names"]:
        assert_close(heatmap_peaks(case.inputs[f"heatmaps_{name}"]), case.outputs[f"points_{name}"], name)


def check_retinaface_forward(case: GoldenCase) -> None:
    net = load(RetinaFace(), case, RETINAFACE_TABLE)
    picture = case.inputs["image"]
    size = (picture.shape[0], picture.shape[1])
    with torch.no_grad():
        outputs = [x[0] for x in net((picture.float() - torch.tensor(MEAN)).permute(2, 0, 1)[None])]
    for ours, name in zip(outputs, ("loc", "conf", "landm"), strict=True):
        assert_close(ours, case.outputs[name], name)
    assert_close(anchors(*size), case.outputs["priors"], "anchors")
    found = detections(*outputs, size, least_score=case.meta["conf_threshold"])
    rows = torch.cat([found.boxes, found.scores[:, None], found.landmarks.flatten(1)], dim=1)
    assert_close(rows, case.outputs["detections"], "faces")


# --- windows


def check_semantic_windows(case: GoldenCase) -> None:
    reaches = {"inference_28": INFERENCE_WINDOW, "training_29": TRAINING_WINDOW, "sadtalker_27": SADTALKER_WINDOW}
    for name, theirs in case.outputs.items():
        assert_equal(coefficient_windows(case.inputs["coeffs"], reaches[name]), theirs, name)


# --- sound


def check_audio_mel_windows(case: GoldenCase) -> None:
    assert (case.meta["fps"], case.meta["sample_rate"]) == (FPS, SAMPLE_RATE)
    outputs, samples = case.outputs, case.inputs["wav"].numpy()
    n_frames = n_video_frames(len(samples))
    kept = n_frames * SAMPLES_PER_FRAME
    assert (n_frames, kept) == (outputs["num_frames"], outputs["trimmed_samples"])
    lengths = [(n_video_frames(n), n_video_frames(n) * SAMPLES_PER_FRAME) for n in case.inputs["lengths"].tolist()]
    assert_equal(lengths, outputs["lengths_frames"], "lengths")
    assert_close(mel_filters(), case.mids["mel_basis"], "filters")
    assert_close(mel_spectrogram(samples[:kept]), outputs["mel"], "spectrogram")
    assert_equal(window_starts(n_frames), outputs["window_start"], "beginnings of windows")
    windows = torch.from_numpy(mel_windows(samples))
    assert_close(windows[case.meta["stored_frames"], None], outputs["indiv_mels"], "windows")
    stats = outputs["indiv_mels_stats"]
    assert_close(statistics(windows.double()) / stats.abs(), stats / stats.abs(), "levels of all windows")


def check_audio_to_lip_chain(case: GoldenCase) -> None:
    exp_net = load(ExpNet(), case, EXP_NET_TABLE, "audio2exp")
    net = mapping_net(case, case.meta["mappingnet_constructor"], "mappingnet")
    mels = torch.from_numpy(mel_windows(case.inputs["wav"].numpy()))
    reference = case.inputs["coeff70"][:64].expand(len(mels), -1)
    with torch.no_grad():
        coefficients = exp_net(mels[None], reference[None])[0]
        lips = net(coefficient_windows(coefficients))
    assert_close(coefficients, case.outputs["predicted_coeffs"], "expression")
    assert_close(lips.flatten(1), case.outputs["lip_exp"], "lips")


# --- blinks, head motion, driving key points


def check_blink(case: GoldenCase) -> None:
    outputs = case.outputs
    for i, item in enumerate(case.meta["items"]):
        n = item["frames"]
        drawn = iter(case.inputs[f"starts_{i}"].tolist())
        starts = draw_blinks(n, lambda low, high, drawn=drawn: in_range(next(drawn), low, high))
        assert next(drawn, None) is None, "fewer gaps were drawn"
        left, right = case.inputs[f"eye_ratio_{i}"][0].tolist()
        assert_close(eye_closing(n, starts)[:, None], outputs[f"sd_raw_{i}"], f"closing {i}")
        variants = {
            f"lp_raw_{i}": eye_openings(n, starts, left, right),
            f"image_on_lp_{i}": eye_openings(n, starts, left, max(left, right)),  # a slip of the original's
            f"video_on_lp_{i}": eye_openings(n, starts, 0.5, 0.5),
        }
        for name, ours in variants.items():
            assert_close(columns(ours, outputs[name]), outputs[name], name)
        without = eye_openings(n, [], left, left)
        assert_close(columns(without, outputs[f"image_off_lp_{i}"]), outputs[f"image_off_lp_{i}"], f"no blinks {i}")
        for name in ("image_on_sd", "image_off_sd", "video_on_sd"):  # what ExpNet is told: nothing
            assert not outputs[f"{name}_{i}"].any()


def in_range(value: int, low: int, high: int) -> int:
    assert low <= value < high
    return value


def columns(openings: Tensor, like: Tensor) -> Tensor:
    """Both eyes once, or, as the original has it for longer videos, twice."""
    return openings.repeat_interleave(like.shape[1] // 2, dim=1).to(like.dtype)


def sway_of(inputs: Mapping[str, Tensor], names: Mapping[str, str]) -> Sway:
    return Sway(**{field: inputs[name] for field, name in names.items()})


def check_synthetic_head_pose(case: GoldenCase) -> None:
    meta, inputs, outputs, mids = case.meta, case.inputs, case.outputs, case.mids
    for i in range(meta["n"]):
        lips = inputs[f"lips_{i}"]
        names = {"amplitude": f"degree_{i}", "frequency": f"frequency_{i}", "noise": f"noise_{i}"}
        sway, source = sway_of(inputs, names), inputs[f"source_angles_{i}"]
        times = sway_times(len(lips), meta["fps"])
        assert_close(times, mids[f"t_{i}"], f"times {i}")
        assert_close(swell(times), mids[f"eased_t_{i}"], f"swell {i}")
        raw = speaking(lips, meta["threshold"])
        assert_equal(raw, mids[f"weights_raw_{i}"], f"speaking {i}")
        weights = speaking_weights(raw, meta["window_size"])
        assert_close(weights, outputs[f"weights_{i}"], f"weights {i}")
        rotations = sway_rotations(sway, weights, source, meta["fps"])
        assert_close(rotations, outputs[f"R_{i}"], f"rotations {i}")
        smoothed = kalman_smooth(rotations, meta["observation_variance"], meta["process_variance"])
        assert_close(smoothed, outputs[f"R_smooth_{i}"], f"smoothed rotations {i}")


def check_kalman_smooth(case: GoldenCase) -> None:
    for i in range(case.meta["n"]):
        variances = case.meta["observation_variance"], case.meta["process_variance"]
        assert_close(kalman_smooth(case.inputs[f"x_{i}"][:, 0], *variances), case.outputs[f"x_{i}"], f"series {i}")


def check_render_keypoints(case: GoldenCase) -> None:
    meta, inputs = case.meta, case.inputs
    n = meta["frames"]
    smoothing = meta["driving_smooth_observation_variance"]
    frames, references = Motion.of_heads(case.group("in/source")), Motion.of_heads(case.group("in/reference"))
    degrees = torch.cat([frames.pitch, frames.yaw, frames.roll], dim=1)
    assert_close(degrees, case.outputs["source_degrees"], "degrees")
    lips = inputs["lip_exp"].unflatten(1, (-1, 3))
    stitching, eyes = (key_point_network(case, name) for name in ("stitching", "eye"))
    names = {"amplitude": "synthetic/degree", "frequency": "synthetic/frequency", "noise": "synthetic/noise"}
    sway = sway_rotations(
        sway_of(inputs, names),
        speaking_weights(speaking(lips[:, list(LOWER_UPPER_LIP)], meta["threshold"]), meta["window_size"]),
        degrees[0],
        meta["fps"],
    )
    for name, mode in meta["modes"].items():
        is_image, still = mode["src"] == "image", mode.get("still", False)
        rotations = None
        if mode.get("ref"):
            start = 0 if mode["zero"] else meta["random_start"]
            rotations = references.rotation[start : start + n]
        elif is_image and not still:
            rotations = sway
        if is_image and not still and rotations is not None:
            rotations = kalman_smooth(rotations, smoothing)
        with torch.no_grad():
            x_s, x_d = driving_key_points(
                frames[:1] if is_image else frames,
                lips,
                rotations,
                stitching=stitching,
                eyes=Eyes(eyes, inputs["source_eye_ratio"][0], inputs["blink_ratio"][:, 0]) if is_image else None,
                pupils=(mode.get("px", 0.0), mode.get("py", 0.0)),
                multiplier=meta["driving_multiplier"],
                smoothing=smoothing,
            )
        assert_close(x_s, case.outputs[f"{name}/x_s"], f"{name}: x_s")
        assert_close(x_d, case.outputs[f"{name}/x_d"], f"{name}: x_d")


def key_point_network(case: GoldenCase, name: str) -> KeypointMLP:
    net = KeypointMLP(**case.meta[name])
    net.load_state_dict(weights_for(case, net.state_dict(), name), strict=True)
    return net.eval()


def check_reference_pose_cache(case: GoldenCase) -> None:
    path = case.path.with_name(case.meta["mat_file"])
    rotations = read_rotations(path)
    assert_equal(rotations[:, None], case.outputs["R"], "rotations read back")
    assert_equal(rotations[:, None], case.inputs["R"], "rotations")
    assert "".join(loadmat(path)["source_type"]).encode() == bytes(case.outputs["source_type"].tolist())
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.mat"
        write_rotations(own, rotations, "".join(loadmat(path)["source_type"]))
        ours, theirs = loadmat(own), loadmat(path)
    assert {k for k in ours if not k.startswith("__")} == {k for k in theirs if not k.startswith("__")}
    assert np.array_equal(ours["ref_R_list"], theirs["ref_R_list"])
    assert ours["source_type"] == theirs["source_type"]


# --- faces and frames


def check_landmarks_eye_ratio(case: GoldenCase) -> None:
    points = case.inputs["lm98"].numpy()
    assert_equal(wflw_to_ibug68(points), case.outputs["lm68"], "68 landmarks")
    assert_close(eye_close_ratios(points), case.outputs["eye_close_ratio"], "openings of the eyes")


def check_face_crop_rect(case: GoldenCase) -> None:
    sizes = case.inputs["image_size"].tolist()
    ours = [face_rectangle(points, (h, w)) for points, (w, h) in zip(case.inputs["lm68"].numpy(), sizes, strict=True)]
    assert_equal(ours, case.outputs["crop"], "rectangles")
    assert_equal(sizes, case.outputs["rsize"], "sizes, which nothing shrinks")


def check_face_recon_alignment(case: GoldenCase) -> None:
    picture, points = case.inputs["image"].numpy(), case.inputs["lm68"].numpy()
    mids, outputs, size = case.mids, case.outputs, case.meta["target_size"]
    crop = regressor_crop(picture, points, size=size, standard_scale=case.meta["rescale_factor"])
    upward = points.copy()
    upward[:, 1] = len(picture) - 1 - upward[:, 1]
    assert_close(five_points(upward), mids["lm5p"], "five points")
    assert_close(STANDARD_POINTS, mids["lm3d"], "standard face")
    assert_close(crop.centre, mids["t"], "centre")
    assert_close([crop.scale], outputs["trans_params"][2:3], "scale")
    assert_close([*picture.shape[1::-1], crop.scale, *crop.centre], outputs["trans_params"], "parameters")
    assert_equal(crop.image, outputs["aligned"], "crop")
    assert_close(crop.landmarks, outputs["lm_aligned"], "landmarks in the crop")


def check_compose_frames(case: GoldenCase) -> None:
    faces = to_grey_levels(case.inputs["rendered"].numpy())
    pasted = paste_rectangles(case.inputs["frames"].numpy(), faces, case.inputs["crops"].numpy())
    assert_equal(even_sized(faces), case.outputs["full"], "faces alone")
    assert_equal(even_sized(pasted), case.outputs["paste"], "whole frames")


def check_video_padding(case: GoldenCase) -> None:
    lengths = zip(case.inputs["video_frames"].tolist(), case.inputs["audio_frames"].tolist(), strict=True)
    for i, (n_frames, n_wanted) in enumerate(lengths):
        order = case.outputs[f"order_{i}"]
        if n_frames >= n_wanted:
            assert_equal(np.arange(n_wanted), order[:n_wanted], f"order {i}")
        assert len(order) >= n_wanted
        assert_equal(ping_pong(n_frames, len(order)), order, f"order {i}")


# --- training data


def check_training_sample(case: GoldenCase) -> None:
    index = case.meta["selected_index"]
    window = expression_window(case.inputs["threedmm"].numpy(), index, case.meta["semantic_radius"])
    assert_equal(window, case.outputs["threedmm_list"], "window")
    rectangle = case.inputs["face_crop_list"].numpy()[index]
    face = cropped_face(case.inputs["frame"].numpy(), rectangle, case.meta["input_size"])
    assert_close(face, case.outputs["cropped_face"], "face")


def check_voxceleb_annotation(case: GoldenCase) -> None:
    assert (case.meta["fps"], case.meta["scale_crop"]) == (25, 2)
    annotation = read_annotation(case.path.with_name(case.meta["txt_file"]))
    outputs = case.outputs
    assert_equal(annotation.frames, outputs["frames"], "frame numbers")
    assert_close(annotation.boxes, outputs["coords"], "boxes")
    assert_close(torch.tensor(annotation.seconds, dtype=torch.float64), outputs["start_end_seconds"], "times")
    boxes = annotation.boxes_at(int(case.inputs["total_frames"]))
    assert_close(boxes, outputs["coords_interp"], "boxes of frames")
    width, height = case.inputs["image_size"].tolist()
    search = search_boxes(boxes, (height, width))
    assert_equal(search, outputs["crop"], "search boxes")
    found = np.tile(case.inputs["sd_crop"].numpy(), (len(search), 1))
    assert_equal(in_frame(found, search), outputs["face_crop"], "faces in the frame")


# --- key lists

NETWORKS: dict[str, tuple[type[nn.Module], dict[str, str], str]] = {
    "official_mappingnet": (MappingNet, MAPPING_NET_TABLE, ""),
    "official_audio2exp": (ExpNet, EXP_NET_TABLE, EXP_NET),
    "official_face_3drecon": (FaceRegressor, FACE_REGRESSOR_TABLE, FACE_REGRESSOR),
    "official_audio2pose": (PoseVAE, POSE_VAE_TABLE, POSE_VAE),
    "external_fan_wflw98": (FAN, FAN_TABLE, ""),
    "external_retinaface_resnet50": (RetinaFace, RETINAFACE_TABLE, ""),
}


def check_manifest(case: GoldenCase) -> None:
    keys = {key: shape_of(entry) for key, entry in case.meta["keys"].items()}
    network = case.meta["network"]
    if network in NETWORKS:
        check_network_keys(keys, *NETWORKS[network], n_parameters=case.meta["parameters"])
    else:  # SadTalker's file holds several, and what this method does not read
        for net, table, prefix in (entry for name, entry in NETWORKS.items() if entry[2]):
            below = {key: shape for key, shape in keys.items() if key.startswith(prefix)}
            assert below, f"{prefix} is not in {case.name}"
            check_network_keys(below, net, table, prefix)


def shape_of(entry: Any) -> list[int]:
    return entry["shape"] if isinstance(entry, dict) else entry[0]


def check_network_keys(
    keys: Mapping[str, list[int]],
    make: type[nn.Module],
    table: Mapping[str, str],
    prefix: str,
    n_parameters: int | None = None,
) -> None:
    """Names and shapes in both directions, without values; training parts of PoseVAE are left out on purpose."""
    with torch.device("meta"):
        net = make()
        official = {key.removeprefix(prefix): torch.empty(shape) for key, shape in keys.items()}
    if make is PoseVAE:
        ours = pose_vae_from_official(official)
        official = {k: v for k, v in official.items() if not k.startswith(("netG.encoder.", "netD_motion."))}
    else:
        ours = from_official(official, table)
        assert n_parameters in (None, sum(p.numel() for p in net.parameters()))
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.items()} == expected
    back = {key: tuple(value.shape) for key, value in to_official(ours, table).items()}
    assert back == {key: tuple(value.shape) for key, value in official.items()}


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and name != "check_network_keys"
}


@pytest.mark.parametrize("case", golden_cases("liveportrait_talker"), ids=lambda case: case.name)
def test_golden_case(case: GoldenCase):
    assert case.check in CHECKS, f"no check for cases of the kind {case.check}"
    CHECKS[case.check](case)
