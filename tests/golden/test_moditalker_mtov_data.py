"""MToV's data and helpers of its training against the original's: pictures, items, orders, averages, schedules."""

import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.datamodules.sampling import wandering_order
from src.diffusion.pixels import to_signed, to_uint8, to_unit
from src.face.moditalker_mtov import DOT_RADIUS, dots, from_unit_square, mask_rows, square_crop, without_lower_face
from src.lightning_modules.ema import LatentDiffusionAverage
from src.lightning_modules.moditalker_mtov_autoencoder import phase_of
from src.lightning_modules.optimization import linear_cycles
from tests.golden.conftest import GoldenCase


def bits(pictures: np.ndarray) -> np.ndarray:
    """Which pixels are white, packed along the rows."""
    assert ((pictures == 0) | (pictures == 255)).all()
    assert (pictures == pictures[..., :1]).all()
    return np.packbits(pictures[..., 0] > 0, axis=-1)


def as_frames(tensor: Tensor) -> Tensor:
    """(t, h, w, 3) -> (t, 3, h, w)."""
    return tensor.permute(0, 3, 1, 2)


def assert_equal(ours: Any, theirs: Any, what: str) -> None:
    assert np.array_equal(np.asarray(ours), np.asarray(theirs)), what


def check_landmark_raster(case: GoldenCase) -> None:
    for name, meta in case.meta["cases"].items():
        points = case.inputs[f"landmarks{name}"].numpy()
        if meta["kind"] == "norm":
            points = from_unit_square(points, meta["WH"])
        pictures = dots(points, meta["WH"])
        if meta["flip"]:
            pictures = pictures[:, ::-1]
        assert int((pictures[..., 0] > 0).sum()) == meta["white_pixels"]
        assert_equal(bits(pictures), case.outputs[f"mask_bits{name}"], f"case {name}")
    stamp = case.outputs[f"disc_radius{DOT_RADIUS}"]
    one = np.full((1, 68, 2), -100)
    one[0, 0] = 4
    assert_equal(dots(one, len(stamp), len(stamp))[0, ..., 0] > 0, stamp > 0, "stamp")


def check_mask_and_resize(case: GoldenCase) -> None:
    image = case.inputs["image_uint8"].permute(1, 2, 0).numpy()[None]
    rows = mask_rows(case.inputs["landmarks"].numpy()[None])
    masked = without_lower_face(image, rows)[0].transpose(2, 0, 1)
    assert_equal(masked, case.outputs["masked_uint8"], "masked frame")
    assert_equal(
        case.mids["roundtrip_all_bytes_truncated"], np.arange(256), "grey levels survive the original's loading"
    )
    for name in (key for key in case.outputs if key.startswith("resize_crop_")):
        kind, size = name.removeprefix("resize_crop_").rsplit("_", 1)
        ours = square_crop(case.inputs[f"video_{kind}"], int(size)).transpose(0, 1)
        torch.testing.assert_close(ours, case.outputs[name], rtol=0, atol=1e-5 * 255, msg=name)


def check_item(case: GoldenCase, landmarks: Tensor, drawn: Tensor) -> None:
    """Pictures of a window of frames (t, h, w, 3), masked by some landmarks and with others drawn."""
    frames, outputs, size = case.inputs["frames_uint8"], case.outputs, case.meta["resolution"]
    masked = torch.from_numpy(without_lower_face(frames.numpy(), mask_rows(landmarks.numpy())))
    for name, pictures in (("video", frames), ("masked", masked)):
        ours = square_crop(as_frames(pictures), size)
        torch.testing.assert_close(ours, outputs[name], rtol=0, atol=1e-5 * 255, msg=name)
    width = frames.shape[2]
    assert_equal(bits(dots(drawn.numpy(), width)), outputs["landmark_bits"], "landmark pictures")


def check_train_item(case: GoldenCase) -> None:
    check_item(case, case.inputs["landmarks"], case.inputs["landmarks"])
    first = square_crop(as_frames(case.inputs["frames_uint8"][:1]), case.meta["resolution"])
    expected = case.outputs["ref"]
    assert len(expected) == case.meta["nframes"]
    torch.testing.assert_close(first.expand_as(expected), expected, rtol=0, atol=1e-5 * 255)


def check_eval_item(case: GoldenCase) -> None:
    check_item(case, case.inputs["landmarks_gt"], case.inputs["landmarks_generated"])
    first = square_crop(as_frames(case.inputs["first_frame_uint8"][None]), case.meta["resolution"])
    torch.testing.assert_close(first[0], case.outputs["ref0"], rtol=0, atol=1e-5 * 255)
    length = len(case.inputs["frames_uint8"])
    assert min(case.meta["total_frames"], case.meta["n_available"]) // length == case.meta["dataset_length"]


def check_infinite_sampler(case: GoldenCase) -> None:
    for name, meta in case.meta["cases"].items():
        options = {key: value for key, value in meta.items() if key != "take"}
        if "window_size" in options:
            options["window"] = options.pop("window_size")
        order = wandering_order(**options)
        assert_equal(list(itertools.islice(order, meta["take"])), case.outputs[f"indices{name}"], f"case {name}")


def check_sample_postprocess(case: GoldenCase) -> None:
    decoded, b = case.inputs["decoded"], case.meta["batch"]
    signed = decoded.clamp(-1, 1).unflatten(0, (b, -1))
    frames = to_uint8(to_unit(signed), "down")
    panels = [frames[i] for i in range(b)]
    if case.meta["landmark_panel"]:
        panels.insert(0, to_uint8(to_unit(case.inputs["x_l"][0].transpose(0, 1)), "down"))
    assert_equal(torch.cat(panels, dim=3).permute(0, 2, 3, 1), case.outputs["frames"], "frames")
    last = to_uint8(to_unit(signed[:, -1]))
    assert_equal(last.permute(0, 2, 3, 1), case.outputs["last_frame_uint8"], "last frame")
    torch.testing.assert_close(to_signed(last[0]), case.outputs["next_reference"], rtol=0, atol=1e-6)


def check_ema(case: GoldenCase) -> None:
    initial, values = case.group("in/initial"), case.group("in/values")
    net = nn.Module()
    for name, value in initial.items():
        net.register_parameter(name.replace(".", "_"), nn.Parameter(value.clone()))
    callback = LatentDiffusionAverage(max_decay=case.meta["decay"])
    average = {name: value.clone() for name, value in initial.items()}
    for n in range(case.meta["n_updates"]):
        decay = torch.tensor(callback.decay(n + 2), dtype=torch.float64)
        torch.testing.assert_close(decay, case.outputs["decay"][n], rtol=1e-12, atol=0)
        weights = tuple(values[name][n] for name in average)
        callback._update(tuple(average.values()), weights, n + 1)
    for name, value in average.items():
        torch.testing.assert_close(value, case.outputs[f"shadow/{name}"], rtol=0, atol=1e-6, msg=name)


def check_lr_linear_warmup(case: GoldenCase) -> None:
    options = case.meta["constructor"]
    known = ("warm_up_steps", "cycle_lengths", "f_start", "f_max", "f_min")
    factor = linear_cycles(**{name: options[name] for name in known})
    ours = torch.tensor([factor(n) for n in case.inputs["n"].tolist()], dtype=torch.float64)
    torch.testing.assert_close(ours, case.outputs["factor"], rtol=1e-12, atol=0)


def accumulation(case: GoldenCase) -> int:
    """Over how many iterations the case adds up gradients."""
    found = re.search(r"accumulation (\d+)", case.meta["case_kind"])
    assert found, f"{case.name}: no accumulation in {case.meta['case_kind']!r}"
    return int(found[1])


def check_ae_phase_schedule(case: GoldenCase) -> None:
    for disc_start, schedule in case.meta["schedules"].items():
        accumulate = accumulation(case)
        for entry in schedule:
            n = entry["iteration"]
            phase = phase_of(n, max(int(disc_start), 0), accumulate)
            assert phase == entry["phase"], f"disc_start {disc_start}, iteration {n}"
            autoencoder = phase == "autoencoder"
            assert entry["reconstruction_requires_grad"] == autoencoder
            events = ["loss"]
            if n % accumulate == 0:
                events.insert(0, "model.zero_grad" if autoencoder else "criterion.zero_grad")
            if n % accumulate == accumulate - 1:
                events.append("opt.step" if autoencoder else "d_opt.step")
            assert entry["events"] == events


def pipeline_inputs(case: GoldenCase) -> dict[str, Tensor]:
    """The clips (1, t, 3, h, w) in [-1, 1] that the input rule describes."""
    rule, config = case.meta["input_rule"], case.meta["autoencoder"]["ddconfig"]
    length, side = config["timesteps"], config["resolution"]
    generator = torch.Generator().manual_seed(case.meta["seed"])

    def blocks(name: str) -> Tensor:
        found = re.search(rf"{name} = round\(rand\(1,3,(\d+),(\d+),(\d+),g\)\*255\)", rule)
        assert found, f"{case.name}: no {name} in {rule!r}"
        frames, rows, columns = (int(number) for number in found.groups())
        levels = (torch.rand(1, 3, frames, rows, columns, generator=generator) * 255).round()
        for axis, n in ((2, length // frames), (3, side // rows), (4, side // columns)):
            levels = levels.repeat_interleave(n, dim=axis)
        return levels

    reference, video = blocks("reference"), blocks("video")
    masked = video.clone()
    masked[..., case.meta["mask_row"] :, :] = 0
    points = (torch.rand(length, 68, 2, generator=generator) * side).long()
    assert torch.equal(points, case.inputs["landmarks"].long())
    drawn = torch.from_numpy(dots(points.numpy(), side)).permute(3, 0, 1, 2)[None].float()
    clips = {"reference": reference, "video": video, "masked": masked, "landmarks": drawn}
    return {name: (clip / 127.5 - 1).transpose(1, 2) for name, clip in clips.items()}


CHECKS: dict[str, Callable[[GoldenCase], None]] = {
    name.removeprefix("check_"): function
    for name, function in globals().items()
    if name.startswith("check_") and inspect.isfunction(function) and name != "check_item"
}
