"""The commands around the bundle."""

from __future__ import annotations

import json

import pytest

from idm_bundle.__main__ import main


def test_phantoms_are_written_and_prepared(tmp_path, capsys):
    folder, datalist = tmp_path / "phantoms", tmp_path / "datalist.json"
    assert main(["phantom", str(folder), "--subjects", "3", "--size", "32", "32", "24"]) == 0
    assert main(["prepare", str(folder), str(datalist), "--modalities", "t2"]) == 0
    assert {part: len(json.loads(datalist.read_text())[part]) for part in ("training", "validation", "test")} == {
        "training": 1,
        "validation": 1,
        "test": 1,
    }


def test_an_error_of_the_input_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["prepare", str(tmp_path / "nowhere"), str(tmp_path / "datalist.json")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "datalist.json").exists()


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "phantom" in shown
    assert "prepare" in shown
