"""The command of the studies."""

from __future__ import annotations

import json
import sys

import pytest

from idm_bundle.studies import __main__ as command


@pytest.mark.parametrize("arguments", [["real"], ["quality", "--dataset_dir", "/data"]])
def test_only_the_study_of_real_cases_takes_a_folder_and_it_needs_one(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    assert (
        "the studies real and brains, anatomy, course, brain_tasks, real_or_generated, switches need --dataset_dir"
        in capsys.readouterr().err
    )


def test_a_study_is_written_down_variant_by_variant(tmp_path, monkeypatch, capsys):
    file = tmp_path / "study.json"
    variants = {"a": lambda **sizes: {"dice": 0.5, **sizes}, "b": lambda **sizes: 1 / 0}
    monkeypatch.setitem(command.STUDIES, "segmentation", variants)
    arguments = ["studies", "segmentation", "--steps", "3", "--side", "8", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ZeroDivisionError):
        command.main()
    written = json.loads(file.read_text())
    assert written["results"] == {"a": {"dice": 0.5, "steps": 3, "side": 8}}
    assert written["versions"]
    assert "a {" in capsys.readouterr().out
    # the same command continues the study, another one starts from the beginning
    monkeypatch.setitem(command.STUDIES, "segmentation", {"a": lambda **sizes: 1 / 0, "b": lambda **sizes: {"dice": 1}})
    command.main()
    assert json.loads(file.read_text())["results"] == {**written["results"], "b": {"dice": 1}}
    monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "4"])
    with pytest.raises(ZeroDivisionError):
        command.main()
