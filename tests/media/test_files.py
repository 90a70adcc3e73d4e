import errno
import os

import pytest

from src.errors import MediaError
from src.media import atomic_path


def test_the_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "sub" / "a.npy"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npy"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence(tmp_path, one_sentence, code):
    with pytest.raises(MediaError, match="free some space") as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    one_sentence(caught, tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_mistaken_for_it(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "missing").read_text()


def test_a_folder_in_the_way(tmp_path, one_sentence):
    with pytest.raises(MediaError, match="is a folder") as caught, atomic_path(tmp_path):
        pass
    one_sentence(caught, tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path, one_sentence):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(MediaError, match="Cannot write") as caught, atomic_path(path):
        pass
    one_sentence(caught, path)


def test_two_writers_of_one_path_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last one to finish
