"""Log-mel: local, calibrated, in blocks that change nothing."""

import numpy as np
import pytest

from src.audio import LogMel
from src.audio import log_mel as module
from src.errors import ConfigError
from tests.audio.conftest import noise


def tone(hertz: float, seconds: float = 1.0, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


@pytest.mark.parametrize(("n_mels", "hops", "dim"), [(80, 4, 320), (64, 4, 256), (128, 2, 256), (40, 5, 200)])
def test_width_is_bands_times_windows(n_mels, hops, dim):
    features = LogMel(n_mels, hops)
    assert features.dim == dim
    assert features(noise(16000)).shape == (25, dim)


def test_a_full_scale_tone_is_near_zero_decibels_and_silence_at_the_floor():
    rows = LogMel()(tone(1000))[5:20].reshape(-1, 80)
    decibels = rows * module.SPREAD + module.CENTRE
    assert decibels.max() == pytest.approx(0, abs=3)  # the band's filter catches the tone's main lobe
    assert np.all(LogMel()(np.zeros(6400, np.float32)) == (module.FLOOR - module.CENTRE) / module.SPREAD)


def test_ten_times_the_amplitude_is_twenty_decibels():
    quiet, loud = LogMel()(tone(1000, amplitude=0.05)), LogMel()(tone(1000, amplitude=0.5))
    band = loud[10].argmax()
    assert (loud - quiet)[5:20, band] == pytest.approx(20 / module.SPREAD, abs=1e-3)


def test_higher_tones_peak_in_higher_bands():
    bands = [LogMel()(tone(hertz))[10, :80].argmax() for hertz in (200, 500, 1000, 2000, 4000, 7000)]
    assert bands == sorted(set(bands))


def test_sound_further_away_than_a_window_changes_nothing():
    sound = noise(50 * 640)
    other = sound.copy()
    other[: 20 * 640 - 200] = 0
    other[21 * 640 + 200 :] = 0
    assert np.array_equal(LogMel()(sound)[20], LogMel()(other)[20])


def test_windows_of_a_row_are_in_temporal_order():
    sound = np.zeros(10 * 640, np.float32)
    sound[5 * 640 + 560] = 1.0  # 35 ms into frame 5, the centre of its last window
    assert LogMel()(sound)[5].reshape(4, 80).mean(axis=1).argmax() == 3


def test_blocks_change_nothing(monkeypatch):
    sound = noise(100 * 640 + 13)
    whole = LogMel()(sound)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert np.allclose(LogMel()(sound), whole, atol=1e-5)


@pytest.mark.parametrize("options", [{"hops": 3}, {"hops": 0}, {"hops": 1}, {"n_mels": 0}, {"n_mels": 300}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ConfigError, match=rf"features.{next(iter(options))}="):
        LogMel(**options)
