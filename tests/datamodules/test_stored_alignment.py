"""Pictures are cut as the store's clips were."""

import json

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from PIL import Image

from src.checkpoint import check_targets
from src.cli import CONF_DIR
from src.datamodules.store import ClipStore
from src.datamodules.stored_alignment import stored_alignment
from src.face.alignment import ResizedAlignment, SquareCropAlignment, transform_points
from src.face.landmarks import to_ibug68
from src.face.mean_face import load_mean_face
from src.face.topology import STABLE_IBUG68
from src.lightning_modules.record import recorded_groups
from tests.heads import write_heads


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


def assert_faces_lie_at(alignment, mean_face, side: int) -> None:
    """A face that is turned, moved and enlarged comes to where the faces of the data lie."""
    assert alignment.size == (side, side)
    face = transform_points(load_mean_face("large")[None], similarity_matrix(1.7, 0.3, (40, 90)))
    placed = transform_points(face, alignment.fit(face, (900, 900)))[0]
    np.testing.assert_allclose(placed[STABLE_IBUG68], mean_face[STABLE_IBUG68], atol=0.1)


def similarity_matrix(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[[cos, -sin, shift[0]], [sin, cos, shift[1]], [0.0, 0.0, 1.0]]])


def test_crops_of_unknown_origin_are_measured(tmp_path):
    """Pictures of 300 and of 600 pixels show a face at the same place; a picture without landmarks does not count."""
    for folder in ("images", "landmarks"):
        (tmp_path / folder).mkdir()
    for name, side in (("1_1", 300), ("1_2", 600), ("2_1", 300)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    face = load_mean_face("large")
    np.savetxt(tmp_path / "landmarks" / "1_1.lms", face)
    np.savetxt(tmp_path / "landmarks" / "1_2.lms", (face + 0.5) * 2 - 0.5)
    stored = stored_alignment(tmp_path, 100)
    check_targets(stored)
    assert_faces_lie_at(instantiate(json.loads(json.dumps(stored))), (face + 0.5) / 3 - 0.5, 100)


def test_a_store_of_foreign_crops_is_measured(tmp_path):
    root = write_heads(tmp_path / "heads", n_identities=2, n_frames=5, size=64)
    settings = {"alignment": {"_target_": "src.datamodules.preprocessing.archives.AsStored", "size": 64}}
    write_settings(root, **settings)
    assert stored_alignment(root, 32) is None
    write_settings(root, **settings, dataset={"_target_": "src.datamodules.preprocessing.difftalk.DiffTalkLayout"})
    faces = np.stack([to_ibug68(clip.landmarks)[..., :2] for clip in ClipStore(root)])
    mean_face = (faces.mean(axis=(0, 1)) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(stored_alignment(root, 32)["mean_face"], mean_face, atol=0.01)


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
