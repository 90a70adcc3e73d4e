"""`val/*` of a fixed subset: two processes that share the frames out log what one process logs that sees them all."""

import pytest
import pytorch_lightning as pl

from tests.lightning_modules.test_landmark_driven import tiny_data, tiny_model
from tests.stores import write_pattern_store

NAMES = ("val/loss", "val/psnr", "val/ssim")


def validate(root, processes):
    model = tiny_model(eval_every_n_epochs=1, eval_frames=5)  # of 8: an odd number, dealt out as 3 and 2
    several = {"strategy": "ddp_spawn", "devices": processes} if processes > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **several,
    )
    (logged,) = trainer.validate(model, tiny_data(root), verbose=False)
    return logged


@pytest.mark.slow  # new processes import everything; forked ones would inherit the locks of threads
@pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")
def test_two_processes_log_what_one_logs(tmp_path):
    root = write_pattern_store(tmp_path / "store", n_clips=4, n_frames=16, size=16)
    several, alone = validate(root, 2), validate(root, 1)
    assert set(NAMES) <= alone.keys()
    for name in NAMES:
        assert several[name] == pytest.approx(alone[name], abs=1e-5), name
