"""A face and a voice -> landmarks: who is shown, where the head goes, and what is told when something is missing."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from scipy.io import savemat

import src.pipelines.moditalker_atom as pipeline_module
import src.pipelines.moditalker_atom_exact as exact_module
from src.audio.log_mel import LogMel
from src.checkpoint import Checkpoint, save_safetensors
from src.diffusion.motion import MotionDiffusion
from src.errors import CheckpointError, ConfigError, FaceError
from src.face.landmarks import mouth_opening, to_ibug68
from src.face.liveportrait_talker import five_points
from src.face.moditalker_atom import fit_heads, neutral_face
from src.lightning_modules.landmark_driven import LandmarkDriven
from src.lightning_modules.moditalker_atom import AToM
from src.nn.landmark_driven import LandmarkDrivenUNet
from src.nn.moditalker_atom import MotionDecoder
from src.pipelines.landmark_driven import LandmarkDrivenPipeline
from src.pipelines.moditalker_atom import (
    MotionGenerator,
    generate_motion,
    head_motion,
    load_motion_generator,
    read_heads,
    require_short_gaps,
)
from src.pipelines.moditalker_atom_exact import ExactAlignment, ExactHeads, generate_exact_motion
from src.pipelines.moditalker_mtov import MToVPipeline
from tests.motion_stores import speaking_landmarks, write_speaking_store
from tests.mtov import tiny_mtov

NET: dict[str, Any] = {"dim": 16, "ff_dim": 24, "n_layers": 1, "n_heads": 2, "audio_dim": 8, "n_encoder_layers": 1}
FEATURES = LogMel(4, 2, "mel")
SECOND = np.zeros(16000, np.float32) + 0.1


def still_model(opening: float = 0.0) -> AToM:
    """Always makes the reference face, whose lower lip is lower by so many centimetres."""
    model = AToM(MotionDecoder(**NET), MotionDiffusion(), window=12, sample_steps=2)
    residual = torch.zeros(68, 3)
    residual[[55, 56, 57, 58, 59, 65, 66, 67], 1] = -opening
    model.diffusion.sample = lambda denoise, noise, *_, **__: residual.flatten().expand_as(noise)
    return model.eval()


def test_a_still_face_is_the_source():
    source = speaking_landmarks(np.array([0.3, 0.3]))[1]
    for given in (source, to_ibug68(source)):
        made, motion = generate_motion(MotionGenerator(still_model(), FEATURES), given, SECOND)
        assert made.shape == (25, *given.shape)
        np.testing.assert_allclose(made, np.broadcast_to(given, made.shape), atol=1e-3)
        assert len(motion) == 25
        np.testing.assert_array_equal(motion.audio, SECOND)


def test_the_mouth_opens_on_the_mesh_and_the_eyes_stay():
    source = speaking_landmarks(np.zeros(2))[0]
    made, _ = generate_motion(MotionGenerator(still_model(opening=1.0), FEATURES), source, SECOND)
    assert mouth_opening(made[:1])[0] > mouth_opening(source[None])[0] + 0.05
    np.testing.assert_allclose(
        made[0, [33, 133, 362, 263, 10, 468, 473]], source[[33, 133, 362, 263, 10, 468, 473]], atol=1e-3
    )


def test_the_head_moves_as_the_driving_one():
    driving = speaking_landmarks(np.zeros(25))
    heads = fit_heads(driving)
    made, _ = generate_motion(MotionGenerator(still_model(), FEATURES), driving[0], SECOND, driving=heads)
    np.testing.assert_allclose(made, driving, atol=0.05)
    other = driving[0] * 2 + 7
    placed, _ = generate_motion(MotionGenerator(still_model(), FEATURES), other, SECOND, driving=heads, pose="absolute")
    np.testing.assert_allclose(placed, driving, atol=0.05)


def test_a_short_driving_video_is_played_to_and_fro(caplog):
    driving = fit_heads(speaking_landmarks(np.zeros(3)))
    with caplog.at_level(logging.WARNING):
        heads = head_motion(driving[:1], driving, 7)
    assert "0.1 s of head motion for 0.3 s of voice; it is played to and fro" in caplog.text
    np.testing.assert_array_equal(heads.rotation[:6], heads.rotation[[0, 1, 2, 2, 1, 0]])


def test_short_gaps_are_bridged_and_long_ones_are_told():
    found = np.ones(60, bool)
    found[20:30] = False
    require_short_gaps(found, 25, "driving=pose.mp4")
    found[30] = False
    with pytest.raises(FaceError, match=r"driving=pose\.mp4: no face from 0\.80 s to 1\.24 s, and at most 10 frames"):
        require_short_gaps(found, 25, "driving=pose.mp4")


def test_heads_and_voices_of_stored_clips(tmp_path):
    root = write_speaking_store(tmp_path / "store", n_clips=1)
    heads = read_heads(f"{root}@clip0")
    assert len(heads) == 30
    generator = MotionGenerator(still_model(), FEATURES)
    made, _ = generate_motion(generator, speaking_landmarks(np.zeros(2))[0], f"{root}@clip0", driving=heads)
    assert made.shape == (30, 478, 3)


def checkpoint(tmp_path, **changes) -> Checkpoint:
    config = {
        "model": {
            "_target_": "src.lightning_modules.moditalker_atom.AToM",
            "net": {"_target_": "src.nn.moditalker_atom.MotionDecoder", **NET},
            "diffusion": {"_target_": "src.diffusion.motion.MotionDiffusion"},
            "window": 12,
            "sample_steps": 2,
        },
        "datamodule": {"features": {"_target_": "src.audio.log_mel.LogMel", "n_mels": 4, "hops": 2, "name": "mel"}},
    }
    state_dict = AToM(MotionDecoder(**NET), MotionDiffusion(), window=12).state_dict()
    settings: dict[str, Any] = {
        "path": tmp_path / "atom.ckpt",
        "method": "moditalker_atom",
        "state_dict": state_dict,
        "config": config,
    }
    return Checkpoint(**{**settings, **changes})


def test_a_checkpoint_brings_its_features(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline_module, "LONG", 20)  # with a progress bar
    generator = load_motion_generator(checkpoint(tmp_path), device="cpu")
    source = speaking_landmarks(np.zeros(2))[0]
    first, _ = generate_motion(generator, source, SECOND, seed=4)
    again, _ = generate_motion(generator, source, SECOND, seed=4)
    assert first.shape == (25, 478, 3)
    np.testing.assert_array_equal(first, again)


def test_checkpoints_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="is of difftalk, not of moditalker_atom"):
        load_motion_generator(checkpoint(tmp_path, method="difftalk"))
    with pytest.raises(CheckpointError, match="do not fit the moditalker_atom network"):
        load_motion_generator(checkpoint(tmp_path, state_dict={}))


def test_missing_files_are_told_all_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"BFM_model_front\.mat.*epoch_20\.pth.*which needs none"):
        ExactAlignment(None, tmp_path / "epoch_20.pth")


def write_face_model(path) -> None:
    """The average face as a morphable model whose first expression opens the mouth; a vertex stands before those of the points."""
    points = np.concatenate([np.full((1, 3), 9.0), neutral_face()])
    expression = np.zeros((69, 3, 64))
    expression[1 + np.array([55, 56, 57, 58, 59, 65, 66, 67]), 1, 0] = -0.1
    arrays = {"idBase": np.zeros((207, 80)), "exBase": expression.reshape(207, 64), "keypoints": np.arange(1, 69)[None]}
    savemat(path, {"meanshape": points.reshape(1, -1), **arrays})


class OpenMouth(torch.nn.Module):
    """A face regressor to which every mouth is open."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        coefficients = torch.zeros(len(pictures), 257)
        coefficients[:, 80] = 2.0
        return coefficients


@pytest.fixture
def alignment(tmp_path, monkeypatch) -> ExactAlignment:
    monkeypatch.setattr(exact_module, "load_face_regressor", lambda path: OpenMouth())
    write_face_model(tmp_path / "BFM_model_front.mat")
    (tmp_path / "epoch_20.pth").touch()
    return ExactAlignment(tmp_path / "BFM_model_front.mat", tmp_path / "epoch_20.pth", device="cpu")


def test_the_exact_alignment_puts_faces_onto_the_heads_of_its_frames(tmp_path, alignment):
    root = write_speaking_store(tmp_path / "store", n_clips=1)
    heads = alignment.read_heads(f"{root}@clip0")
    frontal = alignment.frontal(heads)
    np.testing.assert_allclose(frontal[0, 57, 1] - neutral_face()[57, 1], -0.2, atol=1e-6)
    generator = MotionGenerator(still_model(), FEATURES, alignment.face.neutral)
    source = ExactHeads(heads.coefficients[:1], heads.landmarks[:1])
    aligned, motion = generate_exact_motion(generator, alignment, source, f"{root}@clip0", heads)
    assert aligned.dtype == np.int64
    assert aligned.shape == (30, 68, 2)
    np.testing.assert_allclose(motion.faces, frontal, atol=1e-5)
    middle = [five_points(points.astype(np.float64)).mean(axis=0) for points in (aligned[7], heads.landmarks[7])]
    np.testing.assert_allclose(*middle, atol=1.0)


def test_mtov_puts_a_voice_onto_heads_the_original_way(tmp_path, alignment, atom_file):
    root = write_speaking_store(tmp_path / "store", n_clips=1)
    with pytest.raises(ConfigError, match=r"face_regressor are for landmarks of AToM: give atom_ckpt too"):
        MToVPipeline(tiny_mtov(), face_model_3d=tmp_path / "BFM_model_front.mat")
    with pytest.raises(ConfigError, match=r"files that are not there: face_regressor=None"):
        MToVPipeline(tiny_mtov(), motion_ckpt=atom_file, face_model_3d=tmp_path / "BFM_model_front.mat")
    files = {"face_model_3d": tmp_path / "BFM_model_front.mat", "face_regressor": tmp_path / "epoch_20.pth"}
    pipeline = MToVPipeline(tiny_mtov(), motion_ckpt=atom_file, **files)
    assert pipeline.generator is not None
    np.testing.assert_array_equal(pipeline.generator.neutral, alignment.face.neutral)
    plan = pipeline.plan(f"{root}@clip0", SECOND)
    assert plan.points.shape == (25, 68, 2)
    assert np.array_equal(plan.points, np.trunc(plan.points))  # whole pixels, as the original has them
    middle = five_points(plan.points[7]).mean(axis=0)
    real = five_points(to_ibug68(plan.body.landmarks)[plan.shown[7]].astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(middle, real, atol=1.5)


# --- landmark_driven with a voice


@pytest.fixture(scope="module")
def atom_file(tmp_path_factory):
    made = checkpoint(tmp_path_factory.mktemp("atom"))
    save_safetensors(made.path.with_suffix(".safetensors"), made.method, made.config, made.state_dict)
    return made.path.with_suffix(".safetensors")


def landmark_driven(**options) -> LandmarkDrivenPipeline:
    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    net = LandmarkDrivenUNet(32, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    schedule: Any = DDIMScheduler()
    return LandmarkDrivenPipeline(LandmarkDriven(net, schedule).eval(), steps=1, **options)


def test_a_voice_drives_landmark_driven(atom_file, tmp_path, monkeypatch):
    root = write_speaking_store(tmp_path / "store", n_clips=2)
    pipeline, drawn = landmark_driven(motion_ckpt=atom_file), []
    monkeypatch.setattr(
        pipeline, "_pictures", lambda points: drawn.append(points) or np.zeros((len(points), 32, 32, 3), np.uint8)
    )
    video = pipeline(source=f"{root}@clip0", audio=SECOND)
    assert video.frames().shape == (25, 32, 32, 3)
    assert video.fps == 25
    np.testing.assert_array_equal(video.audio, SECOND)
    still = np.concatenate(drawn[1:])
    np.testing.assert_allclose(still[:, [33, 263]], np.broadcast_to(drawn[0][:, [33, 263]], (25, 2, 2)), atol=3)
    drawn.clear()
    moving = pipeline(source=f"{root}@clip0", audio=SECOND, driving=f"{root}@clip1")
    assert len(moving.frames()) == 25
    assert np.ptp(np.concatenate(drawn[1:])[:, 1, 0]) > 1  # the nose turns


def test_a_voice_may_be_that_of_the_clip(atom_file, tmp_path):
    root = write_speaking_store(tmp_path / "store", n_clips=1)
    pipeline = landmark_driven(motion_ckpt=atom_file)
    assert len(pipeline(source=f"{root}@clip0")) == 30
    with pytest.raises(ConfigError, match="needs a face and a voice"):
        pipeline(audio=SECOND)


def test_without_motion_a_driving_clip_is_needed():
    with pytest.raises(ConfigError, match="a voice and motion_ckpt=ATOM"):
        landmark_driven()(source="face.png", audio=SECOND)
