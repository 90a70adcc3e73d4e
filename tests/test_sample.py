"""sample.py as its user runs it: the checkpoint names the method, the file has sound and says that it is synthetic."""

from pathlib import Path

import av
import pytest
import torch

from src.checkpoint import record
from src.errors import CheckpointError, ConfigError
from src.lightning_modules.landmark_driven import LandmarkDriven
from src.media import probe
from src.nn.landmark_driven import LandmarkDrivenUNet
from src.pipelines.loading import load_pipeline
from tests.commands import Done, run_command
from tests.stores import write_pattern_store

NET = {
    "_target_": "src.nn.landmark_driven.LandmarkDrivenUNet",
    "_convert_": "all",
    "sample_size": 16,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}
SCHEDULE = {"_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler", "num_train_timesteps": 50}
CONFIG = {
    "model": {
        "_target_": "src.lightning_modules.landmark_driven.LandmarkDriven",
        "net": NET,
        "noise_schedule": SCHEDULE,
    },
    "pipeline": {"_target_": "src.pipelines.landmark_driven.LandmarkDrivenPipeline", "steps": 2, "batch_size": 5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from diffusers import DDIMScheduler

    folder = tmp_path_factory.mktemp("sample")
    write_pattern_store(folder / "store", n_clips=2, n_frames=12)
    torch.manual_seed(0)
    net = LandmarkDrivenUNet(**{k: v for k, v in NET.items() if not k.startswith("_")})
    weights = LandmarkDriven(net, DDIMScheduler(num_train_timesteps=50)).state_dict()
    torch.save({"state_dict": weights, "viseme": record("landmark_driven", CONFIG)}, folder / "last.ckpt")
    return folder


def run(folder: Path, *overrides: str) -> Done:
    return run_command(folder, "sample.py", *overrides)


def test_a_talking_video_with_sound_that_says_it_is_synthetic(folder):
    options = ["source=store@clip0", "driving=store@clip1", "out=videos/talk.mp4"]
    result = run(folder, "ckpt=last.ckpt", *options, "pipeline.side_by_side=true", "pipeline.write_landmark_video=true")
    assert result.returncode == 0, result.stderr
    talk = probe(folder / "videos" / "talk.mp4")
    assert (talk.n_frames, talk.fps, talk.width, talk.height) == (12, 25, 3 * 16, 16)
    assert talk.has_audio
    assert talk.duration == pytest.approx(12 / 25, abs=0.03)
    with av.open(str(folder / "videos" / "talk.mp4")) as container:
        comment = container.metadata["comment"]
    assert "synthetic" in comment
    assert "landmark_driven" in comment
    assert "last.ckpt" in comment
    assert probe(folder / "videos" / "talk.landmarks.mp4").n_frames == 12
    assert {p.name for p in (folder / "videos").iterdir()} == {"talk.mp4", "talk.landmarks.mp4"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["ckpt=last.ckpt", "pipeline.stepps=3"], "did you mean 'pipeline.steps'?"),
        (["ckpt=nowhere.ckpt", "source=a.png"], "nowhere.ckpt"),
        (["ckpt=last.ckpt", "pipeline=diffused_heads", "source=a.png"], "is of landmark_driven, not of diffused_heads"),
        (["ckpt=last.ckpt", "seed=abc", "source=a.png"], "seed=abc: give a whole number"),
        (["ckpt=last.ckpt", "n_batches=0", "inputs=store"], "n_batches=0: give a whole number from 1 on"),
        (["ckpt=last.ckpt", "weights=emma", "source=a.png"], "choose ema or last"),
        (["ckpt=last.ckpt", "source=store@clip0"], "driving"),
        (["ckpt=last.ckpt", "source=store@clip9", "driving=store@clip1"], "no clip 'clip9'"),
        (["ckpt=last.ckpt", "source=store@clip0", "driving=store@clip1", "out=x.avi"], ".mp4"),
        (["ckpt=last.ckpt", "atom_ckpt=lost.ckpt", "source=a.png"], "atom_ckpt=lost.ckpt"),
        (["ckpt=last.ckpt", "atom_ckpt=last.ckpt", "source=store@clip0", "audio=a.wav"], "is of landmark_driven"),
        (["ckpt=last.ckpt", "atom_ckpt=a.ckpt", "motion_ckpt=b.ckpt"], "two names of one thing"),
    ],
)
def test_mistakes_end_in_one_sentence_and_leave_nothing(folder, overrides, says):
    before = set(folder.rglob("*"))
    result = run(folder, *overrides)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert says in result.stderr.strip().splitlines()[-1]
    assert set(folder.rglob("*")) == before


def test_a_checkpoint_that_makes_no_videos_says_so(folder):
    first_stage = {"state_dict": {"w": torch.zeros(1)}, "viseme": record("difftalk_autoencoder", {"model": {}})}
    torch.save(first_stage, folder / "first_stage.ckpt")
    result = run(folder, "ckpt=first_stage.ckpt", "source=a.png", "out=never.mp4")
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: ckpt=first_stage.ckpt is of difftalk_autoencoder, which makes no videos by itself"
    )
    assert not (folder / "never.mp4").exists()


def test_help_lists_the_options_of_the_checkpoints_method(folder):
    for arguments in (["ckpt=last.ckpt", "--help"], ["--help", "ckpt=last.ckpt"]):
        result = run(folder, *arguments)
        assert result.returncode == 0, result.stderr
        assert "write_landmark_video: false" in result.stdout


def test_one_call_gives_a_ready_pipeline_with_other_options(folder):
    pipeline = load_pipeline(folder / "last.ckpt", device="cpu", options={"steps": 1, "noise": "random"})
    frames = pipeline(source=f"{folder}/store@clip0", driving=f"{folder}/store@clip1").frames()
    assert frames.shape == (12, 16, 16, 3)
    with pytest.raises(ConfigError, match="no option 'stepps'"):
        load_pipeline(folder / "last.ckpt", device="cpu", options={"stepps": 1})


def test_weights_of_another_network_are_refused(folder, tmp_path):
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["state_dict"].pop("net.unet.conv_in.weight")
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(CheckpointError, match="do not fit the landmark_driven network"):
        load_pipeline(tmp_path / "broken.ckpt", device="cpu")


def test_a_device_that_is_not_there_is_a_sentence(folder):
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(ConfigError, match="device=cpu"):
        load_pipeline(folder / "last.ckpt", device="cuda")
