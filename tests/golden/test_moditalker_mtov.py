"""MToV against tensors of the original: networks, losses, diffusion and key lists, by what the field `check` of a case says."""

import inspect
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from src.adapters.moditalker_mtov import (
    AUTOENCODER_TABLE,
    DISCRIMINATOR_TABLE,
    UNET,
    UNUSED,
    autoencoder_arguments,
    autoencoder_from_official,
    autoencoder_to_official,
    discriminators_from_official,
    discriminators_to_official,
    unet_arguments,
    unet_from_official,
    unet_to_official,
)
from src.adapters.renaming import rename
from src.diffusion.clipped_ddim import clipped_ddim, ddim_times, noised, times_from
from src.diffusion.losses import denoising_error
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas, vlb_weights
from src.lightning_modules.moditalker_mtov_autoencoder import MToVAutoencoder
from src.metrics.perceptual import PerceptualDistance
from src.nn.diffused_heads_blocks import ResidualBlock, SelfAttention
from src.nn.i3d import I3D
from src.nn.moditalker_mtov import ClipDiscriminator, MToVUNet, TriplaneAutoencoder
from src.nn.moditalker_mtov.autoencoder import ALONG, PlaneReadout
from src.nn.moditalker_mtov.planes import PLANES
from src.nn.moditalker_mtov.timesformer import PatchEmbedding, TimeSformer
from tests.golden import test_moditalker_mtov_data as data
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases
from tests.golden.weights import below, lpips_state, weights_of

FOLDER = GOLDEN_DIR / "moditalker_mtov"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

VGG_LEVELS = {3: "relu1_2", 8: "relu2_2", 15: "relu3_3", 22: "relu4_3", 29: "relu5_3"}  # by number of the layer
TOLERANCE = 1e-5  # of the largest magnitude


# --- helpers


def assert_close(ours: Tensor, theirs: Tensor, what: str, least: float = 0.0, tolerance: float = TOLERANCE) -> None:
    """Within a share of the largest magnitude, or within `least`, a multiple of what the precision of the original leaves open."""
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    scale = theirs.abs().max().item() or 1.0
    error = (ours.detach().double() - theirs.double()).abs().max().item()
    allowed = max(tolerance * scale, least)
    assert error <= allowed, f"{what}: largest error {error:.2e}, tolerance {allowed:.1e} (largest value {scale:.2e})"


def slack(case: GoldenCase, name: str) -> float:
    """Twice what float32 and float64 differ by in the original: ours is another float32."""
    return 2 * case.meta.get("float32_vs_float64_max_abs_difference", {}).get(name, 0.0)


def subsampled(tensor: Tensor, n: int) -> Tensor:
    flat = tensor.flatten()
    return flat[:: max(1, len(flat) // n)][:n]


def assert_sub(ours: Tensor, theirs: Tensor, what: str, least: float = 0.0, tolerance: float = TOLERANCE) -> None:
    """A tensor against a strided choice of the original's: of as many values as are stored."""
    assert_close(subsampled(ours, len(theirs)), theirs, what, least, tolerance)


def assert_mid(ours: Tensor, case: GoldenCase, name: str) -> None:
    """A subsampled tensor, and the whole one's statistics."""
    assert_sub(ours, case.mids[name], name)
    stats = case.meta.get("stats", {}).get(name)
    if stats is not None:
        assert ours.numel() == torch.Size(stats["shape"]).numel()
        assert ours.double().mean().item() == pytest.approx(stats["mean"], abs=1e-5 * max(1.0, stats["std"]))
        assert ours.double().std().item() == pytest.approx(stats["std"], rel=1e-5)
        assert ours.double().abs().sum().item() == pytest.approx(stats["abs_sum"], rel=1e-5)


def float_inputs(case: GoldenCase) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in case.inputs.items()}


LPIPS_HEAD = re.compile(r"(perceptual_loss\.)?lin\d\.model\.1\.weight")  # made positive
CONSTANTS = ("inv_freqs", "scales", "coords", "zeros", "shift", "scale")


def recipe_weights(case: GoldenCase, official: Mapping[str, Tensor], salt: str | None = None) -> dict[str, Tensor]:
    """Weights under the original's names, as the recipe makes them."""
    salt = case.meta.get("salt", "") if salt is None else salt
    weights = {key: recipe_weight(key, value, salt) for key, value in official.items()}
    return {key: value.abs() if LPIPS_HEAD.fullmatch(key) else value for key, value in weights.items()}


def recipe_weight(key: str, value: Tensor, salt: str) -> Tensor:
    leaf = key.rpartition(".")[2]
    if leaf in CONSTANTS:
        return value
    if not value.is_floating_point():
        return torch.zeros_like(value)
    r = torch.randn(value.shape, generator=torch.Generator().manual_seed(zlib.crc32((salt + key).encode())))
    if leaf == "running_mean":
        return 0.1 * r
    if leaf == "running_var":
        return 1 + 0.1 * r.abs()
    if r.ndim >= 2:
        if key.endswith(("token", "pos_embedding")):
            return 0.5 * r
        scale = 0.25 if key.startswith(("pre_", "to_pixel")) else 1.0
        return scale * r / r[0].numel() ** 0.5
    return 1 + 0.05 * r if leaf == "weight" else 0.02 * r


def weights_for(
    case: GoldenCase, official: Mapping[str, Tensor], network: str = "", salt: str | None = None
) -> dict[str, Tensor]:
    """Weights under the original's names for a network with the keys of `official`.

    Args:
        case: any.
        official: our network's state under the original's names.
        network: what stands before the names where a file holds several networks.
        salt: of the recipe, where it has one for each network.
    """
    prefixes = (f"{network}.", f"{network}/", "") if network else ("",)
    return weights_of(case, official, partial(recipe_weights, salt=salt), prefixes)


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Outputs of modules in the order of their calls."""
    seen: dict[str, list[Any]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def make_autoencoder(options: Mapping[str, Any]) -> TriplaneAutoencoder:
    config = options["ddconfig"]
    assert config["splits"] == 1
    net = TriplaneAutoencoder(
        config["resolution"], config["timesteps"], config["channels"], latent_channels=options["embed_dim"]
    )
    return net.eval()


def load_autoencoder(net: TriplaneAutoencoder, weights: Mapping[str, Tensor]) -> None:
    assert autoencoder_arguments(weights).items() >= {"resolution": net.resolution, "frames": net.frames}.items()
    net.load_state_dict(autoencoder_from_official(weights), strict=True)


def make_unet(options: Mapping[str, Any]) -> MToVUNet:
    assert options["use_scale_shift_norm"]
    assert options["resblock_updown"]
    same = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "num_heads")
    return MToVUNet(
        size=options["image_size"],
        latent_channels=options["out_channels"],
        **{name: options[name] for name in same},
        dropout=options.get("dropout", 0.0),
    ).eval()


def load_unet(net: MToVUNet, weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    found = unet_arguments(weights)
    for name in ("model_channels", "channel_mult", "num_res_blocks"):
        assert found[name] == options[name]
    assert set(found["attention_resolutions"]) == set(options["attention_resolutions"])
    net.load_state_dict(unet_from_official(weights), strict=True)


def unet_of(case: GoldenCase) -> MToVUNet:
    """The U-Net of the case: its own, or that of the case which `unet_weights_from` or `weights_from` names."""
    named = case.meta.get("unet_weights_from")
    shared = GoldenCase(case.path, {**case.meta, "weights_from": named} if named else case.meta)
    origin = found[0] if (found := shared.shares()) else case
    options = case.meta.get("constructor") or origin.meta["constructor"]
    net = make_unet(options)
    load_unet(net, weights_for(shared, unet_to_official(net.state_dict())), options)
    return net


# --- building blocks


def check_timesformer(case: GoldenCase, *, encoder: bool) -> None:
    options, x = case.meta["constructor"], case.inputs["x"]
    transformer = TimeSformer(options["dim"], options["depth"], options["heads"], options["dim_head"])
    embedding = PatchEmbedding(options["dim"], options["patch_size"])
    state = {f"encoder.{key}": value for key, value in transformer.state_dict().items()}
    if encoder:
        state |= {f"patch_embedding.{key}": value for key, value in embedding.state_dict().items()}
    inverse = {new: old for old, new in AUTOENCODER_TABLE.items()}
    names = {k.removeprefix("encoder."): v for k, v in rename(state, inverse, "moditalker_mtov").items()}
    official = {f"encoder.{key}": value for key, value in weights_for(case, names).items()}
    ours = rename(official, AUTOENCODER_TABLE, "moditalker_mtov")
    below = {
        part: {k[len(part) :]: v for k, v in ours.items() if k.startswith(part)}
        for part in ("encoder.", "patch_embedding.")
    }
    transformer.load_state_dict(below["encoder."], strict=True)
    side = options["image_size"] // options["patch_size"]
    for axis, table in (
        ("frame", transformer.time_rotation(options["num_frames"])),
        ("image", transformer.space_rotation(side, side)),
    ):
        for name, values in zip(("sin", "cos"), table, strict=True):
            if (theirs := case.mids.get(f"{axis}_rot_{name}")) is not None:
                assert_close(values[None], theirs, f"{axis}_rot_{name}")
    parts = {"time_attn": "time_attention", "spatial_attn": "space_attention", "ff": "feed_forward"}
    modules = {
        f"layer{i}.{theirs}": getattr(layer, part)
        for i, layer in enumerate(transformer.layers)
        for theirs, part in parts.items()
    }
    with torch.no_grad(), recorded(modules) as seen:
        if encoder:
            embedding.load_state_dict(below["patch_embedding."], strict=True)
            cells = embedding(x)
            if (theirs := case.mids.get("patch_embedding")) is not None:
                assert_close(cells.flatten(1, 3), theirs, "patch embedding")
        else:
            cells = x.movedim(1, -1)
        y = transformer(cells)
    for name in (key for key in case.mids if key.startswith("layer")):
        output = seen[name][0]
        tokens = output.transpose(1, 2) if name.endswith("time_attn") else output
        assert_close(tokens.flatten(1, 2), case.mids[name], name)
    assert_close(y.flatten(1, 3), case.outputs["y"], "tokens", slack(case, "out/y"))


def check_timesformer_encoder(case: GoldenCase) -> None:
    check_timesformer(case, encoder=True)


def check_timesformer_decoder(case: GoldenCase) -> None:
    check_timesformer(case, encoder=False)


def check_plane_transformer(case: GoldenCase) -> None:
    options, x = case.meta["constructor"], case.inputs["x"]
    layers = PlaneReadout(
        options["dim"], x.shape[1], options["depth"], options["heads"], options["dim_head"], options["mlp_dim"]
    ).layers
    inverse = {new: old for old, new in AUTOENCODER_TABLE.items()}
    state = {f"readouts.xy.layers.{key}": value for key, value in layers.state_dict().items()}
    names = {k.removeprefix("xy_quant_attn."): v for k, v in rename(state, inverse, "moditalker_mtov").items()}
    official = {f"xy_quant_attn.{key}": value for key, value in weights_for(case, names).items()}
    ours = rename(official, AUTOENCODER_TABLE, "moditalker_mtov")
    layers.load_state_dict({k.removeprefix("readouts.xy.layers."): v for k, v in ours.items()}, strict=True)
    modules = {f"layer{i}.attn": layer.attention for i, layer in enumerate(layers)}
    modules |= {f"layer{i}.ff": layer.feed_forward for i, layer in enumerate(layers)}
    with torch.no_grad(), recorded(modules) as seen:
        y = layers(x)
    for name, theirs in case.mids.items():
        assert_close(seen[name][0], theirs, name)
    assert_close(y, case.outputs["y"], "tokens", slack(case, "out/y"))


def check_unet_blocks(case: GoldenCase) -> None:
    options, inputs = case.meta["constructor"], case.inputs
    width = options["channels"]
    stage = "middle_block.0."

    def load(block: nn.Module, name: str) -> Any:
        state = {f"{stage}{key}": value for key, value in block.state_dict().items()}
        official = below(unet_to_official(state), f"{UNET}{stage}")
        names = {f"{name}.{key}": value for key, value in official.items()}
        weights = {f"{stage}{k}": v for k, v in below(weights_for(case, names), f"{name}.").items()}
        own = below(unet_from_official(weights), stage)
        block.load_state_dict(own, strict=True)
        return block.eval()

    for name in (key for key in case.outputs if key.startswith("res_")):
        x, embedding = inputs[f"{name}.0"], inputs[f"{name}.1"]
        out_channels = case.outputs[name].shape[1]
        direction = {"res_down": "down", "res_up": "up"}.get(name)
        block = load(ResidualBlock(width, out_channels, options["emb_channels"], 0.0, 32, direction), name)
        assert_close(block(x, {"time": embedding}), case.outputs[name], name)
    for name in (key for key in case.outputs if key.startswith("attn")):
        x = inputs[f"{name}.0"]
        attention = load(SelfAttention(width, options["num_heads"], 32), name)
        maps = x if x.ndim == 4 else x[..., None]
        assert_close(attention(maps, {}).reshape(x.shape), case.outputs[name], name)
    embedding = case.outputs["timestep_embedding"]
    net = MToVUNet(model_channels=embedding.shape[1], channel_mult=(1,), num_res_blocks=1, num_heads=4)
    net.time_embed = nn.Sequential(nn.Linear(1, 1))  # of which only the dtype is asked for
    net.time_embed.forward = lambda features: features
    assert_close(net._time_embedding(inputs["timesteps"]), embedding, "features of the time step")


# --- networks


def check_autoencoder(case: GoldenCase) -> None:
    net = make_autoencoder(case.meta["constructor"])
    load_autoencoder(net, weights_for(case, autoencoder_to_official(net.state_dict())))
    video, z = autoencoder_inputs(case)
    modules: dict[str, nn.Module] = {
        f"{part}.layers.{i}.2": layer.feed_forward
        for part in ("encoder", "decoder")
        for i, layer in enumerate(getattr(net, part).layers)
    }
    modules |= {"encoder": net.encoder, "decoder": net.decoder, "to_pixel": net.to_pixels}
    for plane in PLANES:
        modules |= {f"pre_{plane}": net.to_latent[plane], f"post_{plane}": net.from_latent[plane]}
    with torch.no_grad(), recorded(modules) as seen:
        latent = net.encode(video.transpose(1, 2))
        volume = net.expand(latent)
        for outputs in seen.values():
            if len(outputs) > 1:
                outputs.pop()
        recon = net.decode(latent).flatten(0, 1)
        for plane, readout in net.readouts.items():
            sequences = rearrange(seen["encoder"][0].movedim(-1, 1), ALONG[plane])
            seen[f"{plane}_quant_attn"] = [readout.layers(readout.tokens(sequences))]
    for name in case.mids:
        assert_mid(seen[name][0], case, name)
    assert_close(latent, case.outputs["latent"], "latent", slack(case, "out/latent"))
    assert_sub(volume, case.outputs["encode_sub"], "volume")
    assert_sub(recon, case.outputs["recon_sub"], "reconstruction", slack(case, "out/recon_sub"))
    if "recon" in case.outputs:
        assert_close(recon, case.outputs["recon"], "reconstruction", slack(case, "out/recon"))
    with torch.no_grad():
        decoded = net.decode(z).flatten(0, 1)
    assert_sub(decoded, case.outputs["decoded_sub"], "decoded", slack(case, "out/decoded_sub"))


check_autoencoder_official = check_autoencoder


def autoencoder_inputs(case: GoldenCase) -> tuple[Tensor, Tensor]:
    """Stored inputs, or those that the rule describes."""
    inputs = case.inputs
    if "x" in inputs:
        return inputs["x"], inputs["z"]
    rule = re.search(r"torch\.rand\(([\d,]+), generator=manual_seed\((\d+)\)\)\*2-1", case.meta["input_rule"])
    assert rule, f"{case.name}: unknown input rule"
    shape, seed = [int(n) for n in rule[1].split(",")], int(rule[2])
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1, inputs["z"]


def check_unet(case: GoldenCase) -> None:
    options, inputs = case.meta["constructor"], float_inputs(case)
    net = make_unet(options)
    load_unet(net, weights_for(case, unet_to_official(net.state_dict())), options)
    modules: dict[str, nn.Module] = {
        "time_embed": net.time_embed,
        "middle_block": net.middle_block,
        "out": net.out_conv,
    }
    modules["mid_attn"] = net.middle_attention
    for theirs, ours in (("input", "input"), ("output", "output")):
        for i, stage in enumerate(getattr(net, f"{ours}_blocks")):
            modules[f"{theirs}_blocks.{i}"] = stage
        for i, attention in enumerate(getattr(net, f"{ours}_attentions")):
            modules[f"{theirs}_attns.{i}"] = attention
    with torch.no_grad(), recorded(modules) as seen:
        y = net(inputs["x"], inputs["t"], inputs["cond"], inputs["image_cond"])
    for name in case.mids:
        module, _, plane = name.rpartition(".")
        outputs = seen[module] if plane in PLANES else seen[name]
        assert_mid(plane_of(outputs, plane) if plane in PLANES else whole(outputs[0]), case, name)
    assert_close(y, case.outputs["y"], "prediction", slack(case, "out/y"))


check_unet_official = check_unet


def plane_of(outputs: Sequence[Tensor], plane: str) -> Tensor:
    """The first call sees the picture, the second one both planes of time."""
    return outputs[0] if plane == "xy" else outputs[1].chunk(2)[PLANES.index(plane) - 1]


def whole(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    if isinstance(output, Tensor):
        return output
    picture, time = output
    return torch.cat([part.flatten(2) for part in (picture, *time.chunk(2))], dim=-1)


def check_discriminators(case: GoldenCase) -> None:
    options = case.meta["constructor"]
    for name, dims in (("disc2d", 2), ("disc3d", 3)):
        net = ClipDiscriminator(dims, options["input_nc"], options["ndf"], options["n_layers"])
        inverse = {new: old for old, new in DISCRIMINATOR_TABLE.items()}
        names = {f"{name}.{k}": v for k, v in rename(net.state_dict(), inverse, "moditalker_mtov").items()}
        own = below(weights_for(case, names), f"{name}.")
        for mode in ("eval", "train"):
            net.load_state_dict(rename(own, DISCRIMINATOR_TABLE, "moditalker_mtov"), strict=True)
            with torch.no_grad():
                outputs = net.train(mode == "train")(case.inputs[name])
            theirs = case.group(f"out/{name}.{mode}") or {
                k.removeprefix(f"{name}.{mode}."): v for k, v in case.outputs.items() if k.startswith(f"{name}.{mode}.")
            }
            assert_close(outputs[-1], theirs["logits"], f"{name} {mode}: logits")
            for i, output in enumerate(outputs):
                assert_sub(output, theirs[f"feat{i}_sub"], f"{name} {mode}: stage {i}")
        after = {k.removeprefix("after."): v for k, v in theirs.items() if k.startswith("after.")}
        state = net.state_dict()
        for key, value in rename(after, DISCRIMINATOR_TABLE, "moditalker_mtov").items():
            assert_close(state[key], value, f"{name}: {key}")


# --- losses


def lpips_of(case: GoldenCase, prefix: str = "") -> PerceptualDistance:
    """LPIPS with the case's weights; `prefix` stands before its names in the original's criterion."""
    names = {f"{prefix}{key}": value for key, value in lpips_state().items()}
    return PerceptualDistance.from_lpips(below(weights_for(case, names), prefix))


def check_lpips(case: GoldenCase) -> None:
    distance, a, b = lpips_of(case), case.inputs["a"], case.inputs["b"]
    with torch.no_grad():
        assert_close(distance(a, b), case.outputs["lpips"].flatten(), "distance")
        h = (a - distance.shift) / distance.scale
        for i, layer in enumerate(distance.features):
            h = layer(h)
            name = f"feat_a.{VGG_LEVELS.get(i)}"
            if name in case.mids:
                assert_sub(h, case.mids[name], name)
            if (name := VGG_LEVELS.get(i)) in case.meta.get("stats", {}):
                assert h.double().abs().sum().item() == pytest.approx(case.meta["stats"][name]["abs_sum"], rel=1e-5)


def check_ae_criterion(case: GoldenCase) -> None:
    options, inputs = case.meta["constructor"], case.inputs
    assert options["disc_loss"] == "hinge"
    discriminators = {dims: ClipDiscriminator(dims, channels=options["disc_ndf"]) for dims in (2, 3)}
    module = MToVAutoencoder(
        TriplaneAutoencoder(8, 1, 8, depth=1, heads=1, head_dim=4), discriminators[2], discriminators[3]
    )
    module._perceptual = (lpips_of(case, "perceptual_loss."),)
    own = {k: v for k, v in module.state_dict().items() if "discriminator" in k}
    weights = weights_for(case, discriminators_to_official(own))

    def fresh() -> MToVAutoencoder:
        made = {k: v.clone() for k, v in discriminators_from_official(weights).items()}
        assert made.keys() == own.keys()
        module.load_state_dict(made, strict=False)
        module.zero_grad()
        return module.train()

    chosen = inputs["frame_idx"]
    real = inputs["inputs"].transpose(1, 2)
    for step in sorted({int(m[1]) for k in case.outputs if (m := re.match(r"step(\d+)\.", k))}):
        factor = float(step >= options["disc_start"])
        video = inputs["reconstructions"].transpose(1, 2).detach().requires_grad_()
        terms = fresh().reconstruction_terms(real, video, chosen) | module.generator_terms(real, video, chosen)
        for name, theirs in (
            ("rec", "rec_loss"),
            ("perceptual", "p_loss"),
            ("gen", "g_loss"),
            ("features", "feat_loss"),
        ):
            assert_close(terms[name], case.mids[theirs], theirs)
        loss = terms["rec"] + terms["perceptual"] + factor * (terms["gen"] + terms["features"])
        assert_close(loss, case.outputs[f"step{step}.opt0.loss"], f"step {step}: loss")
        (gradient,) = torch.autograd.grad(loss, video)
        theirs = case.outputs[f"step{step}.opt0.grad_recon_sub"]
        assert_sub(gradient.transpose(1, 2), theirs, f"step {step}: gradient")

        disc = fresh().discriminator_terms(real, video, chosen)["disc"]
        assert_close(disc, case.mids["d_loss"], "d_loss")
        assert_close(factor * disc, case.outputs[f"step{step}.opt1.loss"], f"step {step}: loss of the discriminators")
        (factor * disc).backward()
        gradients = {k: p.grad for k, p in module.named_parameters() if p.grad is not None and "discriminator" in k}
        official = discriminators_to_official(gradients)
        prefix = f"step{step}.opt1.grad."
        for key in (k for k in case.outputs if k.startswith(prefix)):
            assert_close(official[key.removeprefix(prefix)], case.outputs[key], key)


def check_fvd(case: GoldenCase) -> None:
    from src.metrics.frechet import cropped_clips, frechet_distance

    stats, videos = case.meta["stats"], case.inputs["videos"]
    clips = cropped_clips(videos.permute(0, 1, 4, 2, 3))
    assert list(clips.shape) == stats["preprocessed"]["shape"]
    assert_sub(clips, case.mids["preprocessed"], "clips")
    net = I3D()
    net.load_state_dict(weights_for(case, net.state_dict()), strict=True)
    names = [name for name in stats if name in dict(net.named_children())]
    with torch.no_grad(), recorded({name: net.get_submodule(name) for name in names}) as seen:
        features, logits = net.features(clips), net(clips)
    for name in names:
        assert_mid(seen[name][0], case, name)
    assert_mid(features, case, "avg_pool")
    assert_close(logits, case.outputs["logits"], "logits")
    one, two = case.inputs["emb1"], case.inputs["emb2"]
    assert_close(one.T.cov(), case.outputs["cov1"], "covariance")
    distance = frechet_distance(one.mean(0), one.T.cov(), two.mean(0), two.T.cov())
    # The original takes square roots in float32, by a decomposition that leaves 1e-4 of them open.
    assert distance.item() == pytest.approx(case.outputs["frechet"].item(), rel=2e-4)


# --- diffusion


def check_ddpm_schedule(case: GoldenCase) -> None:
    options, inputs, outputs = case.meta["constructor"], case.inputs, case.outputs
    betas = scaled_linear_betas(options["timesteps"], options["linear_start"], options["linear_end"])
    tables = noise_tables(betas) | {"lvlb_weights": vlb_weights(betas)}
    for name, table in tables.items():
        assert_close(table, outputs[name], name)
    ab, t = tables["alphas_cumprod"], inputs["t"]
    noisy = torch.stack([noised(x, e, ab, int(i)) for x, e, i in zip(inputs["x0"], inputs["noise"], t, strict=True)])
    assert_close(noisy, outputs["q_sample"], "noised")
    at = {name: table[t, None, None] for name, table in tables.items()}
    scale, spread = at["sqrt_recip_alphas_cumprod"], at["sqrt_recipm1_alphas_cumprod"]
    assert_close(scale * inputs["xt"] - spread * inputs["noise"], outputs["x0_from_eps"], "x0_from_eps")
    assert_close((scale * inputs["xt"] - inputs["x0"]) / spread, outputs["eps_from_x0"], "eps_from_x0")
    mean = at["posterior_mean_coef1"] * inputs["x0"] + at["posterior_mean_coef2"] * inputs["xt"]
    assert_close(mean, outputs["q_posterior_mean"], "mean of the posterior")
    assert_close(at["posterior_variance"], outputs["q_posterior_var"], "variance of the posterior")
    assert_close(at["posterior_log_variance_clipped"], outputs["q_posterior_logvar"], "its logarithm")
    n = options["timesteps"]
    for name in (key for key in outputs if key.startswith("times_")):
        assert ddim_times(n, int(name.removeprefix("times_"))) == outputs[name].tolist()
    for name, expected in case.meta["sampling"].items():
        steps, strength = re.fullmatch(r"steps(\d+)_ratio([\d.]+)", name).groups()
        first, times = times_from(ddim_times(n, int(steps)), n, float(strength))
        found = {"q_sample_t": first, "n_model_calls": len(times) - 1, "first_model_time": times[0]}
        assert found == expected, name


def betas_of(case: GoldenCase) -> Tensor:
    """The case's noise schedule; the published one where it says nothing."""
    options = case.meta.get("diffusion", case.meta.get("constructor", {}))
    published = {"timesteps": 1000, "linear_start": 0.0015, "linear_end": 0.0195}
    return scaled_linear_betas(*(options.get(name, value) for name, value in published.items()))


def check_ddpm_loss(case: GoldenCase) -> None:
    net, inputs, outputs = unet_of(case), float_inputs(case), case.outputs
    assert (case.meta["loss_type"], case.meta["parameterization"]) == ("l2", "eps")
    betas = betas_of(case)
    tables, t = noise_tables(betas), inputs["t"]
    noisy = torch.stack(
        [
            noised(x, e, tables["alphas_cumprod"], int(i))
            for x, e, i in zip(inputs["x0"], inputs["noise"], t, strict=True)
        ]
    )
    assert_close(noisy, case.mids["x_noisy"], "noisy latents")
    prediction = net(noisy, t, inputs["cond"], inputs["image_cond"])
    error = denoising_error(prediction, inputs["x0"], inputs["noise"], tables["alphas_cumprod"][t], "epsilon").mean(
        (1, 2)
    )
    loss = error.mean()
    for name in ("loss", "train.loss", "train.loss_simple"):
        assert_close(loss, outputs[name], name)
    bound = (vlb_weights(betas)[t] * error).mean()
    assert_close(bound, outputs["train.loss_vlb"], "variational bound")
    loss.backward()
    gradients = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    official = unet_to_official(gradients)
    for name, theirs in below(outputs, "grad/").items():
        assert_close(official[name], theirs, f"gradient of {name}")
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert_close(norm, outputs["grad_norm_all"], "norm of the gradient")
    options = dict(case.meta["optimiser"])
    assert options.pop("name") == "AdamW"
    torch.optim.AdamW(net.parameters(), **options).step()
    parameters = unet_to_official(dict(net.named_parameters()))
    for name, theirs in below(outputs, "after_adamw_step/").items():
        # Where the gradient is rounding noise, so is the direction of the first step.
        sure = official[name].abs() > 1e-6
        assert_close(torch.where(sure, parameters[name], theirs), theirs, f"{name} after a step")


def check_ddim_sample(case: GoldenCase) -> None:
    net, inputs, meta = unet_of(case), float_inputs(case), case.meta
    assert meta["clip_denoised"]
    assert meta["parameterization"] == "eps"
    betas = betas_of(case)
    ab, times = noise_tables(betas)["alphas_cumprod"], ddim_times(len(betas), meta["sampling_timesteps"])
    start = inputs["start_noise"]
    if meta["ratio_"] is not None:
        first, times = times_from(times, len(betas), meta["ratio_"])
        start = noised(inputs["noised_start"], start, ab, first)
    assert times[:-1] == case.mids["timesteps"].tolist()
    seen: list[tuple[Tensor, ...]] = []
    z = clipped_ddim(
        lambda x, t: net(x, t, inputs["cond"], inputs["image_cond"]), start, ab, times,
        eta=meta["eta"], step_noise=inputs["step_noise"], callback=lambda i, x, eps, clean: seen.append((x, eps, clean)),
    )  # fmt: skip
    # What float32 leaves open grows from step to step.
    open_ = slack(case, "out/z")
    for i, step in enumerate(seen):
        for name, ours in zip(("x", "eps", "x0"), step, strict=True):
            theirs = case.mids[f"step{i}.{name}_sub"]
            # The clean latent has the error of the noise, many times larger where there is hardly anything but noise.
            growth = (1 / ab[times[i]] - 1).sqrt().item() if name == "x0" else 1.0
            assert_sub(ours, theirs, f"step {i}: {name}", max(open_, TOLERANCE * growth))
    assert_close(z, case.outputs["z"], "latent", open_)


check_ddim_sample_noised_start = check_ddim_sample


def check_pipeline(case: GoldenCase) -> None:
    meta, inputs, mids = case.meta, float_inputs(case), case.mids
    salts = meta.get("salts", {})
    nets: dict[str, TriplaneAutoencoder] = {}
    for name in ("rgb_autoencoder", "landmark_autoencoder"):
        nets[name] = make_autoencoder(meta["autoencoder"])
        official = autoencoder_to_official(nets[name].state_dict())
        load_autoencoder(nets[name], weights_for(case, official, name, salts.get(name)))
    unet = make_unet(meta["unet"])
    official = unet_to_official(unet.state_dict())
    load_unet(unet, weights_for(case, official, "unet", salts.get("unet")), meta["unet"])
    clips = data.pipeline_inputs(case)
    with torch.no_grad():
        latents = {
            "z_reference": nets["rgb_autoencoder"].encode(clips["reference"]),
            "z_video": nets["rgb_autoencoder"].encode(clips["video"]),
            "z_masked": nets["rgb_autoencoder"].encode(clips["masked"]),
            "z_landmark": nets["landmark_autoencoder"].encode(clips["landmarks"]),
        }
    for name, latent in latents.items():
        assert_close(latent, mids[name], name)
    betas = betas_of(case)
    ab, times = noise_tables(betas)["alphas_cumprod"], ddim_times(len(betas), meta["sampling_timesteps"])
    first, times = times_from(times, len(betas), meta["ratio_"])
    noise = inputs["noise"]
    conditions = torch.cat([latents["z_landmark"], latents["z_masked"]], dim=1)
    z = clipped_ddim(
        lambda x, t: unet(x, t, conditions, latents["z_reference"]),
        noised(latents["z_reference"], noise[0], ab, first), ab, times, eta=1.0, step_noise=noise[1:],
    )  # fmt: skip
    assert_close(z, case.outputs["z"], "latent", 1e-4)
    with torch.no_grad():
        frames = (1 + nets["rgb_autoencoder"].decode(z)[0].clamp(-1, 1)) * 127.5
    for name in (key for key in case.outputs if key.startswith("frames_sub")):
        stride = int(name.removeprefix("frames_sub"))
        assert_close(frames[..., ::stride, ::stride], case.outputs[name], "frames", tolerance=1e-4)
    assert frames.double().mean().item() == pytest.approx(meta["stats"]["frames"]["mean"], abs=1e-3)


# --- key lists


def check_manifest(case: GoldenCase) -> None:
    """Ours under the original's names have the listed shapes, and the listed keys land on all of ours."""
    listed = {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in case.meta["keys"].items()
    }
    with torch.device("meta"):
        back, ours, own = manifest_forms(listed, case.meta)
    assert {k: (v.shape, v.dtype) for k, v in back.items()} == {k: (v.shape, v.dtype) for k, v in listed.items()}
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in own.items()}
    assert len(listed) == case.meta["n_keys"]


def manifest_forms(
    listed: dict[str, Tensor], meta: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Our tensors under the original's names with those that ours drops, the listed ones under ours, and our own."""
    if f"{UNET}out.2.weight" in listed:
        own = MToVUNet(**unet_arguments(listed)).state_dict()
        dropped = {k: v for k, v in listed.items() if k.removeprefix(UNET).startswith(UNUSED)}
        return unet_to_official(own) | dropped, unet_from_official(listed), own
    if "xy_token" in listed:
        net = TriplaneAutoencoder(**autoencoder_arguments(listed))
        assert sum(p.numel() for p in net.parameters()) == meta["n_parameters"]
        return autoencoder_to_official(net.state_dict()), autoencoder_from_official(listed), net.state_dict()
    if "logits.conv3d.weight" in listed:
        own = I3D().state_dict()
        return own, listed, own
    module = MToVAutoencoder(TriplaneAutoencoder(8, 1, 8, depth=1), ClipDiscriminator(2), ClipDiscriminator(3))
    own = {k: v for k, v in module.state_dict().items() if "discriminator" in k}
    dropped = {k: v for k, v in listed.items() if k.startswith("perceptual_loss.")}
    return discriminators_to_official(own) | dropped, discriminators_from_official(listed), own


# --- dispatch


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function) and name != "check_timesformer"
} | data.CHECKS
# Beyond five seconds: networks of the original's size, or frames of its size.
SLOW = {"autoencoder_official", "unet_official", "pipeline", "fvd"}
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.check in SLOW else [])
    for case in golden_cases("moditalker_mtov")
]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_original(case: GoldenCase):
    assert case.check in CHECKS, f"{case.name}: there is no test for the check {case.check!r}"
    CHECKS[case.check](case)
