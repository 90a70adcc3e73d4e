"""Speech features: one row per video frame at 25 frames per second.

Row i describes the sound around the middle of video frame i, the time `(i + 0.5) / 25` s, whatever made it: `SpeechFeatures` is the
one interface of all extractors.
"""

from src.audio.features import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, SpeechFeatures, fit_rows
from src.audio.imported import ImportedFeatures, ImportedWindows, read_embeddings
from src.audio.log_mel import LogMel

__all__ = [
    "FPS",
    "SAMPLES_PER_FRAME",
    "SAMPLE_RATE",
    "ImportedFeatures",
    "ImportedWindows",
    "LogMel",
    "SpeechFeatures",
    "fit_rows",
    "read_embeddings",
]
