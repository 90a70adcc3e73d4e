"""MappingNet's training: what is learned, what is measured, and what a checkpoint holds."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from src.datamodules.liveportrait_talker import LivePortraitTalkerDataModule
from src.datamodules.store import StoreWriter
from src.datamodules.synthetic.articulation import ArticulationFeatures
from src.datamodules.synthetic.clip import perform
from src.datamodules.synthetic.head import SyntheticHead
from src.errors import ConfigError
from src.lightning_modules.liveportrait_talker import LivePortraitTalker, mouth_opening
from src.nn.liveportrait_talker import MappingNet, coefficient_windows, lip_loss

N_FRAMES = 75


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A store of synthetic people, their pictures left out; each speaks once, and no voice of one split is in the other."""
    root = tmp_path_factory.mktemp("voices") / "store"
    with StoreWriter(root, 16) as writer:
        for person in range(8):
            take = perform(SyntheticHead(person, 16), 0, N_FRAMES)
            writer.add(
                f"head{person}",
                f"head{person}",
                [np.zeros((N_FRAMES, 16, 16, 3), np.uint8)],
                take.landmarks,
                take.blendshapes,
                audio=take.audio,
                split="validation" if person >= 6 else "train",
                source=f"synthetic/{person}/0",
            )
        writer.finish()
    return root


def data(root, batch_size: int = 32, name: str = "words", **options) -> LivePortraitTalkerDataModule:
    features = ArticulationFeatures(16, name)
    return LivePortraitTalkerDataModule(
        root, batch_size, features=features, n_coefficients=16, lips="landmarks", **options
    )


def trained(module: LivePortraitTalker, datamodule: LivePortraitTalkerDataModule, steps: int) -> dict[str, float]:
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


@pytest.mark.slow
def test_it_learns_the_lips_of_voices_that_it_has_not_heard(voices, monkeypatch):
    """The coefficients follow from what is said, the lips from the face that says it; the words of another take teach nothing."""
    torch.manual_seed(0)
    module = LivePortraitTalker(MappingNet(16, 32), adam)
    metrics = trained(module, data(voices, draws_per_clip=40), 300)
    assert metrics["val/ratio"] > 1.7
    assert metrics["val/mouth_correlation"] > 0.85

    read = ArticulationFeatures.read
    monkeypatch.setattr(
        ArticulationFeatures, "read", lambda self, id, n, source="", start=0.0: read(self, id, n, f"{source}9", start)
    )
    torch.manual_seed(0)
    module = LivePortraitTalker(MappingNet(16, 32), adam)
    metrics = trained(module, data(voices, draws_per_clip=40, name="other_words"), 300)
    assert metrics["val/ratio"] < 1.1
    assert abs(metrics["val/mouth_correlation"]) < 0.5


def test_a_few_steps_lower_the_error(voices):
    torch.manual_seed(0)
    datamodule = data(voices, draws_per_clip=40)
    module = LivePortraitTalker(MappingNet(16, 16), adam)
    before, after = (trained(module, datamodule, steps)["val/loss"] for steps in (1, 40))
    assert after < before


def test_the_step_is_the_original_loss():
    torch.manual_seed(0)
    module = LivePortraitTalker(MappingNet(4, 8))
    module.log = lambda *args, **kwargs: None
    windows, expression = torch.randn(3, 4, 29), torch.randn(3, 63)
    lips = expression.unflatten(1, (21, 3))[:, [6, 12, 14, 17, 19, 20]]
    loss = module.training_step({"coefficients": windows, "lips": lips}, 0)
    assert torch.equal(loss, lip_loss(module(windows), expression))


def test_a_clip_is_seen_window_by_window():
    module = LivePortraitTalker(MappingNet(4, 8), window=(14, 13))
    coefficients = torch.randn(300, 4)  # more than one chunk
    expected = module.net(coefficient_windows(coefficients, (14, 13)))
    torch.testing.assert_close(module.sample(coefficients), expected)


def test_a_checkpoint_holds_the_network_alone():
    names = LivePortraitTalker(MappingNet(4, 8)).state_dict()
    assert set(names) == {f"net.{name}" for name in MappingNet(4, 8).state_dict()}


def test_the_mouth_opens_downwards():
    lips = torch.zeros(2, 6, 3)
    lips[1, 4, 1], lips[1, 5, 1] = 0.3, -0.1  # lower lip down, upper lip up
    torch.testing.assert_close(mouth_opening(lips), torch.tensor([0.0, 0.4]))


def test_windows_that_are_too_short_are_refused():
    with pytest.raises(ConfigError, match="25 frames, the network needs 31"):
        LivePortraitTalker(MappingNet(4, 8, n_layers=4), window=(12, 12))


def test_data_of_another_width_is_refused(voices):
    with pytest.raises(ConfigError, match=r"net.n_coefficients=8: the data has 16"):
        trained(LivePortraitTalker(MappingNet(8, 8), adam), data(voices), 1)
