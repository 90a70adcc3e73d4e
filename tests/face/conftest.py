"""The real clips and the landmark model, where there are any."""

import os
from pathlib import Path

import pytest

SHARED_DIR = Path(os.environ.get("SHARED_DIR", "../shared"))
MODEL = SHARED_DIR / "models" / "face_landmarker.task"


@pytest.fixture
def model() -> Path:
    if not MODEL.exists():
        pytest.skip(f"no landmark model at {MODEL}")
    return MODEL


@pytest.fixture
def data() -> Path:
    if not (SHARED_DIR / "data").is_dir():
        pytest.skip(f"no real clips at {SHARED_DIR / 'data'}")
    return SHARED_DIR / "data"
