"""diffused_heads as its user runs it: render aligned heads, train, resume, make the videos of people that were not seen."""

import csv
from pathlib import Path

import pytest
import torch

from src.media import probe
from tests.commands import Done, run_command

SMALL = [
    "net.model_channels=16",
    "net.channel_mult=[1]",
    "net.norm_num_groups=4",
    "net.num_head_channels=16",
    "datamodule.batch_size=4",
    "datamodule.num_workers=0",
    "datamodule.draws_per_clip=4",
    "datamodule.val_draws_per_clip=1",
    "model.sample_steps=2",
    "model.eval_every_n_epochs=0",
    "callbacks.samples=null",
    "trainer.check_val_every_n_epoch=1",
    "logger=csv",
]


def run(folder: Path, script: str, *overrides: str) -> Done:
    return run_command(folder, script, *overrides, environment={"VISEME_MODELS": str(folder)})


@pytest.mark.slow
def test_from_rendered_heads_to_videos_of_unseen_people(tmp_path):
    heads = ["identities=6", "clips_per_identity=1", "seconds=0.6", "size=96", "workers=0", "fractions.test=0.3"]
    heads += ["alignment=mean_face", "alignment.size=64", "fractions.train=0.4", "fractions.validation=0.3"]
    assert run(tmp_path, "tools/make_synthetic.py", "root=heads", *heads).returncode == 0
    train = ["train.py", "experiment=diffused_heads_synthetic", "datamodule.root=heads", "hydra.run.dir=run", *SMALL]
    first = run(tmp_path, *train, "trainer.max_steps=4")
    assert first.returncode == 0, first.stderr
    ckpt = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(ckpt, weights_only=True)
    alignment = checkpoint["viseme"]["config"]["pipeline"]["alignment"]
    assert alignment["alignment"]["_target_"] == "src.face.alignment.MeanFaceAlignment.square"
    resumed = run(tmp_path, *train, "trainer.max_steps=6", f"ckpt_path={ckpt}")
    assert resumed.returncode == 0, resumed.stderr
    assert torch.load(ckpt, weights_only=True)["global_step"] == 6

    made = run(tmp_path, "sample.py", f"ckpt={ckpt}", "inputs=heads", "split=test", "out=videos", "pipeline.steps=3")
    assert made.returncode == 0, made.stderr
    with (tmp_path / "heads/clips.csv").open() as file:
        people = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    assert sorted(path.stem for path in (tmp_path / "videos").glob("*.mp4")) == sorted(people)
    info = probe(tmp_path / f"videos/{people[0]}.mp4")
    assert (info.n_frames, info.fps, info.has_audio) == (15, 25.0, True)

    wrong = run(tmp_path, "sample.py", f"ckpt={ckpt}", f"source=heads@{people[0]}", "features=log_mel")
    assert wrong.returncode == 2
    assert "320 numbers per frame, the model was trained with 80" in wrong.stderr
    assert "Traceback" not in wrong.stderr
