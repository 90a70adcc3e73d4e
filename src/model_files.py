"""The pretrained files that the project uses: one list with size, address and sha256, and one way to fetch them.

They lie in the folder named by the environment variable VISEME_MODELS, by default `models/`; `tools/download_models.py` fills it.
"""

import hashlib
import http
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from src.errors import VisemeError

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class ModelFile:
    """A file to download: its name in the models folder and its address; what needs it, and its licence.

    Attributes:
        sha256: hexadecimal, whole; or its first digits, at least 8, where the publisher names no more: they tell a damaged file, not a
            forged one, so such a file is only ever read as plain tensors.
        size: in bytes; None where the publisher does not say.
        on_request: fetched only where it is asked for by name.
    """

    name: str
    url: str
    size: int | None
    sha256: str
    purpose: str
    licence: str
    on_request: bool = False


MODEL_FILES = {
    file.name: file
    for file in [
        ModelFile(
            name="face_landmarker.task",
            url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
            size=3_758_596,
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            purpose="finding faces: preprocessing, sampling from pictures, landmark metrics",
            licence="Apache-2.0",
        ),
        ModelFile(
            name="vgg16-397923af.pth",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            size=None,
            sha256="397923af",  # torchvision puts these digits into the name
            purpose="the perceptual loss of difftalk's first stage",
            licence="BSD-3-Clause",
            on_request=True,
        ),
    ]
}


def models_dir() -> Path:
    """The folder of downloaded models."""
    return Path(os.environ.get("VISEME_MODELS", "models"))


def model_path(name: str) -> Path:
    """Where the named model file lies, or would lie once downloaded."""
    return models_dir() / MODEL_FILES[name].name


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_complete(file: ModelFile, path: Path) -> bool:
    """True when the file is there with the right size and content."""
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    return sha256_of(path).startswith(file.sha256)


def download(
    file: ModelFile, folder: Path, *, mirror: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Fetches a model file unless it is there already; an interrupted download is continued where it stopped.

    The bytes go to `<name>.part`, which is renamed once its sha256 is right: the folder never holds a wrong file under the right name.

    Args:
        file: which one.
        folder: where to put it; made when missing.
        mirror: an address below which the same content lies under the file's name.
        progress: called with (bytes so far, bytes in all).

    Raises:
        VisemeError: the address does not answer, the folder cannot be written, or the content is another one.
    """
    path = folder / file.name
    if is_complete(file, path):
        return path
    part = path.with_name(path.name + ".part")
    address = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(address, part, file, progress or (lambda done, total: None))
        except (
            urllib.error.HTTPError
        ) as error:  # a file of unknown size that is whole already: nothing lies behind its end
            if not (part.exists() and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                raise
        _check(file, part, address)
        part.replace(path)
    except urllib.error.HTTPError as error:
        raise VisemeError(
            f"{file.name}: {address} answered {error.code} {error.reason}; try again later or give a mirror."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise VisemeError(
            f"{file.name}: the download from {urlsplit(address).netloc} stopped ({reason}); check the network and run it again, "
            "it continues where it stopped."
        ) from error
    except OSError as error:
        raise VisemeError(
            f"{file.name}: {error.filename or folder} cannot be written ({error.strerror}); "
            "free some space or set VISEME_MODELS to another folder."
        ) from error
    log.info("%s: %s (%s)", path, file.purpose, file.licence)
    return path


def _fetch(address: str, part: Path, file: ModelFile, progress: Callable[[int, int], None]) -> None:
    """Appends what is missing to `part`; starts over where the server does not resume."""
    done = part.stat().st_size if part.exists() else 0
    if file.size is not None and done >= file.size:
        return
    if urlsplit(address).scheme not in ("https", "http"):
        raise VisemeError(f"{file.name}: {address} is no http or https address; give another mirror.")
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = done if resumed else 0
        total = file.size if file.size is not None else done + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(done, total)
    if done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _check(file: ModelFile, part: Path, address: str) -> None:
    """Removes a part with another content, so that the next attempt starts afresh."""
    digest = sha256_of(part)
    if not digest.startswith(file.sha256):
        part.unlink()
        raise VisemeError(
            f"{file.name}: what {address} sent has the sha256 {digest[:12]}..., not {file.sha256[:12]}...; "
            "it was removed: try again or give another mirror."
        )
