"""From a face and a voice to a video, one at a time and many at once."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from src.audio.log_mel import LogMel
from src.datamodules.speech_features import ensure_features, stored_features
from src.datamodules.store import ClipStore
from src.diffusion.learned_range import LearnedRangeDiffusion
from src.errors import ConfigError, FaceError, FeatureError, MediaError
from src.face.landmarks import rescaled
from src.lightning_modules.diffused_heads import DiffusedHeads
from src.media import Provenance, probe, read_audio, write_image, write_video, write_wav
from src.nn.diffused_heads import DiffusedHeadsUNet
from src.pipelines import sources
from src.pipelines.diffused_heads import DiffusedHeadsPipeline
from src.pipelines.many import Job, generate, read_jobs
from src.pipelines.video import write
from tests.stores import write_pattern_store

N_FRAMES, SIDE = 12, 16
ROUNDING = 3  # grey levels: kernels for other memory layouts round differently, and every frame builds on those before
FEATURES = LogMel(4, 2)
PROVENANCE = Provenance("diffused_heads", "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pattern_store(tmp_path_factory.mktemp("data") / "store", n_clips=3, n_frames=N_FRAMES, size=32)


@pytest.fixture(scope="module")
def model() -> DiffusedHeads:
    torch.manual_seed(0)
    net = DiffusedHeadsUNet(
        image_size=SIDE,
        model_channels=16,
        channel_mult=[1],
        num_res_blocks=1,
        attention_resolutions=[],
        num_heads=1,
        num_head_channels=-1,
        audio_dim=FEATURES.dim,
        norm_num_groups=4,
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return DiffusedHeads(net, LearnedRangeDiffusion(1000), sampler="ddim", sample_steps=2).eval()


def pipeline(model: DiffusedHeads, **options) -> DiffusedHeadsPipeline:
    return DiffusedHeadsPipeline(model, FEATURES, **options)


def voice(seconds: float, rate: int = 16000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32)


def clip(root: Path, number: int = 0) -> str:
    return f"{root}@clip{number}"


def test_a_video_is_as_long_as_the_voice(model, root, tmp_path):
    video = pipeline(model)(source=clip(root), audio=voice(0.5))
    assert (video.n_frames, video.fps, video.size) == (12, 25.0, (SIDE, SIDE))
    write(video, tmp_path / "talk.mp4", PROVENANCE, progress=False)
    info = probe(tmp_path / "talk.mp4")
    assert (info.n_frames, info.fps, info.width, info.has_audio) == (12, 25.0, SIDE, True)
    assert len(read_audio(tmp_path / "talk.mp4")) == pytest.approx(
        12 * 640, abs=1100
    )  # AAC frames are 1024 samples long


@pytest.mark.parametrize(
    ("suffix", "rate", "layout"),
    [("wav", 48000, "stereo"), ("wav", 8000, "mono"), ("mp3", 44100, "stereo"), ("m4a", 48000, "mono")],
)
def test_sound_of_any_kind_drives_the_face(model, root, tmp_path, suffix, rate, layout):
    path = tmp_path / f"voice.{suffix}"
    codec = {"wav": "pcm_s16le", "mp3": "libmp3lame", "m4a": "aac"}[suffix]
    samples = voice(0.6, rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        planes = np.stack([samples] * (2 if layout == "stereo" else 1))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format or "s16", layout, rate)
        for piece in resampler.resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    assert pipeline(model)(source=clip(root), audio=path).n_frames in (15, 16, 17)


def test_a_clip_of_a_store_brings_its_own_voice(model, root):
    assert pipeline(model)(source=clip(root)).n_frames == N_FRAMES
    assert pipeline(model)(source=clip(root), driving=clip(root, 1)).n_frames == N_FRAMES


def test_stored_features_are_used(model, root):
    ensure_features(root, FEATURES)
    request = pipeline(model).prepare(clip(root))
    np.testing.assert_array_equal(request.features, ClipStore(root).clips[0].features("log_mel"))
    assert stored_features(ClipStore(root).clips[0], LogMel(4, 4)) is None  # made with other settings


def test_silence_is_said(model, root, caplog):
    pipeline(model)(source=clip(root), audio=np.zeros(8000, np.float32))
    assert "is silent" in caplog.text


def test_mistakes_are_one_sentence(model, root, tmp_path):
    make = pipeline(model)
    with pytest.raises(FeatureError, match="less than one video frame"):
        make(source=clip(root), audio=np.zeros(300, np.float32))
    with pytest.raises(ConfigError, match="needs a face"):
        make(audio=voice(1))
    write_image(tmp_path / "face.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"face.png brings no voice: give audio=FILE"):
        make(source=tmp_path / "face.png")
    with pytest.raises(ConfigError, match="needs a voice"):
        make(source=np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(MediaError):
        make(source=clip(root), audio=tmp_path / "none.wav")
    with pytest.raises(ConfigError, match=r"320 numbers per frame, the model was trained with 8"):
        DiffusedHeadsPipeline(model, LogMel())(source=clip(root))
    with pytest.raises(ConfigError, match="names no speech features"):
        DiffusedHeadsPipeline(model)(source=clip(root))
    with pytest.raises(ConfigError, match="at least 7"):
        pipeline(model, sampler="ancestral", steps=3)
    with pytest.raises(ConfigError, match=r"pipeline.segment_len=0"):
        pipeline(model, segment_len=0)


def test_precomputed_embeddings_replace_the_extractor(model, root, tmp_path):
    rows = np.random.default_rng(0).standard_normal((10, FEATURES.dim)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    make = DiffusedHeadsPipeline(model, audio_emb=tmp_path / "rows.npy")
    np.testing.assert_array_equal(make.prepare(clip(root), voice(0.4)).features, rows)
    with pytest.raises(FeatureError, match=r"10 rows for 25\.0 frames"):
        make(source=clip(root), audio=voice(1.0))


def test_options_change_what_they_say(model, root):
    plain = pipeline(model)(source=clip(root)).frames()
    assert pipeline(model, frame_limit=4)(source=clip(root)).n_frames == 4
    limited = pipeline(model, frame_limit=4)(source=clip(root)).frames()
    assert np.abs(limited.astype(int) - plain[:4]).max() <= ROUNDING
    stabilized = pipeline(model, stabilize=True, segment_len=5)(source=clip(root)).frames()
    difference = np.abs(stabilized.astype(int) - plain)
    assert difference[:5].max() <= ROUNDING
    assert difference[5].max() > 10 * ROUNDING
    assert pipeline(model, scale=2)(source=clip(root)).frames().shape[1:] == (2 * SIDE, 2 * SIDE, 3)
    assert pipeline(model, rounding="original")(source=clip(root)).frames().max() <= 254


def test_the_seed_decides(model, root):
    make = pipeline(model, frame_limit=3)
    first, again, other = (make(source=clip(root), seed=seed).frames() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def detect_with(monkeypatch, detect: Callable[[np.ndarray], list]) -> None:
    """Let `detect` stand in for the face detector."""

    class Detector:
        def __init__(self, *_args, **_options) -> None: ...

        def __enter__(self):
            return self

        def __exit__(self, *_info) -> None: ...

        def detect(self, picture):
            return detect(picture)

    monkeypatch.setattr(sources, "FaceDetector", Detector)


def some_faces(n: int) -> list:
    rng = np.random.default_rng(0)
    return [SimpleNamespace(landmarks=rng.uniform(10, 50, (478, 3)).astype(np.float32)) for _ in range(n)]


def test_of_two_faces_the_largest_is_taken_and_said(model, tmp_path, monkeypatch, caplog):
    detected = [some_faces(2)]
    detect_with(monkeypatch, lambda _picture: detected[0])
    picture = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    write_image(tmp_path / "two.png", picture)
    pipeline(model).prepare(tmp_path / "two.png", voice(0.2))
    assert "shows 2 faces; the largest is taken" in caplog.text
    detected[0] = []
    with pytest.raises(FaceError, match="no face was found"):
        pipeline(model).prepare(tmp_path / "two.png", voice(0.2))


def test_a_random_frame_of_a_video_shows_the_person(model, tmp_path, monkeypatch):
    """Frame i is grey level 20 i: what the detector is shown tells which frame it is."""
    looked_at: list[int] = []

    def detect(picture: np.ndarray) -> list:
        looked_at.append(round(picture.mean() / 20))
        return some_faces(looked_at[-1] >= 6)  # none in the first half

    detect_with(monkeypatch, detect)
    levels = 20 * np.arange(12, dtype=np.uint8)
    write_video(tmp_path / "face.mp4", np.broadcast_to(levels[:, None, None, None], (12, 64, 64, 3)), 25.0)

    def chosen(seed: int, **options) -> int:
        looked_at.clear()
        pipeline(model, **options).read_source(tmp_path / "face.mp4", seed)
        return looked_at[-1]

    assert chosen(1) == chosen(2) == 6
    frames = [chosen(seed, identity_frame="random") for seed in range(8)]
    assert min(frames) >= 6
    assert len(set(frames)) > 2
    assert chosen(3, identity_frame="random") == frames[3]


def test_a_random_frame_of_a_clip_shows_the_person(model, root):
    make = pipeline(model, identity_frame="random")
    stored = ClipStore(root).clips[0]
    portraits = [make.read_source(clip(root), seed) for seed in range(8)]
    assert len({portrait.frame.tobytes() for portrait in portraits}) > 2
    of_all = [rescaled(points[:, :2], stored.size, (SIDE, SIDE)) for points in stored.landmarks]
    for portrait in portraits:
        assert any(np.array_equal(portrait.landmarks, points) for points in of_all)


# --- many


def read_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_store_is_generated_in_batches_and_what_exists_is_skipped(model, root, tmp_path):
    jobs = read_jobs(root, split=None)
    assert [job.name for job in jobs] == ["clip0", "clip1", "clip2"]
    out = tmp_path / "out"
    made = generate(pipeline(model, batch_size=2), jobs, out, PROVENANCE, n_batches=1)
    assert [path.name for path in made.written] == ["clip0.mp4", "clip1.mp4"]
    assert made.frames == 2 * N_FRAMES
    alone = write(pipeline(model)(source=clip(root, 1)), tmp_path / "alone.mp4", PROVENANCE, progress=False)
    difference = np.abs(read_frames(out / "clip1.mp4").astype(int) - read_frames(alone[0]))
    assert difference.max() <= 2 * ROUNDING  # encoded
    stamp = (out / "clip0.mp4").stat().st_mtime_ns
    again = generate(pipeline(model), jobs, out, PROVENANCE)
    assert (again.skipped, [path.name for path in again.written]) == (2, ["clip2.mp4"])
    assert (out / "clip0.mp4").stat().st_mtime_ns == stamp


def test_shorter_videos_of_a_batch_end_earlier(model, root, tmp_path):
    for name, seconds in (("long", 0.5), ("short", 0.2)):
        write_wav(tmp_path / f"{name}.wav", voice(seconds))
    jobs = [Job(name, clip(root), str(tmp_path / f"{name}.wav")) for name in ("long", "short")]
    generate(pipeline(model, batch_size=2), jobs, tmp_path, PROVENANCE)
    assert [probe(tmp_path / f"{name}.mp4").n_frames for name in ("long", "short")] == [12, 5]


def test_failures_are_recorded_and_the_rest_goes_on(model, root, tmp_path):
    write_wav(tmp_path / "voice.wav", voice(0.2))
    write_wav(tmp_path / "click.wav", voice(0.01))
    (tmp_path / "list.csv").write_text(
        f"name,source,audio\ngood,{clip(root)},voice.wav\nshort,{clip(root)},click.wav\nlost,nothing.png,voice.wav\n"
    )
    made = generate(pipeline(model, batch_size=3), read_jobs(tmp_path / "list.csv"), tmp_path / "out", PROVENANCE)
    assert [path.name for path in made.written] == ["good.mp4"]
    with (tmp_path / "out/failures.csv").open() as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"short", "lost"}
    assert "less than one video frame" in reasons["short"]
    assert not (tmp_path / "out/short.mp4").exists()
    generate(pipeline(model), [Job("good", clip(root))], tmp_path / "out", PROVENANCE)
    assert not (tmp_path / "out/failures.csv").exists()


def test_a_batch_that_cannot_be_written_is_recorded_and_leaves_nothing(model, root, tmp_path, monkeypatch):
    make = pipeline(model, batch_size=2)

    def breaks(requests):
        yield [np.zeros((SIDE, SIDE, 3), np.uint8)] * len(requests)
        raise MediaError("the disk is full")

    monkeypatch.setattr(make, "render", breaks)
    made = generate(make, [Job(name, clip(root)) for name in "ab"], tmp_path / "out", PROVENANCE)
    assert made.failures == {"a": "the disk is full", "b": "the disk is full"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failures.csv"]


def test_a_clip_store_is_not_written_into(model, root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(ConfigError, match=r"store is a clip store: give another folder"):
        generate(pipeline(model), read_jobs(root, split=None), root, PROVENANCE)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_pairs_pictures_with_sounds(tmp_path):
    for name in ("a.png", "a.wav", "b.mp4", "c.wav"):
        (tmp_path / name).touch()
    assert read_jobs(tmp_path) == [
        Job("a", str(tmp_path / "a.png"), str(tmp_path / "a.wav")),
        Job("b", str(tmp_path / "b.mp4"), None, str(tmp_path / "b.mp4")),
    ]


def test_lists_with_mistakes_are_refused(tmp_path):
    table = tmp_path / "list.csv"
    for text, message in (
        ("source,sound\na.png,b.wav\n", "unknown column 'sound'"),
        ("name,source\na,\n", "line 2: there is no source"),
        ("source\na/x.png\nb/x.png\n", "several inputs are named x"),
        ("source\n", "nothing to make a video of"),
        ("name,source\n../x,a.png\n", "leads out of the folder"),
    ):
        table.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_jobs(table)
    table.write_bytes("source\nä.png\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="no table in UTF-8"):
        read_jobs(table)
    table.write_text("source\na.png\n", encoding="utf-8-sig")  # as spreadsheets write it
    assert read_jobs(table) == [Job("a", str(tmp_path / "a.png"))]
    with pytest.raises(ConfigError, match="give a clip store"):
        read_jobs(tmp_path / "nothing")
