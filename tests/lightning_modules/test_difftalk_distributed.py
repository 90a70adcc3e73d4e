"""difftalk's first stage on two processes: gradients of both networks are shared, although the discriminator rests at first."""

import pytest
import pytorch_lightning as pl
import torch

from tests.heads import write_heads
from tests.lightning_modules import test_difftalk, test_difftalk_autoencoder

SIDE = test_difftalk_autoencoder.SIDE


class SameWeights(pl.Callback):
    """Both processes end with the same weights, although they saw different frames."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        ours, theirs = pl_module.all_gather(weights)
        assert torch.equal(ours, theirs)


def fit(folder, model, data, strategy: str) -> pl.Trainer:
    runner = test_difftalk.trainer(folder, max_steps=3, strategy=strategy, devices=2, callbacks=[SameWeights()])
    runner.fit(model, data)
    return runner


@pytest.fixture
def root(tmp_path):
    return write_heads(tmp_path / "heads", n_identities=4, n_frames=16, size=SIDE)


@pytest.mark.slow  # new processes import everything
@pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")
def test_two_processes_train_the_first_stage_in_step(root, tmp_path):
    model = test_difftalk_autoencoder.tiny_model(disc_start=1, restart_codes_every=2)
    before = test_difftalk_autoencoder.weights_of(model.discriminator)
    data = test_difftalk_autoencoder.tiny_data(root)
    runner = fit(tmp_path, model, data, "ddp_spawn_find_unused_parameters_true")
    assert runner.callback_metrics["train/loss_disc"].isfinite()
    assert test_difftalk_autoencoder.changed(model.discriminator, before)
