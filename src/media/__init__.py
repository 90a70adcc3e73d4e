"""Video, sound and picture files: probe, read, resample, write."""

from src.media.audio import read_audio, write_wav
from src.media.files import atomic_path
from src.media.images import read_image, resize, write_image
from src.media.probing import VideoInfo, probe
from src.media.reader import VideoReader
from src.media.writer import Provenance, VideoWriter, write_video

__all__ = [
    "Provenance",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "atomic_path",
    "probe",
    "read_audio",
    "read_image",
    "resize",
    "write_image",
    "write_video",
    "write_wav",
]
