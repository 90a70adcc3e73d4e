"""Fetches the videos that VoxCeleb2's annotations tell of, and cuts the utterances out of them.

<annotations>/[.../]<identity>/<video>/<number>.txt  ->  <root>/<identity>/<video>/<number>.mp4    25 frames per second, whole frames

A video is fetched whole, cut, and deleted. What has been cut is never fetched again; videos that cannot be had are listed in
<root>/failures.csv and left alone from then on.
"""

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from src.datamodules.preprocessing.voxceleb2 import FPS, Annotation, read_annotation
from src.datamodules.tables import append_rows, read_rows
from src.errors import StoreError, VisemeError, require_least
from src.media import VideoReader, VideoWriter, probe, read_audio

log = logging.getLogger(__name__)

FAILURE_COLUMNS = ("identity", "video", "reason")
_CHUNK = 32  # frames at a time
# What yt-dlp says of videos that will not come back.
_GONE = (
    "video unavailable",
    "private video",
    "removed",
    "terminated",
    "copyright",
    "not available",
    "confirm your age",
)
_REFUSED_FOR_NOW = ("try again later", "rate-limited")  # stands beside "video unavailable" where too much was asked for
_UNFINISHED = (".part", ".ytdl")  # files of its own


class FetchError(VisemeError):
    """A video that could not be fetched this time."""


class GoneError(FetchError):
    """A video that will not be there next time either."""


@dataclass(frozen=True)
class Fetched:
    """Files of a video: pictures, and the sound where it lies apart."""

    video: Path
    sound: Path | None = None


class Fetcher(Protocol):
    """Fetches videos by their ids."""

    def __call__(self, video: str, folder: Path) -> Fetched:
        """The files of a video, put into a folder; FetchError where they cannot be had."""
        ...


class YtDlpFetcher:
    """Fetches from YouTube with yt-dlp, which is installed by those who need it.

    Args:
        max_height: of the pictures in pixels; the best that is not higher is taken.
        rate_limit: bytes per second; None: as fast as it goes.
        address: of a video; `{video}` is its id.

    Raises:
        FetchError: yt-dlp is not installed.
    """

    def __init__(
        self,
        max_height: int = 720,
        rate_limit: float | int | None = None,
        address: str = "https://www.youtube.com/watch?v={video}",
    ) -> None:
        try:
            import yt_dlp  # ty: ignore[import-not-found] (for those who fetch)
        except ImportError as error:
            raise FetchError(
                "Fetching needs yt-dlp, which is not installed: pip install yt-dlp (or this project with its extra voxceleb2)."
            ) from error
        self._yt_dlp = yt_dlp
        self.max_height = max_height
        self.rate_limit = rate_limit
        self.address = address

    def __call__(self, video: str, folder: Path) -> Fetched:
        """See `Fetcher`; pictures and sound are fetched apart, so that no other program has to join them."""
        pictures = f"bv*[ext=mp4][height<={self.max_height}]/bv*[height<={self.max_height}]/b"
        return Fetched(
            self._fetch(video, pictures, folder / "video"), self._fetch(video, "ba[ext=m4a]/ba/b", folder / "sound")
        )

    def _fetch(self, video: str, choice: str, stem: Path) -> Path:
        options = {
            "format": choice,
            "outtmpl": f"{stem}.%(ext)s",
            "quiet": True,
            "no_warnings": True,
            "noprogress": True,
            "noplaylist": True,
            "ratelimit": self.rate_limit,
            "fixup": "never",  # would call another program
        }
        try:
            with self._yt_dlp.YoutubeDL(options) as client:
                client.download([self.address.format(video=video)])
        except self._yt_dlp.utils.DownloadError as error:
            message = " ".join(str(error).split())
            said = message.lower()
            gone = any(word in said for word in _GONE) and not any(word in said for word in _REFUSED_FOR_NOW)
            raise (GoneError if gone else FetchError)(f"{video}: {message}") from error
        found = [path for path in sorted(stem.parent.glob(f"{stem.name}.*")) if path.suffix not in _UNFINISHED]
        if not found:
            raise FetchError(f"{video}: nothing was saved.")
        return found[0]


@dataclass(frozen=True)
class Wanted:
    """A video and the utterances of it that are not there yet."""

    identity: str
    video: str
    annotations: Sequence[Path]


def wanted_videos(annotations: Path, root: Path) -> list[Wanted]:
    """The videos of which utterances are missing, in the order of people and ids.

    Raises:
        StoreError: there are no annotations in the folder.
    """
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    files = [path for path in sorted(annotations.rglob("*.txt")) if len(path.relative_to(annotations).parts) >= 3]
    if not files:
        raise StoreError(
            f"annotations={annotations}: there are no IDENTITY/VIDEO/NUMBER.txt; give the unpacked folder of vox2_dev_txt.zip."
        )
    for path in files:
        identity, video = path.parts[-3:-1]
        if not clip_path(root, path).is_file():
            found[identity, video].append(path)
    return [Wanted(*key, paths) for key, paths in found.items()]


def clip_path(root: Path, annotation: Path) -> Path:
    """Where the utterance of an annotation belongs."""
    return root.joinpath(*annotation.parts[-3:-1], f"{annotation.stem}.mp4")


@dataclass
class Result:
    """What a run did, in videos and in utterances."""

    videos: int = 0
    utterances: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Download:
    """Fetching politely: one video after another, with pauses, and longer ones after failures.

    Args:
        root: where the utterances go.
        pause: seconds between two videos.
        retries: further attempts for a video.
        backoff: seconds before the first of them, doubled for each one after.
        patience: stop after so many videos in a row that gave no answer.
        retry_failed: once more those videos that are listed as failed.
        sleep: waits so many seconds.
    """

    root: Path
    pause: float | int = 5.0
    retries: int = 3
    backoff: float | int = 30.0
    patience: int = 5
    retry_failed: bool = False
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        for name in ("pause", "retries", "backoff"):
            require_least(name, getattr(self, name), 0)
        require_least("patience", self.patience, 1)

    def pending(self, annotations: Path, limit: int | None = None) -> list[Wanted]:
        """The videos to fetch, `limit` at most; those that failed before are left out unless they are to be tried again."""
        table = self.root / "failures.csv"
        failed = {row["video"] for row in read_rows(table)} if table.is_file() and not self.retry_failed else set()
        return [wanted for wanted in wanted_videos(annotations, self.root) if wanted.video not in failed][:limit]

    def run(self, videos: Sequence[Wanted], fetch: Fetcher) -> Result:
        """Fetch videos and cut them; the rest goes on after one that fails.

        Only what will fail again is noted: a video that gave no answer this time is asked for in the next run.

        Raises:
            FetchError: one video after another gave no answer, so it is not the videos.
        """
        result, unanswered = Result(), 0
        for number, wanted in enumerate(videos):
            if number:
                self.sleep(self.pause)
            try:
                result.utterances += self._video(wanted, fetch)
                result.videos += 1
                unanswered = 0
            except VisemeError as error:
                result.failed += 1
                log.warning("%s/%s: %s", wanted.identity, wanted.video, error)
                if isinstance(error, FetchError) and not isinstance(error, GoneError):
                    unanswered += 1
                    self._check_patience(unanswered, error)
                else:
                    unanswered = 0
                    row = {"identity": wanted.identity, "video": wanted.video, "reason": str(error)}
                    append_rows(self.root / "failures.csv", FAILURE_COLUMNS, [row])
            log.info("%d of %d videos, %d utterances", number + 1, len(videos), result.utterances)
        return result

    def _check_patience(self, unanswered: int, error: FetchError) -> None:
        if unanswered == self.patience:
            raise FetchError(
                f"{unanswered} videos in a row gave no answer (the last one: {error}) What is there is kept: look at the network, then "
                "give the same command again."
            ) from error

    def _video(self, wanted: Wanted, fetch: Fetcher) -> int:
        """Cut all missing utterances of a video; their number."""
        annotations = {path: read_annotation(path) for path in wanted.annotations}  # before anything is fetched
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / f".fetching-{wanted.video}"  # after a crash it is still there, and the fetcher goes on
        folder.mkdir(exist_ok=True)
        try:
            files = self._patiently(wanted.video, folder, fetch)
            for path, annotation in annotations.items():
                cut_utterance(files, annotation, clip_path(self.root, path))
        finally:
            shutil.rmtree(folder)
        return len(annotations)

    def _patiently(self, video: str, folder: Path, fetch: Fetcher) -> Fetched:
        """Fetch, and try again after ever longer pauses."""
        for attempt in range(self.retries):
            try:
                return fetch(video, folder)
            except GoneError:
                raise
            except FetchError as error:
                seconds = self.backoff * 2**attempt
                log.info("%s; the next attempt follows in %g s", error, seconds)
                self.sleep(seconds)
        return fetch(video, folder)


def cut_utterance(files: Fetched, annotation: Annotation, path: Path) -> None:
    """Write the frames of an annotation, one per row of it, at 25 per second, with their sound.

    Raises:
        MediaError: the video cannot be read.
        StoreError: it ends before the utterance begins.
    """
    reader = VideoReader(files.video, fps=FPS)
    first, last = int(annotation.frames[0]), int(annotation.frames[-1])
    stop = min(last + 1, len(reader))
    if stop <= first:
        raise StoreError(
            f"{annotation.video} lasts {len(reader) / FPS:.1f} s, but an utterance begins at {first / FPS:.1f} s: it is another video."
        )
    sound = files.sound or files.video
    audio = read_audio(sound, start=first / FPS, duration=(stop - first) / FPS) if probe_sound(sound) else None
    with VideoWriter(path, FPS, audio=audio) as writer:
        for frames in _frames(reader, first, stop):
            writer.write(frames)


def probe_sound(path: Path) -> bool:
    """Whether a file has sound; a file without pictures has nothing else."""
    try:
        return probe(path).has_audio
    except VisemeError:
        return True


def _frames(reader: VideoReader, first: int, stop: int) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    for start in range(first, stop, _CHUNK):
        yield reader.read(range(start, min(start + _CHUNK, stop)))


def summary(videos: Sequence[Wanted]) -> Mapping[str, Any]:
    """How much is to be fetched: videos, utterances and hours of speech."""
    paths = [path for wanted in videos for path in wanted.annotations]
    seconds = sum(np.ptp(read_annotation(path).seconds) for path in paths)
    return {"videos": len(videos), "utterances": len(paths), "hours": float(seconds) / 3600}
