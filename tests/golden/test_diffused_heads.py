"""diffused_heads against tensors of the original: networks, diffusion and key lists, by what the field `check` of a case says."""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from src.adapters.diffused_heads import PREFIXES, copies_in, from_official, to_official
from src.diffusion.autoregressive import generate_frames
from src.diffusion.gaussians import gaussian_kl, normal_cdf, pixel_nll
from src.diffusion.learned_range import LearnedRangeDiffusion
from src.diffusion.learned_range_sampling import FrameSampler
from src.diffusion.motion_frames import motion_transform
from src.diffusion.regions import box_means, boxed_loss, mouth_box
from src.nn.diffused_heads import DiffusedHeadsUNet, time_features
from tests.golden import test_diffused_heads_audio as audio
from tests.golden import test_diffused_heads_data as data
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases, load_case

FOLDER = GOLDEN_DIR / "diffused_heads"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

TOLERANCE = 1e-5


# --- helpers


def assert_close(ours: Tensor, theirs: Tensor, what: str, atol: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    assert error <= atol, f"{what}: largest error {error:.2e}, tolerance {atol:.0e}"


def unet_arguments(constructor: Mapping[str, object]) -> dict[str, object]:
    """The original's arguments but `precision`, which belongs to the trainer."""
    return {key: value for key, value in constructor.items() if key != "precision"}


def network(case: GoldenCase, **changed: object) -> DiffusedHeadsUNet:
    """The network of a case with its weights: stored, of the case that `weights_from` names, or made by the recipe."""
    constructor = case.meta.get("constructor", case.meta.get("constructor_base"))["UNet"]
    net = DiffusedHeadsUNet(**unet_arguments({**constructor, **changed}))
    net.load_state_dict(from_official(official_weights(case, to_official(net.state_dict()))), strict=True)
    return net.eval()


def official_weights(case: GoldenCase, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    origin = weights_case(case)
    if origin.weights:
        return origin.weights
    assert "crc32" in origin.meta["recipe"], f"{case.name} has no weights and no known recipe"
    return {key: recipe_weight(origin.meta["recipe_salt"], key, like[key]) for key in sorted(like)}


def weights_case(case: GoldenCase) -> GoldenCase:
    """The case itself, or the one that `weights_from` names."""
    name = case.meta.get("weights_from")
    return load_case(case.path.with_name(name).with_suffix(".json")) if name else case


def recipe_weight(salt: str, key: str, like: Tensor) -> Tensor:
    value = torch.randn(like.shape, generator=torch.Generator().manual_seed(zlib.crc32((salt + key).encode())))
    if value.ndim >= 2:
        return value / value[0].numel() ** 0.5
    return 1 + 0.05 * value if key.endswith(".weight") else 0.02 * value


def condition(case: GoldenCase) -> dict[str, Tensor]:
    """The network's arguments beside the noisy frame and its time step."""
    names = {"identity": "x_cond", "motion": "motion_frames", "audio": "audio_emb"}
    return {ours: case.inputs.get(theirs) for ours, theirs in names.items()}


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
    x = x.double()
    return torch.stack([x.mean(), x.std(), x.abs().sum()])


def assert_same_statistics(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Mean, standard deviation and sum of magnitudes agree to 1e-5 of a value's size."""
    scale = torch.stack([theirs[1], theirs[1], theirs[2]])
    assert_close(statistics(ours) / scale, theirs / scale, f"statistics of {what}")


def corner(x: Tensor, like: Tensor) -> Tensor:
    """Of feature maps the first pixels of the first channels are stored, of vectors the first values."""
    return x[0].flatten()[: len(like)] if like.ndim == 1 else x[0].flatten(1)[: like.shape[0], : like.shape[1]]


def run_and_compare(case: GoldenCase, net: DiffusedHeadsUNet, prefix: str) -> None:
    """The blocks in forward order, then the output; `prefix` stands before the names of a variant's tensors."""
    stats, mids = case.group(f"mid/{prefix}stats"), case.group(f"mid/{prefix}".rstrip("/"))
    names = list(stats)
    with torch.no_grad(), recorded(net, names) as ours:
        y = net(case.inputs["x"], case.inputs["timesteps"], **condition(case))
    for name in ours:  # hooks fire in forward order: the first failure names the layer
        assert_same_statistics(ours[name], stats[name], name)
        if name in mids:
            assert_close(ours[name], mids[name], name)
        if (values := mids.get(f"slice/{name}")) is not None:
            assert_close(corner(ours[name], values), values, f"first values of {name}")
    outputs = case.group(f"out/{prefix}".rstrip("/"))
    assert_close(y, outputs["y"], "y")
    if "stats" in outputs:
        assert_same_statistics(y, outputs["stats"], "y")


# --- networks


def check_unet(case: GoldenCase) -> None:
    net = network(case)
    features = time_features(case.inputs["timesteps"], net.model_channels)
    assert_close(features, case.mids["time_sinusoid"], "time features")
    run_and_compare(case, net, "")


def check_unet_variants(case: GoldenCase) -> None:
    for name, variant in case.meta["variants"].items():
        changed = {key: value for key, value in variant.items() if key != "n_parameters"}
        net = network(case, **changed)
        assert sum(p.numel() for p in net.parameters()) == variant["n_parameters"], name
        run_and_compare(case, net, f"{name}/")


def check_official_unet_forward(case: GoldenCase) -> None:
    net = network(case)
    assert sum(p.numel() for p in net.parameters()) == case.meta["n_parameters"]
    run_and_compare(case, net, "")


def check_unet_manifest(case: GoldenCase) -> None:
    with torch.device("meta"):
        net = DiffusedHeadsUNet(**unet_arguments(case.meta["constructor"]))
    ours = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in to_official(net.state_dict()).items()
    }
    assert ours == case.meta["keys"]
    assert len(ours) == case.meta["n_keys"]
    assert sum(p.numel() for p in net.parameters()) == case.meta["n_parameters"]


def check_lightning_manifest(case: GoldenCase) -> None:
    """Every network of the folder that has as many keys is found under each prefix, and all of its keys land on a tensor of ours."""
    meta = case.meta
    assert set(meta["prefixes"]) == set(PREFIXES)
    fitting = [
        other for other in CASES if is_unet_manifest(other) and other.meta["n_keys"] * len(PREFIXES) == meta["n_keys"]
    ]
    assert fitting, "no key list fits"
    for other in fitting:
        with torch.device("meta"):
            net = DiffusedHeadsUNet(**unet_arguments(other.meta["constructor"]))
            weights = {key: torch.empty(entry["shape"]) for key, entry in other.meta["keys"].items()}
        state_dict = {prefix + key: value for prefix in meta["prefixes"] for key, value in weights.items()}
        assert len(state_dict) == meta["n_keys"]
        for copy in copies_in(state_dict):
            ours = {key: value.shape for key, value in from_official(copy).items()}
            assert ours == {key: value.shape for key, value in net.state_dict().items()}


def is_unet_manifest(case: GoldenCase) -> bool:
    return case.check == "manifest" and "model_channels" in case.meta.get("constructor", {})


def is_lightning_manifest(case: GoldenCase) -> bool:
    return case.check == "manifest" and "prefixes" in case.meta


# --- diffusion


def diffusion(case: GoldenCase) -> LearnedRangeDiffusion:
    return LearnedRangeDiffusion(case.meta["constructor"]["Diffusion"]["n_timesteps"])


def check_schedule(case: GoldenCase) -> None:
    ours_by_theirs = {
        "timesteps": "timesteps",
        "beta": "betas",
        "alpha_bar": "alphas_cumprod",
        "log_beta_tilde_clipped": "log_posterior_variances",
        "coef1_x0": "clean_from_noisy",
        "coef2_x0": "clean_from_noise",
        "coef1_q": "mean_from_clean",
        "coef2_q": "mean_from_noisy",
    }
    for n_timesteps, steps in case.meta["sets"]:
        process = LearnedRangeDiffusion(n_timesteps)
        process = process.respaced(steps) if steps else process
        tables = case.group(f"out/{n_timesteps}_{steps or 'full'}")
        for name, theirs in tables.items():
            ours = getattr(process, ours_by_theirs[name])
            assert ours.dtype == theirs.dtype, name
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def check_loss(case: GoldenCase) -> None:
    net, process, inputs, mids = network(case), diffusion(case), case.inputs, case.mids
    clean, noise, t = inputs["x0"], inputs["noise"], inputs["timesteps"]
    noisy = process.q_sample(clean, t, noise)
    assert_close(noisy, mids["x_t"], "x_t")
    output = net(noisy, t, **condition(case))
    assert_close(output, mids["network_output"], "network output")
    prediction, posterior = process.predict(output, noisy, t).step, process.posterior(clean, noisy, t)
    for ours, name in zip((*prediction, *posterior), ("p_mean", "p_logvar", "q_mean", "q_logvar"), strict=True):
        if name in mids:
            assert_close(ours.detach(), mids[name], name)
    terms = process.terms(output, clean, noisy, t, noise)
    assert_close(terms.simple.detach(), mids["simple_per_sample"], "simple per sample")
    total = terms.simple.mean()
    assert_close(total.detach(), case.outputs["simple"], "simple")
    assert (terms.vlb is None) == ("vlb" not in case.outputs)
    if terms.vlb is not None:
        torch.testing.assert_close(terms.vlb.detach(), mids["vlb_per_sample"], rtol=1e-5, atol=TOLERANCE)
        torch.testing.assert_close(terms.vlb.mean().detach(), case.outputs["vlb"], rtol=1e-5, atol=TOLERANCE)
        total = total + case.meta["vlb_weight"] * terms.vlb.mean()
    if "lip" in case.outputs:
        boxes = mouth_box(inputs["landmarks"], tuple(clean.shape[-2:]))
        assert torch.equal(boxes, mids["lip_boxes"])
        lip = boxed_loss(terms.error, boxes)
        assert_close(lip.detach(), case.outputs["lip"], "lip")
        total = total + case.meta["lip_weight"] * lip
    assert_close(total.detach(), case.outputs["total"], "total")
    total.backward()
    gradients = to_official({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for name, theirs in case.group("out/grad").items():
        assert_close(gradients[name], theirs, f"gradient of {name}", TOLERANCE * max(1.0, theirs.abs().max().item()))
    norm = torch.stack([g.double().square().sum() for g in gradients.values()]).sum().sqrt()
    assert norm.item() == pytest.approx(case.outputs["grad_norm"].item(), rel=1e-5)


def check_loss_elementwise(case: GoldenCase) -> None:
    kl, nll, lip = case.group("in/kl"), case.group("in/nll"), case.group("in/lip")
    ours = gaussian_kl(kl["mean1"], kl["logvar1"], kl["mean2"], kl["logvar2"])
    torch.testing.assert_close(ours, case.outputs["kl"], rtol=1e-5, atol=TOLERANCE)
    ours = pixel_nll(nll["x"], nll["means"], nll["log_scales"])
    torch.testing.assert_close(ours, case.outputs["nll"], rtol=1e-5, atol=TOLERANCE)
    assert_close(normal_cdf(case.group("in/cdf")["x"]), case.outputs["cdf"], "cdf")
    error = (lip["eps"] - lip["eps_pred"]).square()
    boxes = mouth_box(lip["landmarks"], tuple(error.shape[-2:]))
    assert_close(box_means(error, boxes), case.outputs["lip_per_sample"], "lip loss per sample")
    assert_close(boxed_loss(error, boxes), case.outputs["lip"], "lip loss")


def check_sampler(case: GoldenCase) -> None:
    """The whole autoregressive loop with stored noise; chains amplify rounding by what the case itself states.

    Our network runs in float64: what float32 is off after a chain depends on the processor's vectors, and is the network's cases to bound.
    """
    meta, net = case.meta, network(case).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in case.inputs.items()}
    sampler = FrameSampler(diffusion(case), steps=meta["constructor"]["space"])
    assert sampler.diffusion.timesteps.tolist() == meta["timesteps"]
    tolerance = max(TOLERANCE, 5 * meta["float32_vs_float64_max_abs_diff"])
    seen = {"x_t": [], "output": [], "t": [], "motion": [], "windows": []}

    def frame_of(noise: Tensor, motion: Tensor, audio: Tensor, i: int) -> Tensor:
        seen["motion"].append(motion)
        seen["windows"].append(audio)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            output = net(x.double(), t, inputs["x_cond"], motion.double(), audio)
            if i == 0:
                seen["x_t"].append(x)
                seen["output"].append(output)
                seen["t"].append(t[0])
            return output

        return sampler(denoise, noise, step_noise=inputs["noise"][i])

    frames = generate_frames(
        frame_of,
        inputs["x_cond"],
        inputs["audio_emb"],
        lambda i: inputs["xT"][:, i],
        n_motion_frames=net.n_motion_frames,
        audio_radius=net.n_audio_motion_embs,
        motion_transform=partial(motion_transform, grayscale=net.grayscale_motion),
        stabilize_every=meta["segment_len"] if meta["stabilize"] else None,
    )
    with torch.no_grad():
        samples = torch.stack(list(frames), dim=1)
    assert torch.equal(torch.stack(seen["t"]), case.mids["network_timesteps"])
    for i, ids in enumerate(case.mids["audio_ids"]):
        assert torch.equal(seen["windows"][i], inputs["audio_emb"][:, ids]), f"audio window of frame {i}"
    assert_close(torch.stack(seen["x_t"]), case.mids["frame0_x_t"], "x_t of frame 0", tolerance)
    assert_close(torch.stack(seen["output"]), case.mids["frame0_network_output"], "outputs of frame 0", tolerance)
    assert_close(torch.stack(seen["motion"]), case.mids["motion_frames"], "motion frames", tolerance)
    assert_close(samples, case.outputs["samples"], "samples", tolerance)


# --- dispatch


def check_of(case: GoldenCase) -> Callable[[GoldenCase], None] | None:
    """The check of a case; None for the cases of the other files."""
    if is_unet_manifest(case):
        return check_unet_manifest
    if is_lightning_manifest(case):
        return check_lightning_manifest
    return CHECKS.get(case.check)


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function) and function is not check_of
}
CASES = [case for case in golden_cases("diffused_heads") if check_of(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    check = check_of(case)
    assert check is not None
    check(case)


@pytest.mark.parametrize("case", golden_cases("diffused_heads"), ids=lambda case: case.name)
def test_every_case_is_checked_somewhere(case: GoldenCase):
    known = check_of(case) or audio.is_about_audio(case) or case.check in data.CHECKS
    assert known, f"{case.name}: there is no test for the check {case.check!r}"
