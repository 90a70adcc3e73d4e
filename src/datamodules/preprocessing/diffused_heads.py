"""Data in the layout of Diffused Heads' original training: videos, sound in a parallel tree, and lists of the clips of each split.

    <raw>/video/s15/1015_DFA_ANG_XX.mp4     aligned face
    <raw>/audio/s15/1015_DFA_ANG_XX.wav     its sound
    <raw>/file_list_train.txt               one `./s15/1015_DFA_ANG_XX.mp4` per line
    <raw>/file_list_test.txt

Folders named `vox` and `avspeech` have other names inside (`LAYOUTS`). Speech embeddings, `<folder>/s15/1015_DFA_ANG_XX.pth`, become
features of the store with `features=imported`. The 68 landmarks per frame, `lmks/`, are not taken over: a store has 478, detected anew.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from src.datamodules.preprocessing.recordings import SUFFIXES, Dataset, Recording
from src.datamodules.store import Failure
from src.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where the parts lie below the raw folder, and who is in a clip."""

    video: str = "video"
    audio: str = "audio"
    audio_suffix: str = ".wav"
    list_name: str = "file_list_{split}.txt"
    identity: str = "parent"


LAYOUTS = {
    "vox": Layout("videos/train", "audio/train", ".mp3", "file_list_{split}_new.txt", r"^(?P<identity>[^/]+)/"),
    "avspeech": Layout("cropped_videos", "audio", ".wav", "file_list_{split}_new.txt", "stem"),
}
"""By the name of the raw folder; any other has the default."""

LISTED_SPLITS = ("train", "test")  # the original validates on the training list


class DiffusedHeadsLayout:
    """Finds the recordings of such a folder; a `RecordingSource`.

    Where there is no training list (the published data has none), clips that the test list does not name are for training.

    Args:
        name: for messages.
        identity: see `recordings.Dataset`; None: by the layout, mostly the folder that the clip lies in.
        hold_out: False: the training list is for training alone, as published, and the store has no validation split. True: its
            people are divided into train and validation by `fractions`.
        suffixes: of the files that are videos, lower case.
    """

    def __init__(
        self,
        name: str = "diffused_heads",
        identity: str | None = None,
        hold_out: bool = False,
        suffixes: Sequence[str] = SUFFIXES,
    ) -> None:
        self.name = name
        self.identity = identity
        self.hold_out = hold_out
        self.suffixes = tuple(suffixes)
        self.given_splits = {"test"} if hold_out else set(LISTED_SPLITS)

    def scan(self, raw: Path, exclude: Path | None = None) -> tuple[list[Recording], list[Failure]]:
        """All listed recordings with their split and sound, and the files that are listed but missing, or not listed.

        Raises:
            ConfigError: the folder lacks the videos or both lists.
        """
        layout = LAYOUTS.get(raw.name, Layout())
        splits = self._read_lists(raw, layout)
        videos = raw / layout.video
        if not videos.is_dir():
            raise ConfigError(
                f"raw={raw} lacks the folder {layout.video}: give the folder that holds it and the lists."
            )
        found, failures = Dataset(self.name, self.identity or layout.identity, suffixes=self.suffixes).scan(
            videos, exclude
        )
        has_train_list = "train" in splits.values()
        recordings = []
        for recording in found:
            split = splits.get(clip_name(recording.source), "" if has_train_list else "train")
            if not split:
                failures.append(Failure(recording.source, "is in neither list: add it to one to keep it."))
                continue
            split = "" if self.hold_out and split == "train" else split
            recordings.append(dataclasses.replace(recording, split=split, audio=_sound_of(recording, raw, layout)))
        failures += self._missing(splits, found, layout)
        if silent := sum(recording.audio is None for recording in recordings):
            log.warning(
                "%d of %d clips have no sound below %s: that of the video is taken, where it has one",
                silent,
                len(recordings),
                raw / layout.audio,
            )
        return recordings, failures

    def _read_lists(self, raw: Path, layout: Layout) -> dict[str, str]:
        """Split by the clip's name."""
        splits: dict[str, str] = {}
        for split in LISTED_SPLITS:
            path = raw / layout.list_name.format(split=split)
            if path.is_file():
                splits |= dict.fromkeys(read_file_list(path), split)
        if not splits:
            raise ConfigError(
                f"raw={raw} holds neither of {', '.join(layout.list_name.format(split=s) for s in LISTED_SPLITS)}, or "
                "they are empty: write one line per clip, or use dataset=folder."
            )
        return splits

    @staticmethod
    def _missing(splits: Mapping[str, str], found: Sequence[Recording], layout: Layout) -> list[Failure]:
        present = {clip_name(recording.source) for recording in found}
        return [
            Failure(name, f"is in {layout.list_name.format(split=split)} but not below {layout.video}: copy it there.")
            for name, split in splits.items()
            if name not in present
        ]


def read_file_list(path: Path) -> list[str]:
    """Names of the clips in a list: paths below the folder of videos, without `./` and suffix.

    The original drops the last five characters of every line, and so a letter of the last one where no newline ends the file; here
    empty lines and line ends of any kind are all the same.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: give a list with one clip per line.") from error
    return [clip_name(line.strip()) for line in lines if line.strip()]


def clip_name(path: str) -> str:
    """`./s15/1015_DFA_ANG_XX.mp4` -> `s15/1015_DFA_ANG_XX`."""
    return str(PurePosixPath(path.replace("\\", "/")).with_suffix(""))


def _sound_of(recording: Recording, raw: Path, layout: Layout) -> Path | None:
    path = raw / layout.audio / f"{clip_name(recording.source)}{layout.audio_suffix}"
    return path if path.is_file() else None
