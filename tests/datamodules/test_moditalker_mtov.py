"""Windows for MToV: what is drawn, what is in them, latents in their place."""

import os

import numpy as np
import pytest
import torch

from src.checkpoint import save_safetensors
from src.datamodules.moditalker_mtov import MToVDataModule, MToVDataset, landmark_pictures
from src.datamodules.moditalker_mtov_autoencoder import MToVAutoencoderDataModule
from src.datamodules.preprocessing.clip_latents import read_autoencoders, write_clip_latents
from src.datamodules.store import ClipStore
from src.diffusion.pixels import to_signed
from src.errors import CheckpointError, ConfigError, StoreError
from src.face.moditalker_mtov import dots
from src.media import write_video
from src.nn.moditalker_mtov import TriplaneAutoencoder
from tests.mtov import AUTOENCODER, FRAMES, SIDE
from tests.stores import write_pattern_store


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=4, n_frames=11)


def data(root, **options) -> MToVDataModule:
    made = MToVDataModule(root, SIDE, FRAMES, 2, **{"draws_per_clip": 4} | options)
    made.setup("fit")
    return made


def test_a_window_has_its_landmarks_and_no_lower_face(root):
    dataset = data(root).train_dataset
    clip = dataset.clips[0]
    item = dataset.item(clip, 3, 9)
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        "target": (FRAMES, 3, SIDE, SIDE), "masked": (FRAMES, 3, SIDE, SIDE), "landmarks": (FRAMES, 3, SIDE, SIDE),
        "reference": (3, SIDE, SIDE),
    }  # fmt: skip
    rows = np.trunc(dataset.points(clip, np.arange(3, 7))[:, 33, 1]).astype(int)
    for t, row in enumerate(rows):
        assert torch.equal(item["masked"][t, :, :row], item["target"][t, :, :row])
        assert not item["masked"][t, :, row:].any()
    drawn = landmark_pictures(dataset.points(clip, np.arange(3, 7)), SIDE)
    assert torch.equal(item["landmarks"], drawn)
    assert drawn.any()
    assert torch.equal(dataset.item(clip, 9 - FRAMES + 1, 0)["target"][-1], item["reference"])


def test_draws_follow_from_seed_epoch_and_row(root):
    one, two = data(root, seed=3).train_dataset, data(root, seed=3).train_dataset
    draws = [one.draw(i)[1:] for i in range(2 * len(one))]
    assert draws == [two.draw(i)[1:] for i in range(2 * len(one))]
    assert draws[: len(one)] != draws[len(one) :]
    assert all(0 <= start <= 11 - FRAMES for start, _ in draws)
    validation = data(root).val_dataset
    assert validation.draw(1)[1:] == validation.draw(1 + len(validation))[1:]


def test_the_first_frame_of_the_window_can_be_the_reference(root):
    dataset = data(root, reference="first").train_dataset
    assert all(start == reference for _, start, reference in map(dataset.draw, range(8)))


def test_the_window_before_is_there_or_black(root):
    dataset = data(root, previous=True).train_dataset
    clip = dataset.clips[0]
    early, late = dataset.item(clip, FRAMES - 1, 0), dataset.item(clip, FRAMES + 2, 0)
    assert not early["has_previous"]
    assert not early["previous"].any()
    assert late["has_previous"]
    assert torch.equal(late["previous"], dataset.item(clip, 2, 0)["target"])


def test_dots_of_small_pictures_lie_between_pixels_and_large_ones_are_the_originals():
    points = np.full((1, 68, 2), 20.0)
    moved = [landmark_pictures(points + shift, 64)[0, 0].double() for shift in (0.0, 0.25, 0.5)]
    columns = torch.arange(64.0, dtype=torch.float64)
    centres = [float((picture.sum(dim=0) * columns).sum() / picture.sum()) for picture in moved]
    assert np.allclose(centres, [20.0, 20.25, 20.5], atol=0.15)
    assert centres[0] < centres[1] < centres[2]
    assert np.array_equal(landmark_pictures(points, 256)[0].permute(1, 2, 0).numpy(), dots(points, 256)[0])


def test_clips_that_are_too_short_are_left_out(root):
    clips = ClipStore(root).clips
    with pytest.raises(StoreError, match=r"None of the 4 clips of .* has 12 frames: prepare longer clips"):
        MToVDataset(clips, SIDE, 12)
    with pytest.raises(ConfigError, match="reference=last"):
        MToVDataset(clips, SIDE, FRAMES, reference="last")  # ty: ignore[invalid-argument-type]


def test_autoencoders_see_faces_or_landmarks(root):
    shown = {}
    for content in ("faces", "landmarks"):
        module = MToVAutoencoderDataModule(root, SIDE, FRAMES, content, 2)
        module.setup("fit")
        shown[content] = module.preview(2)
        assert shown[content]["clip"].shape == (2, FRAMES, 3, SIDE, SIDE)
        assert torch.equal(shown[content]["target"], shown[content]["clip"][:, FRAMES // 2])
        assert len(module.preview_video(10)["target"]) == 8  # whole windows
    grey = shown["landmarks"]["clip"]
    assert torch.equal(grey, grey[:, :, :1].expand_as(grey))
    assert grey.any()
    assert not torch.equal(shown["faces"]["clip"], shown["landmarks"]["clip"])


# --- latents


def write_autoencoder(path, seed: int, method: str = "moditalker_mtov_autoencoder", **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TriplaneAutoencoder(**AUTOENCODER | sizes)
    config = {"model": {"net": {"_target_": "src.nn.moditalker_mtov.TriplaneAutoencoder", **AUTOENCODER, **sizes}}}
    save_safetensors(path, method, config, {f"net.{key}": value for key, value in net.state_dict().items()})
    return path


def test_latents_are_what_the_autoencoders_make_of_the_windows(tmp_path):
    root = write_pattern_store(tmp_path / "store", n_clips=2, n_frames=11)
    nets = read_autoencoders(
        write_autoencoder(tmp_path / "a.safetensors", 0), write_autoencoder(tmp_path / "b.safetensors", 1)
    )
    assert write_clip_latents(root, nets, stride=2, batch_size=3) == 2
    assert write_clip_latents(root, nets, stride=2) == 0
    dataset = data(root, latents="moditalker_mtov", previous=True).train_dataset
    clip = dataset.clips[0]
    assert dataset.latents is not None
    assert dataset.latents.starts(clip).tolist() == [0, 2, 4, 6]
    cached, shown = dataset.latents.item(clip, 6, 4, previous=True), dataset.item(clip, 6, 4)
    still = shown["reference"].expand(1, FRAMES, -1, -1, -1)
    for name, net, picture in (
        ("latent", nets.faces, shown["target"][None]), ("masked_latent", nets.faces, shown["masked"][None]),
        ("landmark_latent", nets.landmarks, shown["landmarks"][None]), ("previous_latent", nets.faces, shown["previous"][None]),
        ("reference_latent", nets.faces, still),
    ):  # fmt: skip
        made = net.encode(to_signed(picture))[0]
        torch.testing.assert_close(cached[name], made[:, : cached[name].shape[1]], rtol=0, atol=2e-3)
    assert cached["has_previous"]
    assert not dataset.latents.item(clip, 2, 4, previous=True)["has_previous"]
    assert {dataset.draw(i)[1] for i in range(40)} == {0, 2, 4, 6}
    batch = next(iter(data(root, latents="moditalker_mtov").train_dataloader()))
    assert "target" not in batch
    assert "target" in data(root, latents="moditalker_mtov").preview(1)


def test_latents_of_a_clip_that_was_replaced_are_refused_and_made_again(tmp_path):
    root = write_pattern_store(tmp_path / "store", n_clips=2, n_frames=8)
    nets = read_autoencoders(*[write_autoencoder(tmp_path / "a.safetensors", 0)] * 2)
    assert write_clip_latents(root, nets) == 2
    clip = ClipStore(root)[0]
    write_video(clip.video_path, clip.frames()[::-1].copy(), clip.fps)
    os.utime(clip.video_path, (0, 0))  # no newer than the latents
    with pytest.raises(StoreError, match=r"clips are others than those that were encoded.*clip_latents=\.\.\."):
        MToVDataset(ClipStore(root).clips, SIDE, FRAMES, latents="moditalker_mtov")
    assert write_clip_latents(root, nets) == 1
    MToVDataset(ClipStore(root).clips, SIDE, FRAMES, latents="moditalker_mtov")
    (root / "latents" / "moditalker_mtov" / "clips.csv").unlink()
    with pytest.raises(StoreError, match=r"does not record what 2 of 2 clips were"):
        MToVDataset(ClipStore(root).clips, SIDE, FRAMES, latents="moditalker_mtov")


def test_items_show_where_the_lips_are(root):
    dataset = data(root).train_dataset
    clip, start, _ = dataset.draw(0)
    lips = dataset[0]["lips"]
    assert lips.shape == (FRAMES, 20, 2)
    points = torch.from_numpy(dataset.points(clip, np.arange(start, start + FRAMES))[:, 48:]).float()
    torch.testing.assert_close(lips.amax(dim=1), points.amax(dim=1), atol=0.5, rtol=0)


def test_latents_that_do_not_fit_are_refused(root, tmp_path):
    with pytest.raises(StoreError, match=r"holds no latents.*clip_latents=\.\.\."):
        data(root, latents="nothing")
    a, b = write_autoencoder(tmp_path / "a.safetensors", 0), write_autoencoder(tmp_path / "b.safetensors", 1, frames=8)
    with pytest.raises(
        CheckpointError, match=r"takes 4 frames of 16x16, .* 8 of 16x16: give two autoencoders of the same sizes"
    ):
        read_autoencoders(a, b)
    with pytest.raises(
        CheckpointError, match="is of difftalk_autoencoder: give a checkpoint of moditalker_mtov_autoencoder"
    ):
        read_autoencoders(write_autoencoder(tmp_path / "c.safetensors", 0, "difftalk_autoencoder"), a)
    store = write_pattern_store(tmp_path / "store", n_clips=2, n_frames=8)
    nets = read_autoencoders(a, a)
    write_clip_latents(store, nets)
    with pytest.raises(StoreError, match=r"was made with frames=4, this run has datamodule\.frames=5"):
        MToVDataset(ClipStore(store).clips, SIDE, 5, latents="moditalker_mtov")
    with pytest.raises(ConfigError, match=r"clip_latent_options\.name"):
        write_clip_latents(store, nets, name="a/b")
    with pytest.raises(StoreError, match=r"clip_latent_options\.name"):
        write_clip_latents(store, nets, stride=3)
