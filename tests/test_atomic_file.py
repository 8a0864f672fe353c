"""A file is the old one or the new one."""

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
