"""Training of difftalk's second stage: what the loss sees, the frozen first stage, cached latents, sampling, resuming."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from src.audio.log_mel import LogMel
from src.checkpoint import record
from src.datamodules.difftalk import DiffTalkDataModule
from src.datamodules.preprocessing.latents import write_latents
from src.diffusion.pixels import to_signed
from src.diffusion.regions import mouth_box
from src.errors import CheckpointError, ConfigError, StoreError
from src.lightning_modules.callbacks import LogSamples
from src.lightning_modules.difftalk import DiffTalk
from src.lightning_modules.difftalk_first_stage import take_over
from src.nn.difftalk import DiffTalkNet, VQAutoencoder
from tests.heads import write_heads

pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")

FEATURES = LogMel(4, 2)
SIDE, CELLS = 32, 8


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=4, n_frames=16, size=SIDE)


FIRST_STAGE = {
    "_target_": "src.nn.difftalk.VQAutoencoder",
    "channels": 8,
    "channel_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "n_codes": 32,
    "norm_num_groups": 4,
}


def first_stage(**options) -> VQAutoencoder:
    torch.manual_seed(1)
    return VQAutoencoder(**{k: v for k, v in (FIRST_STAGE | options).items() if k != "_target_"})


def tiny_net(**options) -> DiffTalkNet:
    torch.manual_seed(0)
    settings = {
        "image_size": CELLS,
        "model_channels": 16,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "num_head_channels": 8,
        "context_dim": 16,
        "audio_dim": FEATURES.dim,
        "norm_num_groups": 4,
    }
    return DiffTalkNet(**(settings | options))


def tiny_model(**options) -> DiffTalk:
    settings = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "sample_steps": 2,
        "eval_every_n_epochs": 0,
        "first_stage_ckpt": None,
    }
    schedule = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        clip_sample=False,
        steps_offset=1,
        prediction_type=options.pop("prediction_type", "epsilon"),
    )
    return DiffTalk(tiny_net(), first_stage(), schedule, **(settings | options))


def tiny_data(root: Path, **options) -> DiffTalkDataModule:
    settings = {"batch_size": 4, "draws_per_clip": 4, "seed": 1, "reference_gap": 5, "val_draws_per_clip": 2}
    return DiffTalkDataModule(root, FEATURES, SIDE, **(settings | options))


def trainer(folder: Path, **options) -> pl.Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 6,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(settings | options))


def save_first_stage(path: Path, method: str = "difftalk_autoencoder", **options) -> Path:
    weights = {f"net.{key}": value + 0.01 for key, value in first_stage(**options).state_dict().items()}
    torch.save({"state_dict": weights, "viseme": record(method, {"model": {"net": FIRST_STAGE | options}})}, path)
    return path


@pytest.fixture
def batch(root) -> dict[str, Tensor]:
    data = tiny_data(root)
    data.prepare_data()
    data.setup()
    return data.preview(3)


def alive(model: DiffTalk) -> DiffTalk:
    """The network starts as zeros, which hides every mistake."""
    for parameter in model.net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_the_masked_latent_tells_nothing_of_what_is_hidden(batch):
    model = tiny_model().eval()
    clean, masked, _ = model.latents_of(batch)
    changed = dict(batch, target=torch.where(batch["kept"], batch["target"], 255 - batch["target"]))
    other_clean, other_masked, _ = model.latents_of(changed)
    torch.testing.assert_close(masked, other_masked)
    assert not torch.allclose(clean, other_clean)


def test_latents_given_beforehand_make_the_same_loss(batch):
    model = alive(tiny_model()).eval()
    latents = model.latents_of(batch)
    names = ("latent", "masked_latent", "reference_latent")
    cached = {k: v for k, v in batch.items() if k not in ("target", "reference")} | dict(
        zip(names, latents, strict=True)
    )
    noise, t = torch.randn(latents[0].shape), torch.tensor([5, 400, 999])
    torch.testing.assert_close(
        model.loss(batch, noise, t, model.latents_of(batch)), model.loss(cached, noise, t, model.latents_of(cached))
    )


def test_the_kept_part_counts_as_much_as_it_is_told(batch):
    model = alive(tiny_model(kept_weight=0.0))
    latents = model.latents_of(batch)
    noise, t = torch.randn(latents[0].shape), torch.tensor([5, 400, 999])
    loss = model.loss(batch, noise, t, latents)
    assert loss != tiny_model().loss(batch, noise, t, latents)
    everything = dict(batch, kept=torch.ones_like(batch["kept"]))
    assert model.loss(everything, noise, t, latents) == 0  # nothing is left to learn from
    nothing_kept = dict(batch, kept=torch.zeros_like(batch["kept"]))
    plain = alive(tiny_model())
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.loss(nothing_kept, noise, t, latents), plain.loss(batch, noise, t, latents))


def test_the_lips_count_more_where_they_are_told_to(batch):
    plain, heavy = alive(tiny_model()), tiny_model(lip_weight=2.0)
    heavy.load_state_dict(plain.state_dict())
    latents = plain.latents_of(batch)
    noise, t = torch.randn(latents[0].shape), torch.tensor([5, 400, 999])
    gain = heavy.loss(batch, noise, t, latents) - plain.loss(batch, noise, t, latents)
    noisy = plain.noise_schedule.add_noise(latents[0], noise, t)
    error = (plain.net(noisy, t, latents[1], latents[2], batch["audio"], batch["landmarks"]) - noise).square()
    boxes = mouth_box(batch["lips"] / 4, (CELLS, CELLS), margin=1)
    expected = torch.stack(
        [e[:, a:b, c:d].mean() for e, (a, b, c, d) in zip(error, boxes.tolist(), strict=True)]
    ).mean()
    torch.testing.assert_close(gain, 2 * expected)


def test_training_changes_the_network_and_leaves_the_first_stage(root, tmp_path):
    model = tiny_model(first_stage_ckpt=save_first_stage(tmp_path / "first.ckpt"))
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    trainer(tmp_path).fit(model, tiny_data(root))
    assert not model.first_stage.training
    expected = {key: value + 0.01 for key, value in first_stage().state_dict().items()}
    for key, value in model.first_stage.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    assert any(not torch.equal(value, before[key]) for key, value in model.net.state_dict().items())
    assert all(parameter.grad is None for parameter in model.first_stage.parameters())


def test_a_new_training_needs_a_first_stage(root, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.first_stage_ckpt has no value"):
        trainer(tmp_path).fit(tiny_model(), tiny_data(root))
    with pytest.raises(ConfigError, match=r"no run below .*some_run has written a checkpoint"):
        trainer(tmp_path).fit(tiny_model(first_stage_ckpt="last:some_run", runs=tmp_path), tiny_data(root))


def test_the_newest_run_of_a_name_is_found(tmp_path):
    folder = tmp_path / "logs" / "first" / "today" / "checkpoints"
    folder.mkdir(parents=True)
    save_first_stage(folder / "last.ckpt")
    filled = first_stage()
    take_over(filled, "last:first", tmp_path / "logs")
    weight = filled.state_dict()["vq.quant_conv.weight"]
    torch.testing.assert_close(weight, first_stage().state_dict()["vq.quant_conv.weight"] + 0.01)


def test_first_stages_that_do_not_fit_are_refused(tmp_path):
    other = save_first_stage(tmp_path / "a.ckpt", "landmark_driven")
    with pytest.raises(CheckpointError, match="is of landmark_driven"):
        take_over(first_stage(), other, tmp_path)
    save_first_stage(tmp_path / "b.ckpt", n_codes=16)
    with pytest.raises(CheckpointError, match="another autoencoder"):
        take_over(first_stage(), tmp_path / "b.ckpt", tmp_path)


def test_latents_of_another_first_stage_are_refused(root, tmp_path):
    first = save_first_stage(tmp_path / "first.ckpt")
    write_latents(root, first, name="mine", resolution=SIDE, batch_size=8, device="cpu")
    trainer(tmp_path, max_steps=2).fit(tiny_model(first_stage_ckpt=first), tiny_data(root, latents="mine"))
    with pytest.raises(StoreError, match="was made by another first stage"):
        trainer(tmp_path).fit(tiny_model(first_stage_ckpt="untrained"), tiny_data(root, latents="mine"))


def test_features_of_another_width_are_refused(root, tmp_path):
    data = DiffTalkDataModule(root, LogMel(5, 2, name="log_mel_5"), SIDE, batch_size=2, reference_gap=5)
    with pytest.raises(ConfigError, match=r"net\.audio_dim=8.*give net\.audio_dim=10"):
        trainer(tmp_path).fit(tiny_model(first_stage_ckpt=save_first_stage(tmp_path / "f.ckpt")), data)


def test_windows_and_frames_of_another_size_are_refused(root, tmp_path):
    first = save_first_stage(tmp_path / "f.ckpt")
    with pytest.raises(ConfigError, match=r"net\.n_audio_rows=8: the data have 5 rows .* give net\.n_audio_rows=5"):
        trainer(tmp_path).fit(tiny_model(first_stage_ckpt=first), tiny_data(root, audio_offsets=(-2, 2)))
    data = DiffTalkDataModule(root, FEATURES, 24, batch_size=2, reference_gap=5)
    with pytest.raises(ConfigError, match=r"net\.image_size=8: .*resolution=24; give net\.image_size=6 "):
        trainer(tmp_path).fit(tiny_model(first_stage_ckpt=first), data)


def test_latents_are_normalised_before_the_training(root, tmp_path):
    model = tiny_model(first_stage_ckpt=save_first_stage(tmp_path / "first.ckpt"), normalise_latents=True)
    data = tiny_data(root)
    trainer(tmp_path, max_steps=1).fit(model, data)
    (clean,) = model.latents_of(data.preview(64), ("target",))
    torch.testing.assert_close(clean.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(clean.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    frames = to_signed(data.preview(2)["target"])
    torch.testing.assert_close(
        model.decode(model.encode(frames)), model.first_stage(frames)[0].clamp(-1, 1), atol=1e-4, rtol=0
    )


def test_a_channel_that_never_changes_keeps_its_scale(tmp_path):
    model = tiny_model(normalise_latents=True)
    with torch.no_grad():
        for parameter in model.first_stage.parameters():
            parameter.zero_()
    model._measure_latents(torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8))
    assert torch.equal(model.latent_std, torch.ones_like(model.latent_std))
    assert model.encode(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "unipc", "published"])
def test_kept_pixels_are_the_targets_whatever_the_sampler(batch, sampler):
    model = alive(tiny_model()).eval()
    frames = model.sample(batch, torch.Generator().manual_seed(0), sampler=sampler, steps=3)
    kept = batch["kept"].expand_as(frames)
    torch.testing.assert_close(frames[kept], to_signed(batch["target"])[kept])
    assert not torch.allclose(frames[~kept], to_signed(batch["target"])[~kept])
    again = model.sample(batch, torch.Generator().manual_seed(0), sampler=sampler, steps=3)
    torch.testing.assert_close(frames, again)


def test_a_frame_is_the_same_in_every_batch(batch):
    model = alive(tiny_model()).eval()
    conditions = model.conditions(batch)
    noise = torch.randn(conditions.masked.shape, generator=torch.Generator().manual_seed(1))
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = model.repaint(conditions, noise, generators=generators, sampler="ddim", steps=4, eta=1.0)
    alone = model.conditions({key: value[2:] for key, value in batch.items()})
    single = model.repaint(
        alone, noise[2:], generators=[torch.Generator().manual_seed(2)], sampler="ddim", steps=4, eta=1.0
    )
    torch.testing.assert_close(together[2:], single, atol=1e-4, rtol=1e-4)


def test_held_cells_end_as_the_frames_own_latent(batch):
    model = alive(tiny_model()).eval()
    conditions = model.conditions(batch)
    assert conditions.kept is not None
    assert conditions.known is not None
    assert 0 < conditions.kept.mean() < 1
    latents = model.repaint(conditions, torch.randn(conditions.masked.shape), generators=None, sampler="ddim", steps=3)
    held = conditions.kept.bool().expand_as(latents)
    torch.testing.assert_close(latents[held], conditions.known[held])


def test_wrong_samplers_are_told_at_once():
    model = tiny_model()
    with pytest.raises(ConfigError, match="sampler=euler2"):
        model.check_sampler("euler2")
    with pytest.raises(ConfigError, match=r"eta=0\.5 is for"):
        model.check_sampler("dpm_solver", 0.5)
    with pytest.raises(ConfigError, match="predict the noise"):
        tiny_model(prediction_type="sample").check_sampler("published")
    with pytest.raises(ConfigError, match="sampler=euler2"):
        tiny_model(sampler="euler2").setup("fit")


def test_a_resumed_run_equals_an_uninterrupted_one(root, tmp_path):
    first = save_first_stage(tmp_path / "first.ckpt")

    def run(name: str, steps: int, resume: Path | None = None) -> tuple[DiffTalk, Path]:
        model = tiny_model(first_stage_ckpt=first, normalise_latents=True)
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=3, save_last=True, save_top_k=-1)
        trainer(tmp_path, max_steps=steps, callbacks=[saver], enable_checkpointing=True).fit(
            model, tiny_data(root), ckpt_path=resume, weights_only=True
        )
        return model, tmp_path / name / "last.ckpt"

    whole, _ = run("whole", 6)
    _, stopped = run("part", 3)
    first.unlink()  # the checkpoint brings its first stage along
    resumed, _ = run("rest", 6, stopped)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)


def test_validation_measures_the_repainted_part_and_shows_samples(root, tmp_path):
    model = tiny_model(first_stage_ckpt=save_first_stage(tmp_path / "first.ckpt"), eval_every_n_epochs=1, eval_frames=3)
    samples = LogSamples(1, n_samples=2, n_frames=3, folder=tmp_path / "samples")
    runner = trainer(tmp_path, max_epochs=1, max_steps=-1, limit_train_batches=1, callbacks=[samples])
    runner.fit(model, tiny_data(root))
    values = {key: float(value) for key, value in runner.callback_metrics.items()}
    assert np.isfinite([values[f"val/{name}"] for name in ("loss", "psnr", "ssim", "psnr_repainted")]).all()
    assert values["val/psnr"] > values["val/psnr_repainted"]
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_the_learning_rate_follows_the_rule_of_the_original(root, tmp_path):
    model = tiny_model(first_stage_ckpt=save_first_stage(tmp_path / "first.ckpt"), base_lr=1e-6)
    runner = trainer(tmp_path, max_steps=1, accumulate_grad_batches=2)
    runner.fit(model, tiny_data(root))
    assert runner.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-6 * 4 * 2)
