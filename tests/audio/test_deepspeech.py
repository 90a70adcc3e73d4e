import numpy as np
import pytest

from src.audio.deepspeech import deepspeech_input, logit_windows, mfcc, resample_rows, rows_of_windows
from src.audio.imported import ImportedWindows, read_embeddings
from src.errors import FeatureError


def windows(n: int, start: int = 0) -> np.ndarray:
    """(n, 16, 29); row i of a clip holds start + i."""
    return np.broadcast_to(np.arange(start, start + n, dtype=np.float32)[:, None, None], (n, 16, 29)).copy()


def test_rows_come_every_twenty_milliseconds():
    sound = (1000 * np.sin(np.arange(16000) * 0.3)).astype(np.int16)
    vectors = deepspeech_input(sound)
    assert vectors.shape == (50, 494)
    assert vectors.mean() == pytest.approx(0, abs=1e-5)
    assert vectors.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("n", [1, 399, 400, 401, 560, 561])
def test_short_sound_is_padded(n):
    assert len(mfcc(np.ones(n))) == (2 if n > 400 else 1) + (n > 560)


def test_silence_has_finite_coefficients():
    assert np.isfinite(mfcc(np.zeros(1000))).all()


def test_no_sound():
    with pytest.raises(FeatureError, match="no sound"):
        deepspeech_input(np.zeros(0, np.int16))


def test_a_window_is_centred_on_its_frame():
    logits = np.arange(1, 12, dtype=np.float32)[:, None].repeat(29, axis=1)
    made = logit_windows(logits)[:, :, 0]
    assert made.shape == (6, 16)
    assert made[0].tolist() == [0] * 8 + [1, 2, 3, 4, 5, 6, 7, 8]
    assert made[5].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11] + [0] * 7


def test_rows_at_another_rate():
    rows = np.arange(5.0)[:, None]
    np.testing.assert_allclose(resample_rows(rows, 50, 100, 10)[:, 0], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4])
    np.testing.assert_array_equal(resample_rows(rows, 50, 50, 5), rows)


def test_of_eight_windows_the_fifth_is_the_frame_s_own():
    stacked = np.stack([windows(3, start) for start in range(8)], axis=1)
    np.testing.assert_array_equal(rows_of_windows(stacked), rows_of_windows(windows(3, 4)))


@pytest.mark.parametrize("shape", ["windows", "stacks", "rows"])
def test_files_of_a_clip_are_rows_of_464(tmp_path, shape):
    array = windows(6)
    if shape == "stacks":
        array = np.stack([np.full_like(array, 99)] * 4 + [array] + [np.full_like(array, 99)] * 3, axis=1)
    if shape == "rows":
        array = array.reshape(6, 464)
    np.save(tmp_path / "clip.npy", array)
    features = ImportedWindows(tmp_path)
    rows = features.read("clip", 6)
    assert rows.shape == (6, features.dim)
    assert rows[:, 7].tolist() == [0, 1, 2, 3, 4, 5]
    assert (features.read("clip-0001", 3, "clip.mp4", start=0.08) == rows[2:5]).all()


def test_files_of_frames(tmp_path):
    for number in range(1, 9):
        np.save(tmp_path / f"12_{number}.npy", windows(8, number - 4).reshape(-1))
    features = ImportedWindows(tmp_path)
    assert features.read("0012-0000", 8, "images/12_1.jpg")[:, 0].tolist() == list(range(1, 9))
    assert features.read("0012-0001", 3, "images/12_1.jpg", start=0.2)[:, 0].tolist() == [6, 7, 8]
    with pytest.raises(FeatureError, match=r"lacks 2 files of clip 0012-0000: 12_9.npy, 12_10.npy"):
        features.read("0012-0000", 10, "images/12_1.jpg")
    np.save(tmp_path / "12_3.npy", np.zeros((8, 16, 28)))
    with pytest.raises(FeatureError, match="not windows of 16 x 29"):
        features.read("0012-0000", 8, "images/12_1.jpg")


def test_whole_numbers_are_no_logits(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 16, 29), np.int32))
    with pytest.raises(FeatureError, match="int32"):
        read_embeddings(tmp_path / "a.npy")
