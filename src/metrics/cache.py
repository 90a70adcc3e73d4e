"""Results of clips on disk, so that an evaluation that was stopped goes on where it was."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from src.media import atomic_path
from src.metrics.measures import Values
from src.metrics.pairing import Pair
from src.metrics.results import ClipScores, FailedClip, Result

log = logging.getLogger(__name__)

FORMAT = 1  # changes when what is measured changes its meaning


class ResultCache:
    """One `.npz` per clip, with arrays and a text of everything else; used again while nothing it rests on has changed.

    Args:
        folder: made when needed.
        settings: plain values that decide on the results (rules, options, weight files).
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = json.dumps({"format": FORMAT, **settings}, sort_keys=True, default=str)

    def read(self, pair: Pair) -> Result | None:
        """What an earlier run found; None where it has not come to this clip, failed at it, or the files are others now."""
        path = self._path(pair)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                document = json.loads(str(file["document"]))
                arrays = {name: file[name] for name in file.files if name != "document"}
        except (OSError, ValueError, KeyError, BadZipFile):
            log.warning("%s is damaged and is made again", path)
            return None
        return _from_document(document, arrays) if document["key"] == self._key(pair) else None

    def write(self, pair: Pair, result: Result) -> None:
        """Keep a result; failures are tried again, so they are not kept."""
        if isinstance(result, FailedClip):
            return
        document, arrays = _to_document(result)
        contents: dict[str, Any] = {"document": np.array(json.dumps({"key": self._key(pair), **document})), **arrays}
        path = self._path(pair)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **contents)

    def _path(self, pair: Pair) -> Path:
        return self._folder / f"{pair.name}.npz"

    def _key(self, pair: Pair) -> str:
        """Changes with the settings and with every file that the result rests on."""
        reference = pair.reference
        files = (pair.generated, reference.video, reference.landmarks, reference.valid, reference.audio)
        facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f is not None and f.exists()]
        return hashlib.sha256(f"{self._settings} {facts}".encode()).hexdigest()


def _to_document(scores: ClipScores) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Plain values, and arrays by name."""
    values = scores.values
    arrays = {f"curve {name}": curve for name, curve in values.curves.items()}
    for name, (generated, real) in values.features.items():
        arrays |= {f"generated {name}": generated, f"real {name}": real}
    if scores.loudness is not None:
        arrays["loudness"] = scores.loudness
    document = {
        "name": scores.name,
        "n_frames": scores.n_frames,
        "fps": scores.fps,
        "size": scores.size,
        "notes": scores.notes,
        **{name: getattr(values, name) for name in ("generated", "real", "still", "absent", "weights")},
    }
    return document, arrays


def _from_document(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ClipScores:
    kinds = [name.removeprefix("generated ") for name in arrays if name.startswith("generated ")]
    values = Values(
        **{field.name: document[field.name] for field in dataclasses.fields(Values) if field.name in document},
        curves={name.removeprefix("curve "): curve for name, curve in arrays.items() if name.startswith("curve ")},
        features={kind: (arrays[f"generated {kind}"], arrays[f"real {kind}"]) for kind in kinds},
    )
    return ClipScores(
        name=document["name"],
        n_frames=document["n_frames"],
        fps=document["fps"],
        size=(document["size"][0], document["size"][1]),
        values=values,
        loudness=arrays.get("loudness"),
        notes=tuple(document["notes"]),
    )
