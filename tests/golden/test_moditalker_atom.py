"""AToM (moditalker_atom) against tensors of the original, by what the field `check` of a case says."""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.adapters.indexed_dataset import IndexedDataset
from src.adapters.liveportrait_talker import FACE_REGRESSOR_TABLE
from src.adapters.liveportrait_talker import from_official as module_from_official
from src.adapters.liveportrait_talker import to_official as module_to_official
from src.adapters.moditalker_atom import DROPPED, N_HEADS, TABLE, from_official, net_arguments, to_official
from src.audio.hubert_pairs import hubert_rows, normalised
from src.datamodules.moditalker_atom_layout import collate, original_batches, residual_target
from src.diffusion.motion import MotionDiffusion, guided
from src.face.liveportrait_talker import five_points, regressor_crop, standard_face_pose
from src.face.moditalker_atom import from_network, frontal_picture, landmark_discs
from src.face.moditalker_atom_exact import (
    REGRESSOR_SCALE,
    MorphableFace,
    align_by_coefficients,
    euler_angles,
    in_crop,
    quaternions,
    rotations,
    with_closed_eyes,
    with_closed_mouth,
    y_flipped,
)
from src.lightning_modules.adan import Adan
from src.lightning_modules.ema import ConstantAverage
from src.nn.liveportrait_talker import FaceRegressor
from src.nn.liveportrait_talker.face_regressor import part
from src.nn.moditalker_atom import PublishedMotionDecoder
from src.nn.moditalker_atom.layers import Film, rotary_frequencies, rotate, time_embedding
from src.nn.moditalker_atom.published import TIME_TOKENS
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases
from tests.golden.weights import weights_of

FOLDER = GOLDEN_DIR / "moditalker_atom"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

SLOW = {"motion_decoder_official_forward"}  # 65 million weights by recipe
TOLERANCE = 1e-5  # of the largest magnitude, or of 1


# --- helpers


def as_tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else torch.as_tensor(values)


def assert_close(ours: Any, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    ours = as_tensor(ours).detach()
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    scale = max(theirs.abs().max().item(), 1.0)
    error = (ours.double() - theirs.double()).abs().max().item() / scale
    assert error <= tolerance, f"{what}: largest error {error:.2e}, tolerance {tolerance:.0e}"


def assert_equal(ours: Any, theirs: Tensor, what: str) -> None:
    ours = as_tensor(ours)
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    assert torch.equal(ours.to(theirs.dtype), theirs), f"{what}: {(ours != theirs).sum().item()} values differ"


def assert_statistics(x: Tensor, theirs: Tensor, what: str) -> None:
    """Mean, deviation and sum of magnitudes; a mean near zero is as exact as the deviation is large."""
    scale = torch.stack([theirs[1], theirs[1], theirs[2]])
    assert_close(
        torch.stack([x.mean(), x.std(), x.abs().sum()]) / scale, theirs / scale, f"{what}: mean, deviation, sum"
    )


def arrays(case: GoldenCase) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in case.inputs.items()}


def decoder_arguments(constructor: Mapping[str, Any]) -> dict[str, Any]:
    assert constructor["nfeats"] == 204
    assert constructor["activation"] == "gelu (erf)"
    return {
        "n_frames": constructor["seq_len"],
        "dim": constructor["latent_dim"],
        "ff_dim": constructor["ff_size"],
        "n_layers": constructor["num_layers"],
        "n_heads": constructor["num_heads"],
        "dropout": constructor["dropout"],
        "audio_dim": 2 * constructor["cond_feature_dim"],
        "rotary": constructor.get("use_rotary", True),
    }


def make_decoder(case: GoldenCase) -> PublishedMotionDecoder:
    arguments = decoder_arguments(case.meta["constructor"])
    net = PublishedMotionDecoder(**arguments)
    weights = decoder_weights(case, net)
    expected = {key: value for key, value in arguments.items() if key not in ("dropout", "n_heads")}
    found = net_arguments(weights)
    if not any(DROPPED.fullmatch(key) for key in weights):  # a recipe that fills only what is used
        del found["rotary"], expected["rotary"]
    assert {key: found[key] for key in expected} == expected
    net.load_state_dict(from_official(weights), strict=True)
    return net.eval()


def decoder_weights(case: GoldenCase, net: PublishedMotionDecoder) -> dict[str, Tensor]:
    return weights_of(case, to_official(net.state_dict()), recipe_weights)


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


def paired_rows(rows: Tensor) -> Tensor:
    """Rows of 50 per second as frames of two rows."""
    return rows.reshape(rows.shape[0], rows.shape[1] // 2, -1)


def reference_of(faces: Tensor) -> Tensor:
    assert torch.equal(faces, faces[:, :1].expand_as(faces)), "the reference is one face"
    return faces[:, 0]


def guided_by(net: PublishedMotionDecoder, face: Tensor, audio: Tensor):
    """The network under guidance, as `MotionDiffusion.sample` wants it."""

    def denoise(x: Tensor, t: Tensor, weight: float) -> Tensor:
        def predict(keep: Tensor) -> Tensor:
            n = len(keep) // len(x)
            return net(x.repeat(n, 1, 1), t.repeat(n), face.repeat(n, 1), audio.repeat(n, 1, 1), keep)

        return guided(predict, len(x), weight, x.device)

    return denoise


# --- networks


def check_motion_decoder_forward(case: GoldenCase) -> None:
    net, inputs, mids, outputs = make_decoder(case), case.inputs, case.mids, case.outputs
    x, t, audio, face = inputs["x"], inputs["times"], paired_rows(inputs["cond"]), reference_of(inputs["face"])
    names = {
        "lip_in": "lip_tokens",
        "unrelated_in": "nonlip_tokens",
        f"audio_layers.{len(net.audio_layers) - 1}": "audio_tokens_encoded",
        f"reference_layers.{len(net.reference_layers) - 1}": "face_tokens_encoded",
        "time_tokens": "time_tokens",
        "time_condition": "film_time_only",
        "audio_summary": "audio_hidden",
        "reference_summary": "face_hidden",
        "memory_norm": "memory",
        **{f"layers.{i}": f"decoder_layer_{i}_out" for i in range(len(net.layers))},
    }
    conditions: list[Tensor] = []
    hook = net.get_submodule("layers.0.film1").register_forward_hook(lambda _, given, __: conditions.append(given[1]))
    with torch.no_grad(), recorded(net, list(names)) as seen:
        conditioned = net(x, t, face, audio)
        time_hidden = F.mish(net.time_hidden(time_embedding(t, case.meta["constructor"]["latent_dim"])))
    hook.remove()
    ours = {theirs: seen[name] for name, theirs in names.items()}
    ours["time_tokens"] = seen["time_tokens"].unflatten(1, (TIME_TOKENS, -1))
    ours["face_memory"] = seen["memory_norm"][:, inputs["cond"].shape[1] :]
    ours["film_final"] = conditions[0]
    ours["time_hidden"] = time_hidden
    for name, theirs in mids.items():
        assert_close(ours[name], theirs, name)
    with torch.no_grad():
        none = torch.zeros(len(x), dtype=torch.bool)
        made = {
            "conditioned": conditioned,
            "unconditional": net(x, t, face, audio, none),
            "masked": net(x, t, face, audio, inputs["keep_mask"]),
        }
        for name in (name for name in outputs if name.startswith("guided_w")):
            made[name] = guided_by(net, face, audio)(x, t, float(name.removeprefix("guided_w")))
    for name, theirs in outputs.items():
        assert_close(made[name], theirs, name)


def recipe_weights(case: GoldenCase, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the recipe of the motion decoder."""
    return {key: recipe_weight(key, value.shape) for key, value in official.items()}


def recipe_weight(key: str, shape: Sequence[int]) -> Tensor:
    r = torch.randn(list(shape), generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if "null_cond" in key:
        return r
    if r.ndim >= 2:
        gain = 1.5 if key.endswith("in_proj_weight") else 0.2 if key == "final_layer.weight" else 1.0
        return r * gain / r[0].numel() ** 0.5
    return 1 + 0.05 * r if key.endswith("weight") else 0.02 * r


def check_motion_decoder_official_forward(case: GoldenCase) -> None:
    constructor, batch = case.meta["constructor"], case.meta["batch"]
    with torch.device("meta"):
        net = PublishedMotionDecoder(**decoder_arguments(constructor))
    weights = decoder_weights(case, net)
    net = net.to_empty(device="cpu")
    net.load_state_dict(from_official(weights), strict=True)
    net.frequencies = rotary_frequencies(constructor["latent_dim"])
    generator = torch.Generator().manual_seed(case.meta["seed"])
    frames, width = constructor["seq_len"], constructor["cond_feature_dim"]
    x = 2 * torch.randn(batch, frames, 204, generator=generator)
    face = 0.5 * torch.randn(batch, 1, 204, generator=generator)
    audio = paired_rows(torch.randn(batch, 2 * frames, width, generator=generator))
    for name, kept in (("conditioned", True), ("unconditional", False)):
        with torch.no_grad():
            out = net.eval()(x, case.inputs["times"], face[:, 0], audio, torch.full((batch,), kept))
        assert_close(out[:, ::13, ::5], case.outputs[f"{name}_slice"], name)
        assert_statistics(out, case.outputs[f"{name}_stats"], name)


def check_rotary_time_film(case: GoldenCase) -> None:
    inputs, outputs, dim = case.inputs, case.outputs, case.meta["constructor"]["dim"]
    frequencies = rotary_frequencies(dim)
    assert_close(frequencies, outputs["rotary_freqs"], "frequencies", 0)
    x = inputs["x"]
    assert_close(rotate(x, torch.arange(x.shape[1]).float(), frequencies), outputs["rotary"], "rotary")
    assert_close(time_embedding(inputs["times"], dim), outputs["time_embedding"], "time")
    film = Film(dim)
    official = {f"film.block.1.{kind}": value for kind, value in film.linear.state_dict().items()}
    weights = weights_of(case, official, recipe_weights)
    film.linear.load_state_dict({key.rpartition(".")[2]: weights[key] for key in official})
    scale, shift = film.scale_and_shift(inputs["film_position"])
    assert_close(scale, outputs["film_scale"], "scale")
    assert_close(shift, outputs["film_shift"], "shift")
    assert_close(film(x, inputs["film_position"]), outputs["film_applied"], "film")


def regressor_weights(case: GoldenCase, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the recipe of the regressor."""
    return {key: recon_weight(key, value) for key, value in official.items()}


def recon_weight(key: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros_like(like)
    r = torch.randn(like.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return 1 + 0.1 * r.abs()
    if key.endswith("running_mean"):
        return 0.1 * r
    if r.ndim == 4:
        return r * (2 / r[0].numel()) ** 0.5 * (0.01 if key.startswith("final_layers.") else 1)
    return 1 + 0.05 * r if key.endswith("weight") else 0.02 * r


def check_recon_net_forward(case: GoldenCase) -> None:
    net = FaceRegressor().eval()
    official = weights_of(case, module_to_official(net.state_dict(), FACE_REGRESSOR_TABLE), regressor_weights)
    net.load_state_dict(module_from_official(official, FACE_REGRESSOR_TABLE), strict=True)
    if "parameters" in case.meta:
        assert sum(p.numel() for p in net.parameters()) == case.meta["parameters"]
    stages = ["maxpool", *(f"layer{i}" for i in range(1, 5))]
    with torch.no_grad(), recorded(net, [f"backbone.{stage}" for stage in stages]) as seen:
        coefficients = net(case.inputs["image"])
    for name, theirs in case.mids.items():
        stage = name.removesuffix("_stats")
        assert_statistics(seen[f"backbone.{stage}"], theirs, stage)
    assert_close(coefficients, case.outputs["coeff"], "coefficients")


# --- diffusion


def check_diffusion_buffers(case: GoldenCase) -> None:
    constructor = case.meta["constructor"]
    assert constructor["schedule"] == "cosine"
    diffusion = MotionDiffusion(constructor["n_timestep"], p2_gamma=0.5 if constructor["use_p2"] else 0.0)
    assert {name for name, _ in diffusion.named_buffers()} == set(case.outputs)
    for name, theirs in case.outputs.items():
        ours = diffusion.get_buffer(name)
        scale = theirs.abs().clamp_min(1e-30)
        assert_close(ours / scale, theirs / scale, name, 1e-6)


def check_diffusion_loss(case: GoldenCase) -> None:
    net, inputs, outputs = make_decoder(case), case.inputs, case.outputs
    settings = case.meta["diffusion"]
    assert (settings["loss_type"], settings["use_p2"], settings["predict_epsilon"]) == ("l2", False, False)
    diffusion = MotionDiffusion(settings["n_timestep"])
    noisy = diffusion.q_sample(inputs["x_start"], inputs["t"], inputs["noise"])
    assert_close(noisy, case.mids["x_noisy"], "noisy")
    audio, face = paired_rows(inputs["cond"]), reference_of(inputs["face"])
    predicted = net(noisy, inputs["t"], face, audio, inputs["keep_mask"])
    assert_close(predicted, case.mids["model_out"], "prediction")
    terms = diffusion.terms(predicted, inputs["x_start"], inputs["t"])
    assert_close(terms.position, outputs["recon_weighted"], "position")
    assert_close(terms.velocity, outputs["velocity_weighted"], "velocity")
    assert_close(terms.total, outputs["total"], "total")
    terms.total.backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    theirs_named = to_official({name: g for name, g in gradients.items() if g is not None})
    unused = set(case.meta["parameters_without_gradient"])
    assert all(DROPPED.fullmatch(key) for key in unused)
    assert not unused & theirs_named.keys()
    if dropped := {key for key in case.weights if DROPPED.fullmatch(key)}:
        assert unused == {key for key in dropped if not key.endswith(("rotary.freqs", "abs_pos_encoding.pe"))}
    for name, theirs in case.group("out/grad").items():
        assert_close(theirs_named[name], theirs, f"gradient of {name}")
    for name, theirs in case.group("out/grad_stats").items():
        gradient = theirs_named[name]
        scale = theirs[1].clamp_min(1e-30)
        ours = torch.stack([gradient.sum(), gradient.abs().sum()])
        assert_close(ours / scale, theirs / scale, f"gradient of {name}")


def check_ddim_sample(case: GoldenCase, *, windows: bool = False) -> None:
    net, inputs, settings = make_decoder(case), case.inputs, case.meta["sampler"]
    audio, face = paired_rows(inputs["cond"]), reference_of(inputs["face"])
    diffusion = MotionDiffusion(case.meta["diffusion"]["n_timestep"])
    mids = case.mids

    def compare(i: int, x: Tensor, clean: Tensor) -> None:
        for name, ours in (("x_in", x), ("x0", clean)):
            keys = [key for key in mids if key.startswith(f"{name}_step_") and int(key.rpartition("_")[2]) == i]
            for key in keys:
                assert_close(ours, mids[key], key)

    with torch.no_grad():
        made = diffusion.sample(
            guided_by(net, face, audio), inputs["x_T"], settings["steps"], guidance=settings["guidance_weight"],
            windows=windows, eta=settings.get("eta", 1), step_noise=inputs["noise"], callback=compare,
        )  # fmt: skip
    assert_close(made, case.outputs["sample"], "sample")


def check_ddim_sample_long(case: GoldenCase) -> None:
    check_ddim_sample(case, windows=True)


def check_adan_ema(case: GoldenCase) -> None:
    constructor, inputs, outputs = case.meta["constructor"], case.inputs, case.outputs
    n = sum(name.startswith("param_") for name in inputs) - 1
    weights = [nn.Parameter(inputs[f"param_{i}"].clone()) for i in range(n)]
    unused = nn.Parameter(inputs["param_unused"].clone())
    optimizer = Adan(
        [*weights, unused], constructor["lr"], constructor["betas"], constructor["eps"], constructor["weight_decay"]
    )
    average = ConstantAverage(max_decay=case.meta["ema_decay"])
    averages = [inputs[f"ema_{i}"].clone() for i in range(n)]
    steps = 1 + max(int(name.split("_")[1].removeprefix("step")) for name in inputs if name.startswith("grad_step"))
    for step in range(steps):
        for i, weight in enumerate(weights):
            weight.grad = inputs[f"grad_step{step}_{i}"].clone()
        optimizer.step()
        average._update(tuple(averages), tuple(weight.detach() for weight in weights), step + 1)
        for i in range(n):
            assert_close(weights[i], outputs[f"param_step{step}_{i}"], f"parameter {i} after step {step}")
            assert_close(averages[i], outputs[f"ema_step{step}_{i}"], f"average {i} after step {step}")
    for name, theirs in outputs.items():
        if name.startswith("state_"):
            moment, _, i = name.removeprefix("state_").rpartition("_")
            ours = optimizer.state[weights[int(i)]][{"prev_grad": "last_grad"}.get(moment, moment)]
            assert_close(ours, theirs, name)
    assert_equal(unused.detach(), outputs["param_unused"], "parameter without gradient")


# --- data


def check_lrs3_batch(case: GoldenCase) -> None:
    inputs, outputs, settings = case.inputs, case.outputs, case.meta["batch_by_size"]
    names = {"mel": "mel", "hubert": "hubert", "f0": "f0", "coeff": "coeff", "idexp": "idexp_lm3d"}
    n = len({key.split("/")[0] for key in inputs})
    items = [{ours: inputs[f"item{i}/{theirs}"].numpy() for theirs, ours in names.items()} for i in range(n)]
    batch = collate(items)
    expected = case.group("out/batch")
    assert set(batch) == set(expected)
    for name, theirs in expected.items():
        assert_close(batch[name], theirs, name)
    residual, reference = residual_target(batch["idexp_lm3d"])
    assert_close(reference, outputs["cond_keypoint"], "reference")
    assert_close(residual, outputs["residual"], "residual")
    sizes = settings["sizes"]
    assert [i for group in original_batches(sizes, len(sizes), 10**9) for i in group] == settings["sorted_indices"]
    for name, theirs in settings.items():
        if name.startswith("batch"):
            count, _, rows = name.removeprefix("batch").partition("_tokens")
            assert original_batches(sizes, int(count), int(rows or 10**9)) == theirs, name


def check_indexed_dataset(case: GoldenCase) -> None:
    dataset = IndexedDataset(case.path.with_name(case.meta["file"]))
    assert dataset.offsets == case.meta["byte_offsets"]
    for name, theirs in case.outputs.items():
        item, key = name.split("/")
        assert_equal(dataset[int(item.removeprefix("item"))][key], theirs, name)


def check_hubert_features(case: GoldenCase) -> None:
    from transformers import HubertConfig, HubertModel

    model = HubertModel(HubertConfig(**case.meta["hubert_config"])).eval()
    used = {key: value for key, value in model.state_dict().items() if key != "masked_spec_embed"}
    weights = weights_of(case, used, recipe_weights)
    model.load_state_dict({key: weights[key] for key in used}, strict=False)
    for name, settings in case.meta["cases"].items():
        generator = torch.Generator().manual_seed(settings["generator_seed"])
        channels = 2 if settings["stereo"] else 1
        wave = (0.1 * torch.randn(settings["samples"], channels, generator=generator) + 0.02).double()[:, 0].numpy()
        outputs = case.group(f"out/{name}")
        if "input_values" in outputs:
            assert_close(normalised(wave), outputs["input_values"], f"{name}: sound")
        rows = torch.from_numpy(hubert_rows(model, wave))
        assert len(rows) == settings["frames"], name
        parts = {"hubert": rows, "hubert_head": rows[:20], "hubert_join": rows[990:1008], "hubert_tail": rows[-3:]}
        for part_name, ours in parts.items():
            if part_name in outputs:
                assert_close(ours, outputs[part_name], f"{name}: {part_name}")
        if "hubert_sum" in outputs:
            total = torch.stack([rows.sum(), rows.abs().sum()])
            assert_close(total / outputs["hubert_sum"][1], outputs["hubert_sum"] / outputs["hubert_sum"][1], name)


# --- faces


def check_pose_math(case: GoldenCase) -> None:
    inputs, outputs = arrays(case), case.outputs
    turns = rotations(inputs["angles"])
    assert_close(turns, outputs["rotation"], "rotation")
    assert_close(inputs["points"] @ turns + inputs["translation"][:, None], outputs["rigid"], "rigid motion")
    assert_close(quaternions(inputs["angles"]), outputs["quaternion_xyzw"], "quaternion")
    assert_close(euler_angles(quaternions(inputs["angles"])), outputs["euler_back"], "angles")


def check_five_points_pos_crop(case: GoldenCase) -> None:
    inputs, outputs = arrays(case), case.outputs
    image, points, standard = inputs["image"], inputs["lm68"], inputs["lm3d_std"]
    assert_close(five_points(points), outputs["lm5"], "five points")
    upward = y_flipped(points, image.shape[0])
    centre, scale = standard_face_pose(five_points(upward[0]), standard)
    assert_close(centre, outputs["pos_t"], "shift")
    assert_close([scale], outputs["pos_s"], "scale")
    crop = regressor_crop(image, points[0], standard=standard)
    assert_equal(crop.image, outputs["crop"], "crop")
    assert_close([crop.scale], outputs["trans_s"], "crop's scale")
    assert_close(crop.landmarks, outputs["lm68_in_crop"], "landmarks in the crop")
    assert_close(five_points(crop.landmarks), outputs["lm5_in_crop"], "five points in the crop")
    crops = [regressor_crop(image, face, standard=standard) for face in points]
    scales, centres = np.array([c.scale for c in crops]), np.stack([c.centre for c in crops])
    assert_close(scales, outputs["trans_s_batch"], "scales")
    assert_close(centres, outputs["trans_t_batch"], "shifts")
    check_de_alignment(inputs["lm224_int"], image.shape[:2], scales, centres, outputs["de_aligned"])


def check_de_alignment(
    pixels: np.ndarray, size: tuple[int, int], scales: np.ndarray, centres: np.ndarray, theirs: Tensor
) -> None:
    """The original's way out of the crop shifts whole faces wrongly, and not the shape: `align_by_coefficients` matches the shape."""
    for face, scale, expected in zip(pixels, scales, theirs.numpy(), strict=True):
        ours = face / scale
        assert_close(ours - ours.mean(axis=0), torch.from_numpy(expected - expected.mean(axis=0)), "shape")


def check_align_motion(case: GoldenCase) -> None:
    inputs, mids, outputs = arrays(case), case.mids, case.outputs
    height, width = inputs["image_size"].tolist()
    detected, standard = inputs["lm68_detector"], inputs["lm3d_std"]
    scales = [REGRESSOR_SCALE / standard_face_pose(five_points(face), standard)[1] for face in detected]
    assert_close(np.array(scales), mids["scale"], "scale")
    posed = inputs["atom_lm3d"] @ rotations(inputs["angles"]).astype(np.float32) + inputs["translation"][:, None]
    assert_equal(in_crop(posed), mids["lm224_int"], "pixels of the crop")
    aligned = align_by_coefficients(inputs["atom_lm3d"], inputs["angles"], inputs["translation"], detected, standard)
    assert_close(aligned, mids["closed_form"], "closed form")
    whole = aligned.astype(np.int64)
    sure = torch.from_numpy(np.abs(aligned - np.rint(aligned)) > 1e-6)
    assert_equal(torch.from_numpy(whole)[sure], outputs["aligned_int"][sure], "pixels")
    assert height == width
    pictures = landmark_discs(outputs["aligned_int"].numpy(), height)
    assert_equal(pictures[0, ..., 0], outputs["raster_frame0"], "picture")
    assert_equal(pictures.astype(np.int64).sum(axis=(1, 2, 3)), outputs["raster_sum"], "sums of the pictures")


def check_face3d_helper(case: GoldenCase) -> None:
    inputs, outputs = arrays(case), case.outputs
    coefficients = torch.from_numpy(inputs["coeff"])
    names = {"identity": "identity", "expression": "expression", "texture": "texture", "angles": "angle",
             "gamma": "light", "translation": "translation"}  # fmt: skip
    for theirs, ours in names.items():
        assert_equal(part(coefficients, ours), outputs[f"split/{theirs}"], theirs)
    identity, expression = (part(coefficients, name).numpy() for name in ("identity", "expression"))
    renamed = inputs | {"keypoints": inputs["keypoints_1based"]}
    face = MorphableFace.from_arrays(renamed)
    assert_equal(face.neutral, outputs["key_mean_shape"], "neutral face")
    assert_equal(inputs["keypoints_1based"] - 1, outputs["kp_inds"], "numbers from 0")
    moved = face.displacements(identity, expression)
    assert_close(moved, outputs["idexp_lm3d"], "displacements")
    assert_close(
        face.faces(identity, expression) - face.neutral.mean(axis=0), outputs["lm3d_centred"], "centred landmarks"
    )
    n_vertices = inputs["meanshape"].size // 3
    mesh = MorphableFace.from_arrays(inputs | {"keypoints": np.arange(0, n_vertices, 7)})
    middle = inputs["meanshape"].reshape(-1, 3).mean(axis=0)
    assert_close(mesh.faces(identity, expression) - middle, outputs["face_mesh"], "every seventh vertex")
    assert_close(with_closed_mouth(outputs["idexp_lm3d"].numpy()), outputs["closed_mouth"], "closed mouth")
    still = with_closed_mouth(outputs["idexp_lm3d"].numpy(), still=True)
    assert_close(still, outputs["closed_mouth_frozen"], "still mouth")
    assert_close(with_closed_eyes(outputs["idexp_lm3d"].numpy()), outputs["closed_eyes"], "closed eyes")
    made = from_network(inputs["residual"] + inputs["cond_keypoint"], face.neutral)
    assert_close(made, outputs["frontalized"], "frontal faces")
    picture = frontal_picture(outputs["frontalized"].numpy()[:1])[0, ..., 0]
    assert_equal(picture, outputs["raster_white_frame0"], "picture")


def check_hdtf_keypoints(case: GoldenCase) -> None:
    inputs, intended = arrays(case), case.group("out/intended")
    coefficients = torch.from_numpy(inputs["coeff"])
    identity, expression, angles, translation = (
        part(coefficients, name).numpy() for name in ("identity", "expression", "angle", "translation")
    )
    face = MorphableFace.from_arrays(inputs | {"keypoints": inputs["keypoints_1based"]})
    unposed = face.faces(identity, expression)
    assert_close(unposed, intended["face-centric_unposed"], "frontal")
    posed = unposed @ rotations(angles).astype(np.float32) + translation[:, None]
    assert_close(posed, intended["face-centric_posed"], "posed")
    assert_close(inputs["lm68_detector"], intended["fa"], "detected")
    aligned = align_by_coefficients(unposed, angles, translation, inputs["lm68_detector"], inputs["lm3d_std"])
    assert_close(aligned, intended["non-face-centric_posed"], "in the picture")


# --- published files


def check_manifest(case: GoldenCase) -> None:
    shapes = {key: tuple(value["shape"]) for key, value in case.meta["tensors"].items()}
    stand_ins = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    MANIFESTS[case.meta["network"].split()[0].rstrip(",")](stand_ins)


def check_decoder_manifest(official: Mapping[str, Tensor]) -> None:
    ours = from_official(official)
    with torch.device("meta"):
        net = PublishedMotionDecoder(**net_arguments(official))
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in ours.items()}
    kept = {key: value for key, value in official.items() if not DROPPED.fullmatch(key)}
    back = to_official(ours)
    assert back.keys() == kept.keys()
    assert all(back[key] is kept[key] for key in kept)
    assert net.lip_in.out_features % N_HEADS == 0
    assert len(set(TABLE.values())) == len(TABLE)


def check_regressor_manifest(official: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        net = FaceRegressor()
    ours = module_from_official(official, FACE_REGRESSOR_TABLE)
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in ours.items()}
    back = module_to_official(ours, FACE_REGRESSOR_TABLE)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in official.items()}


def check_hubert_manifest(official: Mapping[str, Tensor]) -> None:
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True, feat_proj_layer_norm=True,
    )  # fmt: skip
    with torch.device("meta"):
        net = HubertModel(config)
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in official.items()}


def check_diffusion_manifest(official: Mapping[str, Tensor]) -> None:
    diffusion = MotionDiffusion(len(official["betas"]))
    assert {name: table.shape for name, table in diffusion.named_buffers()} == {k: v.shape for k, v in official.items()}


MANIFESTS = {
    "MotionDecoder": check_decoder_manifest,
    "3DMM": check_regressor_manifest,
    "HubertModel": check_hubert_manifest,
    "GaussianDiffusion": check_diffusion_manifest,
}
CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and next(iter(inspect.signature(function).parameters)) == "case"
}


CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.check in SLOW else [])
    for case in golden_cases("moditalker_atom")
]


@pytest.mark.parametrize("case", CASES)
def test_matches_the_original(case):
    assert case.check in CHECKS, f"{case.name}: no check for {case.check!r}"
    CHECKS[case.check](case)
