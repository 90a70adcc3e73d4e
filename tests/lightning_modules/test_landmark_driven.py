"""Training of landmark_driven: it learns, resumes to the last bit, and logs numbers that can be compared."""

import logging
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from src.datamodules.landmark_driven import LandmarkDrivenDataModule
from src.diffusion.pixels import to_signed
from src.errors import ConfigError
from src.lightning_modules.callbacks import LogSamples
from src.lightning_modules.ema import ExponentialMovingAverage
from src.lightning_modules.landmark_driven import LandmarkDriven, stack_condition
from src.nn.landmark_driven import LandmarkDrivenUNet
from tests.stores import write_pattern_store

pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=4, n_frames=16, size=16)


def tiny_net(**options) -> LandmarkDrivenUNet:
    torch.manual_seed(0)
    settings = {
        "sample_size": 16,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return LandmarkDrivenUNet(**(settings | options))


def tiny_model(prediction_type: str = "epsilon", **options) -> LandmarkDriven:
    settings = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, fused=True),
        "lr_scheduler": partial(get_scheduler, name="cosine", num_warmup_steps=2),
        "sample_steps": 2,
        "eval_every_n_epochs": 0,
    }
    schedule = DDIMScheduler(prediction_type=prediction_type)
    return LandmarkDriven(tiny_net(), schedule, **(settings | options))


def tiny_data(root: Path, **options) -> LandmarkDrivenDataModule:
    """10 training frames: with batches of 4 an epoch ends with a smaller batch."""
    settings = {"batch_size": 4, "selection": "all", "frames_per_clip": 5, "val_frames_per_clip": 4, "seed": 1}
    return LandmarkDrivenDataModule(root, 16, **(settings | options))


class Record(Callback):
    """Notes which samples every step saw, and its loss."""

    def __init__(self) -> None:
        self.indices: list[list[int]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.indices.append(batch["index"].tolist())
        self.losses.append(outputs["loss"].item())


def fit(model, data, *callbacks, steps: int = 8, ckpt: Path | None = None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        **{"logger": False, "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)} | options,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
    )
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=True)
    return trainer


# --- learning


class FollowTheMark:
    """Pictures whose target is the reference's colour at the place that the landmark picture marks."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.colour = torch.randint(64, 256, (n, 3, 1, 1), generator=generator).to(torch.uint8)
        self.right = torch.randint(2, (n,), generator=generator).bool()

    def batch(self) -> dict[str, Tensor]:
        n = len(self.right)
        half = torch.zeros(n, 1, 8, 8, dtype=torch.bool)
        half[self.right, :, :, 4:] = True
        half[~self.right, :, :, :4] = True
        return {
            "target": torch.where(half, self.colour, 0).to(torch.uint8),
            "reference": self.colour.expand(n, 3, 8, 8),
            "target_landmarks": (255 * half).to(torch.uint8).expand(n, 3, 8, 8),
            "reference_landmarks": torch.zeros(n, 3, 8, 8, dtype=torch.uint8),
        }


def test_samples_follow_reference_and_landmarks():
    """Unseen colours appear at the marked side."""
    model = tiny_model("v_prediction", sample_steps=10).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(150):
        batch = FollowTheMark(16, step).batch()
        clean = to_signed(batch["target"])
        noise = torch.randn(clean.shape, generator=generator)
        timestep = torch.randint(1000, (16,), generator=generator)
        loss = model.loss(clean, stack_condition(batch), noise, timestep)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    unseen = FollowTheMark(32, 12345).batch()
    target = to_signed(unseen["target"])
    generated = model.eval().sample(unseen, torch.Generator().manual_seed(0))
    assert (generated - target).abs().mean() < 0.3
    # With the mark on the other side, the colour is there.
    moved = model.sample(
        unseen | {"target_landmarks": unseen["target_landmarks"].flip(3)}, torch.Generator().manual_seed(0)
    )
    assert (moved - target.flip(3)).abs().mean() < 0.3
    assert (moved - target).abs().mean() > 1


# --- resuming


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_ends_like_an_uninterrupted_one(root, tmp_path, stop):
    """In the middle of an epoch (3 steps each), at its end, and in the next: same samples, weights and averages."""
    whole, resumed = Record(), Record()
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    average = ExponentialMovingAverage()
    expected = tiny_model()
    fit(expected, tiny_data(root), average, whole, checkpoint)

    other_average = ExponentialMovingAverage()
    model = tiny_model()
    fit(model, tiny_data(root), other_average, resumed, ckpt=tmp_path / f"step={stop}.ckpt")
    assert resumed.indices == whole.indices[stop:]
    assert resumed.losses == whole.losses[stop:]
    assert equal(model, expected)
    assert equal(other_average._average_model, average._average_model)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_checkpoint_resumed_from_a_resumed_run_still_knows_its_place(root, tmp_path):
    whole, last = Record(), Record()
    fit(tiny_model(), tiny_data(root), whole)
    for start, stop in ((None, 2), (2, 5)):
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
        fit(tiny_model(), tiny_data(root), keep, steps=stop, ckpt=start and tmp_path / f"step={start}.ckpt")
    fit(tiny_model(), tiny_data(root), last, ckpt=tmp_path / "step=5.ckpt")
    assert last.indices == whole.indices[5:]


def test_checkpoints_hold_plain_values_and_the_averaged_weights(root, tmp_path):
    average = ExponentialMovingAverage(max_decay=0.5)
    model = tiny_model()
    trainer = fit(model, tiny_data(root), average, steps=4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(content["state_dict"]) == {f"net.{key}" for key in model.net.state_dict()}
    name = "net.unet.conv_in.weight"
    assert torch.equal(content["current_model_state"][name], model.net.unet.conv_in.weight)
    assert torch.equal(content["state_dict"][name], average._average_model.module.net.unet.conv_in.weight)
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])


# --- logged numbers


def validation(model: LandmarkDriven, root: Path, **options) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (metrics,) = trainer.validate(model, tiny_data(root, **options), verbose=False)
    return metrics


def test_validation_does_not_depend_on_the_batch_size(root):
    model = tiny_model(eval_every_n_epochs=1)
    small, large = validation(model, root, val_batch_size=3), validation(model, root, val_batch_size=8)
    assert set(small) == {"val/loss", "val/ssim", "val/psnr"}
    assert small == pytest.approx(large, rel=1e-4)


def test_only_the_chosen_frames_are_evaluated(root, monkeypatch):
    model = tiny_model(eval_every_n_epochs=1, eval_frames=3)
    sampled: list[int] = []
    denoise = model.denoise
    monkeypatch.setattr(model, "denoise", lambda c, *a, **k: sampled.append(len(c)) or denoise(c, *a, **k))
    few = validation(model, root, val_batch_size=2)
    assert sum(sampled) == 3
    model.eval_frames = None
    everything = validation(model, root)
    assert sum(sampled) - 3 == 8
    assert few["val/loss"] == pytest.approx(everything["val/loss"], rel=1e-5)
    assert few["val/ssim"] != everything["val/ssim"]


def test_evaluation_follows_its_own_rhythm(root):
    seen: dict[int, bool] = {}

    class Note(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            seen[trainer.current_epoch] = pl_module.val_ssim.update_called

    fit(tiny_model(eval_every_n_epochs=2), tiny_data(root), Note(), steps=12)
    assert seen == {0: True, 1: False, 2: True, 3: False}


def test_validation_sees_the_averaged_weights(root):
    """With an average that never moves after the first step, the validation loss stays the same."""

    losses: list[float] = []

    class Note(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            losses.append(trainer.callback_metrics["val/loss"].item())

    class Frozen(ExponentialMovingAverage):
        def decay(self, step: int) -> float:
            return 0.0 if step <= 1 else 1.0

    fit(tiny_model(), tiny_data(root), Frozen(), Note(), steps=9)
    assert len(losses) == 3
    assert losses[1:] == losses[:1] * 2


# --- settings


def test_accumulation_and_bfloat16_train(root):
    record = Record()
    trainer = fit(tiny_model(), tiny_data(root), record, steps=4, accumulate_grad_batches=2, precision="bf16-mixed")
    assert trainer.global_step == 4
    assert len(record.indices) >= 6
    assert all(torch.isfinite(torch.tensor(record.losses)))


def test_the_learning_rate_schedule_spans_the_optimiser_steps(root):
    model = tiny_model(lr_scheduler=partial(get_scheduler, name="linear", num_warmup_steps=0))
    trainer = fit(model, tiny_data(root), steps=5)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_training_without_an_optimiser_is_named(root):
    with pytest.raises(ConfigError, match=r"model\.optimizer has no value"):
        fit(tiny_model(optimizer=None), tiny_data(root))


def test_samples_depend_on_the_generator_alone(root):
    data = tiny_data(root)
    data.setup("fit")
    model, conditions = tiny_model().eval(), data.preview(3)
    first, again, other = (model.sample(conditions, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.aminmax().min >= -1
    assert first.aminmax().max <= 1
    torch.manual_seed(99)  # the global generator has no say
    assert torch.equal(model.sample(conditions, torch.Generator().manual_seed(1), eta=0.0), first)


# --- averaging


def test_the_average_follows_the_warm_up():
    ema = ExponentialMovingAverage(max_decay=0.9999, inv_gamma=1.0, power=0.75)
    assert ema.decay(1) == 0
    assert ema.decay(2) == pytest.approx(1 - 2**-0.75)
    assert ema.decay(10_001) == pytest.approx(1 - 10_001**-0.75)
    assert ema.decay(10**7) == 0.9999


# --- looking at samples


class FakeWandb(WandbLogger):
    """Notes what would be sent."""

    def __init__(self) -> None:
        self.sent: dict[str, object] = {}

    def log_metrics(self, metrics, step=None) -> None:
        self.sent |= metrics

    def log_image(self, key, images, step=None, **options) -> None:
        self.sent[key] = images[0].shape

    def log_video(self, key, videos, step=None, **options) -> None:
        self.sent[key] = Image.open(videos[0]).n_frames

    save_dir = name = version = None
    log_hyperparams = log_graph = finalize = lambda *_, **__: None


def test_samples_are_shown_in_every_logger(root, tmp_path):
    tensorboard, wandb = TensorBoardLogger(tmp_path, "tb", ""), FakeWandb()
    samples = LogSamples(1, n_samples=2, n_frames=5, folder=tmp_path / "samples")
    fit(
        tiny_model(), tiny_data(root), samples, ExponentialMovingAverage(), steps=3,
        logger=[CSVLogger(tmp_path, "csv", ""), tensorboard, wandb],
    )  # fmt: skip
    # Two rows; reference, target, both landmark pictures and the generated frame in columns.
    grid = Image.open(tmp_path / "samples/samples-0000003.png")
    assert grid.size == (5 * 16, 2 * 16)
    assert wandb.sent["val/samples"] == (2 * 16, 5 * 16, 3)
    assert Image.open(tmp_path / "samples/video-0000003.gif").n_frames == wandb.sent["val/video"] == 5
    events = EventAccumulator(tensorboard.log_dir).Reload()
    assert {"val/samples", "val/video"} <= set(events.Tags()["images"])
    assert events.Images("val/video")[0].encoded_image_string.startswith(b"GIF8")


def test_samples_are_shown_every_n_epochs_and_at_the_end(root, tmp_path):
    data = tiny_data(root)
    fit(tiny_model(), data, LogSamples(2, 1, 0, folder=tmp_path), steps=-1, max_epochs=4)
    shown = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("*.png"))
    assert shown == [3, 9, 12]  # after epochs 0 and 2, and after the last


def test_showing_samples_does_not_disturb_training(root, tmp_path):
    plain, watched = tiny_model(), tiny_model()
    fit(plain, tiny_data(root))
    fit(watched, tiny_data(root), LogSamples(1, 2, 3, folder=tmp_path))
    assert equal(plain, watched)
