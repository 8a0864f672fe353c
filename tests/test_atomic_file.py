"""A file is the old one or the new one."""

import pytest

from monai_idm.atomic_file import atomic_file


def test_the_file_is_replaced_at_the_end_and_its_folder_made(tmp_path):
    path = tmp_path / "made" / "report.json"
    for text in ("old", "new"):
        before = path.read_text() if path.exists() else None
        with atomic_file(path) as unfinished:
            unfinished.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail():
        with atomic_file(path) as unfinished:
            unfinished.write_text("ha")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
