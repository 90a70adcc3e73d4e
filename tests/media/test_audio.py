import wave

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from src.errors import MediaError
from src.media import read_audio, write_image, write_wav
from tests.media.conftest import numbered_frames


def tone(seconds: float, rate: int, frequency: float = 440) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_stereo(path, left: np.ndarray, right: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack([left, right], axis=1) * 32767).astype("<i2").tobytes())


@given(samples=npst.arrays(np.float32, st.integers(1, 3000), elements=st.floats(-1, 1, width=32)))
def test_a_round_trip_loses_half_a_step_of_16_bits(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    write_wav(path, samples)
    read = read_audio(path)
    assert read.dtype == np.float32
    assert len(read) == len(samples)
    assert np.abs(read - np.clip(samples, -1, 32767 / 32768)).max() <= 0.5 / 32768 + 1e-7


def test_the_file_is_pcm16_mono(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0, 0.5, 1.5, -1.5, 0.4 / 32768, 0.6 / 32768]), 8000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert np.frombuffer(file.readframes(6), "<i2").tolist() == [0, 16384, 32767, -32768, 0, 1]


def test_stereo_at_44100_becomes_the_mean_at_16000(tmp_path):
    write_stereo(tmp_path / "a.wav", tone(2, 44100), tone(2, 44100, 1000), 44100)
    read = read_audio(tmp_path / "a.wav")
    assert len(read) == pytest.approx(32000, abs=2)
    expected = (tone(2, 16000) + tone(2, 16000, 1000)) / 2
    assert np.abs(read[500:31000] - expected[500:31000]).max() < 2e-3


def test_full_scale_stereo_does_not_clip(tmp_path):
    loud = np.sign(tone(0.5, 16000)) * 0.99
    write_stereo(tmp_path / "a.wav", loud, loud, 16000)
    assert np.abs(read_audio(tmp_path / "a.wav") - loud).max() < 1e-3


@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.5), (0.25, 0.25), (1.3, 0.4), (2.5, None), (0, None)])
def test_a_part_equals_that_part_of_the_whole(tmp_path, start, duration):
    write_wav(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 48000).astype(np.float32))
    whole, part = read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "a.wav", start=start, duration=duration)
    first = round(start * 16000)
    last = None if duration is None else first + round(duration * 16000)
    np.testing.assert_array_equal(part, whole[first:last])


def test_a_part_beyond_the_end_is_short(tmp_path):
    write_wav(tmp_path / "a.wav", tone(1, 16000))
    assert len(read_audio(tmp_path / "a.wav", start=0.75, duration=1.0)) == 4000
    assert len(read_audio(tmp_path / "a.wav", start=3.0, duration=1.0)) == 0


def test_no_sound_stream(numbered, one_sentence):
    with pytest.raises(MediaError, match="has no sound") as caught:
        read_audio(numbered)
    one_sentence(caught, numbered)


@pytest.mark.parametrize("content", [b"", b"not a sound at all" * 40], ids=["zero bytes", "text"])
def test_files_that_only_have_the_name_of_a_sound(tmp_path, one_sentence, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_audio(path)
    one_sentence(caught, path)


def test_missing_sound(tmp_path, one_sentence):
    with pytest.raises(MediaError, match="no such file") as caught:
        read_audio(tmp_path / "a.wav")
    one_sentence(caught, tmp_path / "a.wav")


def test_a_picture_is_no_sound(tmp_path, one_sentence):
    write_image(tmp_path / "a.png", numbered_frames(1)[0])
    with pytest.raises(MediaError, match="has no sound") as caught:
        read_audio(tmp_path / "a.png")
    one_sentence(caught, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.flac", "flac"), ("a.ogg", "libopus")]
)
def test_common_formats(tmp_path, name, codec):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=48000, frame_size=stream.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(tone(2, 48000)[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    read = read_audio(tmp_path / name)[: 2 * 16000]
    assert len(read) >= 2 * 16000 - 1600
    spectrum = np.abs(np.fft.rfft(read[4000:28000] * np.hanning(24000)))
    assert np.argmax(spectrum) * 16000 / 24000 == pytest.approx(440, abs=1)


@pytest.mark.shared
def test_real_stereo_sound(shared_clips):
    sound = read_audio(shared_clips / "d14.mp4")
    assert len(sound) / 16000 == pytest.approx(536 / 30, abs=0.1)
    assert 0.01 < np.abs(sound).mean() < 0.5
    part = read_audio(shared_clips / "d14.mp4", start=9.0, duration=1.0)
    assert len(part) == 16000
    assert np.corrcoef(part, sound[9 * 16000 : 10 * 16000])[0, 1] > 0.999
