"""The sound of an utterance: a formant synthesiser whose loudness follows the opening of the mouth.

A pulse train with the spectrum of the glottis (the polynomial pulse of Klatt and Klatt, "Analysis, synthesis, and perception of voice
quality variations" (1990), section III) and breath noise pass a cascade of resonances at the formants; fricatives and bursts are noise
through one resonance of their own. The result is levelled and then given the loudness that the mouth's opening calls for, so that what is
seen and what is heard agree.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64
from numba import njit
from scipy.ndimage import gaussian_filter1d

from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.speech import PHONEMES, Phoneme, Utterance

SAMPLE_RATE = 16_000
STEP = 80  # samples between updates of the filters: 5 ms
CONTROL_RATE = SAMPLE_RATE / STEP
_PEAK = 0.7
_SILENCE = 1e-9  # keeps quotients finite where nothing is said
_UPPER_FORMANTS = (3500.0, 4500.0)
_BANDWIDTHS = np.array([70.0, 95.0, 140.0, 220.0, 300.0])
_FULL_GAP = 0.22  # opening, in distances between the pupils, of full loudness


def speak(
    utterance: Utterance,
    identity: Identity,
    gap: Float64[np.ndarray, " m"],
    rng: np.random.Generator,
) -> Float32[np.ndarray, " s"]:
    """Sound at 16 kHz in [-1, 1], `STEP` samples for each value of `gap`.

    Args:
        gap: distance between the inner lips every 5 ms, in distances between the pupils.
    """
    tracks = _tracks(utterance, identity, len(gap), rng)
    n_samples = len(gap) * STEP
    raw = _synthesise(
        tracks["pitch"],
        tracks["voicing"],
        tracks["breath"],
        tracks["friction"],
        tracks["formants"],
        tracks["noise"],
        _BANDWIDTHS,
        rng.standard_normal(n_samples),
        float(SAMPLE_RATE),
        STEP,
    )
    # Level, then follow the mouth.
    power = gaussian_filter1d(raw**2, 0.012 * SAMPLE_RATE)
    level = raw / np.sqrt(power + 2e-3 * power.max() + _SILENCE)
    wanted = tracks["loudness"] * (np.clip(gap, 0, None) / _FULL_GAP + 0.03) ** 0.85
    wanted = gaussian_filter1d(wanted, 1.6)
    times = (np.arange(n_samples) + 0.5) / STEP - 0.5
    sound = level * np.interp(times, np.arange(len(gap)), wanted)
    sound += 4e-4 * rng.standard_normal(n_samples) * np.abs(sound).max()
    sound = np.tanh(sound / (1.15 * np.percentile(np.abs(sound), 99.9) + _SILENCE))
    return (_PEAK * sound / (np.abs(sound).max() + _SILENCE)).astype(np.float32)


def _tracks(
    utterance: Utterance, identity: Identity, n: int, rng: np.random.Generator
) -> dict[str, Float64[np.ndarray, "m ..."]]:
    """Parameters of the synthesiser every 5 ms."""
    times = (np.arange(n) + 0.5) / CONTROL_RATE
    source = {name: np.zeros(n) for name in ("voicing", "breath", "friction", "loudness")}
    noise = np.tile([3000.0, 2000.0], (n, 1))
    spoken = zip(utterance.phonemes, utterance.starts, utterance.durations, utterance.stress, strict=True)
    for phoneme, start, duration, stress in spoken:
        inside = slice(*np.searchsorted(times, [start, start + duration]))
        done = (times[inside] - start) / duration
        for name, values in _source(phoneme, done).items():
            source[name][inside] = values
        source["loudness"][inside] *= _LOUDNESS[phoneme.kind] + 0.2 * stress * (phoneme.kind != "silence")
        if phoneme.noise is not None:
            noise[inside] = phoneme.noise
    smooth = {name: gaussian_filter1d(source[name], _SMOOTHING[name]) for name in source}
    smooth["breath"] += identity.breathiness * smooth["voicing"]
    return {
        **smooth,
        "pitch": _pitch(utterance, identity, times, rng),
        "formants": _formants(utterance, times) / identity.tract,
        "noise": noise,
    }


# Loudness of the kinds in a fully open mouth, and widths (of 5 ms) by which the tracks are smoothed.
_LOUDNESS = {"vowel": 0.85, "liquid": 0.9, "nasal": 0.9, "fricative": 0.5, "stop": 0.8, "silence": 0.0}
_SMOOTHING = {"voicing": 1.2, "breath": 1.0, "friction": 0.8, "loudness": 1.5}


def _source(phoneme: Phoneme, done: Float64[np.ndarray, " m"]) -> dict[str, Float64[np.ndarray, " m"]]:
    """What sounds while the share `done` of a phoneme passes: voice, breath and friction, and how loud they may be."""
    whole, voiced = np.ones_like(done), float(phoneme.voiced)
    if phoneme.kind == "stop":  # closed, then released with a burst; voiceless ones are aspirated
        released = (done >= 0.62).astype(float)
        return {
            "voicing": voiced * (0.12 + 0.58 * released),
            "friction": released * (0.9 - 0.4 * voiced),
            "breath": 0.5 * released * (1 - voiced),
            "loudness": 0.25 + 0.75 * released,
        }
    if phoneme.kind == "fricative":
        return {"voicing": 0.5 * voiced * whole, "friction": (1 - 0.4 * voiced) * whole, "loudness": whole}
    return {"voicing": whole * {"nasal": 0.8, "silence": 0.0}.get(phoneme.kind, 1.0), "loudness": whole}


def _formants(utterance: Utterance, times: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, "m 5"]:
    """Formants in hertz of an average tract: the phonemes' own, blended where they meet."""
    total, weight = np.zeros((len(times), 3)), np.full(len(times), 1e-9)
    for phoneme, start, duration in zip(utterance.phonemes, utterance.starts, utterance.durations, strict=True):
        near = slice(*np.searchsorted(times, [start - 0.12, start + duration + 0.12]))
        away = np.abs(times[near] - start - duration / 2) - 0.3 * duration
        pull = np.exp(-((np.maximum(away, 0) / 0.03) ** 2)) * (0.15 if phoneme.kind == "silence" else 1.0)
        total[near] += pull[:, None] * np.array(phoneme.formants)
        weight[near] += pull
    spoken = np.where(weight[:, None] < 1e-6, PHONEMES["SIL"].formants, total / weight[:, None])
    return np.concatenate([spoken, np.broadcast_to(_UPPER_FORMANTS, (len(times), 2))], axis=1)


def _pitch(
    utterance: Utterance, identity: Identity, times: Float64[np.ndarray, " m"], rng: np.random.Generator
) -> Float64[np.ndarray, " m"]:
    """Fundamental frequency: falls over each phrase, rises on stress, never quite steady."""
    middles = utterance.starts + utterance.durations / 2
    phrase = np.interp(times, middles, utterance.phrase)
    stress = gaussian_filter1d(np.interp(times, middles, utterance.stress), 8)
    drift = gaussian_filter1d(rng.standard_normal(len(times)), 12) * np.sqrt(12)
    semitones = 2.0 - 4.5 * phrase + 3.5 * identity.liveliness * (stress - 0.3) + 0.5 * drift
    return identity.pitch * 2 ** (semitones / 12)


@njit(cache=True, nogil=True)
def _synthesise(
    pitch: Float64[np.ndarray, " m"],
    voicing: Float64[np.ndarray, " m"],
    breath: Float64[np.ndarray, " m"],
    friction: Float64[np.ndarray, " m"],
    formants: Float64[np.ndarray, "m 5"],
    noise_band: Float64[np.ndarray, "m 2"],
    bandwidths: Float64[np.ndarray, " 5"],
    white: Float64[np.ndarray, " s"],
    rate: float,
    step: int,
) -> Float64[np.ndarray, " s"]:
    """Source and filters, sample by sample; parameters hold for `step` samples each."""
    n_formants = formants.shape[1]
    out = np.zeros(len(white))
    memory = np.zeros((n_formants, 2))
    a, b, c = np.zeros(n_formants), np.zeros(n_formants), np.zeros(n_formants)
    noise_memory = np.zeros(2)
    phase, tilted, last_noise = 0.0, 0.0, 0.0
    for n in range(len(white)):
        m = n // step
        if n % step == 0:
            for f in range(n_formants):
                # Resonator y = a x + b y' + c y'' with unit gain at 0 Hz.
                radius = math.exp(-math.pi * bandwidths[f] / rate)
                c[f] = -radius * radius
                b[f] = 2 * radius * math.cos(2 * math.pi * min(formants[m, f], 0.48 * rate) / rate)
                a[f] = 1 - b[f] - c[f]
            noise_radius = math.exp(-math.pi * noise_band[m, 1] / rate)
            noise_c = -noise_radius * noise_radius
            noise_b = 2 * noise_radius * math.cos(2 * math.pi * min(noise_band[m, 0], 0.47 * rate) / rate)
            noise_gain = 1 - noise_radius
        phase += pitch[m] * (1 + 0.006 * white[n // 160 * 160]) / rate
        if phase >= 1:
            phase -= 1
        # Derivative of the glottal flow: a parabola while the glottis is open, zero while it is closed.
        open_quotient = 0.6
        pulse = 0.0
        if phase < open_quotient:
            t = phase / open_quotient
            pulse = 2 * t - 3 * t * t
        tilted += 0.55 * (pulse - tilted)
        source = voicing[m] * tilted * 2.0 + breath[m] * 0.12 * white[n]
        for f in range(n_formants):
            y = a[f] * source + b[f] * memory[f, 0] + c[f] * memory[f, 1]
            memory[f, 1] = memory[f, 0]
            memory[f, 0] = y
            source = y
        hiss = noise_gain * (white[n] - last_noise * 0.9) + noise_b * noise_memory[0] + noise_c * noise_memory[1]
        last_noise = white[n]
        noise_memory[1] = noise_memory[0]
        noise_memory[0] = hiss
        out[n] = source + 0.35 * friction[m] * hiss
    return out
