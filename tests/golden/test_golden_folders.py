"""Every folder of fixtures is either checked by a test module of its name or listed here as not built yet."""

from pathlib import Path

import pytest

from tests.golden.conftest import GOLDEN_DIR

# Shrinks to nothing: the folders of methods that are not built yet.
NOT_BUILT_YET: set[str] = set()


@pytest.mark.golden
@pytest.mark.skipif(not GOLDEN_DIR.is_dir(), reason=f"no golden fixtures at {GOLDEN_DIR}")
def test_every_golden_folder_has_its_tests():
    folders = {p.name for p in GOLDEN_DIR.iterdir() if p.is_dir()}
    tested = {p.stem.removeprefix("test_") for p in Path(__file__).parent.glob("test_*.py")}
    assert folders - tested == folders & NOT_BUILT_YET
