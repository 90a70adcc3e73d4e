"""landmark_driven against tensors of the original; every case of the folder is checked by what its field `check` says."""

import inspect
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics.functional.image import structural_similarity_index_measure

from src.adapters.landmark_driven import from_official, load_diffusers_folder, to_official
from src.datamodules.selection import kept_frames
from src.diffusion.noise import FrameNoise
from src.diffusion.pixels import to_signed, to_uint8, to_unit
from src.diffusion.sampling import sample
from src.lightning_modules.ema import ExponentialMovingAverage
from src.lightning_modules.landmark_driven import LandmarkDriven, stack_condition
from src.metrics.images import SSIM
from src.nn.landmark_driven import LandmarkDrivenUNet
from src.pipelines.landmark_driven import LandmarkDrivenPipeline
from tests.golden.conftest import GOLDEN_DIR, GoldenCase, golden_cases, load_case
from tests.golden.landmark_driven_face import CHECKS as FACE_CHECKS
from tests.golden.landmark_driven_face import check_warp_identity

FOLDER = GOLDEN_DIR / "landmark_driven"
CASES = golden_cases("landmark_driven")

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden fixtures at {FOLDER}"),
]


# --- helpers


def assert_close(ours: Tensor, theirs: Tensor, atol: float, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    error = (ours.double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    assert error <= atol, f"{what}: largest error {error:.2e}, tolerance {atol:.0e}"


def official_weights(case: GoldenCase, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Weights under their original names: stored, of the case that `weights_from` names, or made by the recipe."""
    if case.weights:
        return case.weights
    assert "norm" in case.meta.get("recipe", recipe_of_origin(case)), f"{case.name} has no weights and no known recipe"
    return {key: recipe_weight(key, shape) for key, shape in shapes.items()}


def recipe_of_origin(case: GoldenCase) -> str:
    origin = case.meta.get("weights_from")
    return load_case(case.path.with_name(origin + ".json")).meta.get("recipe", "") if origin else ""


def recipe_weight(key: str, shape: torch.Size) -> Tensor:
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("bias"):
        return 0.02 * r
    return 1 + 0.05 * r if "norm" in key else r / r[0].numel() ** 0.5


def network(case: GoldenCase) -> LandmarkDrivenUNet:
    net = LandmarkDrivenUNet(**case.meta["config"])
    shapes = {key: value.shape for key, value in to_official(net.state_dict()).items()}
    net.load_state_dict(from_official(official_weights(case, shapes)), strict=True)
    return net.eval()


def module(case: GoldenCase, **options: object) -> LandmarkDriven:
    schedule = DDIMScheduler(prediction_type=case.meta.get("prediction_type", "epsilon"))
    return LandmarkDriven(network(case), schedule, **options)


@contextmanager
def recorded(net: nn.Module, names: list[str]):
    """Outputs of the named sub-modules (of a down block: its hidden state) during the block."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: object, output: object) -> None:
        outputs[name] = (output[0] if isinstance(output, tuple) else output).detach()

    hooks = [net.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    yield outputs
    for hook in hooks:
        hook.remove()


def as_stored(value: Tensor, stored: Tensor) -> Tensor:
    """Of feature maps only the upper left corner of sample 0 is stored."""
    return value[: len(stored), :, : stored.shape[2], : stored.shape[3]] if stored.ndim == 4 else value


# --- network


def check_unet_forward(case: GoldenCase) -> None:
    net, x = network(case), case.inputs["sample"]
    with torch.no_grad(), recorded(net.unet, list(case.mids)) as ours:
        out = net(x[:, :3], x[:, 3:], case.inputs["timesteps"])
    order = {name: i for i, name in enumerate(ours)}  # hooks fire in forward order: the first failure names the layer
    for name in sorted(case.mids, key=order.__getitem__):
        stored = case.mids[name]
        assert_close(as_stored(ours[name], stored), stored, case.meta["tolerance"], name)
    assert_close(out, case.outputs["sample"], case.meta["tolerance"], "out/sample")


def check_official_forward(case: GoldenCase) -> None:
    net = network(case)
    generator = torch.Generator().manual_seed(case.meta["input_seed"])
    x = torch.randn(case.meta["input_shape"], generator=generator)
    assert_close(statistics(x), case.inputs["sample_stats"], 1e-3, "the input")
    names = [name.removesuffix(".stats") for name in case.mids]
    with torch.no_grad(), recorded(net.unet, names) as ours:
        out = net(x[:, :3], x[:, 3:], torch.tensor(case.meta["timesteps"]))
    for name in ours:
        theirs = case.mids[f"{name}.stats"]
        size = torch.tensor([theirs[1], theirs[1], theirs[2]])  # of mean, standard deviation, sum of magnitudes
        assert_close(statistics(ours[name]) / size, theirs / size, 1e-4, name)
    expected = case.outputs["sample"]
    assert_close(out, expected, 1e-4 * expected.std().item(), "out/sample")


def statistics(x: Tensor) -> Tensor:
    x = x.double()
    return torch.stack([x.mean(), x.std(), x.abs().sum()])


def check_manifest(case: GoldenCase) -> None:
    with torch.device("meta"):
        net = LandmarkDrivenUNet(**case.meta["config"])
    ours = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in to_official(net.state_dict()).items()
    }
    assert ours == case.meta["tensors"]
    assert sum(p.numel() for p in net.parameters()) == case.meta["parameters"]
    settings = {key: net.unet.config[key] for key in case.meta["config_defaults"]}
    assert settings == case.meta["config_defaults"]


# --- diffusion


def check_ddim_scheduler(case: GoldenCase) -> None:
    meta, inputs, outputs = case.meta, case.inputs, case.outputs
    names = ("num_train_timesteps", "beta_schedule", "prediction_type")
    scheduler = DDIMScheduler(**{name: meta[name] for name in names})
    assert_close(scheduler.betas, outputs["betas"], 0, "betas")
    assert_close(scheduler.alphas_cumprod, outputs["alphas_cumprod"], 0, "alphas_cumprod")
    noisy = scheduler.add_noise(inputs["x0"], inputs["noise"], inputs["t"])
    assert_close(noisy, outputs["noisy"], meta["tolerance"], "noisy")
    for steps in meta["steps_listed"]:
        scheduler.set_timesteps(steps)
        assert torch.equal(scheduler.timesteps, outputs[f"timesteps_{steps}"]), f"time steps for {steps} steps"

    answers = iter(inputs["model_output"])
    xs: list[Tensor] = []
    sample(
        lambda x, t: next(answers),
        inputs["x_T"],
        scheduler,
        meta["steps_run"],
        eta=meta["eta"],
        step_noise=inputs.get("variance_noise"),
        callback=lambda i, output, x: xs.append(x),
    )
    assert_close(torch.stack(xs), outputs["x"], meta["tolerance"], "x")
    scheduler.set_timesteps(meta["steps_run"])
    before = [inputs["x_T"], *xs]
    clean = [
        scheduler.step(output, t, x).pred_original_sample
        for output, t, x in zip(inputs["model_output"], scheduler.timesteps, before, strict=False)
    ]
    assert_close(torch.stack(clean), outputs["pred_x0"], meta["tolerance"], "pred_x0")


def chain_tolerance(case: GoldenCase, model: LandmarkDriven, noise: Tensor, image: Tensor, atol: float) -> float:
    """`atol`, or what rounding alone does to this chain of many steps where that is more.

    A chain can blow a difference of 1e-6, which is what one pass through the network in float32 differs by between processors, up to
    1e-3. How far shows a second run whose start differs by as much: the original may be three times as far away. An error of content
    is a hundred times as large.
    """
    moved = noise + 1e-6 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
    condition = case.inputs["cond"] if "cond" in case.inputs else case.mids["condition"]
    other = model.denoise(
        condition,
        moved.expand(len(condition), -1, -1, -1),
        steps=case.meta["steps"],
        eta=case.meta["eta"],
        step_noise=case.inputs.get("variance_noise"),
    )
    return max(atol, 3 * (to_unit(other) - image).abs().max().item())


def check_sampler(case: GoldenCase) -> None:
    model, meta = module(case), case.meta
    condition, noise = case.inputs["cond"], case.inputs["noise"]
    mode = "same" if meta["same_noise"] else "random"
    source = FrameNoise(noise.shape[1:], torch.Generator().manual_seed(meta["generator_seed"]), mode)
    start, _ = source.draw(len(condition))
    assert torch.equal(start, noise.expand_as(start)), "the starting noise of the seed"
    steps: list[tuple[Tensor, Tensor]] = []
    frames = model.denoise(
        condition,
        noise.expand(len(condition), -1, -1, -1),
        steps=meta["steps"],
        eta=meta["eta"],
        step_noise=case.inputs.get("variance_noise"),
        callback=lambda i, output, x: steps.append((output, x)),
    )
    outputs, xs = (torch.stack(values) for values in zip(*steps, strict=True))
    for i in range(meta["steps"]):
        assert_close(outputs[i], case.mids["model_output"][i], meta["tolerance"], f"network output of step {i}")
        assert_close(xs[i], case.mids["x"][i], meta["tolerance"], f"x after step {i}")
    tolerance = chain_tolerance(case, model, noise, to_unit(frames), meta["tolerance"])
    assert_close(to_unit(frames), case.outputs["image"], tolerance, "image")
    model.noise_schedule.set_timesteps(meta["steps"])
    assert torch.equal(model.noise_schedule.timesteps, case.outputs["timesteps"])


def check_train_steps(case: GoldenCase) -> None:
    meta, inputs, outputs = case.meta, case.inputs, case.outputs
    names = ("lr", "betas", "weight_decay", "eps")
    options = {name: meta[name] for name in names}
    model = module(case, optimizer=partial(torch.optim.AdamW, **options, fused=True)).train()
    optimizer = model.configure_optimizers()
    ema = ExponentialMovingAverage(**meta["ema"])
    average = AveragedModel(model, multi_avg_fn=ema._update)
    rows = meta["batch_size"]
    with recorded(model.net.unet, ["conv_in"]):
        for i in range(meta["steps"]):
            clean, condition, noise, t = (
                inputs[name][i * rows : (i + 1) * rows] for name in ("clean", "condition", "noise", "t")
            )
            if i == 0:
                noisy = model.noise_schedule.add_noise(clean, noise, t)
                assert_close(noisy, case.mids["noisy_step0"], 1e-5, "noisy frames of step 0")
            loss = model.loss(clean, condition, noise, t)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), meta["max_grad_norm"])
            optimizer.step()
            average.update_parameters(model)
            expected = outputs["loss"][i].item()
            assert loss.item() == pytest.approx(expected, rel=1e-5), f"loss of step {i}"
            assert norm.item() == pytest.approx(outputs["grad_norm"][i].item(), rel=1e-4), f"gradient norm of step {i}"
            assert ema.decay(i + 1) == pytest.approx(outputs["ema_decay"][i].item(), abs=1e-12)
    ours = to_official(model.net.state_dict())
    averages = to_official(average.module.net.state_dict())
    assert_nearly_equal(ours, case.group("out/final"), 2e-6, 2 * meta["lr"] * meta["steps"])
    assert_nearly_equal(averages, case.group("out/ema"), 2e-6, 2 * meta["lr"] * meta["steps"])


def assert_nearly_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float, rare: float) -> None:
    """Within `atol`, and `rare` for 0.1 % of the elements; the gradient of `to_k.bias` is zero in exact arithmetic."""
    keys = [key for key in theirs if not key.endswith("to_k.bias")]
    errors = torch.cat([(ours[key] - theirs[key]).abs().flatten() for key in keys])
    assert errors.max() <= rare, f"a weight is {errors.max():.1e} off"
    assert (errors > atol).float().mean() <= 1e-3, f"{(errors > atol).sum()} of {len(errors)} weights are off"


def check_ema_and_lr(case: GoldenCase) -> None:
    meta, outputs = case.meta, case.outputs
    ema = ExponentialMovingAverage(meta["ema_max_decay"], meta["ema_inv_gamma"], meta["ema_power"])
    first = [ema.decay(n) for n in range(1, len(outputs["ema_decay_first"]) + 1)]
    assert_close(
        torch.tensor(first).double(), outputs["ema_decay_first"], meta["tolerance"], "decay of the first steps"
    )
    later = [ema.decay(n) for n in case.inputs["ema_steps"].tolist()]
    assert_close(torch.tensor(later).double(), outputs["ema_decay_at"], meta["tolerance"], "decay at given steps")

    weights = nn.ParameterList([nn.Parameter(case.inputs["params"][0])])
    average = AveragedModel(weights, multi_avg_fn=ema._update)
    for i, values in enumerate(case.inputs["params"][1:]):
        weights[0].data.copy_(values)
        average.update_parameters(weights)
        assert_close(average.module[0], outputs["ema_shadow"][i], meta["tolerance"], f"average after step {i + 1}")

    for name, warmup, total in meta["schedules"]:
        optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=meta["lr"])
        schedule = get_scheduler(name, optimizer=optimizer, num_warmup_steps=warmup, num_training_steps=total)
        rates = []
        for _ in range(total + 1):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert_close(
            torch.tensor(rates, dtype=torch.float64), outputs[f"lr_{name}_{warmup}_{total}"], meta["tolerance"], name
        )


# --- data, pictures, metric


def check_frames_kept(case: GoldenCase) -> None:
    for name, frames in case.outputs.items():
        split, length = name.rsplit("_", 1)
        assert kept_frames(int(length), split).tolist() == frames.tolist(), name
    for length in case.meta["lengths"]:
        assert kept_frames(length, "test").size == 0


def pictures(case: GoldenCase) -> dict[str, Tensor]:
    names = {
        "target": "frame",
        "reference": "reference_frame",
        "target_landmarks": "figure",
        "reference_landmarks": "reference_figure",
    }
    return {ours: case.inputs[theirs].permute(2, 0, 1)[None] for ours, theirs in names.items()}


def check_dataset_item(case: GoldenCase) -> None:
    batch = pictures(case)
    clean = to_signed(batch["target"], torch.float64)[0]
    condition = torch.cat([to_signed(batch[k], torch.float64) for k in list(batch)[1:]], dim=1)[0]
    assert torch.equal(clean, case.outputs["input"])
    assert torch.equal(condition, case.outputs["condition"])
    # What the network gets is the same, rounded to float32.
    assert torch.equal(stack_condition(batch)[0], case.outputs["condition"].float())
    assert torch.equal(to_signed(batch["target"])[0], case.outputs["input"].float())


def rewritten(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Real frames as the original's video script writes them: to [-1, 1], back, truncated."""
    return to_uint8(to_unit(to_signed(frames, dtype)), "down")


def check_quantisation(case: GoldenCase) -> None:
    levels = case.inputs["levels"].to(torch.uint8)
    for name, dtype in (
        ("real_by_name", torch.float64),
        ("landmark_by_name", torch.float32),
        ("real_from_dataset", torch.float32),
        ("landmark_from_dataset", torch.float32),
    ):
        assert torch.equal(rewritten(levels, dtype), case.outputs[name]), name
    check_warp_identity(case)


def check_video_generation(case: GoldenCase) -> None:
    meta, inputs, outputs = case.meta, case.inputs, case.outputs
    frames, drawn = inputs["video"], inputs["landmark_figure"]
    model = module(case)
    pipeline = LandmarkDrivenPipeline(
        model,
        steps=meta["steps"],
        eta=meta["eta"],
        noise="same" if meta["same_noise"] else "random",
        batch_size=len(frames),
        rounding="down",
    )
    conditions: list[Tensor] = []
    images: list[Tensor] = []
    denoise = model.denoise

    def recording_denoise(condition: Tensor, noise: Tensor, **options: object) -> Tensor:
        assert torch.equal(noise, inputs["noise"].expand_as(noise)), "the starting noise of the seed"
        conditions.append(condition)
        images.append(to_unit(denoise(condition, noise, **options)))
        return images[-1] * 2 - 1

    model.denoise = recording_denoise
    video = pipeline.animate(
        frames[0].numpy(),
        drawn[0].numpy(),
        lambda r: drawn[r.start : r.stop].numpy(),
        len(frames),
        fps=float(meta["fps"]),
        seed=meta["generator_seed"],
    )
    generated = torch.from_numpy(video.frames())
    assert_close(torch.cat(conditions), case.mids["condition"], 1e-6, "condition")
    del model.denoise
    tolerance = chain_tolerance(case, model, inputs["noise"], torch.cat(images), meta["tolerance"]["out/image"])
    assert_close(torch.cat(images), outputs["image"], tolerance, "image")
    difference = (generated.flip(-1).int() - outputs["generated_bgr"].int()).abs().max()
    assert difference <= 1, f"a generated grey level is {difference} off"
    real_dtype = torch.float64 if meta["by_name"] else torch.float32
    assert torch.equal(rewritten(frames, real_dtype).flip(-1), outputs["real_bgr"])
    assert torch.equal(rewritten(drawn, torch.float32).flip(-1), outputs["landmark_bgr"])


def check_ssim(case: GoldenCase) -> None:
    """The library's float32 value is the original's; our metric is more exact than both and may differ by their rounding."""
    tolerance, rounding, library, ours = case.meta["tolerance"], 0.0, [], []
    for i in range(len(case.outputs["ssim_per_batch"])):
        generated, real = case.inputs[f"pred_{i}"], case.inputs[f"target_{i}"]
        library.append(structural_similarity_index_measure(generated, real, data_range=1.0))
        exact = structural_similarity_index_measure(generated.double(), real.double(), data_range=1.0)
        rounding = max(rounding, (library[-1] - exact).abs().item())
        metric = SSIM()
        metric.update(generated, real)
        ours.append(metric.compute())
    for values, atol in ((library, tolerance), (ours, tolerance + rounding)):
        per_batch = torch.stack(values).double()
        assert_close(per_batch, case.outputs["ssim_per_batch"], atol, "SSIM per batch")
        assert_close(per_batch.mean().reshape(1), case.outputs["ssim_epoch"].reshape(1), atol, "SSIM")


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function) and function is not check_warp_identity
} | FACE_CHECKS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_the_original(case: GoldenCase):
    assert case.check in CHECKS, f"{case.name}: there is no test for the check {case.check!r}"
    CHECKS[case.check](case)


@pytest.mark.skipif(not (FOLDER / "checkpoint").is_dir(), reason="no checkpoint folder among the fixtures")
def test_original_checkpoint_folder_loads():
    """`checkpoint/` holds the weights of a case that has them, too."""
    arguments, state_dict, scheduler = load_diffusers_folder(FOLDER / "checkpoint")
    net = LandmarkDrivenUNet(**arguments)
    net.load_state_dict(state_dict, strict=True)
    alike = [case for case in CASES if has_config(case, arguments)]
    assert any(same(network(case).state_dict(), net.state_dict()) for case in alike), "no case has the weights"
    assert scheduler["_target_"] == "diffusers.schedulers.scheduling_ddim.DDIMScheduler"
    assert (scheduler["num_train_timesteps"], scheduler["beta_schedule"]) == (1000, "linear")


def has_config(case: GoldenCase, arguments: dict[str, object]) -> bool:
    config = case.meta.get("config")
    return config is not None and all(arguments[key] == value for key, value in config.items())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
