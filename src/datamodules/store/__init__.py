"""The clip store: aligned talking-head clips on disk, the one input of every DataModule.

Standard files only, so that everything opens in ordinary programs:

    clips.csv                          one row per clip: the fields of `Clip`
    video/<id>.mp4                     aligned crop, H.264, every frame a key frame, no sound
    audio/<id>.wav                     16 kHz mono PCM16, exactly n_frames / fps seconds; absent if has_audio is false
    landmarks/<id>.npy                 float32 (T, 478, 3), pixels of the crop, z in the same unit
    landmarks/<id>.blendshapes.npy     float16 (T, 52)
    landmarks/<id>.valid.npy           bool (T,), false where the landmarks are interpolated
    landmarks/<id>.transforms.npy      float64 (T, 3, 3), source frame pixels -> crop pixels; absent for rendered clips
    features/<encoder>/<id>.npy        one row (or window) per video frame
    selection/<name>.csv               id, kept frame indices (src/datamodules/selection.py)
    failures.csv                       what was rejected, and why
    settings.json                      how the store was made: a run with other settings is refused

Every file is written under a temporary name and renamed, and a clip's row is appended after its files: a run that is
killed leaves no half clip behind.
"""

from src.datamodules.store.reading import (
    COLUMNS,
    FAILURE_COLUMNS,
    SAMPLE_RATE,
    SPLITS,
    Clip,
    ClipStore,
    Failure,
    clip_files,
    forget_open_files,
    read_clips,
    samples_of,
)
from src.datamodules.store.writing import SAFE_ID, StoreWriter, write_clip
from src.datamodules.tables import differences

__all__ = [
    "COLUMNS",
    "FAILURE_COLUMNS",
    "SAFE_ID",
    "SAMPLE_RATE",
    "SPLITS",
    "Clip",
    "ClipStore",
    "Failure",
    "StoreWriter",
    "clip_files",
    "differences",
    "forget_open_files",
    "read_clips",
    "samples_of",
    "write_clip",
]
