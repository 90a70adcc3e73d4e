"""tools/preprocess.py adds speech features to a store that exists."""

import sys

import pytest

from src.datamodules.store import ClipStore
from tests.stores import write_pattern_store
from tools import preprocess


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def call(*overrides: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["preprocess.py", *overrides])
        try:
            preprocess.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


@pytest.fixture
def store(tmp_path):
    return write_pattern_store(tmp_path / "store", n_clips=2)


def test_features_are_added_to_a_store(run, store):
    assert run(f"root={store}", "features=log_mel")[0] == 0
    assert [clip.features("log_mel").shape for clip in ClipStore(store)] == [(24, 320)] * 2


def test_settings_of_features_are_overridden(run, store):
    assert run(f"root={store}", "features=log_mel", "features.n_mels=20", "features.name=coarse")[0] == 0
    assert ClipStore(store)[0].features("coarse").shape == (24, 80)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "There is nothing to do: give raw=FOLDER"),
        (["features=logmel"], "did you mean 'log_mel'"),
        (["features=sda"], "features.checkpoint has no value"),
        (["features=imported"], "features.folder has no value"),
        (
            ["features=hubert", "features.model=/no/folder", "features.device=cpu"],
            "features.model=/no/folder: there is no such folder",
        ),
        (["features=log_mel", "features.hops=7"], "features.hops=7"),
    ],
)
def test_mistakes_end_in_one_sentence(run, store, overrides, sentence):
    status, error = run(f"root={store}", *overrides)
    assert status == 2
    assert sentence in error
    assert not (store / "features").exists()


def test_a_store_that_does_not_exist_is_named(run, tmp_path):
    status, error = run(f"root={tmp_path / 'none'}", "features=log_mel")
    assert status == 2
    assert "is no clip store" in error


@pytest.mark.parametrize("name", ["log_mel", "hubert", "wav2vec2", "whisper", "sda", "imported"])
def test_every_configuration_builds_its_extractor(name):
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from src.cli import CONF_DIR

    given = {"sda": ["features.checkpoint=x.dat"], "imported": ["features.folder=x"]}.get(name, [])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("preprocess", overrides=["root=x", f"features={name}", *given])
    assert instantiate(cfg.features, _convert_="all").name == name
