from pathlib import Path

import pytest

from src.errors import ConfigError
from src.metrics.pairing import Reference, find_pairs, find_videos, require_complete


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def references(*names):
    return {name: Reference(Path(f"real/{name}.mp4")) for name in names}


def videos(*names):
    return {name: Path(f"out/{name}.mp4") for name in names}


def test_videos_are_named_by_their_path_below_the_folder(tmp_path):
    touch(tmp_path, "a.mp4", "person/b.MOV", "notes.txt", ".a.12.tmp.mp4", "metrics.json")
    assert find_videos(tmp_path, "generated") == {"a": tmp_path / "a.mp4", "person/b": tmp_path / "person/b.MOV"}


def test_a_single_file_is_named_by_its_stem(tmp_path):
    touch(tmp_path, "talk.v2.mp4")
    assert find_videos(tmp_path / "talk.v2.mp4", "generated") == {"talk.v2": tmp_path / "talk.v2.mp4"}


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "nowhere", r"generated=.*nowhere: there is no such file or folder\.$"),
        (["notes.txt"], ".", r"generated=.*: the folder holds no video \("),
        (["a.mp4", "a.mov"], ".", r"a\.mov and a\.mp4 have the same name"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path, files, path, message):
    touch(tmp_path, *files)
    with pytest.raises(ConfigError, match=message):
        find_videos(tmp_path / path, "generated")


def test_pairs_are_those_of_equal_name_and_the_rest_is_listed():
    pairing = find_pairs(videos("b", "a", "x"), references("a", "b", "y"))
    assert [(p.name, p.generated, p.reference.video) for p in pairing.pairs] == [
        ("a", Path("out/a.mp4"), Path("real/a.mp4")),
        ("b", Path("out/b.mp4"), Path("real/b.mp4")),
    ]
    assert (pairing.only_generated, pairing.only_reference) == (("x",), ("y",))


def test_two_single_videos_are_a_pair_whatever_their_names():
    assert find_pairs(videos("talk"), references("real")).pairs[0].name == "talk"


def test_no_common_name_says_what_there_is():
    with pytest.raises(ConfigError, match=r"generated: a, b, c and 2 more; real: x"):
        find_pairs(videos("a", "b", "c", "d", "e"), references("x"))


def test_every_missing_name_is_listed():
    pairing = find_pairs(videos("a", "b", "p", "q"), references("a", "b", "x", "y", "z"))
    with pytest.raises(
        ConfigError, match=r"no real video for 2: p, q; no generated video for 3: x, y, z.*missing=skip.*2 pairs"
    ):
        require_complete(pairing)
    require_complete(find_pairs(videos("a", "b"), references("a", "b")))
