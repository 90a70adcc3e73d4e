"""What all tests share."""

import os
from pathlib import Path

import pytest

SHARED_DIR = Path(os.environ.get("SHARED_DIR", "../shared"))


@pytest.fixture(autouse=True)
def shared_face_model(request, monkeypatch):
    """Tests on real files find the face landmark model among them."""
    models = SHARED_DIR / "models"
    if request.node.get_closest_marker("shared") and models.is_dir():
        monkeypatch.setenv("VISEME_MODELS", str(models.resolve()))
