"""A file is the old one or the new one, never half of it."""

import errno
import json
import math
import os

import pytest

from monai_idm.atomic_file import atomic_file, write_json


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


def test_json_has_null_for_what_is_not_finite(tmp_path):
    write_json(tmp_path / "a.json", {"psnr": [math.inf, 1.5], "pair": (math.nan, 2), "name": "ä"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "psnr": [None, 1.5],
        "pair": [None, 2],
        "name": "ä",
    }


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, done = tmp_path / "report.json", []
    flush, replace = os.fsync, os.replace

    def fsync(opened):
        done.append(os.fstat(opened).st_ino)
        flush(opened)

    def rename(old, new):
        done.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    with atomic_file(path) as unfinished:
        unfinished.write_text("new")
    assert done == [path.stat().st_ino, "renamed", tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    ("number", "way_out"), [(errno.ENOSPC, "Make room"), (errno.EROFS, "--output_dir"), (errno.EACCES, "--output_dir")]
)
def test_an_error_in_writing_says_what_to_do(tmp_path, number, way_out):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail():
        with atomic_file(path) as unfinished:
            unfinished.write_text("ha")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=way_out) as raised:
        fail()
    assert raised.value.errno == number
    assert f"cannot write {path}" in str(raised.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_file_errors_are_raised_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing") as raised, atomic_file(tmp_path / "a.json"):
        (tmp_path / "missing.nii").read_bytes()
    assert raised.value.__cause__ is None


def test_a_folder_below_a_file_is_an_error_and_leaves_the_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="file"), atomic_file(tmp_path / "file" / "a.json"):
        pass
    assert (tmp_path / "file").read_text() == "old"
