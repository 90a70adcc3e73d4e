"""Nonsense speech: one sequence of phonemes, and from it the motion of the mouth.

Every phoneme has a target for each articulator and a dominance, how much it insists on that target; neighbouring phonemes blend by the
dominance functions of Cohen and Massaro, "Modeling Coarticulation in Synthetic Visual Speech" (1993), section 5. A vowel next to /m/ is
therefore entered through closed lips, while /k/ takes whatever shape the lips have. `src.datamodules.synthetic.voice` makes the sound from
the same sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from src.datamodules.synthetic.identity import Identity

ARTICULATORS = ("jaw", "close", "wide", "pucker", "funnel", "press", "upper_up", "lower_down", "tuck", "tongue")


@dataclass(frozen=True)
class Phoneme:
    """How one phoneme looks and sounds."""

    kind: str  # "vowel", "stop", "fricative", "nasal", "liquid" or "silence"
    duration: float  # seconds, unstressed
    shape: Mapping[str, float]  # targets of articulators, 0 where not given (see `expression.Controls`)
    formants: tuple[float, float, float]  # hertz, adult male
    voiced: bool = True
    noise: tuple[float, float] | None = None  # centre and bandwidth of the friction or burst, hertz
    insists: Mapping[str, float] = field(default_factory=dict)  # dominance where it is not the kind's


# Formants of the vowels: Peterson and Barney, "Control Methods Used in a Study of the Vowels" (1952), table II, men.
_SIBILANT = {"jaw": 0.07, "wide": 0.35, "upper_up": 0.20, "lower_down": 0.25}
# fmt: off
PHONEMES = {
    "AA": Phoneme("vowel", 0.130, {"jaw": 0.90}, (730, 1090, 2440)),
    "AE": Phoneme("vowel", 0.130, {"jaw": 0.82, "wide": 0.45, "upper_up": 0.10}, (660, 1720, 2410)),
    "AH": Phoneme("vowel", 0.095, {"jaw": 0.58}, (640, 1190, 2390)),
    "AO": Phoneme("vowel", 0.130, {"jaw": 0.72, "funnel": 0.55, "pucker": 0.25}, (570, 840, 2410)),
    "EH": Phoneme("vowel", 0.105, {"jaw": 0.58, "wide": 0.40}, (530, 1840, 2480)),
    "ER": Phoneme("vowel", 0.120, {"jaw": 0.38, "funnel": 0.40, "pucker": 0.20}, (490, 1350, 1690)),
    "IH": Phoneme("vowel", 0.085, {"jaw": 0.38, "wide": 0.40, "lower_down": 0.10}, (390, 1990, 2550)),
    "IY": Phoneme("vowel", 0.115, {"jaw": 0.26, "wide": 0.80, "lower_down": 0.25, "upper_up": 0.20}, (270, 2290, 3010)),
    "UH": Phoneme("vowel", 0.090, {"jaw": 0.34, "funnel": 0.45, "pucker": 0.35}, (440, 1020, 2240)),
    "UW": Phoneme("vowel", 0.115, {"jaw": 0.24, "pucker": 0.85, "funnel": 0.35}, (300, 870, 2240)),
    "OW": Phoneme("vowel", 0.105, {"jaw": 0.55, "pucker": 0.50, "funnel": 0.50}, (500, 900, 2300)),
    "P": Phoneme("stop", 0.085, {"jaw": 0.18, "close": 1.0, "press": 0.45}, (400, 900, 2200), voiced=False, noise=(900, 900)),
    "B": Phoneme("stop", 0.070, {"jaw": 0.18, "close": 1.0, "press": 0.35}, (300, 900, 2200), noise=(700, 700)),
    "T": Phoneme("stop", 0.075, {"jaw": 0.16, "wide": 0.15, "tongue": 1.0}, (350, 1750, 2600), voiced=False, noise=(4300, 2200)),
    "D": Phoneme("stop", 0.060, {"jaw": 0.18, "wide": 0.15, "tongue": 1.0}, (280, 1750, 2600), noise=(3800, 2000)),
    "K": Phoneme("stop", 0.080, {"jaw": 0.28}, (350, 1950, 2300), voiced=False, noise=(2000, 1000)),
    "G": Phoneme("stop", 0.065, {"jaw": 0.28}, (280, 1950, 2300), noise=(1800, 1000)),
    "M": Phoneme("nasal", 0.075, {"jaw": 0.18, "close": 1.0, "press": 0.25}, (250, 1000, 2200)),
    "N": Phoneme("nasal", 0.065, {"jaw": 0.20, "wide": 0.10, "tongue": 1.0}, (250, 1600, 2500)),
    "F": Phoneme("fricative", 0.095, {"jaw": 0.16, "tuck": 1.0, "upper_up": 0.15}, (350, 1100, 2300), voiced=False, noise=(4500, 5000)),
    "V": Phoneme("fricative", 0.065, {"jaw": 0.16, "tuck": 0.9, "upper_up": 0.10}, (300, 1100, 2300), noise=(4000, 4500)),
    "TH": Phoneme("fricative", 0.085, {"jaw": 0.25, "tongue": 0.8}, (350, 1400, 2500), voiced=False, noise=(5200, 4000)),
    "S": Phoneme("fricative", 0.100, _SIBILANT, (320, 1700, 2600), voiced=False, noise=(5600, 2200)),
    "Z": Phoneme("fricative", 0.075, _SIBILANT, (280, 1700, 2600), noise=(5400, 2200)),
    "SH": Phoneme("fricative", 0.105, {"jaw": 0.12, "funnel": 0.80, "pucker": 0.25}, (320, 1700, 2400), voiced=False, noise=(3100, 1700)),
    "CH": Phoneme("fricative", 0.090, {"jaw": 0.12, "funnel": 0.75, "pucker": 0.25}, (320, 1700, 2400), voiced=False, noise=(3400, 1800)),
    "HH": Phoneme("fricative", 0.060, {"jaw": 0.45}, (500, 1500, 2500), voiced=False, noise=(1600, 2400), insists={"jaw": 0.3}),
    "L": Phoneme("liquid", 0.065, {"jaw": 0.32, "tongue": 1.0}, (360, 1100, 2700)),
    "R": Phoneme("liquid", 0.070, {"jaw": 0.26, "funnel": 0.40, "pucker": 0.30}, (400, 1100, 1600)),
    "W": Phoneme("liquid", 0.070, {"jaw": 0.14, "pucker": 1.0, "funnel": 0.2}, (300, 700, 2200), insists={"pucker": 1.2, "jaw": 0.9}),
    "Y": Phoneme("liquid", 0.060, {"jaw": 0.22, "wide": 0.55}, (270, 2200, 3000)),
    "SIL": Phoneme("silence", 0.300, {"jaw": 0.0, "close": 0.9}, (500, 1500, 2500), voiced=False, insists={"jaw": 1.0, "close": 0.8}),
}
# fmt: on
DIPHTHONGS = {"EY": ("EH", "IY"), "AY": ("AA", "IY"), "AW": ("AA", "UW"), "OU": ("OW", "UW"), "OY": ("AO", "IY")}

_VOWELS = ("AA", "AE", "AH", "AO", "EH", "ER", "IH", "IY", "UH", "UW", *DIPHTHONGS)
_VOWEL_WEIGHTS = np.array([8, 7, 11, 5, 8, 4, 9, 8, 3, 5, 5, 6, 4, 5, 2], float)
_ONSETS = ["B", "D", "F", "G", "HH", "K", "L", "M", "N", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "CH", "Z"]
_ONSET_WEIGHTS = np.array([8, 6, 5, 3, 5, 6, 6, 8, 6, 7, 5, 7, 3, 7, 3, 4, 6, 3, 2, 2], float)
_CODAS = ["", *["N", "T", "S", "L", "R", "M", "D", "K", "Z", "P", "V", "F", "B", "SH"]]
_CODA_WEIGHTS = np.array([42, 9, 8, 6, 6, 5, 6, 4, 4, 4, 3, 2, 2, 2, 1], float)

# How much each kind insists on its targets: (articulators that it shapes, all others).
_DOMINANCE = {
    "vowel": (1.0, 0.5),
    "stop": (0.9, 0.12),
    "fricative": (1.0, 0.25),
    "nasal": (0.9, 0.12),
    "liquid": (0.8, 0.2),
    "silence": (0.9, 0.6),
}
_SPREAD, _CONTACT_SPREAD = 0.05, 0.028  # seconds: dominance falls to 1 / e this far beyond a phoneme's edge
_CONTACTS = ("close", "press", "tuck", "tongue")  # they come and go more quickly


@dataclass(frozen=True)
class Utterance:
    """Phonemes and when they are spoken."""

    names: tuple[str, ...]
    starts: Float64[np.ndarray, " n"]  # seconds
    durations: Float64[np.ndarray, " n"]
    stress: Float64[np.ndarray, " n"]  # 0 unstressed .. 1
    phrase: Float64[np.ndarray, " n"]  # 0 at the start of a phrase .. 1 at its end

    def __len__(self) -> int:
        return len(self.names)

    @property
    def phonemes(self) -> list[Phoneme]:
        """The table entries of the sequence."""
        return [PHONEMES[name] for name in self.names]


def spoken(who: Identity, seed: int, duration: float) -> tuple[Utterance, np.random.Generator]:
    """What a person says in a take of `duration` seconds, and the generator that everything else of the take is drawn from."""
    rng = np.random.default_rng([seed, who.seed, 0x5EED])
    return babble(rng, duration, who.speech_rate), rng


def babble(rng: np.random.Generator, duration: float, rate: float = 1.0) -> Utterance:
    """Phrases of made-up words that fill `duration` seconds; `rate` 1 is about 4.5 syllables a second."""
    rows: list[tuple[str, float, float, float]] = [("SIL", rng.uniform(0.08, 0.3), 0.0, 0.0)]
    while sum(row[1] for row in rows) < duration + 0.5:
        rows += _phrase(rng, rate)
        rows.append(("SIL", rng.uniform(0.22, 0.6) / rate, 0.0, 0.0))
    names, durations, stress, phrase = zip(*rows, strict=True)
    lengths = np.array(durations)
    return Utterance(
        tuple(names), np.concatenate([[0.0], np.cumsum(lengths)[:-1]]), lengths, np.array(stress), np.array(phrase)
    )


def _phrase(rng: np.random.Generator, rate: float) -> list[tuple[str, float, float, float]]:
    n_syllables = int(rng.integers(3, 10))
    rows = []
    for syllable in range(n_syllables):
        stress = float(rng.uniform(0.6, 1.0)) if rng.random() < 0.45 else float(rng.uniform(0.0, 0.3))
        final = 1.35 if syllable == n_syllables - 1 else 1.0  # phrases end slowly
        for name, share in _syllable(rng):
            base = PHONEMES[name].duration
            longer = 1 + (0.45 * stress if PHONEMES[name].kind == "vowel" else 0.1 * stress)
            rows.append(
                (name, base * share * longer * final * rng.uniform(0.85, 1.2) / rate, stress, syllable / n_syllables)
            )
    return rows


def _syllable(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Names of its phonemes and factors of their durations."""
    vowel = str(rng.choice(_VOWELS, p=_VOWEL_WEIGHTS / _VOWEL_WEIGHTS.sum()))
    nucleus = [(part, 0.75) for part in DIPHTHONGS[vowel]] if vowel in DIPHTHONGS else [(vowel, 1.0)]
    onset = str(rng.choice(_ONSETS, p=_ONSET_WEIGHTS / _ONSET_WEIGHTS.sum())) if rng.random() < 0.9 else ""
    coda = str(rng.choice(_CODAS, p=_CODA_WEIGHTS / _CODA_WEIGHTS.sum()))
    return [*([(onset, 1.0)] if onset else []), *nucleus, *([(coda, 0.9)] if coda else [])]


def articulate(
    utterance: Utterance, times: Float64[np.ndarray, " t"], effort: float = 1.0
) -> dict[str, Float64[np.ndarray, " t"]]:
    """Articulators over time, by dominance blending; `effort` scales how far the mouth moves.

    Args:
        times: seconds, increasing.
    """
    contact = np.isin(ARTICULATORS, _CONTACTS)
    spread = np.where(contact, _CONTACT_SPREAD, _SPREAD)
    n = len(ARTICULATORS)
    weighted, total = np.zeros((len(times), n)), np.full((len(times), n), 1e-9)
    for name, start, duration, stress in zip(
        utterance.names, utterance.starts, utterance.durations, utterance.stress, strict=True
    ):
        target, insist = _target(name), _insistence(name)
        if PHONEMES[name].kind == "vowel":
            target = target * np.where(np.array(ARTICULATORS) == "jaw", 0.72 + 0.4 * stress, 0.85 + 0.2 * stress)
        # Flat over the middle of the phoneme, exponential on both sides; a few spreads away nothing is left.
        first, last = np.searchsorted(times, [start - 6 * _SPREAD, start + duration + 6 * _SPREAD])
        away = np.abs(times[first:last] - start - duration / 2) - 0.25 * duration
        weight = np.exp(-((np.maximum(away, 0)[:, None] / spread) ** 1.3)) * insist
        weighted[first:last] += weight * target
        total[first:last] += weight
    shape = weighted / total
    shape *= np.where(contact, 1.0, effort)
    tracks = dict(zip(ARTICULATORS, shape.T, strict=True))
    # Contact is quick: lips meet when a bilabial dominates, instead of hovering half closed.
    close = np.clip((tracks["close"] - 0.25) / 0.45, 0, 1)
    tracks["close"] = close * close * (3 - 2 * close)
    return tracks


def _target(name: str) -> Float64[np.ndarray, " k"]:
    return np.array([PHONEMES[name].shape.get(articulator, 0.0) for articulator in ARTICULATORS])


def _insistence(name: str) -> Float64[np.ndarray, " k"]:
    phoneme = PHONEMES[name]
    shaped, others = _DOMINANCE[phoneme.kind]
    base = [shaped if articulator in phoneme.shape else others for articulator in ARTICULATORS]
    insist = np.array(
        [phoneme.insists.get(articulator, value) for articulator, value in zip(ARTICULATORS, base, strict=True)]
    )
    if phoneme.shape.get("close", 0) == 1.0:
        insist[ARTICULATORS.index("close")] = 2.5
    if "tuck" in phoneme.shape:
        insist[ARTICULATORS.index("tuck")] = 2.0
    return insist
