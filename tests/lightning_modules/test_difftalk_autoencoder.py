"""Training of difftalk's first stage: two optimisers, the start of the discriminator, what it learns, what it logs."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from src.datamodules.difftalk_autoencoder import DiffTalkAutoencoderDataModule
from src.errors import ConfigError, VisemeError
from src.lightning_modules.difftalk_autoencoder import CodebookPerplexity, DiffTalkAutoencoder
from src.nn.difftalk import PatchDiscriminator, VQAutoencoder
from tests.heads import write_heads

pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")

SIDE = 32


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=4, n_frames=16, size=SIDE)


def tiny_model(**options) -> DiffTalkAutoencoder:
    torch.manual_seed(0)
    settings = {
        "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9)),
        "perceptual_weight": 0.0,
        "disc_start": -1,
    }
    net = VQAutoencoder(channels=16, channel_mult=(1, 1, 1), num_res_blocks=1, n_codes=64, norm_num_groups=8)
    return DiffTalkAutoencoder(net, PatchDiscriminator(channels=8, n_layers=2), **(settings | options))


def tiny_data(root: Path, **options) -> DiffTalkAutoencoderDataModule:
    settings = {"batch_size": 4, "draws_per_clip": 8, "val_draws_per_clip": 2, "seed": 1}
    return DiffTalkAutoencoderDataModule(root, SIDE, **(settings | options))


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


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_step_is_a_batch_although_two_networks_learn(root, tmp_path):
    model = tiny_model(disc_start=0)
    runner = trainer(tmp_path)
    runner.fit(model, tiny_data(root))
    assert runner.global_step == 6
    assert runner.fit_loop.total_batch_idx + 1 == 6


def test_the_discriminator_rests_until_its_start(root, tmp_path):
    model = tiny_model(disc_start=3)
    before = weights_of(model.discriminator)
    data = tiny_data(root)
    runner = trainer(tmp_path, max_steps=3)
    runner.fit(model, data)
    assert not changed(model.discriminator, before)
    assert "train/loss_gen" not in runner.callback_metrics
    model = tiny_model(disc_start=3)
    runner = trainer(tmp_path, max_steps=5)
    runner.fit(model, data)
    assert changed(model.discriminator, before)
    for name in ("loss_gen", "loss_disc", "disc_weight", "logits_real", "logits_fake"):
        assert torch.isfinite(runner.callback_metrics[f"train/{name}"])


def test_it_learns_to_reconstruct(root, tmp_path):
    model, data = tiny_model(restart_codes_every=10), tiny_data(root, val_split="train")
    first = trainer(tmp_path).validate(tiny_model(), data, verbose=False)[0]
    trainer(tmp_path, max_steps=120, limit_val_batches=0).fit(model, data)
    last = trainer(tmp_path).validate(model, data, verbose=False)[0]
    assert last["val/loss"] < 0.8 * first["val/loss"]
    assert last["val/psnr"] > first["val/psnr"] + 2
    assert last["val/perplexity"] > 1.5


def test_a_resumed_run_equals_an_uninterrupted_one(root, tmp_path):
    def run(name: str, steps: int, resume: Path | None = None) -> DiffTalkAutoencoder:
        model = tiny_model(disc_start=2)
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=3, save_last=True, save_top_k=-1)
        trainer(tmp_path, max_steps=steps, callbacks=[saver], enable_checkpointing=True).fit(
            model, tiny_data(root), ckpt_path=resume, weights_only=True
        )
        return model

    whole = run("whole", 6)
    run("part", 3)
    resumed = run("rest", 6, tmp_path / "part" / "last.ckpt")
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)


def test_lpips_without_its_weights_is_a_clear_message(root, tmp_path):
    model = tiny_model(perceptual_weight=1.0, perceptual_weights=str(tmp_path / "missing.pth"))
    with pytest.raises(VisemeError, match=r"perceptual_weight=0"):
        trainer(tmp_path).fit(model, tiny_data(root))


def test_half_precision_with_scaling_is_refused(root, tmp_path, monkeypatch):
    runner = trainer(tmp_path)
    monkeypatch.setattr(type(runner), "precision", property(lambda self: "16-mixed"))
    with pytest.raises(ConfigError, match="bf16-mixed"):
        runner.fit(tiny_model(), tiny_data(root))


def test_frames_that_cannot_be_divided_are_refused(root, tmp_path):
    data = DiffTalkAutoencoderDataModule(root, 30, batch_size=2)
    with pytest.raises(ConfigError, match=r"datamodule\.resolution=30: .* give a multiple of 4"):
        trainer(tmp_path).fit(tiny_model(), data)


def test_entries_that_no_process_used_are_moved_to_latents(root, tmp_path, monkeypatch):
    model = tiny_model(restart_codes_every=2)
    with torch.no_grad():
        model.net.entries[32:] = 100.0  # too far away for this process

    def with_another(tensor: torch.Tensor) -> torch.Tensor:
        """What is gathered with a process that uses entry 40 in the first step."""
        other = tensor.clone()
        if tensor.dtype == torch.int64:
            other.zero_()[40] = model.global_step == 1
        return torch.stack([tensor, other])

    monkeypatch.setattr(model, "all_gather", with_another)
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(model, tiny_data(root))
    far = (model.net.entries[32:] > 50).all(dim=1)
    assert far.nonzero().flatten().tolist() == [8]
    assert not model.uses.any()  # counted anew


def test_perplexity_counts_the_entries_in_use():
    metric = CodebookPerplexity(8)
    metric.update(torch.zeros(2, 4, 4, dtype=torch.int64))
    assert metric.compute() == pytest.approx(1.0)
    metric.reset()
    metric.update(torch.arange(8).reshape(1, 2, 4))
    assert metric.compute() == pytest.approx(8.0)
    metric.update(torch.arange(4).reshape(1, 2, 2))  # shares 1/6 and 1/12
    shares = np.array([1 / 6] * 4 + [1 / 12] * 4)
    assert metric.compute() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_unused_entries_of_the_codebook_move_to_where_latents_are(root, tmp_path):
    model = tiny_model(restart_codes_every=2)
    before = model.net.entries.detach().clone()
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(model, tiny_data(root))
    moved_by_gradient = (model.net.entries - before).abs().amax(dim=1)
    assert moved_by_gradient.max() < 0.01  # not yet
    model = tiny_model(restart_codes_every=2)
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(model, tiny_data(root))
    moved = (model.net.entries - before).norm(dim=1) > 0.1
    assert moved.float().mean() > 0.5
    assert not model.uses.any()


def test_reconstructions_are_the_samples(root, tmp_path):
    model, data = tiny_model(), tiny_data(root)
    data.setup()
    batch = data.preview(2)
    frames = model.eval().sample(batch)
    assert frames.shape == batch["target"].shape
    assert frames.abs().max() <= 1
