"""Data in the layout of MoDiTalker's original training as recordings: a folder of numbered pictures per clip of HDTF.

    <raw>/frames/<clip>/00000.jpg      the clip's frames, 25 per second
    <raw>/videos/<clip>.mp4 or .wav    optional: its sound, which begins with the first frame

The original's list of clips, `train_id.txt`, names those of the **test**, one `<clip>.mp4` per line: `dataset.split_lists.test=` takes
it. The folder `keypoints` is not taken over: a store has 478 landmarks, detected anew, and the released script puts its 68 beside the
face, because it takes a picture's height for 3.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from src.datamodules.preprocessing.image_sequences import numbered_from
from src.datamodules.preprocessing.recordings import Dataset, Recording
from src.datamodules.store import Failure
from src.errors import ConfigError

log = logging.getLogger(__name__)

SOUND_SUFFIXES = (".mp4", ".wav")


class MoDiTalkerLayout:
    """Finds the recordings of such a folder; a `RecordingSource`.

    Args:
        name: for messages.
        identity: who is in a clip, see `recordings.Dataset`.
        example: a clip's name, for messages.
        split_lists: see `recordings.Dataset`.
        sound: folder with the sound of the clips, below the raw folder or anywhere.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        example: str = "",
        split_lists: Mapping[str, str | None] | None = None,
        sound: str = "videos",
    ) -> None:
        self.dataset = Dataset(name, identity, example, split_lists=split_lists)
        self.given_splits = self.dataset.given_splits
        self.sound = sound

    def scan(self, raw: Path, exclude: Path | None = None) -> tuple[list[Recording], list[Failure]]:
        """A recording for every folder of pictures, and the folders that cannot be one.

        Raises:
            ConfigError: there is no folder of such folders.
        """
        frames = raw / "frames"
        folders = sorted(folder for folder in frames.glob("*") if folder.is_dir() and folder != exclude)
        if not folders:
            raise ConfigError(f"raw={raw} holds no frames/CLIP/00000.jpg: give the folder that holds `frames`.")
        recordings, failures = [], []
        for folder in folders:
            found = self._recording(folder, raw)
            if isinstance(found, Failure):
                failures.append(found)
            else:
                recordings.append(found)
        if silent := sum(recording.audio is None for recording in recordings):
            log.warning(
                "%d of %d clips have no sound (looked for in %s): moditalker_mtov trains without, moditalker_atom does not",
                silent,
                len(recordings),
                raw / self.sound,
            )
        return recordings, failures

    def _recording(self, folder: Path, raw: Path) -> Recording | Failure:
        source = folder.relative_to(raw).as_posix()
        pictures = {int(path.stem): path for path in folder.glob("*.jpg") if path.stem.isdecimal()}
        if not pictures:
            return Failure(source, "holds no picture named 00000.jpg, 00001.jpg, ...: copy them or remove the folder.")
        first = pictures[min(pictures)]
        if absent := set(range(min(pictures), max(pictures) + 1)) - pictures.keys():
            return Failure(
                source,
                f"lacks pictures between its first and its last one, {len(absent)} in all: copy them from number {min(absent)} on.",
            )
        if len(numbered_from(first)) != len(pictures):
            return Failure(source, f"numbers pictures with different widths: name all of them as {first.name}.")
        size = sum(path.stat().st_size for path in pictures.values())
        found = self.dataset.recording(first, PurePosixPath(f"{folder.name}.mp4"), size)
        if isinstance(found, Failure):
            return dataclasses.replace(found, source=source)
        return dataclasses.replace(found, source=f"{source}/{first.name}", audio=self._sound_of(folder.name, raw))

    def _sound_of(self, clip: str, raw: Path) -> Path | None:
        paths = (raw / self.sound / f"{clip}{suffix}" for suffix in SOUND_SUFFIXES)
        return next((path for path in paths if path.is_file()), None)
