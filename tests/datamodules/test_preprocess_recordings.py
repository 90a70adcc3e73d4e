"""The data sets' file names: who is in a recording, in which split, under which id."""

from pathlib import Path

import hydra
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.cli import CONF_DIR
from src.datamodules.preprocessing.recordings import Dataset, safe_id
from src.datamodules.store import SAFE_ID
from src.errors import ConfigError


def dataset(name: str, *overrides: str) -> Dataset:
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("preprocess", [f"dataset={name}", "raw=x", "root=y", *overrides])
    return hydra.utils.instantiate(cfg.dataset, _convert_="all")


def raw_folder(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def scan(data: Dataset, root: Path, *names: str):
    recordings, failures = data.scan(raw_folder(root, *names))
    return {r.source: (r.identity, r.split) for r in recordings}, {f.source: f.reason for f in failures}


def test_folder_takes_the_stem_or_the_parent_as_the_person(tmp_path):
    names = ("ann/1.mp4", "ann/2.MOV", "bob/x/3.webm", "notes.txt", "ann/.hidden.mp4", ".cache/4.mp4")
    found, failures = scan(dataset("folder"), tmp_path, *names)
    assert found == {"ann/1.mp4": ("1", ""), "ann/2.MOV": ("2", ""), "bob/x/3.webm": ("3", "")}
    assert failures == {}
    found, failures = scan(dataset("folder", "dataset.identity=parent"), tmp_path, "5.mp4")
    assert found == {"ann/1.mp4": ("ann", ""), "ann/2.MOV": ("ann", ""), "bob/x/3.webm": ("x", "")}
    assert "is not named as folder names its files" in failures["5.mp4"]


def test_hdtf_knows_a_person_across_videos(tmp_path):
    found, failures = scan(
        dataset("hdtf"),
        tmp_path,
        "WDA_NancyPelosi3_000.mp4",
        "WDA_NancyPelosi_001.mp4",
        "WRA_JohnKasich1_001.mp4",
        "sub/RD_Radio31_000.mp4",
        "RD_Radio3_000.mp4",
        "d10.mp4",
    )
    assert {source: who for source, (who, _) in found.items()} == {
        "WDA_NancyPelosi3_000.mp4": "WDA_NancyPelosi",
        "WDA_NancyPelosi_001.mp4": "WDA_NancyPelosi",
        "WRA_JohnKasich1_001.mp4": "WRA_JohnKasich",
        "sub/RD_Radio31_000.mp4": "RD_Radio31",
        "RD_Radio3_000.mp4": "RD_Radio3",
    }
    assert failures == {
        "d10.mp4": "is not named as hdtf names its files (such as WDA_NancyPelosi3_000.mp4): "
        "rename it or use dataset=folder."
    }


def test_crema_d_has_its_splits_and_leaves_out_corrupt_files(tmp_path):
    data = dataset("crema_d")
    found, failures = scan(
        data, tmp_path, "1015_DFA_ANG_XX.flv", "1003_DFA_ANG_XX.mp4", "1001_IEO_HAP_LO.mp4", "1076_MTI_NEU_XX.flv"
    )
    assert found == {
        "1015_DFA_ANG_XX.flv": ("1015", "test"),
        "1003_DFA_ANG_XX.mp4": ("1003", "validation"),
        "1001_IEO_HAP_LO.mp4": ("1001", ""),
    }
    assert failures == {"1076_MTI_NEU_XX.flv": "left out by dataset=crema_d: corrupt in the released data."}
    assert data.given_splits == {"validation", "test"}


def test_voxceleb2_keeps_the_official_test_people(tmp_path):
    found, _ = scan(
        dataset("voxceleb2"), tmp_path, "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "test/mp4/id00017/abc/00001.mp4"
    )
    assert found == {
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4": ("id00012", ""),
        "test/mp4/id00017/abc/00001.mp4": ("id00017", "test"),
    }


def test_own_lists_name_people_stems_or_paths(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test.txt").write_text("# held out\nWDA_NancyPelosi\nsub/RD_Radio31_000.mp4\n\n")
    (lists / "train.txt").write_text("RD_Radio3_000\nmissing\n")
    data = dataset("hdtf", f"dataset.split_lists.test={lists}/test.txt", f"dataset.split_lists.train={lists}/train.txt")
    names = ("WDA_NancyPelosi3_000.mp4", "sub/RD_Radio31_000.mp4", "RD_Radio3_000.mp4", "RD_Radio4_000.mp4")
    found, _ = scan(data, tmp_path / "raw", *names)
    assert [found[name][1] for name in names] == ["test", "test", "train", ""]
    with pytest.raises(ConfigError, match=r"dataset.split_lists.test=/nowhere cannot be read"):
        Dataset("hdtf", split_lists={"test": "/nowhere"})


def test_two_files_that_would_become_one_clip_are_told_apart(tmp_path):
    recordings, failures = Dataset("folder").scan(raw_folder(tmp_path, "a.mp4", "a.mov", "A b.mp4", "A_b.mp4"))
    assert [r.source for r in recordings] == ["A b.mp4", "A_b.mp4", "a.mov"]
    assert len({r.id for r in recordings}) == 3
    assert [(f.source, f.reason) for f in failures] == [
        ("a.mp4", "differs from a.mov in its suffix only: rename or remove one of them.")
    ]


def test_links_are_followed_once_and_the_store_is_left_out(tmp_path):
    raw = raw_folder(tmp_path / "raw", "a.mp4", "store/video/x.mp4")
    (raw_folder(tmp_path / "elsewhere", "b.mp4") / "back").symlink_to(raw)
    (raw / "link").symlink_to(tmp_path / "elsewhere")
    recordings, _ = Dataset("folder").scan(raw, exclude=raw / "store")
    assert [r.source for r in recordings] == ["a.mp4", "link/b.mp4"]


def test_a_raw_folder_without_videos_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no video: files that end in .mp4"):
        Dataset("folder").scan(tmp_path)
    with pytest.raises(ConfigError, match=r"is no folder"):
        Dataset("folder").scan(tmp_path / "none")


@pytest.mark.parametrize(
    ("identity", "message"),
    [("([", "is no regular expression"), (r"(\d+)", "lacks a group"), ("stems", "lacks a group")],
)
def test_a_bad_identity_rule_is_one_sentence(identity, message):
    with pytest.raises(ConfigError, match=message):
        Dataset("folder", identity)


def test_plain_names_keep_their_look():
    assert safe_id("WDA_Name_000") == "WDA_Name_000"
    assert safe_id("id00012/21Uxsk56VDQ/00001") == "id00012--21Uxsk56VDQ--00001"


@given(st.lists(st.text(alphabet="aA0_-/. é", min_size=1, max_size=8), unique=True, max_size=20))
def test_ids_are_safe_and_differ_where_paths_differ(names):
    ids = [safe_id(name) for name in names]
    assert len(set(ids)) == len(ids)
    assert all(SAFE_ID.fullmatch(f"{id}-0000") for id in ids)
