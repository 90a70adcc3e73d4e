"""What every extractor promises: as many rows as frames, each of the sound around the middle of its frame."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.audio import SAMPLES_PER_FRAME, LogMel, SpeechFeatures, fit_rows
from src.audio.features import fit_sound, rows_at_frames
from src.audio.sda import SDAFeatures
from src.audio.transformers_encoders import TransformersFeatures
from src.errors import FeatureError
from src.media import read_audio
from src.nn.sda_audio_encoder import SDAAudioEncoder
from tests.audio.conftest import click_track, noise

ALL = ("log_mel", "hubert", "wav2vec2", "whisper", "sda")
CLICKED = ("log_mel", "hubert", "wav2vec2", "whisper")  # the recurrent network of sda goes on long after a click


@pytest.fixture(scope="module")
def extractors(tiny, tmp_path_factory) -> dict[str, SpeechFeatures]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sda") / "encoder.pt"
    names = {"encoder.layers.{}.0": "encoder.cl.{}", "encoder.layers.{}.1": "encoder.activations.{}.0"}
    torch.save({official(key, names): value for key, value in SDAAudioEncoder().state_dict().items()}, path)
    return {
        "log_mel": LogMel(),
        "hubert": TransformersFeatures(str(tiny("hubert", "group", False)), device="cpu"),
        "wav2vec2": TransformersFeatures(str(tiny("wav2vec2", "layer", False)), device="cpu"),
        "whisper": TransformersFeatures(str(tiny("whisper")), device="cpu"),
        "sda": SDAFeatures(path, device="cpu"),
    }


def official(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if match := re.match(re.escape(ours).replace(r"\{\}", r"(\d+)"), key):
            return theirs.format(*match.groups()) + key[match.end() :]
    return key.replace("gru.", "rnn.")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n_samples", [640, 1279, 8000, 2 * 16000 + 17])
def test_every_whole_frame_of_a_sound_gets_a_row(extractors, name, n_samples):
    rows = extractors[name](noise(n_samples))
    assert rows.shape == (n_samples // 640, extractors[name].dim)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("off", [-640, -1, 0, 1, 640])
def test_a_video_gets_exactly_its_number_of_rows(extractors, name, off):
    assert extractors[name](noise(20 * 640 + off), 20).shape == (20, extractors[name].dim)


@pytest.mark.parametrize("name", ALL)
def test_silence_gives_finite_rows(extractors, name):
    assert np.isfinite(extractors[name](np.zeros(16000, np.float32))).all()


@pytest.mark.parametrize("name", ALL)
def test_the_same_sound_gives_the_same_rows(extractors, name):
    sound = noise(16000)
    assert np.array_equal(extractors[name](sound), extractors[name](sound))


def change_by_click(features: SpeechFeatures, at: int) -> np.ndarray:
    """How far each of 50 rows moves when one sample of a noise becomes loud."""
    noise_alone, clicked = click_track(50 * SAMPLES_PER_FRAME, at, level=0.0), click_track(50 * SAMPLES_PER_FRAME, at)
    return np.linalg.norm(features(clicked) - features(noise_alone), axis=1)


@pytest.mark.parametrize("name", CLICKED)
@pytest.mark.parametrize("frame", [0, 7, 31, 49])
@pytest.mark.parametrize("offset", [100, 320, 540])
def test_a_click_peaks_in_the_row_of_its_frame(extractors, name, frame, offset):
    change = change_by_click(extractors[name], frame * SAMPLES_PER_FRAME + offset)
    assert change.argmax() == frame


@pytest.mark.parametrize("name", CLICKED)
def test_a_click_in_the_middle_of_a_frame_moves_its_row_far_more_than_the_neighbours(extractors, name):
    """A shift by half a frame would make a neighbour as strong."""
    before, peak, after = change_by_click(extractors[name], 24 * SAMPLES_PER_FRAME + 320)[23:26]
    assert peak > 1.5 * max(before, after)


@given(frame=st.integers(1, 48), offset=st.integers(8, 631))
@settings(deadline=None, max_examples=40)
def test_log_mel_finds_a_click_anywhere_in_a_frame(frame, offset):
    sound = np.zeros(50 * SAMPLES_PER_FRAME, np.float32)
    sound[frame * SAMPLES_PER_FRAME + offset] = 0.9
    assert LogMel()(sound).sum(axis=1).argmax() == frame


# --- bad input


@pytest.mark.parametrize("n_samples", [0, 1, 639])
def test_sound_shorter_than_a_frame_is_refused(n_samples):
    with pytest.raises(FeatureError, match=r"lasts \d+ ms, less than one video frame \(40 ms\)"):
        LogMel()(np.zeros(n_samples, np.float32))


@pytest.mark.parametrize("n_samples", [20 * 640 - 641, 20 * 640 + 641])
def test_sound_of_another_length_than_the_video_is_refused(n_samples):
    with pytest.raises(FeatureError, match=r"but the video has 20 frames, 0.80 s"):
        LogMel()(noise(n_samples), 20)


def test_sound_with_infinite_samples_is_refused():
    sound = noise(6400)
    sound[100] = np.nan
    with pytest.raises(FeatureError, match="not finite"):
        LogMel()(sound)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_rows_are_fitted_within_one_frame(off):
    rows = np.arange(2 * (10 + off), dtype=np.float32).reshape(-1, 2)
    fitted = fit_rows(rows, 10)
    assert fitted.shape == (10, 2)
    assert np.array_equal(fitted[: 10 + min(off, 0)], rows[:10])
    assert off >= 0 or np.array_equal(fitted[-1], rows[-1])


@pytest.mark.parametrize("n_rows", [0, 8, 12])
def test_rows_that_differ_by_more_are_refused(n_rows):
    with pytest.raises(FeatureError, match=f"{n_rows} rows of speech features for 10 video frames"):
        fit_rows(np.zeros((n_rows, 2), np.float32), 10)


def test_sound_is_padded_with_silence():
    assert np.array_equal(fit_sound(np.ones(1279, np.float32), 2), [*np.ones(1279), 0])


def test_rows_between_two_are_interpolated_by_their_centres():
    """Rows every 20 ms around 10, 30, 50, ... ms: the middle of frame 0, at 20 ms, lies half-way between the first two."""
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert rows_at_frames(rows, 160, 320, 4)[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert rows_at_frames(rows, 0, 320, 4)[:, 0].tolist() == [1, 3, 5, 7]
    assert rows_at_frames(rows[:1], 160, 320, 2)[:, 0].tolist() == [0, 0]


# --- files


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.wav", "pcm_s16le", 8000, "mono"),
        ("a.wav", "pcm_s16le", 48000, "stereo"),
        ("a.wav", "pcm_f32le", 16000, "mono"),
        ("a.mp3", "libmp3lame", 44100, "stereo"),
        ("a.mp3", "libmp3lame", 16000, "mono"),
        ("a.m4a", "aac", 48000, "stereo"),
        ("a.m4a", "aac", 44100, "mono"),
        ("a.flac", "flac", 48000, "mono"),
    ],
)
def test_a_burst_lies_in_its_frames_in_files_of_any_kind(tmp_path, name, codec, rate, layout):
    path = tmp_path / name
    encode_burst(path, codec, rate, layout)
    energy = LogMel()(read_audio(path)).mean(axis=1)
    assert len(energy) in (50, 51, 52)  # mp3 and AAC end with what is left of their last block
    assert set(energy.argsort()[-3:]) == {20, 21, 22}


def encode_burst(path: Path, codec: str, rate: int, layout: str) -> None:
    """Two seconds of silence with 120 ms of noise in frames 20 to 22."""
    samples = np.zeros(2 * rate, np.float32)
    begin, end = int(20 * rate / 25), int(23 * rate / 25)
    samples[begin:end] = 0.3 * np.random.default_rng(0).standard_normal(end - begin)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        n_channels = stream.codec_context.channels
        frame = av.AudioFrame.from_ndarray(np.repeat(samples[None], n_channels, 0), format="fltp", layout=layout)
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name,
            layout=layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size,
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
