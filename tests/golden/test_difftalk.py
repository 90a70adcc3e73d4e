"""difftalk against tensors of the original: networks, losses, diffusion and key lists, by what the field `check` of a case says."""

import inspect
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.adapters import difftalk as adapter
from src.adapters.difftalk import (
    CONDITIONS,
    DISCRIMINATOR,
    FIRST_STAGE,
    LOSS,
    UNET,
    autoencoder_checkpoint_from_official,
    average_name,
    from_official,
    to_official,
)
from src.adapters.difftalk import autoencoder_arguments as arguments_of_weights
from src.adapters.difftalk_networks import (
    CONDITION_TABLE,
    autoencoder_from_official,
    autoencoder_to_official,
    unet_from_official,
    unet_to_official,
)
from src.adapters.renaming import rename
from src.diffusion.inpainting import ancestral_inpaint, ancestral_step, ddim_schedule, ddim_step, published_ddim
from src.diffusion.noise_tables import noise_tables, scaled_linear_betas, vlb_weights
from src.diffusion.pixels import to_uint8, to_unit
from src.lightning_modules.ema import LatentDiffusionAverage
from src.metrics.perceptual import PerceptualDistance
from src.nn.adversarial import discriminator_loss, generator_loss
from src.nn.difftalk import DiffTalkNet, PatchDiscriminator, VQAutoencoder
from src.nn.difftalk.losses import adaptive_weight
from tests.golden import test_difftalk_data as data
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases, load_case
from tests.golden.weights import below, lpips_state, weights_of

FOLDER = GOLDEN_DIR / "difftalk"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]

TOLERANCE = 1e-5  # of the largest magnitude
NETWORKS = (
    UNET,
    FIRST_STAGE,
    CONDITIONS,
)  # what the recipe fills of a whole model; the tables of its noise are computed


# --- helpers


def assert_close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    scale = theirs.abs().max().item() or 1.0
    error = (ours.detach().double() - theirs.double()).abs().max().item() / scale
    assert error <= tolerance, f"{what}: largest error {error:.2e} of the largest value, tolerance {tolerance:.0e}"


def weights_for(case: GoldenCase, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return weights_of(case, official, recipe_weights)


def recipe_weights(case: GoldenCase, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    recipe = case.meta["recipe"]
    found = re.search(r"salt = '([^']*)'", recipe)
    assert found, f"{case.name}: unknown recipe"
    weights = {
        key: recipe_weight(found[1], key, value.shape) if value.is_floating_point() else torch.zeros_like(value)
        for key, value in official.items()
    }
    if "multiplied by sqrt(2)" in recipe:
        weights = {k: v * 2**0.5 if k.startswith("net.") and v.ndim == 4 else v for k, v in weights.items()}
    if "lin*.model.1.weight use |value|" in recipe:
        weights = {k: v.abs() if re.fullmatch(r"lin\d\.model\.1\.weight", k) else v for k, v in weights.items()}
    return weights


def recipe_weight(salt: str, key: str, shape: Sequence[int]) -> Tensor:
    value = torch.randn(list(shape), generator=torch.Generator().manual_seed(zlib.crc32((salt + key).encode())))
    leaf = key.rpartition(".")[2]
    if leaf == "running_var":
        return 1 + 0.1 * value.abs()
    if leaf == "running_mean":
        return 0.1 * value
    if value.ndim >= 2:
        return value / value[0].numel() ** 0.5
    return 1 + 0.05 * value if leaf == "weight" else 0.02 * value


def shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    return {key: value.shape for key, value in state_dict.items()}


def unet_arguments(constructor: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `DiffTalkNet` for the original's of its U-Net."""
    same = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "image_size", "dropout")
    options = {name: constructor[name] for name in same if name in constructor}
    options |= {name: constructor[name] for name in ("num_heads", "num_head_channels") if name in constructor}
    others = {"in_channels", "out_channels", "use_spatial_transformer", "transformer_depth", "context_dim"}
    assert constructor.keys() <= options.keys() | others, constructor
    assert constructor["in_channels"] == 3 * constructor["out_channels"]
    return options | {
        "latent_channels": constructor["out_channels"],
        "transformer_depth": constructor["transformer_depth"],
        "context_dim": constructor["context_dim"],
        "context": "merged",
    }


def autoencoder_arguments(constructor: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `VQAutoencoder` for the original's."""
    options = constructor["ddconfig"]
    assert options["in_channels"] == options["out_ch"] == 3
    assert not options["dropout"]
    assert not options["double_z"]
    return {
        "channels": options["ch"],
        "channel_mult": options["ch_mult"],
        "num_res_blocks": options["num_res_blocks"],
        "attention_resolutions": options["attn_resolutions"],
        "resolution": options["resolution"],
        "z_channels": options["z_channels"],
        "latent_channels": constructor["embed_dim"],
        "n_codes": constructor["n_embed"],
    }


def make_net(constructor: Mapping[str, Any]) -> DiffTalkNet:
    return DiffTalkNet(**unet_arguments(constructor)).eval()


def make_autoencoder(constructor: Mapping[str, Any]) -> VQAutoencoder:
    return VQAutoencoder(**autoencoder_arguments(constructor)).eval()


def load_conditions(net: DiffTalkNet, case: GoldenCase) -> None:
    inverse = {ours: theirs for theirs, ours in CONDITION_TABLE.items()}
    weights = weights_for(case, rename(net.context_encoder.state_dict(), inverse, "difftalk"))
    own = {key: value for key, value in weights.items() if key.startswith("cond_stage_model_for_")}
    net.context_encoder.load_state_dict(rename(own, CONDITION_TABLE, "difftalk"), strict=True)


@contextmanager
def recorded(net: nn.Module, names: Sequence[str]):
    """Outputs of the named sub-modules during the block; first of a tuple."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: Any) -> None:
        outputs[name] = (output if isinstance(output, Tensor) else output[0]).detach()

    hooks = [net.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    yield outputs
    for hook in hooks:
        hook.remove()


class Model:
    """Both stages of a case with the weights that it refers to."""

    def __init__(self, case: GoldenCase) -> None:
        constructor = case.meta["constructor"]
        assert case.meta.get("scale_factor", 1) == 1
        self.first_stage = make_autoencoder(constructor["first_stage_config"]["params"])
        self.net = make_net(constructor["unet_config"]["params"])
        own = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        own |= {f"first_stage.{k}": v for k, v in self.first_stage.state_dict().items()}
        official = {k: v for k, v in to_official(own).items() if k.startswith(NETWORKS)}
        self.weights = weights_for(case, official)
        ours = from_official(self.weights, "last")
        self.first_stage.load_state_dict(below(ours, "first_stage."), strict=True)
        self.net.load_state_dict(below(ours, "net."), strict=True)
        self.betas = scaled_linear_betas(
            constructor["timesteps"], constructor["linear_start"], constructor["linear_end"]
        )
        self.tables = noise_tables(self.betas)

    def denoiser(self, inputs: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        tokens = torch.cat([inputs["c_audio"], inputs["c_landmark"]], dim=1)[:, None]
        return partial(self._denoise, inputs["c_mask_latent"], inputs["c_ref_latent"], tokens)

    def _denoise(self, masked: Tensor, reference: Tensor, tokens: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.net.denoise(x, t, masked, reference, tokens)


# --- networks


def check_cond_encoders(case: GoldenCase) -> None:
    dims = case.meta["constructor"]
    net = DiffTalkNet(
        model_channels=32, channel_mult=[1], num_res_blocks=1, context="merged",
        context_dim=dims["AudioNet"]["dim_aud"] + dims["LdmNet"]["dim_out"], n_audio_rows=dims["AudioAttNet"]["seq_len"],
    )  # fmt: skip
    load_conditions(net, case)
    encoder: Any = net.context_encoder
    windows, landmarks = case.inputs["audio_smooth"], case.inputs["landmarks"]
    with torch.no_grad(), recorded(encoder, ["audio.convs", "audio_attention.convs"]) as seen:
        tokens = net.tokens(windows.flatten(2), landmarks)
        per_window = encoder.audio(windows.flatten(0, 1)).view(*windows.shape[:2], -1)
        weights = encoder.audio_attention.weights(per_window)
    with torch.no_grad():
        alone = net.tokens(windows[:1].flatten(2), landmarks[:1])
    assert tokens.shape[1] == 1
    sound, face = tokens[:, 0].split([dims["AudioNet"]["dim_aud"], dims["LdmNet"]["dim_out"]], dim=1)
    ours = {
        "audio_conv_out": seen["audio.convs"], "audio_per_window": per_window,
        "attention_logits_in": seen["audio_attention.convs"], "attention_weights": weights,
    }  # fmt: skip
    for name, theirs in case.mids.items():
        assert_close(ours[name], theirs, name)
    assert_close(sound, case.outputs["audio"], "audio")
    assert_close(face, case.outputs["landmark"], "landmarks")
    assert_close(alone[:, 0, : sound.shape[1]], case.outputs["audio_batch1"], "audio of one sample")


def check_unet_tiny(case: GoldenCase) -> None:
    """The official blocks that the case looks into, by the layers of ours that end them."""
    net = make_net(case.meta["constructor"])
    weights = weights_for(case, unet_to_official(net.unet.state_dict()))
    net.unet.load_state_dict(unet_from_official(weights), strict=True)
    assert unet_to_official(net.unet.state_dict()).keys() == weights.keys()
    mids, inputs = case.mids, case.inputs
    ends = {official: block_end(official, weights) for official in mids}
    for name, expected in case.outputs.items():
        tokens = name.removeprefix("y_")
        with torch.no_grad(), recorded(net.unet, list(ends.values())) as seen:
            y = net.unet(inputs["x"], inputs["t"], inputs[f"context_{tokens}"], return_dict=False)[0]
        assert_close(y, expected, f"output with {tokens}")
        if tokens == "1token":
            for official, ours in ends.items():
                assert_close(seen[ours][: len(mids[official])], mids[official], official)


def block_end(official: str, weights: Mapping[str, Tensor]) -> str:
    """Our layer behind which the original's block ends."""
    if official in ("timestep_embedding", "time_embed"):
        return {"timestep_embedding": "time_proj", "time_embed": "time_embedding"}[official]
    if official.endswith("attn2_out"):
        return "mid_block.attentions.0.transformer_blocks.0.attn2"
    if official == "middle_block":
        return "mid_block"
    # The block's last layer, found by any of its weights.
    last = max(int(match[1]) for key in weights if (match := re.match(re.escape(official) + r"\.(\d+)\.", key)))
    ours = unet_from_official(weights)
    key = next(k for k in weights if k.startswith(f"{official}.{last}."))
    address = {v.data_ptr(): k for k, v in ours.items()}[weights[key].data_ptr()]
    found = re.match(r"(conv_in|\w+\.\d+\.(resnets|attentions|downsamplers|upsamplers)\.\d+)", address)
    assert found, f"{official} ends in {address}"
    return found[1]


def check_unet_recipe(case: GoldenCase) -> None:
    net = make_net(case.meta["constructor"])
    official = unet_to_official(net.unet.state_dict())
    assert_manifest(case, official)
    if "parameters" in case.meta:
        assert sum(p.numel() for p in net.unet.parameters()) == case.meta["parameters"]
    weights = weights_for(case, official)
    del official
    net.unet.load_state_dict(unet_from_official(weights), strict=True, assign=True)
    with torch.no_grad():
        y = net.unet(case.inputs["x"], case.inputs["t"], case.inputs["context"], return_dict=False)[0]
    assert_close(y, case.outputs["y"], "output")


check_official_unet_forward = check_unet_recipe


def check_vq_tiny(case: GoldenCase) -> None:
    net = make_autoencoder(case.meta["constructor"])
    weights = weights_for(case, autoencoder_to_official(net.state_dict()))
    net.load_state_dict(autoencoder_from_official(weights), strict=True)
    assert autoencoder_to_official(net.state_dict()).keys() == weights.keys()
    levels = len(case.meta["constructor"]["ddconfig"]["ch_mult"])
    layers = {
        "encoder_out": "vq.encoder",
        "encoder.mid.attn_1": "vq.encoder.mid_block.attentions.0",
        "encoder.mid.block_2": "vq.encoder.mid_block",
        "decoder.mid.block_2": "vq.decoder.mid_block",
    }
    for level in range(levels):
        blocks = case.meta["constructor"]["ddconfig"]["num_res_blocks"]
        layers[f"encoder.down.{level}.block_last"] = f"vq.encoder.down_blocks.{level}.resnets.{blocks - 1}"
        layers[f"decoder.up.{level}.block_last"] = f"vq.decoder.up_blocks.{levels - 1 - level}.resnets.{blocks}"
    wanted = {official: layers[official] for official in case.mids}
    with torch.no_grad(), recorded(net, sorted(set(wanted.values()))) as seen:
        compare_autoencoder(net, case)
        net.decode(net.encode(case.inputs["image"]))
    for official, ours in wanted.items():
        theirs = case.mids[official]
        assert_close(seen[ours][: len(theirs)], theirs, official)


def compare_autoencoder(net: VQAutoencoder, case: GoldenCase) -> None:
    outputs = case.outputs
    with torch.no_grad():
        latent = net.encode(case.inputs["image"])
        quantised = net.quantise(latent)
        assert_close(latent, outputs["latent_prequant"], "latent")
        assert torch.equal(quantised.indices.flatten(), outputs["indices"])
        assert_close(quantised.latent, outputs["quantized"], "quantised latent")
        assert_close(quantised.loss, outputs["codebook_loss"], "codebook loss")
        assert_close(net.decode(latent), outputs["decoded"], "frames")
        if "decoded_no_quant" in outputs:
            assert_close(net.decode(latent, quantise=False), outputs["decoded_no_quant"], "frames without quantisation")
        if "codebook_entries" in outputs:
            entries = net.vq.quantize.embedding(quantised.indices).permute(0, 3, 1, 2)
            assert torch.equal(entries, outputs["codebook_entries"])


def check_vq_recipe(case: GoldenCase) -> None:
    net = make_autoencoder(case.meta["constructor"])
    official = autoencoder_to_official(net.state_dict())
    assert_manifest(case, official)
    if "parameters" in case.meta:
        assert sum(p.numel() for p in net.parameters()) == case.meta["parameters"]
    net.load_state_dict(autoencoder_from_official(weights_for(case, official)), strict=True)
    compare_autoencoder(net, case)


check_official_vq_forward = check_vq_recipe


# --- the second stage


def check_latent_diffusion_tiny(case: GoldenCase) -> None:
    model, inputs, outputs, mids = Model(case), case.inputs, case.outputs, case.mids
    back = to_official(from_official(model.weights, "last"), betas=model.betas)
    whole = {key for key in back if not key.startswith("model_ema.")}
    assert model.weights.keys() == (whole if "betas" in model.weights else {k for k in whole if k.startswith(NETWORKS)})
    assert all(torch.equal(back[key], value) for key, value in model.weights.items())
    frames = {name: inputs[name].permute(0, 3, 1, 2) for name in ("image", "image_mask", "reference_img")}
    audio = inputs["audio_smooth"].flatten(2)
    with torch.no_grad():
        clean, masked, reference = (model.first_stage.encode(frame) for frame in frames.values())
        assert_close(model.first_stage.decode(clean), outputs["xrec"], "reconstruction")
    assert_close(frames["image"], outputs["x"], "frames")
    for ours, name in ((clean, "z"), (masked, "c_mask_latent"), (reference, "c_ref_latent")):
        assert_close(ours, outputs[name], name)
    # From here on with the stored latents: the U-Net makes ten times as much of a rounding error in its input.
    clean, masked, reference = (outputs[name] for name in ("z", "c_mask_latent", "c_ref_latent"))
    t, noise, tables = inputs["t"], inputs["noise"], model.tables
    level, spread = (
        tables[f"sqrt_{name}"][t].view(-1, 1, 1, 1) for name in ("alphas_cumprod", "one_minus_alphas_cumprod")
    )
    noisy = level * clean + spread * noise
    assert_close(noisy, mids["x_noisy"], "x_t")
    assert_close(torch.cat([noisy, masked, reference], dim=1), mids["unet_input"], "input of the U-Net")

    tokens = model.net.tokens(audio, inputs["landmarks"])
    assert_close(tokens, mids["context"], "context")
    half = outputs["c_audio"].shape[1]
    assert_close(tokens[:, 0, :half], outputs["c_audio"], "audio")
    assert_close(tokens[:, 0, half:], outputs["c_landmark"], "landmarks")
    prediction = model.net.denoise(noisy, t, masked, reference, tokens)
    assert_close(prediction, mids["model_output"], "prediction")
    per_sample = (prediction - noise).square().mean(dim=(1, 2, 3))
    loss = per_sample.mean()
    assert_close(loss, outputs["loss"], "loss")
    assert_close(loss, outputs["val/loss_simple"], "loss_simple")
    assert_close(loss, outputs["val/loss"], "val/loss")
    vlb = (vlb_weights(model.betas)[t] * per_sample).mean()
    assert_close(vlb, outputs["val/loss_vlb"], "loss_vlb")

    loss.backward()
    check_step(case, model)


def check_step(case: GoldenCase, model: Model) -> None:
    """Gradients, clipping, one step of AdamW and one of the average."""
    net, outputs = model.net, case.outputs
    options = optimiser_options(case)
    ours = net_under_official_names(net)
    for name, theirs in case.group("out/grad").items():
        gradient = ours[name].grad
        assert_close(gradient if gradient is not None else torch.zeros_like(theirs), theirs, f"gradient of {name}")
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), options.pop("clip"))
    assert_close(norm, outputs["grad_norm_before_clip"], "norm of the gradient")
    moved = {name: ours[name].grad.abs() > 1e-6 for name in case.group("out/after_step")}
    average, _ = averaged(net)
    torch.optim.AdamW(net.parameters(), **options).step()
    average.update_parameters(net)
    for name, theirs in case.group("out/after_step").items():
        assert_close(torch.where(moved[name], ours[name], theirs), theirs, f"{name} after a step")
    assert int(average.n_averaged) - 1 == outputs["ema_num_updates"]
    shadows = net_under_official_names(average.module)
    for name, theirs in case.group("out/ema_after_step").items():
        assert_close(torch.where(moved[name], shadows[name], theirs), theirs, f"average of {name}")


def optimiser_options(case: GoldenCase) -> dict[str, float]:
    """Learning rate and clipping, from the sentence that describes the step; the rest are the framework's defaults."""
    found = re.search(
        r"clip_grad_norm\(([\d.e-]+)\) and one AdamW step, lr ([\d.e-]+)", case.meta["tensors"]["out/after_step/*"]
    )
    assert found, f"{case.name}: unknown step"
    return {"clip": float(found[1]), "lr": float(found[2])}


def net_under_official_names(net: Any) -> dict[str, Tensor]:
    """Parameters of the network under the original's names."""
    parameters = dict(net.named_parameters())
    unet = {f"{UNET}{k}": v for k, v in unet_to_official(below(parameters, "unet.")).items()}
    inverse = {ours: theirs for theirs, ours in CONDITION_TABLE.items()}
    return unet | rename(below(parameters, "context_encoder."), inverse, "difftalk")


def averaged(module: nn.Module, **options: float) -> tuple[Any, LatentDiffusionAverage]:
    """The average of a module at its beginning, and the callback that keeps it in training."""

    class Holder(pl.LightningModule):
        pass

    holder = Holder()
    holder.module = module
    callback = LatentDiffusionAverage(**options)
    callback.setup(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), holder, "fit")
    average: Any = callback._average_model
    average.module = average.module.module
    return average, callback


def check_ema(case: GoldenCase) -> None:
    steps = sorted({int(match[1]) for key in case.tensors if (match := re.match(r"in/step(\d+)/", key))})
    start = case.group("in/step0")
    net = nn.Module()
    for name, value in start.items():
        net.register_parameter(name.replace(".", "_"), nn.Parameter(value.clone()))
    decays = {float(value) for name, value in case.outputs.items() if name.endswith("/decay")}
    published = LatentDiffusionAverage().max_decay
    stated = next((decay for decay in decays if decay != pytest.approx(published, abs=1e-7)), published)
    average, callback = averaged(net, max_decay=stated)
    for step in steps[1:]:
        with torch.no_grad():
            for name, value in case.group(f"in/step{step}").items():
                net.get_parameter(name.replace(".", "_")).copy_(value)
        average.update_parameters(net)
        shadows = case.group(f"out/step{step}")
        assert int(average.n_averaged) - 1 == shadows.pop("num_updates") == step
        assert_close(torch.tensor(callback.max_decay), shadows.pop("decay"), "largest decay")
        ours = {average_name(name).removeprefix("diffusion_model"): name.replace(".", "_") for name in start}
        assert shadows.keys() <= ours.keys()
        for name, theirs in shadows.items():
            assert_close(average.module.get_parameter(ours[name]), theirs, f"{name} after step {step}")


def check_schedule(case: GoldenCase) -> None:
    options = case.meta["constructor"]
    assert (options.get("beta_schedule", "linear"), options.get("v_posterior", 0)) == ("linear", 0)
    betas = scaled_linear_betas(options["timesteps"], options["linear_start"], options["linear_end"])
    ours = {**noise_tables(betas), "lvlb_weights": vlb_weights(betas)}
    assert ours.keys() == case.outputs.keys()
    for name, theirs in case.outputs.items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-6, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    for name, wanted in case.meta["ddim"].items():
        found = re.fullmatch(r"S(\d+)_eta([\d.]+)", name)
        assert found, name
        compare_ddim(ddim_schedule(ours["alphas_cumprod"], int(found[1]), float(found[2])), wanted, name)


def compare_ddim(schedule: Any, wanted: Mapping[str, Any], name: str) -> None:
    """Values of a published sub-schedule, or its first and last ones."""
    ours = {
        "timesteps": schedule.timesteps.tolist(),
        "alphas": schedule.alphas.tolist(),
        "alphas_prev": schedule.alphas_prev.tolist(),
        "sigmas": schedule.sigmas.tolist(),
    }
    for key, theirs in wanted.items():
        quantity, _, part = key.rpartition("_")
        if key in ours:
            mine: Any = ours[key]
        elif part == "head":
            mine = ours[quantity][: len(theirs)]
        elif part == "tail":
            mine = ours[quantity][-len(theirs) :]
        elif part == "sum":
            mine = sum(ours[quantity])
        elif key in ("n", "steps"):
            mine = len(schedule)
        else:
            assert key in ("S", "eta"), f"{name}: unknown {key}"
            continue
        assert mine == pytest.approx(theirs, rel=1e-6), f"{key} of {name}"


def check_ddim_inpaint_tiny(case: GoldenCase) -> None:
    model, inputs = Model(case), case.inputs
    denoise, ab = model.denoiser(inputs), model.tables["alphas_cumprod"]
    first_masked = None
    for name, run in case.meta["runs"].items():
        schedule = ddim_schedule(ab, run["S"], run["eta"])
        compare_ddim(schedule, run, name)
        mids, noise = case.group(f"mid/{name}"), inputs["ddim_noise"]
        order = range(len(schedule) - 1, -1, -1)
        with torch.no_grad():
            for i, k in enumerate(order):
                x = mids["x_in"][i]
                eps = denoise(x, schedule.timesteps[k].expand(len(x)))
                x_prev, clean = ddim_step(x, eps, schedule, k, noise[i])
                assert_close(x_prev, mids["x_prev"][i], f"{name}, step {i}")
                assert_close(clean, mids["pred_x0"][i], f"{name}, x_0 of step {i}")
        masked = not name.endswith("nomask")
        known: dict[str, Any] = {"known": inputs["x0"], "kept": inputs["mask"].bool()} if masked else {}
        seen: list[Tensor] = []
        samples = published_ddim(
            lambda x, t, seen=seen: seen.append(x) or denoise(x, t),
            inputs["x_T"], ab, run["S"], eta=run["eta"], **known, known_noise=inputs["q_noise"], step_noise=noise,
        )  # fmt: skip
        assert_close(torch.stack(seen), mids["x_in"], f"{name}, inputs", 1e-4)
        assert_close(samples, case.outputs[f"{name}/samples"], f"{name}, samples", 1e-4)
        if masked and first_masked is None:
            first_masked = case.outputs[f"{name}/samples"]
    assert first_masked is not None
    decoded = model.first_stage.decode(first_masked)
    assert_close(decoded, case.outputs["decoded"], "decoded")
    frames = to_uint8(to_unit(case.outputs["decoded"]), rounding="down").permute(0, 2, 3, 1)
    assert torch.equal(frames, case.outputs["frames_uint8"])
    check_seeded(case, denoise, ab)


def check_seeded(case: GoldenCase, denoise: Callable[[Tensor, Tensor], Tensor], ab: Tensor) -> None:
    """The original's order of draws for a whole batch: x_T, then per step the known part's noise and the step's."""
    inputs, run = case.inputs, list(case.meta["runs"].values())
    etas = list(dict.fromkeys(r["eta"] for r in run))
    eta = etas[min(1, len(etas) - 1)]  # the second one, as the case says
    generator = torch.Generator().manual_seed(case.meta["global_seed_of_seeded_samples"])
    shape = inputs["x_T"].shape
    x_start = torch.randn(shape, generator=generator)
    draws = [torch.randn(shape, generator=generator) for _ in range(2 * run[0]["steps"])]
    samples = published_ddim(
        denoise, x_start, ab, run[0]["S"], eta=eta, known=inputs["x0"], kept=inputs["mask"].bool(),
        known_noise=torch.stack(draws[::2]), step_noise=torch.stack(draws[1::2]),
    )  # fmt: skip
    assert_close(samples, case.outputs["seeded_samples"], "seeded samples", 1e-4)


def check_ddpm_ancestral_tiny(case: GoldenCase) -> None:
    model, inputs, outputs = Model(case), case.inputs, case.outputs
    denoise, x = model.denoiser(inputs), inputs["x"]
    times = [int(name.removeprefix("p_sample_t")) for name in outputs if name.startswith("p_sample_t")]
    for i, t in enumerate(sorted(times, reverse=True)):
        with torch.no_grad():
            eps = denoise(x, torch.full((len(x),), t))
        before, clean = ancestral_step(x, eps, t, model.tables, inputs["noise"][i])
        assert_close(before, outputs[f"p_sample_t{t}"], f"step at t = {t}")
        assert_close(clean, outputs[f"pred_x0_t{t}"], f"x_0 at t = {t}")
    steps = len(inputs["loop_q_noise"])
    samples = ancestral_inpaint(
        denoise, x, model.tables, first=steps - 1, known=inputs["x0"], kept=inputs["mask"].bool(),
        known_noise=inputs["loop_q_noise"], step_noise=inputs["noise"][:steps],
    )  # fmt: skip
    assert_close(samples, outputs[f"p_sample_loop_T{steps}_masked"], "masked loop")


# --- the first stage's losses


def check_vqgan_loss_tiny(case: GoldenCase) -> None:
    options, inputs, outputs = case.meta["constructor"], case.inputs, case.outputs
    assert options["perceptual_weight"] == 0
    assert not options["disc_conditional"]
    frames = inputs["image"]
    shape = (options["disc_in_channels"], options["disc_ndf"], options["disc_num_layers"])
    own = {f"discriminator.{k}": v for k, v in PatchDiscriminator(*shape).state_dict().items()}
    judges = below(weights_of(without_sharing(case), own, recipe_weights), "discriminator.")
    weights = before_passes(judges, shape, [frames, case.mids["xrec"]])
    first_stage = first_stage_arguments(case)
    official = autoencoder_to_official(VQAutoencoder(**first_stage).state_dict())
    autoencoder = autoencoder_from_official(
        {k: v for k, v in weights_for(case, official).items() if not k.startswith("discriminator.")}
    )

    def discriminator() -> PatchDiscriminator:
        net = PatchDiscriminator(*shape)
        net.load_state_dict(weights, strict=True)
        return net

    with torch.no_grad():
        assert_close(discriminator().eval()(frames), outputs["logits_eval"], "logits")
    steps = sorted({int(match[1]) for key in outputs if (match := re.match(r"step(\d+)/", key))})
    for step in steps:
        net = VQAutoencoder(**first_stage).eval()
        net.load_state_dict(autoencoder, strict=True)
        on = float(step >= options["disc_start"])
        reconstructed, quantised = net(frames)
        assert_close(reconstructed, case.mids["xrec"], "reconstruction")
        assert_close(quantised.loss, case.mids["codebook_loss"], "codebook loss")
        rec = (frames - reconstructed).abs().mean()
        judge = discriminator()
        g = generator_loss(judge(reconstructed))
        weight = adaptive_weight(rec, g, net.last_layer) * options["disc_weight"]
        total = rec + weight * on * g + options["codebook_weight"] * quantised.loss
        theirs = case.group(f"out/step{step}/gen")
        ours = {
            "total_loss": total, "quant_loss": quantised.loss, "nll_loss": rec, "rec_loss": rec, "d_weight": weight,
            "p_loss": torch.zeros(()), "disc_factor": torch.tensor(on), "g_loss": g,
        }  # fmt: skip
        for name in (key for key in theirs if key.startswith("train/")):
            assert_close(ours[name.removeprefix("train/")], theirs[name], f"step {step}: {name}")
        total.backward()
        gradients = autoencoder_to_official({k: p.grad for k, p in net.named_parameters() if p.grad is not None})
        for name in (key for key in theirs if key.startswith("grad_")):
            assert_close(gradients[name.removeprefix("grad_")], theirs[name], f"step {step}: {name}")
        judge = discriminator()
        real, fake = judge(frames), judge(reconstructed.detach())
        loss = on * discriminator_loss(real, fake)
        loss.backward()
        theirs = case.group(f"out/step{step}/disc")
        ours = {"disc_loss": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        parameters = dict(judge.named_parameters())
        for name, value in theirs.items():
            if name.startswith("grad_"):
                gradient = parameters[name.removeprefix("grad_")].grad
                assert gradient is not None
                assert_close(gradient, value, f"step {step}: {name}")
            else:
                assert_close(ours[name.removeprefix("train/")], value, f"step {step}: {name}")


def without_sharing(case: GoldenCase) -> GoldenCase:
    """The case with the weights of its own file only."""
    return GoldenCase(case.path, {key: value for key, value in case.meta.items() if key != "weights_from"})


def first_stage_arguments(case: GoldenCase) -> dict[str, Any]:
    """Arguments of `VQAutoencoder`: of the case whose weights are shared, or read off the weights."""
    if shared := case.shares():
        constructor = shared[0].meta["constructor"]
        return autoencoder_arguments(constructor.get("first_stage_config", {}).get("params", constructor))
    return dict(arguments_of_weights(case.weights))


def before_passes(
    weights: dict[str, Tensor], shape: tuple[int, int, int], passes: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The running statistics before the passes that the stored ones have seen already, as the counter beside them says.

    The last of them were those of `passes`, in this order; each moved the statistics by a tenth of the way to the batch's.
    """
    counts = {int(value) for key, value in weights.items() if key.endswith("num_batches_tracked")}
    assert counts in ({0}, {len(passes)}), counts
    if counts == {0}:
        return weights
    undone = dict(weights)
    for frames in reversed(passes):
        net = PatchDiscriminator(*shape)
        net.load_state_dict(weights)
        for layer in net.main:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        with torch.no_grad():
            net.train()(frames)
        for key, of_batch in net.state_dict().items():
            if "running" in key:
                undone[key] = (undone[key] - 0.1 * of_batch) / 0.9
    return undone


def check_lpips_recipe(case: GoldenCase) -> None:
    distance = PerceptualDistance.from_lpips(weights_for(case, lpips_state())).train()
    a, b, theirs = case.inputs["a"], case.inputs["b"], case.outputs["lpips"]
    with torch.no_grad():
        assert_close(distance(a, b), theirs.flatten(), "distance")
        h = (a - distance.shift) / distance.scale
        start = 0
        for i, end in enumerate(distance.backbone.ends, start=1):
            h = distance.features[start:end](h)
            start = end
            if (stats := case.mids.get(f"slice{i}_mean_std_abssum")) is not None:
                scale = torch.stack([stats[1], stats[1], stats[2]])
                ours = torch.stack([h.mean(), h.std(), h.abs().sum()])
                assert_close(ours / scale, stats / scale, f"level {i}")


# --- key lists


def check_manifest(case: GoldenCase) -> None:
    """Ours under the original's names have the listed shapes, and the listed keys land on all of ours."""
    listed = {
        key: torch.empty(e["shape"], dtype=getattr(torch, e["dtype"]), device="meta")
        for key, e in case.meta["tensors"].items()
    }
    info = case.meta["_info"]
    with torch.device("meta"):
        back, ours, own = manifest_forms(listed, info.get("constructor", {}))
    assert {key: (value.shape, value.dtype) for key, value in back.items()} == {
        key: (value.shape, value.dtype) for key, value in listed.items()
    }
    assert shapes_of(ours) == shapes_of(own)
    if "keys" in info:
        assert len(listed) == info["keys"]
    if "elements_state_dict" in info:
        assert sum(value.numel() for value in listed.values()) == info["elements_state_dict"]


def manifest_forms(
    listed: dict[str, Tensor], constructor: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Our tensors under the original's names, the listed ones under ours, and our own, for the kind of list that it is."""
    if any(key.startswith(UNET) for key in listed):
        return complete_forms(listed)
    if "encoder.conv_in.weight" in listed:
        return autoencoder_forms(listed, constructor)
    if "input_blocks.0.0.weight" in listed:
        own = make_net(constructor).unet.state_dict()
        return unet_to_official(own), unet_from_official(listed), own
    if "main.0.weight" in listed:
        own = PatchDiscriminator(constructor["input_nc"], constructor["ndf"], constructor["n_layers"]).state_dict()
        return own, listed, own
    if "net.slice1.0.weight" in listed:
        return perceptual_forms(listed)
    return condition_forms(listed, constructor)


def complete_forms(listed: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    net = DiffTalkNet(**adapter.net_arguments(listed))  # sizes as the converter reads them off the shapes
    first_stage = VQAutoencoder(**adapter.autoencoder_arguments(below(listed, FIRST_STAGE)))
    own = {f"net.{k}": v for k, v in net.state_dict().items()}
    own |= {f"first_stage.{k}": v for k, v in first_stage.state_dict().items()}
    for weights in ("ema", "last"):
        assert shapes_of(from_official(listed, weights)) == shapes_of(own)
    with torch.device("cpu"):
        tables = noise_tables(scaled_linear_betas(len(listed["betas"])))
    return {k: v.to("meta") for k, v in {**to_official(own), **tables}.items()}, from_official(listed), own


def autoencoder_forms(
    listed: dict[str, Tensor], constructor: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    arguments = autoencoder_arguments(constructor) if constructor else adapter.autoencoder_arguments(listed)
    net = VQAutoencoder(**arguments)
    own = {f"net.{k}": v for k, v in net.state_dict().items()}
    back = autoencoder_to_official(net.state_dict())
    if any(key.startswith(LOSS) for key in listed):
        settings = adapter.discriminator_config(below(listed, DISCRIMINATOR))
        judge = PatchDiscriminator(**{k: v for k, v in settings.items() if k != "_target_"}).state_dict()
        own |= {f"discriminator.{k}": v for k, v in judge.items()}
        back |= {f"loss.discriminator.{k}": v for k, v in judge.items()}
        back |= {k: v for k, v in listed.items() if k.startswith("loss.perceptual_loss.")}  # dropped by ours
    return back, autoencoder_checkpoint_from_official(listed), own


def perceptual_forms(listed: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """LPIPS goes one way only: its listed shapes fit ours."""
    with torch.device("cpu"):
        weights = {k: torch.zeros(v.shape) for k, v in listed.items()}
        own = PerceptualDistance.from_lpips(weights).features.state_dict()
    ours = {re.sub(r"^net\.slice\d\.", "", k): v for k, v in listed.items() if k.startswith("net.")}
    return listed, ours, own


def condition_forms(
    listed: dict[str, Tensor], constructor: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    prefixes = {
        "encoder_conv.0.weight": ("audio", "cond_stage_model_for_audio."),
        "attentionConvNet.0.weight": ("audio_smooth", "cond_stage_model_for_audio_smooth."),
        "encoder_fc1.4.weight": ("ldm", "cond_stage_model_for_ldm."),
    }
    _, prefix = next(found for key, found in prefixes.items() if key in listed)
    # The token is half sound, half landmarks; a quarter of it decides how much each window counts.
    shares = {"cond_stage_model_for_audio_smooth.": 4}
    width = shares.get(prefix, 2) * constructor.get("dim_aud", constructor.get("dim_out"))
    net = DiffTalkNet(context="merged", context_dim=width, n_audio_rows=constructor.get("seq_len", 8))
    official = {f"{prefix}{k}": v for k, v in listed.items()}
    ours = rename(official, CONDITION_TABLE, "difftalk")
    everything: Any = net.context_encoder
    part = {"cond_stage_model_for_audio.": "audio.", "cond_stage_model_for_audio_smooth.": "audio_attention."}
    own = {k: v for k, v in everything.state_dict().items() if k.startswith(part.get(prefix, "landmarks."))}
    inverse = {new: old for old, new in CONDITION_TABLE.items()}
    return below(rename(own, inverse, "difftalk"), prefix), ours, own


def assert_manifest(case: GoldenCase, official: Mapping[str, Tensor]) -> None:
    if "manifest" not in case.meta:
        return
    listed = load_case(case.path.with_name(case.meta["manifest"])).meta["tensors"]
    assert {key: list(value.shape) for key, value in official.items()} == {k: e["shape"] for k, e in listed.items()}


# --- dispatch


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function) and name not in ("check_step", "check_seeded")
}
# Beyond ten seconds: weights of half a gigabyte and more are made first.
SLOW = {"official_unet_forward"}
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.check in SLOW else [])
    for case in golden_cases("difftalk")
    if case.check in CHECKS
]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_original(case: GoldenCase):
    CHECKS[case.check](case)


@pytest.mark.parametrize("case", golden_cases("difftalk"), ids=lambda case: case.name)
def test_every_case_is_checked_somewhere(case: GoldenCase):
    known = case.check in CHECKS or case.check in data.CHECKS
    assert known, f"{case.name}: there is no test for the check {case.check!r}"
