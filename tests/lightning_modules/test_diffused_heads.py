"""Training of diffused_heads: its loss, what it learns, exact resuming, and what validation logs."""

import logging
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from src.audio.log_mel import LogMel
from src.datamodules.diffused_heads import DiffusedHeadsDataModule
from src.diffusion.learned_range import LearnedRangeDiffusion
from src.diffusion.motion_frames import MotionAugmentation
from src.errors import ConfigError
from src.lightning_modules.callbacks import LogSamples
from src.lightning_modules.diffused_heads import DiffusedHeads
from src.nn.diffused_heads import DiffusedHeadsUNet
from tests.stores import write_pattern_store

pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")

N_MELS, HOPS, SIDE = 4, 2, 16
AUDIO_DIM = N_MELS * HOPS


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=4, n_frames=14, size=SIDE)


def tiny_net(**options) -> DiffusedHeadsUNet:
    torch.manual_seed(0)
    settings = {
        "image_size": SIDE,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "num_heads": 1,
        "num_head_channels": -1,
        "dropout": 0.0,
        "grayscale_motion": False,
        "audio_dim": AUDIO_DIM,
        "norm_num_groups": 4,
    }
    return DiffusedHeadsUNet(**(settings | options))


def tiny_model(net: DiffusedHeadsUNet | None = None, diffusion: LearnedRangeDiffusion | None = None, **options):
    settings = {
        "optimizer": partial(torch.optim.Adam, lr=1e-3, fused=True),
        "sample_steps": 2,
        "sampler": "ddim",
        "eval_every_n_epochs": 0,
    }
    return DiffusedHeads(net or tiny_net(), diffusion or LearnedRangeDiffusion(1000), **(settings | options))


def tiny_data(root: Path, **options) -> DiffusedHeadsDataModule:
    settings = {"batch_size": 4, "draws_per_clip": 5, "seed": 1}
    return DiffusedHeadsDataModule(root, LogMel(N_MELS, HOPS), SIDE, **(settings | options))


def trainer(folder: Path, **options) -> pl.Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 7,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(settings | options))


def random_batch(b: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def pictures(*shape: int) -> Tensor:
        return torch.randint(256, (*shape, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)

    return {
        "target": pictures(b),
        "identity": pictures(b),
        "motion": pictures(b, 2),
        "audio": torch.randn(b, 5, AUDIO_DIM, generator=generator),
        "lips": 4 + 8 * torch.rand(b, 20, 2, generator=generator),
        "index": torch.arange(b),
    }


def test_the_loss_is_the_weighted_sum_of_its_terms():
    batch, noise, t = random_batch(), torch.randn(3, 3, SIDE, SIDE), torch.tensor([0, 400, 999])
    losses = tiny_model(vlb_weight=0.01, lip_weight=0.3).losses(batch, noise, t)
    total = losses["loss_simple"] + 0.01 * losses["loss_vlb"] + 0.3 * losses["loss_lip"]
    torch.testing.assert_close(losses["loss"], total)
    assert losses["loss_vlb"] > 0


def test_without_lip_weight_no_landmarks_are_needed():
    batch = random_batch()
    del batch["lips"]
    losses = tiny_model(lip_weight=0.0).losses(batch, torch.randn(3, 3, SIDE, SIDE), torch.tensor([5, 400, 999]))
    assert set(losses) == {"loss", "loss_simple", "loss_vlb"}


def test_a_fixed_variance_has_no_bound():
    net = tiny_net(out_channels=3)
    losses = tiny_model(net).losses(random_batch(), torch.randn(3, 3, SIDE, SIDE), torch.tensor([5, 400, 999]))
    assert "loss_vlb" not in losses


def test_the_lip_margin_is_in_proportion_to_the_frame():
    """5 pixels at 128: the original's; never less than one."""
    lips = torch.full((1, 20, 2), 60.0)
    assert DiffusedHeads._lip_boxes(lips, (128, 128)).tolist() == [[55, 65, 55, 65]]
    assert DiffusedHeads._lip_boxes(lips / 2, (64, 64)).tolist() == [[28, 32, 28, 32]]


def test_augmentation_changes_what_the_network_sees_in_training_alone():
    model = tiny_model(augmentation=MotionAugmentation(motion_noise=(0.5, 0.5)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch, noise, t = random_batch(), torch.randn(3, 3, SIDE, SIDE), torch.tensor([5, 400, 999])
    plain = model.losses(batch, noise, t)["loss"]
    assert model.losses(batch, noise, t)["loss"] == plain
    assert model.losses(batch, noise, t, augment=1)["loss"] != plain
    assert model.losses(batch, noise, t, augment=1)["loss"] == model.losses(batch, noise, t, augment=1)["loss"]


def test_it_learns_what_the_voice_tells():
    """The target is bright where the middle row of the features is high; identity and motion frames tell nothing."""
    torch.manual_seed(0)
    diffusion = LearnedRangeDiffusion(1000, "sample", min_snr_gamma=1.0, snr_floor=1.0)
    model = tiny_model(tiny_net(image_size=8), diffusion, lip_weight=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    blank = torch.full((16, 3, 8, 8), 128, dtype=torch.uint8)

    def batch(loudness: Tensor) -> dict[str, Tensor]:
        target = (128 + 100 * loudness)[:, None, None, None].expand(-1, 3, 8, 8).to(torch.uint8)
        audio = torch.randn(len(loudness), 5, AUDIO_DIM)
        audio[:, 2] = loudness[:, None]
        identity = blank[: len(loudness)]
        motion = identity[:, None].expand(-1, 2, -1, -1, -1)
        return {"target": target, "identity": identity, "motion": motion, "audio": audio}

    losses = []
    for _ in range(100):
        noise, t = torch.randn(16, 3, 8, 8), torch.randint(1000, (16,))
        loss = model.losses(batch(2 * torch.rand(16) - 1), noise, t)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    loudness = torch.linspace(-0.9, 0.9, 8)
    frames = model.sample(batch(loudness), torch.Generator().manual_seed(0), steps=10)
    brightness = frames.mean(dim=(1, 2, 3))
    assert torch.corrcoef(torch.stack([brightness, loudness]))[0, 1] > 0.9


def test_a_resumed_training_ends_with_the_same_weights(root, tmp_path):
    augmented = {"augmentation": MotionAugmentation(motion_noise=(0.0, 0.5), motion_dropout=0.3)}
    whole = tiny_model(**augmented)
    trainer(tmp_path / "whole").fit(whole, tiny_data(root))
    first = tiny_model(**augmented)
    keep = ModelCheckpoint(tmp_path / "half", save_last=True, every_n_train_steps=4)
    trainer(tmp_path / "half", max_steps=4, enable_checkpointing=True, callbacks=[keep]).fit(first, tiny_data(root))
    second = tiny_model(**augmented)
    path = str(tmp_path / "half/last.ckpt")
    trainer(tmp_path / "rest").fit(second, tiny_data(root), ckpt_path=path, weights_only=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_validation_logs_comparable_numbers(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VISEME_MODELS", str(tmp_path))
    model = tiny_model(eval_every_n_epochs=1, eval_clips=2, eval_frames=3)
    run = trainer(tmp_path)
    first = run.validate(model, tiny_data(root), verbose=False)[0]
    assert set(first) == {"val/loss", "val/ssim", "val/psnr"}
    assert "val/lmd_mouth is not computed" in caplog.text
    again = trainer(tmp_path).validate(
        tiny_model(eval_every_n_epochs=1, eval_clips=2, eval_frames=3), tiny_data(root, batch_size=1), verbose=False
    )[0]
    assert again == pytest.approx(first, rel=1e-4)


def test_the_learning_rate_goes_down_by_epochs(root, tmp_path):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    model = tiny_model(lr_scheduler=schedule)
    run = trainer(tmp_path, max_steps=-1, max_epochs=4, limit_train_batches=1, limit_val_batches=0)
    run.fit(model, tiny_data(root))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25e-3)


def test_samples_are_shown_while_training(root, tmp_path):
    shown = LogSamples(every_n_epochs=1, n_samples=2, n_frames=3, folder=tmp_path / "samples")
    options = {"max_steps": -1, "max_epochs": 1, "limit_train_batches": 1}
    trainer(tmp_path, callbacks=[shown], **options).fit(tiny_model(), tiny_data(root))
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["samples-0000001.png", "video-0000001.gif"]


# --- sampling


def clips_of(lengths: list[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "identity": torch.randint(256, (len(lengths), 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        "features": torch.randn(len(lengths), max(lengths), AUDIO_DIM, generator=generator),
        "lengths": torch.tensor(lengths),
        "index": torch.arange(len(lengths)),
    }


def lively_model() -> DiffusedHeads:
    model = tiny_model()
    torch.manual_seed(1)
    for parameter in model.net.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return model


def test_a_video_is_the_same_alone_and_beside_others():
    model, clips = lively_model(), clips_of([5, 3])
    both = model.sample_videos(clips, seed=0)
    assert both.shape == (2, 5, 3, SIDE, SIDE)
    alone = model.sample_videos({key: value[:1] for key, value in clips.items()}, seed=0)
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=0)
    share = model.sample_videos({key: value[1::2] for key, value in clips.items()}, seed=0)  # of a second process
    torch.testing.assert_close(both[1:, :3], share[:, :3], atol=1e-4, rtol=0)
    short = {**clips, "features": clips["features"].clone()}
    short["features"][1, 3:] = 7.0  # behind the end of the shorter clip
    torch.testing.assert_close(model.sample_videos(short, seed=0)[1, :3], both[1, :3])


def test_a_frame_depends_on_the_frames_before_it():
    model, clips = lively_model(), clips_of([4])
    frames = model.sample_videos(clips, seed=0)
    changed = clips | {"features": clips["features"].clone()}
    changed["features"][0, 0] += 3.0  # rows 0..2 see it through their windows, row 3 only through the motion frames
    others = model.sample_videos(changed, seed=0)
    assert not torch.equal(frames[0, 3], others[0, 3])


def test_sampling_is_deterministic_for_a_generator():
    model, batch = lively_model(), random_batch()
    first, again, other = (model.sample(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_too_few_ancestral_steps_are_an_error():
    with pytest.raises(ConfigError, match="take at least 7"):
        tiny_model().frame_sampler("ancestral", steps=3)


def test_no_steps_are_not_taken_for_the_models_own():
    with pytest.raises(ConfigError, match="steps=0"):
        tiny_model().frame_sampler("ddim", 0)


def test_features_of_another_width_are_a_sentence_before_the_first_step(root, tmp_path):
    data = DiffusedHeadsDataModule(root, LogMel(N_MELS + 1, HOPS, name="wider"), SIDE, batch_size=4)
    with pytest.raises(ConfigError, match=f"give net.audio_dim={(N_MELS + 1) * HOPS}"):
        trainer(tmp_path, max_steps=1).fit(tiny_model(), data)
