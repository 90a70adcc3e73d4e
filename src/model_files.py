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
        sha256: hexadecimal, whole; or its first digits, at least 8, where the publisher names no more; or "" where it names none: then
            that of the first download is noted in `<name>.sha256` beside the file, and compared from then on. The latter two tell a
            damaged file, not a forged one, so such a file is only ever read as plain tensors.
        size: in bytes; None where the publisher does not say.
        on_request: fetched only where it is asked for by name or method.
        methods: slugs of the methods that need it.
        by_hand: where no program can fetch it: what to take from the page `url` and save under `name`.
    """

    name: str
    url: str
    size: int | None
    sha256: str
    purpose: str
    licence: str
    on_request: bool = False
    methods: tuple[str, ...] = ()
    by_hand: str = ""


def _renderer(name: str, folder: str, purpose: str) -> ModelFile:
    """One of LivePortrait's five files."""
    return ModelFile(
        name=f"{name}.pth",
        url=f"https://huggingface.co/KwaiVGI/LivePortrait/resolve/main/liveportrait/{folder}/{name}.pth",
        size=None,
        sha256="",
        purpose=f"LivePortrait: {purpose}",
        licence="MIT",
        on_request=True,
        methods=("liveportrait", "liveportrait_talker"),
    )


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
        _renderer("appearance_feature_extractor", "base_models", "features of the portrait"),
        _renderer("motion_extractor", "base_models", "key points, pose and expression"),
        _renderer("warping_module", "base_models", "features moved with the key points"),
        _renderer("spade_generator", "base_models", "features drawn as a frame"),
        _renderer("stitching_retargeting_module", "retargeting_models", "shoulders, eyes and lips"),
        ModelFile(
            name="SadTalker_V0.0.2_256.safetensors",
            url="https://github.com/OpenTalker/SadTalker/releases/download/v0.0.2-rc/SadTalker_V0.0.2_256.safetensors",
            size=724_908_512,
            sha256="",
            purpose="LivePortraitTalker: expression of a face and of a voice",
            licence="Apache-2.0",
            on_request=True,
            methods=("liveportrait_talker",),
        ),
        ModelFile(
            name="mappingnet_basic_64inp_onlylip.pt",
            url="https://huggingface.co/mustafakara/liveportrait_talker/resolve/main/pretrained_models/mappingnet_basic_64inp_onlylip.pt",
            size=None,
            sha256="",
            purpose="LivePortraitTalker: lips of an expression",
            licence="MIT",
            on_request=True,
            methods=("liveportrait_talker",),
        ),
        ModelFile(
            name="alexnet-owt-7be5be79.pth",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            size=None,
            sha256="7be5be79",
            purpose="LPIPS in evaluations",
            licence="BSD-3-Clause",
            on_request=True,
        ),
        ModelFile(
            name="weights-inception-2015-12-05-6726825d.pth",
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            size=None,
            sha256="6726825d",
            purpose="FID and KID",
            licence="Apache-2.0",
            on_request=True,
        ),
        ModelFile(
            name="i3d_pretrained_400.pt",
            url="https://drive.google.com/uc?export=download&id=1fBNl3TS0LA5FEhZv5nMGJs2_7qQmvTmh",
            size=None,
            sha256="",
            purpose="FVD",
            licence="Apache-2.0",
            on_request=True,
        ),
        ModelFile(
            name="syncnet_v2.model",
            url="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
            size=None,
            sha256="",
            purpose="AV offset, LSE-C and LSE-D",
            licence="not stated",
            on_request=True,
        ),
        ModelFile(
            name="sfd_face.pth",
            url="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/sfd_face.pth",
            size=None,
            sha256="",
            purpose="face tracks in front of SyncNet",
            licence="not stated",
            on_request=True,
        ),
        *(
            ModelFile(
                name=f"arcface_r{depth}.pth",
                url="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch",
                size=None,
                sha256="",
                purpose="CSIM",
                licence="non-commercial research",
                on_request=True,
                by_hand=f"backbone.pth of a {name} model",
            )
            for depth, name in ((50, "R50"), (100, "R100"))
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


def files_of(method: str) -> list[str]:
    """Names of the files that a method needs; none for a method that trains all of its networks."""
    return [name for name, file in MODEL_FILES.items() if method in file.methods]


def is_complete(file: ModelFile, path: Path) -> bool:
    """True when the file is there with the right size and content; where neither is known, when it is there."""
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    expected = _expected(file, path)
    return not expected or sha256_of(path).startswith(expected)


def _expected(file: ModelFile, path: Path) -> str:
    """Digits of the sha256 that the file must have: the publisher's, else those that were noted, else none."""
    note = _note(path)
    return file.sha256 or (note.read_text().strip() if note.is_file() else "")


def _note(path: Path) -> Path:
    """Where the sha256 of a file is noted whose publisher names none."""
    return path.with_name(f"{path.name}.sha256")


def how_to_get(file: ModelFile) -> str:
    """The command that fetches a file, or what a person has to do."""
    if file.by_hand:
        return f"get {file.by_hand} from {file.url} and save it as {models_dir() / file.name}"
    return f"get it with: python tools/download_models.py names=[{file.name}]"


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
    if file.by_hand:
        raise VisemeError(f"{file.name} has no address for programs: {how_to_get(file)}.")
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
        digest = _check(file, part, path, address)
        part.replace(path)
        if not file.sha256:
            _note(path).write_text(f"{digest}\n")
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
        if response.headers.get_content_type() == "text/html":  # of a proxy, or a page that asks for consent
            raise VisemeError(f"{file.name}: {address} answered with a web page; check the network or give a mirror.")
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


def _check(file: ModelFile, part: Path, path: Path, address: str) -> str:
    """The sha256 of a part; one with another content is removed, so that the next attempt starts afresh."""
    digest, expected, size = sha256_of(part), _expected(file, path), part.stat().st_size
    found = None
    if not digest.startswith(expected):
        found = f"the sha256 {digest[:12]}..., not {expected[:12]}..."
    elif file.size not in (None, size):
        found = f"{size} bytes, not {file.size}"
    if found is not None:
        part.unlink()
        raise VisemeError(
            f"{file.name}: what {address} sent has {found}; it was removed: try again or give another mirror."
        )
    return digest
