"""Mel windows as SadTalker's networks take them."""

import numpy as np
import pytest

from src.audio.sadtalker_mel import mel_spectrogram, mel_windows, window_starts
from src.errors import FeatureError


def tone(seconds: float, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * 16000)) / 16000)).astype(np.float32)


def test_windows_begin_two_frames_early_and_are_cut_towards_zero():
    assert window_starts(5).tolist() == [-6, -3, 0, 3, 6]


def test_there_is_a_window_per_whole_frame():
    assert mel_windows(tone(0.5)[: 640 * 3 + 639]).shape == (3, 80, 16)


def test_windows_are_pieces_of_the_spectrogram():
    sound = tone(1.0)
    mel, windows = mel_spectrogram(sound), mel_windows(sound)
    np.testing.assert_array_equal(windows[10], mel[25:41].T)
    np.testing.assert_array_equal(windows[0, :, :6], np.repeat(mel[:1], 6, axis=0).T)


def test_silence_is_the_least_value_and_a_tone_lies_in_its_band():
    assert (mel_spectrogram(np.zeros(3200, np.float32)) == -4).all()
    low, high = (mel_spectrogram(tone(0.5, f))[20].argmax() for f in (200.0, 3000.0))
    assert low < high


def test_a_sound_shorter_than_a_frame_is_refused():
    with pytest.raises(FeatureError, match="639 samples"):
        mel_windows(np.zeros(639, np.float32))
