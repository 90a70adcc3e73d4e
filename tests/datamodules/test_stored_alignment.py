"""Pictures are cut as the store's clips were."""

import json

import pytest
import yaml
from hydra.utils import instantiate

from src.checkpoint import check_targets
from src.cli import CONF_DIR
from src.datamodules.stored_alignment import stored_alignment
from src.face.alignment import ResizedAlignment, SquareCropAlignment
from src.lightning_modules.record import recorded_groups


def write_settings(root, **settings) -> None:
    (root / "settings.json").write_text(json.dumps(settings))


def test_the_alignment_of_a_store_comes_back_at_another_size(tmp_path):
    write_settings(
        tmp_path, alignment={"_target_": "src.face.alignment.SquareCropAlignment", "size": 256, "margin": 0.4}
    )
    alignment = instantiate(stored_alignment(tmp_path, 64))
    assert isinstance(alignment, ResizedAlignment)
    assert isinstance(alignment.alignment, SquareCropAlignment)
    assert alignment.alignment.margin == 0.4
    assert alignment.size == (64, 64)


def test_stores_without_a_face_crop_say_of_none(tmp_path):
    assert stored_alignment(tmp_path, 64) is None
    write_settings(tmp_path)
    assert stored_alignment(tmp_path, 64) is None
    write_settings(tmp_path, alignment={"_target_": "src.datamodules.preprocessing.archives.AsStored", "size": 128})
    assert stored_alignment(tmp_path, 64) is None


@pytest.mark.parametrize("name", ["landmark_driven", "mean_face", "square"])
def test_checkpoints_may_hold_the_alignments_that_preprocessing_offers(tmp_path, name):
    conf = yaml.safe_load((CONF_DIR / f"alignment/{name}.yaml").read_text())
    write_settings(tmp_path, alignment=conf)
    stored = stored_alignment(tmp_path, 32)
    check_targets(stored)
    assert instantiate(stored).size == (32, 32)


def test_a_checkpoint_records_the_alignment_where_the_pipeline_has_none(tmp_path):
    write_settings(tmp_path, alignment={"_target_": "src.face.alignment.SquareCropAlignment", "size": 256})
    data = {"root": str(tmp_path), "resolution": 64}
    groups = recorded_groups({"pipeline": {"alignment": None}, "datamodule": data, "model": {"a": 1}, "seed": 3})
    assert groups == {
        "pipeline": {"alignment": stored_alignment(tmp_path, 64)},
        "datamodule": data,
        "model": {"a": 1},
    }
    own = {"alignment": {"_target_": "src.face.alignment.MeanFaceAlignment"}}
    for pipeline in (own, {}, None):
        assert recorded_groups({"pipeline": pipeline, "datamodule": data})["pipeline"] == pipeline
