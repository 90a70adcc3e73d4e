"""Latents of a store: made once, made again where needed, and refused where they do not fit."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from src.audio.log_mel import LogMel
from src.checkpoint import save_safetensors
from src.datamodules.difftalk import DiffTalkDataModule
from src.datamodules.preprocessing.latents import load_first_stage, write_latents
from src.datamodules.store import ClipStore, forget_open_files
from src.diffusion.pixels import to_signed
from src.errors import CheckpointError, ConfigError, StoreError
from src.face.repainting import MaskRule
from src.media import write_video
from src.nn.difftalk import VQAutoencoder
from tests.commands import run_command
from tests.stores import write_pattern_store

NET = {"_target_": "src.nn.difftalk.VQAutoencoder", "channels": 32, "channel_mult": [1, 2], "n_codes": 16}
FEATURES = LogMel(n_mels=5, hops=2)
RESOLUTION = 16


def write_checkpoint(path, seed: int, method: str = "difftalk_autoencoder", place: str = "net"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = VQAutoencoder(**{key: value for key, value in NET.items() if key != "_target_"})
    weights = {f"{place}.{key}": value for key, value in net.state_dict().items()} | {"discriminator.x": torch.ones(1)}
    save_safetensors(path, method, {"model": {place: NET}}, weights)
    return path


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("ckpt") / "model.safetensors", 0)


@pytest.fixture
def root(tmp_path):
    return write_pattern_store(tmp_path / "store", n_clips=2, n_frames=7)


def module(root, **options) -> DiffTalkDataModule:
    made = DiffTalkDataModule(root, FEATURES, RESOLUTION, 2, latents="difftalk", **options)
    made.prepare_data()
    made.setup("fit")
    return made


def test_latents_are_what_the_first_stage_makes_of_the_frames(root, ckpt):
    assert write_latents(root, ckpt, resolution=RESOLUTION, batch_size=3) == 2
    data = module(root).train_dataset
    clip = data.clips[0]
    cached, shown = data.item(clip, 4, 6), data.item(clip, 4, 6, pictures=True)
    assert set(cached) == {"latent", "masked_latent", "reference_latent", "kept", "audio", "landmarks", "lips"}
    net, _ = load_first_stage(ckpt)
    frames = to_signed(torch.stack([shown["target"], shown["reference"]]))
    masked = frames[:1].masked_fill(~shown["kept"], -1.0)
    assert (masked != frames[:1]).any()
    expected = net.encode(torch.cat([frames, masked]))
    for name, latent in zip(("latent", "reference_latent", "masked_latent"), expected, strict=True):
        torch.testing.assert_close(cached[name], latent, atol=2e-3, rtol=2e-3)


def test_batches_have_latents_previews_have_pictures(root, ckpt):
    write_latents(root, ckpt, resolution=RESOLUTION)
    made = module(root)
    batch = next(iter(made.train_dataloader()))
    assert batch["latent"].dtype == torch.float32
    assert "target" not in batch
    assert "latent" not in made.preview(1)
    assert made.preview(1)["target"].shape == (1, 3, RESOLUTION, RESOLUTION)


def test_only_what_is_missing_is_made(root, ckpt):
    write_latents(root, ckpt, resolution=RESOLUTION)
    folder = root / "latents" / "difftalk"
    (folder / "clip1.npy").unlink()
    before = (folder / "clip0.npy").stat().st_mtime_ns
    assert write_latents(root, ckpt, resolution=RESOLUTION) == 1
    assert write_latents(root, ckpt, resolution=RESOLUTION) == 0
    assert (folder / "clip0.npy").stat().st_mtime_ns == before
    (folder / "clip0.masked.npy").unlink()
    assert write_latents(root, ckpt, resolution=RESOLUTION) == 1


@pytest.mark.parametrize("kind", ["video_path", "array_path", "length"])
def test_a_clip_that_was_replaced_is_noticed_and_encoded_again(root, ckpt, kind, tmp_path):
    write_latents(root, ckpt, resolution=RESOLUTION)
    module(root)
    if kind == "length":
        other = write_pattern_store(tmp_path / "other", n_clips=2, n_frames=9)
        shutil.rmtree(root / "features", ignore_errors=True)
        shutil.copytree(other, root, dirs_exist_ok=True)
    elif kind == "video_path":  # other pictures of the same number and size, and no newer than the latents
        clip = ClipStore(root)[0]
        frames = clip.frames()[::-1].copy()
        write_video(clip.video_path, frames, clip.fps)
        os.utime(clip.video_path, (0, 0))
    else:
        path = ClipStore(root)[0].array_path()
        np.save(path, np.load(path) + np.float32(1))
    forget_open_files()
    with pytest.raises(StoreError, match=r"1 of 1 clips are others than those that were encoded \(first: clip0\)"):
        module(root)
    assert write_latents(root, ckpt, resolution=RESOLUTION) == (2 if kind == "length" else 1)
    module(root)


def test_latents_of_other_settings_are_refused(root, ckpt, tmp_path):
    write_latents(root, ckpt, resolution=RESOLUTION)
    other = write_checkpoint(tmp_path / "other.safetensors", 1)
    with pytest.raises(StoreError, match="first_stage="):
        write_latents(root, other, resolution=RESOLUTION)
    with pytest.raises(StoreError, match="resolution=16"):
        write_latents(root, ckpt, resolution=32)
    with pytest.raises(StoreError, match=r"mask\.shape=steady"):
        write_latents(root, ckpt, resolution=RESOLUTION, mask=MaskRule("jaw"))
    with pytest.raises(StoreError, match=r"mask.margin=0.1, this run has datamodule.mask.margin=0.2"):
        module(root, mask=MaskRule(margin=0.2))
    with pytest.raises(StoreError, match="resolution=16"):
        DiffTalkDataModule(root, FEATURES, 32, latents="difftalk").setup()


def test_missing_latents_are_counted(root, ckpt):
    write_latents(root, ckpt, resolution=RESOLUTION)
    (root / "latents" / "difftalk" / "clip0.masked.npy").unlink()
    with pytest.raises(StoreError, match=r"lacks the latents of 1 of 1 clips \(first: clip0\)"):
        module(root)


def test_the_first_stage_of_either_checkpoint(ckpt, tmp_path):
    second = write_checkpoint(tmp_path / "second.safetensors", 0, "difftalk", "first_stage")
    (net, fingerprint), (same, again) = load_first_stage(ckpt), load_first_stage(second)
    assert fingerprint == again
    assert len(fingerprint) == 12
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_checkpoint_of_another_method(tmp_path):
    path = write_checkpoint(tmp_path / "a.safetensors", 0, "diffused_heads")
    with pytest.raises(CheckpointError, match="of diffused_heads and holds no first stage"):
        load_first_stage(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 15}, "multiple of 2"),
        ({"name": "../x"}, "name of one folder"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"device": "cuda:99"}, "no such device"),
    ],
)
def test_settings_that_cannot_be(root, ckpt, options, message):
    with pytest.raises(ConfigError, match=message):
        write_latents(root, ckpt, **({"resolution": RESOLUTION} | options))


def test_settings_say_what_was_encoded(root, ckpt):
    write_latents(root, ckpt, resolution=RESOLUTION, mask=MaskRule(margin=0.3))
    settings = json.loads((root / "latents" / "difftalk" / "settings.json").read_text())
    assert settings["mask"] == {"shape": "steady", "margin": 0.3, "eroded_cells": 1}
    array = np.load(root / "latents" / "difftalk" / "clip0.npy")
    assert (array.dtype, array.shape[0]) == (np.float16, 7)


def test_the_command(root, ckpt):
    options = [f"latent_options.resolution={RESOLUTION}", "latent_options.mask.margin=0.2"]
    done = run_command(root.parent, "tools/preprocess.py", f"root={root}", f"latents={ckpt}", *options)
    assert done.returncode == 0, done.stderr
    assert len(module(root, mask=MaskRule(margin=0.2)).train_dataset) == 1
