"""Training of MToV and its autoencoders: turns, what learns, what is frozen, what begins where, sampling."""

import logging
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from src.checkpoint import save_safetensors
from src.datamodules.moditalker_mtov import MToVDataModule
from src.datamodules.moditalker_mtov_autoencoder import MToVAutoencoderDataModule
from src.diffusion.noise import generators_from
from src.errors import CheckpointError, ConfigError
from src.lightning_modules.checkpointing import BestCheckpoint
from src.lightning_modules.ema import LatentDiffusionAverage
from src.lightning_modules.moditalker_mtov import MToV
from src.lightning_modules.moditalker_mtov_autoencoder import MToVAutoencoder, phase_of
from src.nn.moditalker_mtov import ClipDiscriminator, MToVUNet, TriplaneAutoencoder
from tests.mtov import AUTOENCODER, FRAMES, SIDE, UNET, schedule, tiny_mtov
from tests.stores import write_pattern_store

pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=4, n_frames=12)


def trainer(folder: Path, **options) -> pl.Trainer:
    settings = {
        "accelerator": "cpu", "devices": 1, "max_steps": 4, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "num_sanity_val_steps": 0, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(settings | options))


def autoencoder(**options) -> MToVAutoencoder:
    torch.manual_seed(0)
    discriminators = [ClipDiscriminator(dims, channels=4, n_layers=1) for dims in (2, 3)]
    settings = {"optimizer": partial(torch.optim.AdamW, lr=3e-3), "perceptual_weight": 0.0}
    return MToVAutoencoder(TriplaneAutoencoder(**AUTOENCODER), *discriminators, **(settings | options))


def autoencoder_data(root: Path, content: str = "faces") -> MToVAutoencoderDataModule:
    return MToVAutoencoderDataModule(root, SIDE, FRAMES, content, 2, draws_per_clip=8)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_networks_take_turns_from_the_start_step_on():
    turns = [phase_of(n, disc_start=1, accumulate=2)[0] for n in range(10)]
    assert "".join(turns) == "aaaaddaadd"
    assert {phase_of(n, disc_start=-1) for n in range(50)} == {"autoencoder"}


def test_errors_count_as_they_are_or_squared():
    video, off = torch.zeros(1, FRAMES, 3, SIDE, SIDE), torch.full((1, FRAMES, 3, SIDE, SIDE), 0.5)
    chosen = torch.zeros(1, dtype=torch.int64)
    for name, expected in (("l1", 2.0), ("l2", 1.0)):
        terms = autoencoder(reconstruction=name).reconstruction_terms(video, off, chosen)
        assert float(terms["rec"]) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="reconstruction=l3"):
        autoencoder(reconstruction="l3")


def test_errors_around_the_lips_count_as_often_as_asked():
    video = torch.zeros(1, FRAMES, 3, SIDE, SIDE)
    lips = torch.tensor([[4.0, 6.0], [8.0, 7.0]]).repeat(10, 1).expand(1, FRAMES, 20, 2)
    near, far = video.clone(), video.clone()
    near[..., 6, 5], far[..., -1, -1] = 1.0, 1.0
    model = autoencoder(lip_weight=2.0)
    box = (7 - 6 + 2 * 2) * (8 - 4 + 2 * 2)  # rows and columns, with two pixels around
    assert float(model.lip_error(video, near, lips)) == pytest.approx(2.0 / box)
    assert float(model.lip_error(video, far, lips)) == 0.0


def test_it_learns_to_reconstruct(root, tmp_path):
    model, data = autoencoder(), autoencoder_data(root)
    first = trainer(tmp_path).validate(model, data, verbose=False)[0]
    trainer(tmp_path, max_steps=60, limit_val_batches=0).fit(model, data)
    last = trainer(tmp_path).validate(model, data, verbose=False)[0]
    assert last["val/loss"] < 0.7 * first["val/loss"]
    assert last["val/psnr"] > first["val/psnr"] + 3


def test_discriminators_rest_until_their_start_and_steps_of_theirs_do_not_count(root, tmp_path):
    model = autoencoder(disc_start=2)
    before = [weights_of(net) for net in (model.frame_discriminator, model.clip_discriminator)]
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(model, autoencoder_data(root))
    assert same(model.frame_discriminator, before[0])
    runner = trainer(tmp_path, max_steps=4, limit_val_batches=0)
    model = autoencoder(disc_start=2)
    runner.fit(model, autoencoder_data(root))
    assert runner.global_step == 4
    assert runner.fit_loop.total_batch_idx + 1 == 5  # one of the batches was the discriminators'
    assert not same(model.frame_discriminator, before[0])
    assert not same(model.clip_discriminator, before[1])
    for name in ("loss_gen", "loss_features", "loss_disc", "loss_logits_real"):
        assert torch.isfinite(runner.callback_metrics[f"train/{name}"])
    with pytest.raises(ConfigError, match=r"model\.disc_start=0 needs"):
        MToVAutoencoder(TriplaneAutoencoder(**AUTOENCODER), disc_start=0)


def test_the_learning_rate_follows_the_autoencoders_steps_and_gradients_are_limited(root, tmp_path):
    halving = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    model = autoencoder(disc_start=0, lr_scheduler=halving, clip_norm=1e-12)
    before = weights_of(model.net)
    runner = trainer(tmp_path, max_steps=3, limit_val_batches=0)
    runner.fit(model, autoencoder_data(root))
    assert [o.param_groups[0]["lr"] for o in runner.optimizers] == [3e-3 / 8, 3e-3]
    moved = max((value - before[key]).abs().max() for key, value in model.net.state_dict().items())
    assert 0 < moved < 0.01


def test_batches_add_up_to_a_step(root, tmp_path):
    runner = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    runner.fit(autoencoder(accumulate=3), autoencoder_data(root))
    assert runner.fit_loop.total_batch_idx + 1 == 6


def test_the_landmark_autoencoder_begins_with_that_of_faces_and_keeps_its_decoder(root, tmp_path):
    faces = autoencoder()
    config = {"model": {"net": {"_target_": "src.nn.moditalker_mtov.TriplaneAutoencoder", **AUTOENCODER}}}
    path = tmp_path / "faces.safetensors"
    save_safetensors(path, "moditalker_mtov_autoencoder", config, faces.state_dict())
    torch.manual_seed(1)
    model = MToVAutoencoder(
        TriplaneAutoencoder(**AUTOENCODER), optimizer=partial(torch.optim.AdamW, lr=1e-3), perceptual_weight=0.0,
        init_ckpt=path, freeze_decoder=True,
    )  # fmt: skip
    trainer(tmp_path, limit_val_batches=0).fit(model, autoencoder_data(root, "landmarks"))
    assert same(model.net.decoder, weights_of(faces.net.decoder))
    assert not same(model.net.encoder, weights_of(faces.net.encoder))
    save_safetensors(path, "difftalk_autoencoder", config, faces.state_dict())
    with pytest.raises(CheckpointError, match=r"model\.init_ckpt=.* is of difftalk_autoencoder"):
        trainer(tmp_path).fit(model, autoencoder_data(root))


def test_the_best_checkpoint_goes_by_the_first_measure_that_is_there(root, tmp_path):
    best = BestCheckpoint(["val/fvd", "val/lpips", "val/loss"], dirpath=tmp_path, filename="best")
    runner = trainer(tmp_path, max_steps=16, enable_checkpointing=True, callbacks=[best])
    runner.fit(autoencoder(), autoencoder_data(root))
    assert (tmp_path / "best.ckpt").is_file()
    assert best.monitor == "val/loss"
    assert float(best.best_model_score) <= float(runner.callback_metrics["val/loss"])
    nothing = BestCheckpoint(["val/other"], dirpath=tmp_path)
    with pytest.raises(ConfigError, match=r"the validation logs none of them; choose of val/loss, val/psnr, val/ssim"):
        trainer(tmp_path, max_steps=16, enable_checkpointing=True, callbacks=[nothing]).fit(
            autoencoder(), autoencoder_data(root)
        )


def test_clips_and_reconstructions_are_compared_by_their_features(root, tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool3d(clips, (1, 12, 12)).flatten(1)[:, :400]

    monkeypatch.setattr("src.lightning_modules.moditalker_mtov_autoencoder.i3d", Mean)
    with pytest.raises(ConfigError, match="FVD needs windows of 9 frames, these have 4"):
        autoencoder(eval_fvd=True)
    monkeypatch.setattr("src.lightning_modules.moditalker_mtov_autoencoder.MIN_FRAMES", FRAMES)
    model = autoencoder(eval_fvd=True)
    trainer(tmp_path, max_steps=16).fit(model, autoencoder_data(root))
    measured = [
        trainer(tmp_path).validate(model, autoencoder_data(root), verbose=False)[0]["val/fvd"] for _ in range(2)
    ]
    assert measured[0] == pytest.approx(measured[1])
    assert measured[0] > 0
    assert not any("_fvd" in key for key in model.state_dict())


# --- second stage


def mtov_data(root: Path, **options) -> MToVDataModule:
    return MToVDataModule(root, SIDE, FRAMES, 2, **{"draws_per_clip": 8, "previous": True} | options)


def trainable(**options) -> MToV:
    settings = {
        "optimizer": partial(torch.optim.AdamW, lr=2e-3), "autoencoder_ckpt": "untrained", "landmark_autoencoder_ckpt": "untrained",
        "eval_clips": 2,
    }  # fmt: skip
    return tiny_mtov(3, **settings | options)


def test_only_the_network_learns(root, tmp_path):
    torch.manual_seed(0)
    settings = {
        "optimizer": partial(torch.optim.AdamW, lr=2e-3),
        "sample_steps": 2,
        "eval_clips": 2,
        "eval_every_n_epochs": 1,
    }
    ckpts = {"autoencoder_ckpt": "untrained", "landmark_autoencoder_ckpt": "untrained"}
    nets = [TriplaneAutoencoder(**AUTOENCODER) for _ in range(2)]
    model = MToV(MToVUNet(**UNET, n_conditions=3), *nets, schedule(), **settings, **ckpts)
    before = [weights_of(net) for net in nets]
    data = mtov_data(root)
    first = trainer(tmp_path).validate(model, data, verbose=False)[0]
    trainer(tmp_path, max_steps=20, limit_val_batches=0).fit(model, data)
    last = trainer(tmp_path).validate(model, data, verbose=False)[0]
    assert last["val/loss"] < 0.9 * first["val/loss"]
    assert all(same(net, weights) for net, weights in zip(nets, before, strict=True))
    assert {"val/psnr", "val/ssim"} <= last.keys()


def test_positions_that_see_the_lips_count_once_more(root):
    data = mtov_data(root)
    data.setup("fit")
    batch = data.preview(2)
    lips = torch.tensor([[4.0, 6.0], [8.0, 7.0]]).repeat(10, 1).expand(2, FRAMES, 20, 2)
    plain, weighted = tiny_mtov(), tiny_mtov(lip_weight=3.0)
    clean, conditions = plain._clean(batch), plain.conditions(batch)
    given = clean, conditions, torch.randn_like(clean), torch.tensor([100, 900])
    boxes = torch.tensor([4, 9, 2, 10]).expand(2, FRAMES, 4)  # two pixels around
    seen = plain.net.shape.seen_in(boxes, plain.autoencoder.patch)[:, None].expand_as(clean)
    error = (plain.net(*_noisy(plain, *given)) - given[2]).square()
    assert float(weighted.loss(*given)) == pytest.approx(float(plain.loss(*given)))
    expected = error.mean() + 3 * error[seen].mean()
    assert float(weighted.loss(*given, lips)) == pytest.approx(float(expected), rel=1e-5)
    nowhere = torch.full_like(lips, torch.nan)
    assert float(weighted.loss(*given, nowhere)) == pytest.approx(float(plain.loss(*given)))


def _noisy(model, clean, conditions, noise, timestep):
    level = model.alphas_cumprod[timestep].view(-1, 1, 1)
    return level.sqrt() * clean + (1 - level).sqrt() * noise, timestep, conditions.clips, conditions.person


def test_the_average_takes_every_nth_step_in(root, tmp_path):
    model, average = trainable(), LatentDiffusionAverage(every_n_steps=3)
    trainer(tmp_path, max_steps=7, limit_val_batches=0, callbacks=[average]).fit(model, mtov_data(root))
    assert average._average_model is not None
    assert int(average._average_model.n_averaged) == 1 + 2
    with pytest.raises(ConfigError, match="every_n_steps=0"):
        LatentDiffusionAverage(every_n_steps=0)


def test_training_begins_with_the_network_of_another(root, tmp_path):
    other = tiny_mtov(3)
    path = tmp_path / "mtov.safetensors"
    save_safetensors(path, "moditalker_mtov", {}, other.state_dict())
    torch.manual_seed(5)
    model = MToV(
        MToVUNet(**UNET, n_conditions=3), other.autoencoder, other.landmark_autoencoder, schedule(), init_ckpt=path,
        autoencoder_ckpt="untrained", landmark_autoencoder_ckpt="untrained", optimizer=partial(torch.optim.SGD, lr=0.0),
    )  # fmt: skip
    assert not same(model.net, weights_of(other.net))
    trainer(tmp_path, limit_val_batches=0).fit(model, mtov_data(root))
    assert same(model.net, weights_of(other.net))
    wider = MToV(
        MToVUNet(**UNET | {"model_channels": 32}, n_conditions=3), other.autoencoder, other.landmark_autoencoder, schedule(),
        init_ckpt=path, autoencoder_ckpt="untrained", landmark_autoencoder_ckpt="untrained",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"model\.init_ckpt=.* is of another network than this one"):
        trainer(tmp_path).fit(wider, mtov_data(root))


def test_missing_and_wrong_settings_are_told(root, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.autoencoder_ckpt has no value"):
        trainer(tmp_path).fit(trainable(autoencoder_ckpt=None), mtov_data(root))
    with pytest.raises(ConfigError, match=r"no run below .*runs/nothing has written a checkpoint"):
        trainer(tmp_path).fit(trainable(autoencoder_ckpt="last:nothing", runs=tmp_path / "runs"), mtov_data(root))
    with pytest.raises(
        ConfigError, match=r"datamodule\.resolution=32 and frames=4: the autoencoders take 4 frames of 16x16"
    ):
        trainer(tmp_path).fit(trainable(), MToVDataModule(root, 32, FRAMES, 2))
    with pytest.raises(ConfigError, match="sampler=published is for models that predict the noise"):
        tiny_mtov(prediction_type="sample")
    net = TriplaneAutoencoder(**AUTOENCODER | {"latent_channels": 3})
    with pytest.raises(ConfigError, match=r"model\.autoencoder makes latents of 3 channels"):
        MToV(MToVUNet(**UNET), net, net, schedule())


def test_a_video_is_the_same_for_the_same_generator(root):
    model, data = tiny_mtov(3), mtov_data(root)
    data.setup("fit")
    conditions = data.preview_video(10)
    one, two, other = (model.sample_video(conditions, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (8, 3, SIDE, SIDE)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["landmarks", "masked", "reference", "previous"])
def test_every_condition_counts(root, name):
    model, data = tiny_mtov(3), mtov_data(root)
    data.setup("fit")
    batch = {**data.val_dataset.batch([0, 1]), "has_previous": torch.ones(2, dtype=torch.bool)}
    latents = model.denoise(model.conditions(batch), generators_from([1, 2]))
    batch[name] = 255 - batch[name]
    changed = model.denoise(model.conditions(batch), generators_from([1, 2]))
    assert (latents - changed).abs().max() > 1e-4


def test_a_weak_start_stays_near_what_is_known():
    model = tiny_mtov(sample_steps=20)
    b = {"landmarks": torch.zeros(1, FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)}
    b |= {"masked": b["landmarks"], "reference": b["landmarks"][:, 0]}
    start = model.encode(b["landmarks"])
    conditions = model.conditions(b)
    near = model.denoise(conditions, generators_from([1]), start=start, strength=0.06)
    far = model.denoise(conditions, generators_from([1]), start=start, strength=0.9)
    assert (near - start).abs().mean() < (far - start).abs().mean()


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "unipc", "euler"])
def test_faster_samplers_make_latents(sampler):
    model = tiny_mtov()
    black = torch.zeros(2, FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
    conditions = model.conditions({"landmarks": black, "masked": black, "reference": black[:, 0]})
    latents = model.denoise(conditions, generators_from([1, 2]), sampler=sampler, steps=3)
    assert latents.shape == (2, 2, model.net.shape.length)
    assert latents.isfinite().all()
