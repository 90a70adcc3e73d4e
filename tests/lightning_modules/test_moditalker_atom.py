"""Training of AToM, and motion of any length."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from src.audio.log_mel import LogMel
from src.datamodules.moditalker_atom import AToMDataModule
from src.diffusion.motion import MotionDiffusion
from src.errors import ConfigError
from src.lightning_modules.adan import Adan
from src.lightning_modules.ema import ConstantAverage
from src.lightning_modules.moditalker_atom import AToM, mouth_correlation
from src.nn.moditalker_atom import MotionDecoder, PublishedMotionDecoder
from tests.motion_stores import write_speaking_store

WINDOW = 12


def make_model(**options) -> AToM:
    torch.manual_seed(0)
    net = MotionDecoder(dim=16, ff_dim=24, n_layers=1, n_heads=2, dropout=0.0, audio_dim=8, n_encoder_layers=1)
    settings: dict[str, Any] = {"window": WINDOW, "sample_steps": 3, "eval_clips": 2} | options
    return AToM(net, MotionDiffusion(), Adan, **settings)


def published(n_frames: int = WINDOW) -> PublishedMotionDecoder:
    return PublishedMotionDecoder(n_frames, dim=16, ff_dim=24, n_layers=1, n_heads=2, audio_dim=8)


def test_a_short_training_measures_what_it_makes(tmp_path):
    datamodule = AToMDataModule(
        write_speaking_store(tmp_path / "store"), LogMel(4, 2, "mel"), window=WINDOW, batch_size=2, draws_per_clip=2
    )
    model = make_model()
    before = [p.detach().clone() for p in model.net.parameters()]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ConstantAverage(max_decay=0.5)], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=datamodule)
    logged = trainer.callback_metrics
    assert {"train/loss", "train/loss_position", "train/loss_velocity", "val/loss"} <= set(logged)
    assert -1 <= logged["val/mouth_correlation"] <= 1
    assert logged["val/landmark_error"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net.parameters(), strict=True))


def test_the_loss_falls():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "motion": torch.randn(4, WINDOW, 204, generator=generator).clamp(-1, 1) * 0.3,
        "reference": torch.zeros(4, 204),
        "audio": torch.randn(4, WINDOW, 8, generator=generator),
        "valid": torch.ones(4, WINDOW, dtype=torch.bool),
    }
    noise, keep = torch.randn(4, WINDOW, 204, generator=generator), torch.ones(4, dtype=torch.bool)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = model.terms(batch, noise, torch.tensor([10, 200, 500, 900]), keep).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "make", [make_model, lambda: AToM(published(), MotionDiffusion(), window=WINDOW, sample_steps=3)]
)
@pytest.mark.parametrize("n_frames", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5])
def test_motion_is_as_long_as_the_voice(make, n_frames):
    model = make().eval()
    voice = torch.randn(n_frames, 8, generator=torch.Generator().manual_seed(1))
    made = model.generate(torch.zeros(204), voice, seed=3)
    assert made.shape == (n_frames, 204)
    assert made.isfinite().all()


def test_motion_depends_on_the_seed_and_not_on_how_it_is_computed():
    model = make_model().eval()
    voice, person = torch.randn(30, 8), torch.randn(204)
    first = model.generate(person, voice, seed=1)
    model.batch_windows = 1
    torch.testing.assert_close(model.generate(person, voice, seed=1), first, atol=1e-5, rtol=0)
    assert not torch.allclose(model.generate(person, voice, seed=2), first, atol=1e-3)


def test_every_step_is_reported():
    steps = []
    make_model().eval().generate(torch.zeros(204), torch.randn(30, 8), callback=lambda step, *_: steps.append(step))
    assert steps == [0, 1, 2]


def test_what_follows_a_short_voice_is_not_heard():
    """Padding is hidden from the repaired network: a short voice gives what the same voice gives in a shorter window."""
    model = make_model().eval()
    heard = []
    model.net.register_forward_pre_hook(lambda _, given: heard.append(given[5]))
    model.generate(torch.zeros(204), torch.randn(7, 8))
    assert heard[0][0].tolist() == [True] * 7 + [False] * (WINDOW - 7)


def test_mouths_that_open_together_correlate():
    opening = torch.rand(20, generator=torch.Generator().manual_seed(0))
    faces = torch.zeros(20, 68, 3)
    faces[:, [65, 66, 67], 1] = -opening[:, None]
    assert mouth_correlation(faces.flatten(1), 0.5 * faces.flatten(1)) == pytest.approx(1.0, abs=0.01)


def test_a_lip_weight_keeps_the_mean_weight():
    assert make_model(lip_weight=3.0).point_weights.square().mean().item() == pytest.approx(1.0)


def test_settings_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(ConfigError, match="windows of 12 frames"):
        AToM(published(), MotionDiffusion(), window=14)
    with pytest.raises(ConfigError, match="even number"):
        make_model(window=7)
    root = write_speaking_store(tmp_path / "store")
    for features, window, message in (
        (LogMel(3, 2, "mel"), WINDOW, "audio_dim=6"),
        (LogMel(4, 2, "mel8"), 14, "windows of 14"),
    ):
        datamodule = AToMDataModule(root, features, window=window)
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
                             enable_progress_bar=False, max_steps=1)  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            trainer.fit(make_model(), datamodule=datamodule)
