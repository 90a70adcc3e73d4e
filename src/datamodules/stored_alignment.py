"""How the faces of a clip store were cut, for pictures that are to be cut likewise."""

import json
from pathlib import Path
from typing import Any

FACE_CROPS = "src.face.alignment."  # alignments that look at the face; others leave the frames as they came


def stored_alignment(root: str | Path, resolution: int) -> dict[str, Any] | None:
    """Configuration of the alignment of a store at a model's resolution; None where the store says of none, as for rendered heads.

    Args:
        root: of the store.
        resolution: side of the model's square frames, pixels.
    """
    path = Path(root) / "settings.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    alignment = settings.get("alignment") or {}
    if not str(alignment.get("_target_", "")).startswith(FACE_CROPS):
        return None
    return {"_target_": "src.face.alignment.ResizedAlignment", "alignment": alignment, "size": resolution}
