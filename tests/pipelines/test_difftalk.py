"""From pictures and a voice to pictures that say it: lengths, what is kept, references, pasting back, mistakes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from src.audio.log_mel import LogMel
from src.datamodules.store import ClipStore
from src.errors import ConfigError, MediaError
from src.face.alignment import MeanFaceAlignment, transform_points
from src.face.landmarks import Face
from src.face.masks import feathered
from src.face.repainting import MaskRule, kept_masks
from src.lightning_modules.difftalk import DiffTalk
from src.media import Provenance, VideoReader, probe, write_video
from src.nn.difftalk import DiffTalkNet, VQAutoencoder
from src.pipelines.difftalk import DiffTalkPipeline
from src.pipelines.footage import LOOK_AHEAD, Footage, read_footage
from src.pipelines.many import generate, read_jobs
from src.pipelines.video import write
from tests.heads import write_heads

SIDE, N_FRAMES = 32, 12
FEATURES = LogMel(4, 2)
PUBLISHED = {"sampler": "published", "eta": 0.5, "temperature": 0.7, "noise_dropout": 0.3, "quantize_x0": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("data") / "heads", n_identities=2, n_frames=N_FRAMES, size=48)


@pytest.fixture(scope="module")
def model() -> DiffTalk:
    torch.manual_seed(0)
    net = DiffTalkNet(
        image_size=8,
        model_channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_head_channels=8,
        context_dim=16,
        audio_dim=FEATURES.dim,
        norm_num_groups=4,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    first_stage = VQAutoencoder(channels=8, channel_mult=(1, 1, 1), num_res_blocks=1, n_codes=4096, norm_num_groups=4)
    torch.nn.init.normal_(first_stage.vq.quantize.embedding.weight)  # fine enough to show small differences
    schedule = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False, steps_offset=1
    )
    return DiffTalk(net, first_stage, schedule, sampler="ddim", sample_steps=2).eval()


def pipeline(model: DiffTalk, **options) -> DiffTalkPipeline:
    return DiffTalkPipeline(model, FEATURES, **options)


def voice(n_frames: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(n_frames * 640)).astype(np.float32)


def clip(root: Path, number: int = 0) -> str:
    return f"{root}@clip{number}"


def frames_of(root: Path, number: int = 0) -> np.ndarray:
    return ClipStore(root).clips[number].frames(range(N_FRAMES))


def repainted_of(root: Path, number: int = 0, size: int = 48) -> np.ndarray:
    """Where frames may change: the mask, and the pixels that its edge is interpolated over."""
    landmarks = ClipStore(root).clips[number].landmarks
    return ~kept_masks(landmarks, (size, size), MaskRule(margin=0.3))


def test_pixels_outside_the_mask_stay_as_they_are(model, root):
    made = pipeline(model, smoothing=0.0)(source=clip(root), audio=voice(N_FRAMES)).frames()
    known, repainted = frames_of(root), repainted_of(root)
    assert made.shape == known.shape
    np.testing.assert_array_equal(made[~repainted], known[~repainted])
    assert np.abs(made[repainted].astype(int) - known[repainted]).mean() > 5


def test_the_aligned_face_alone(model, root):
    video = pipeline(model, whole_frame=False)(source=clip(root), audio=voice(5))
    assert (video.n_frames, video.size) == (5, (SIDE, SIDE))
    assert video.frames().shape == (5, SIDE, SIDE, 3)


def test_without_pasting_all_pixels_are_the_decoders(model, root):
    known = pipeline(model, whole_frame=False)(source=clip(root), audio=voice(3)).frames()
    made = pipeline(model, whole_frame=False, paste="none", hold_kept=False)(source=clip(root), audio=voice(3)).frames()
    corner = (slice(None), slice(0, 4), slice(0, 4))
    assert np.abs(made[corner].astype(int) - known[corner]).mean() > 5


def test_the_shorter_of_sound_and_video_decides_or_not(model, root):
    short = pipeline(model)(source=clip(root), audio=voice(5))
    assert short.n_frames == 5
    kept = pipeline(model, longer_video="keep")(source=clip(root), audio=voice(5))
    assert kept.n_frames == N_FRAMES
    assert len(kept.audio) == N_FRAMES * 640
    assert not kept.audio[5 * 640 :].any()
    frames, known = kept.frames(), frames_of(root)
    np.testing.assert_array_equal(frames[5:], known[5:])
    assert (frames[:5] != known[:5]).any()
    looped = pipeline(model)
    assert looped(source=clip(root), audio=voice(20)).n_frames == 20
    assert looped.order(4, 9).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert looped.order(1, 3).tolist() == [0, 0, 0]
    assert looped.order(2, 5).tolist() == [0, 1, 0, 1, 0]
    cut = pipeline(model, longer_audio="cut")(source=clip(root), audio=voice(20))
    assert (cut.n_frames, len(cut.audio)) == (N_FRAMES, N_FRAMES * 640)
    assert pipeline(model, frame_limit=3)(source=clip(root), audio=voice(20)).n_frames == 3


def test_a_limit_cuts_the_video_and_not_what_its_frames_hear(model, root):
    whole = pipeline(model)(source=clip(root), audio=voice(N_FRAMES)).frames()
    limited = pipeline(model, frame_limit=4)(source=clip(root), audio=voice(N_FRAMES))
    assert len(limited.audio) == 4 * 640
    assert np.abs(limited.frames().astype(int) - whole[:4]).max() <= 1


def test_the_first_frame_with_a_face_is_the_reference(model, root):
    stored = ClipStore(root).clips[0]
    assert read_footage(stored, MeanFaceAlignment.square(SIDE)).first == 0
    footage = replace(read_footage(stored, MeanFaceAlignment.square(SIDE)), first=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.pipelines.difftalk.read_footage", lambda *args, **options: footage)
        assert pipeline(model).plan(clip(root), voice(5)).reference == 3
        assert pipeline(model, reference_frame=0).plan(clip(root), voice(5)).reference == 0


def test_a_cutaway_stays_as_it_is_and_a_short_gap_does_not(model, root, caplog):
    caplog.set_level("INFO")
    valid = np.ones(N_FRAMES, np.bool_)
    valid[2:4] = False  # bridged
    valid[6:10] = False  # a cutaway
    footage = replace(read_footage(clip(root), MeanFaceAlignment.square(SIDE)), valid=valid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.pipelines.difftalk.read_footage", lambda *args, **options: footage)
        made = pipeline(model, max_gap=2)(source=clip(root), audio=voice(N_FRAMES)).frames()
        with pytest.raises(ConfigError, match=r"pipeline\.reference_frame=7: no face was found in this frame"):
            pipeline(model, max_gap=2, reference_frame=7)(source=clip(root), audio=voice(N_FRAMES))
    changed = (made != frames_of(root)).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(~changed), range(6, 10))
    assert "4 of 12 frames stay as they are: no face was found for more than max_gap=2" in caplog.text


@pytest.mark.parametrize("options", [{}, {"noise": "random"}, {"eta": 0.7}, PUBLISHED])
def test_the_batch_size_changes_nothing(model, root, options):
    one = pipeline(model, batch_size=1, **options)(source=clip(root), audio=voice(5)).frames()
    many = pipeline(model, batch_size=4, **options)(source=clip(root), audio=voice(5)).frames()
    assert np.abs(one.astype(int) - many).max() <= 1


def test_the_sound_is_the_voice_and_the_mouth_follows_it(model, root):
    sound = voice(6)
    video = pipeline(model)(source=clip(root), audio=sound)
    np.testing.assert_array_equal(video.audio, sound)
    other = pipeline(model)(source=clip(root), audio=0.01 * voice(6, seed=1))
    assert (video.frames() != other.frames()).any()


def test_the_clips_own_sound_is_the_default(model, root):
    video = pipeline(model)(source=clip(root))
    assert video.n_frames == N_FRAMES
    np.testing.assert_allclose(video.audio, ClipStore(root).clips[0].audio(), atol=1e-6)


def test_a_previous_frame_as_reference_changes_later_frames_only(model, root):
    first = pipeline(model, whole_frame=False)(source=clip(root), audio=voice(4)).frames()
    chained = pipeline(model, whole_frame=False, reference="previous")(source=clip(root), audio=voice(4)).frames()
    assert np.abs(first[0].astype(int) - chained[0]).max() <= 1
    assert (first[1:] != chained[1:]).any()


def test_another_reference_frame_is_seen(model, root):
    first = pipeline(model)(source=clip(root), audio=voice(3)).frames()
    other = pipeline(model, reference_frame=N_FRAMES - 1)(source=clip(root), audio=voice(3)).frames()
    assert (first != other).any()
    with pytest.raises(ConfigError, match=r"pipeline\.reference_frame=12: the source has 12 frames"):
        pipeline(model, reference_frame=N_FRAMES)(source=clip(root), audio=voice(3))


def test_a_whole_store_is_made_and_what_is_written_says_so(model, root, tmp_path):
    made = generate(pipeline(model), read_jobs(root, None), tmp_path / "out", Provenance("difftalk", "test"))
    assert len(made.written) == 2
    assert not made.failures
    info = probe(made.written[0])
    assert (info.n_frames, info.width, info.has_audio) == (N_FRAMES, 48, True)
    path = write(pipeline(model)(source=clip(root)), tmp_path / "a.mp4", Provenance("difftalk", "test"), progress=False)
    assert probe(path[0]).n_frames == N_FRAMES


def test_the_chosen_quality_reaches_the_file(model, root, tmp_path):
    made, known = pipeline(model)(source=clip(root)), None
    errors = []
    for crf in (1, 35):
        write(made, tmp_path / f"{crf}.mp4", Provenance("difftalk", "test"), progress=False, crf=crf)
        known = made.frames().astype(int) if known is None else known
        errors.append(np.abs(VideoReader(tmp_path / f"{crf}.mp4").read(range(N_FRAMES)) - known).mean())
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler=magic: choose one of published"),
        ({"sampler": "dpm_solver", "eta": 0.5}, "eta=0.5 is for"),
        ({"temperature": 0.5}, "pipeline.temperature, noise_dropout and quantize_x0 are of pipeline.sampler=published"),
        ({"sampler": "published", "noise_dropout": 1.0}, "pipeline.noise_dropout=1.0: give a share"),
        ({"batch_size": 0}, "pipeline.batch_size=0: give 1 or more"),
        ({"steps": 0}, "pipeline.steps=0: give 1 or more"),
        ({"steps": 1001}, "pipeline.steps=1001: give 1 to 1000"),
        ({"eta": 1.5}, "pipeline.eta=1.5: give 0"),
        ({"max_gap": -1}, "pipeline.max_gap=-1: give 0 or more"),
        ({"audio_offsets": (-2, 2)}, "pipeline.audio_offsets=[-2, 2]: give the first and the last of the 8 rows"),
        ({"audio_offsets": (3, -4)}, "pipeline.audio_offsets=[3, -4]: give the first and the last of the 8 rows"),
        ({"audio_offsets": ()}, "pipeline.audio_offsets=[]: give the first"),
    ],
)
def test_wrong_settings_are_told_at_once(model, options, message):
    with pytest.raises(ConfigError) as told:
        pipeline(model, **options)
    assert str(told.value).startswith(message)


def test_steps_that_do_not_divide_are_counted_aloud(model, caplog):
    caplog.set_level("INFO")
    pipeline(model, sampler="published", steps=7)
    assert "7 steps do not divide the model's 1000: 8 are taken" in caplog.text
    caplog.clear()
    pipeline(model, sampler="published", steps=5)
    pipeline(model, steps=7)
    assert not caplog.text


def test_what_is_missing_is_asked_for(model, root):
    with pytest.raises(ConfigError, match="give source="):
        pipeline(model)(audio=voice(3))
    with pytest.raises(MediaError, match=r"nobody\.mp4"):
        pipeline(model)(source="nobody.mp4")
    silent = frames_of(root)[0]
    with pytest.raises(ConfigError, match="needs a voice: give audio=FILE"):
        pipeline(model)(source=silent)


# --- the way there and back


def test_pasting_back_what_was_cut_out_changes_nothing(root):
    clip = ClipStore(root).clips[0]
    turned = np.array([[0.9, 0.2, -4.0], [-0.2, 0.9, 6.0], [0, 0, 1.0]])
    footage = Footage(
        lambda indices: clip.frames(np.asarray(indices)),
        np.broadcast_to(turned, (N_FRAMES, 3, 3)),
        np.zeros((N_FRAMES, 478, 2)),
        (48, 48),
        (48, 48),
    )
    whole, numbers = clip.frames([2, 5]), [2, 5]
    crops = footage.crops(numbers, whole)
    untouched = footage.pasted(whole, crops, np.zeros((2, 48, 48, 1), np.uint8), numbers)
    np.testing.assert_array_equal(untouched, whole)
    weights = np.zeros((2, 48, 48, 1), np.uint8)
    weights[:, 16:32, 16:32] = 255
    pasted = footage.pasted(whole, crops, weights, numbers).astype(int)
    assert np.abs(pasted - whole).mean() < 1  # interpolated twice
    marked = footage.pasted(whole, np.full_like(crops, 255), weights, numbers)
    share = (marked != whole).any(axis=-1).mean()
    assert share == pytest.approx(16 * 16 / (0.85 * 48 * 48), rel=0.2)  # 0.85: area scale of the matrix


def test_a_stored_clip_is_placed_like_its_resized_frames(root):
    clip = ClipStore(root).clips[0]
    footage = read_footage(f"{root}@clip0", MeanFaceAlignment.square(SIDE))
    placed = transform_points(clip.landmarks[..., :2].astype(np.float64), footage.matrices)
    np.testing.assert_allclose(footage.landmarks, placed, atol=1e-6)
    assert footage.crops([0, 1]).shape == (2, SIDE, SIDE, 3)


def test_a_region_that_reaches_the_crops_border_fades_there_where_the_picture_goes_on(model, root):
    made = pipeline(model, mask=MaskRule("nose_tip"))
    footage = read_footage(clip(root), MeanFaceAlignment.square(SIDE))
    assert (made._weights(made._regions(footage, np.arange(2)))[:, -1] == 255).all()  # the crop is the picture
    inside = made._weights(made._regions(replace(footage, crops_of=None), np.arange(2)))
    assert not inside[:, -1].any()
    assert not inside[:, :, [0, -1]].any()
    assert (inside[:, -6, 8:-8] == 255).all()


def test_the_black_beyond_the_picture_does_not_darken_the_face(model, root):
    size = (48, 48)
    shift = np.array(
        [[1.0, 0.0, 0.0], [0.0, 1.0, -14.0], [0.0, 0.0, 1.0]]
    )  # the crop's last 14 rows lie below the picture
    footage = Footage(
        lambda rows: np.full((len(rows), *size, 3), 150, np.uint8),
        np.stack([shift, shift]),
        np.zeros((2, 478, 2)),
        size,
        size,
    )
    crops, covered = footage.crops([0, 1]), footage.covered([0, 1])
    assert covered[:, :34].all()
    assert not covered[:, 34:].any()
    assert (covered[..., None] == (crops > 0)).all()
    region = np.zeros((2, *size), np.bool_)
    region[:, 10:47, 8:40] = True
    made = np.full_like(crops, 140)
    matched = pipeline(model)._in_colours_of(crops, made, region, covered)
    np.testing.assert_array_equal(matched[:, :34][region[:, :34]], 150)
    stored = read_footage(clip(root), MeanFaceAlignment.square(SIDE))
    assert stored.covered([0, 1]).all()


def test_feathered_weights_rise_inside_the_region_alone():
    region = np.zeros((1, 21, 21), bool)
    region[0, 5:16, 5:16] = True
    weights = feathered(region, 4.0)
    assert not weights[~region].any()
    middle = weights[0, 10, 5:11].astype(int)
    assert (np.diff(middle) >= 0).all()
    assert middle[0] < 64
    assert middle[-1] == 255
    np.testing.assert_array_equal(feathered(region, 0.0)[region], 255)
    assert feathered(np.ones((1, 4, 4), bool), 3.0).min() == 255


@pytest.mark.parametrize(
    ("options", "looked_at"),
    [
        ({}, 5 + LOOK_AHEAD),  # a second more, for what is smoothed along time
        ({"frame_limit": 2}, 2 + LOOK_AHEAD),
        ({"reference_frame": 9}, 10 + LOOK_AHEAD),
        ({"longer_video": "keep"}, 40),
    ],
)
def test_faces_are_looked_for_as_far_as_the_sound_goes(model, root, tmp_path, monkeypatch, options, looked_at):
    stored = ClipStore(root).clips[0]
    write_video(tmp_path / "long.mp4", np.resize(stored.frames(range(N_FRAMES)), (40, 48, 48, 3)), 25.0)
    seen = []

    class Tracker:
        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def track(self, frame):
            seen.append(frame)
            return Face(stored.landmarks[0], np.zeros(52, np.float32), np.eye(4, dtype=np.float32))

    monkeypatch.setattr("src.pipelines.sources.FaceTracker", Tracker)
    video = pipeline(model, **options)(source=tmp_path / "long.mp4", audio=voice(5))
    assert len(seen) == looked_at
    assert video.n_frames == {2: 2}.get(options.get("frame_limit"), 40 if "longer_video" in options else 5)
