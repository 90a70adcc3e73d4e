"""Data in the layout of DiffTalk's original training as recordings: numbered pictures, lists, windows of DeepSpeech's logits.

    <raw>/HDTF/images/<clip>_<frame>.jpg      the recording of clip `<clip>`, from its first listed frame on, 25 frames per second
    <raw>/HDTF/audio/<clip>.wav               optional: its sound, which begins with that frame
    <raw>/data_train.txt, data_test.txt       lists of <clip>_<frame>

`raw` may also be the folder `HDTF` itself. The windows of logits become features with `features=deepspeech`; the layout has no sound, and a
clip without any still has these. The 68 landmarks are not taken over: a store has 478, detected anew.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from src.datamodules.difftalk_layout_files import FrameId, read_frame_list
from src.datamodules.preprocessing.recordings import Recording
from src.datamodules.store import Failure
from src.errors import ConfigError

log = logging.getLogger(__name__)

LISTS = {"train": "data_train.txt", "test": "data_test.txt"}


class DiffTalkLayout:
    """Finds the recordings of such a folder; a `RecordingSource`. Every clip is a person of its own.

    Args:
        name: for messages.
        hold_out: True: the clips of the training list are divided into train and validation by `fractions`. False: all of them are for
            training, and the store has no validation split; name `test` as `datamodule.val_split` then.
    """

    def __init__(self, name: str = "difftalk", hold_out: bool = True) -> None:
        self.name = name
        self.hold_out = hold_out
        self.given_splits = {"test"} if hold_out else set(LISTS)

    def scan(self, raw: Path, exclude: Path | None = None) -> tuple[list[Recording], list[Failure]]:
        """A recording for every listed clip, and the clips whose listed pictures are not all there.

        Raises:
            ConfigError: the folder lacks pictures or both lists, or a list cannot be read.
        """
        root = next((folder for folder in (raw / "HDTF", raw) if (folder / "images").is_dir()), None)
        if root is None:
            raise ConfigError(
                f"raw={raw} holds neither HDTF/images nor images: give the folder of the pictures and lists."
            )
        listed = self._read_lists(raw)
        sizes = {path.name: path.stat().st_size for path in (root / "images").glob("*.jpg")}
        recordings, failures = [], []
        for (split, clip), frames in listed.items():
            first = f"{FrameId(clip, frames[0])}.jpg"
            source = f"{(root / 'images').relative_to(raw)}/{first}"
            wanted = [f"{FrameId(clip, frame)}.jpg" for frame in range(frames[0], frames[-1] + 1)]
            if missing := [name for name in wanted if name not in sizes]:
                names = ", ".join(missing)
                failures.append(
                    Failure(
                        source,
                        f"lacks {len(missing)} of {len(wanted)} pictures, copy them or shorten the list: {names}.",
                    )
                )
                continue
            sound = root / "audio" / f"{clip}.wav"
            recordings.append(
                Recording(
                    path=root / "images" / first,
                    source=source,
                    id=f"{clip:04d}",
                    identity=f"{self.name}{clip:04d}",
                    split="" if self.hold_out and split == "train" else split,
                    size=sum(sizes[name] for name in wanted),
                    audio=sound if sound.is_file() else None,
                )
            )
        if silent := sum(recording.audio is None for recording in recordings):
            log.info("%d of %d clips have no sound (looked for in %s)", silent, len(recordings), root / "audio")
        return recordings, failures

    @staticmethod
    def _read_lists(raw: Path) -> dict[tuple[str, int], Sequence[int]]:
        """Frame numbers in order, by split and clip."""
        found: dict[tuple[str, int], list[int]] = {}
        for split, name in LISTS.items():
            path = next((p for p in (raw / name, raw.parent / name) if p.is_file()), None)
            for frame in read_frame_list(path) if path else ():
                found.setdefault((split, frame.clip), []).append(frame.frame)
        if not found:
            raise ConfigError(f"raw={raw} holds neither of {', '.join(LISTS.values())}: write one CLIP_FRAME per line.")
        return {key: sorted(frames) for key, frames in sorted(found.items(), key=lambda item: item[0][1])}
