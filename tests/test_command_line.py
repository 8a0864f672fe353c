"""The commands around the bundle."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from idm_bundle.__main__ import main
from idm_bundle.benchmark import _needed
from idm_bundle.installed import bundle_here_or_installed
from monai_idm.data import prepare_datalist, write_phantoms


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


def test_cases_with_problems_are_told_and_left_out(tmp_path, capsys):
    folder, datalist = write_phantoms(tmp_path / "data", 6, (32, 32, 24)), tmp_path / "datalist.json"
    names = {
        kind: f"PHANTOM_{i:03d}/PHANTOM_{i:03d}_{kind}.nii.gz" for i, kind in enumerate(("t1", "t2", "flair", "seg"))
    }
    (folder / names["t1"]).unlink()
    (folder / names["t2"]).write_bytes(b"no NIfTI")
    other = nib.load(folder / names["flair"])
    nib.save(nib.Nifti1Image(np.asarray(other.dataobj)[1:], other.affine), folder / names["flair"])
    label = nib.load(folder / names["seg"])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) + 7, label.affine), folder / names["seg"])
    command = ["prepare", str(folder), str(datalist), "--modalities", "t1", "t2", "flair"]
    assert main([*command, "--label_map", "brats2020"]) == 3
    problems = json.loads(datalist.read_text())["problems"]
    said = {0: "lacks t1", 1: "cannot read", 2: "one grid", 3: "not in the map 'brats2020'"}
    assert {f"PHANTOM_{i:03d}" for i in said} == set(problems)
    shown = capsys.readouterr().out
    for i, text in said.items():
        assert text in problems[f"PHANTOM_{i:03d}"]
        assert f"PHANTOM_{i:03d}: " in shown
    split = prepare_datalist(folder, tmp_path / "used.json", ["t1", "t2", "flair"], labels=True, datalist_file=datalist)
    assert {item["subject"] for part in ("training", "test") for item in split[part]} == {"PHANTOM_004", "PHANTOM_005"}
    assert all(Path(path).is_file() for item in split["training"] for path in [*item["image"], item["label"]])
    assert main(command) == 3  # a label is not looked at where none is asked for
    assert "PHANTOM_003" not in json.loads(datalist.read_text())["problems"]


def test_a_datalist_of_something_else_is_refused(tmp_path):
    folder, file = write_phantoms(tmp_path / "data", 3, (16, 16, 16)), tmp_path / "datalist.json"
    prepare_datalist(folder, file, ["t1"])
    use = partial(prepare_datalist, folder, tmp_path / "used.json", datalist_file=file)
    with pytest.raises(ValueError, match=r"lists the modalities \['t1'\], but \['t2'\] are requested"):
        use(["t2"])
    with pytest.raises(ValueError, match="has no labels; prepare it with"):
        use(["t1"], labels=True)
    content = json.loads(file.read_text())
    for outside in ("../elsewhere.nii.gz", "/etc/elsewhere.nii.gz", "a/../../elsewhere.nii.gz"):
        content["training"][0]["image"] = [outside]
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"elsewhere\.nii\.gz is not in dataset_dir"):
            use(["t1"])
    file.write_text("[]")
    with pytest.raises(ValueError, match="is not a datalist of"):
        use(["t1"])
    file.unlink()
    with pytest.raises(FileNotFoundError, match="prepare writes one"):
        use(["t1"])
    assert not (tmp_path / "used.json").exists()


def test_the_doctor_writes_what_it_finds(tmp_path):
    assert main(["doctor", "--json", str(tmp_path / "machine.json")]) == 0
    found = json.loads((tmp_path / "machine.json").read_text())
    assert "torch" in found["versions"]
    assert any(line.startswith("cpu: ") for line in found["found"])


COMMANDS = ["init", "phantom", "prepare", "verify", "report", "package", "benchmark", "doctor", "plan"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  idm {command} " in capsys.readouterr().out


def test_arguments_that_are_none_are_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare"])
    assert ended.value.code == 2


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n    {command}" in shown for command in COMMANDS)


def test_away_from_a_bundle_the_installed_configs_are_read_and_others_may_be_named(tmp_path, monkeypatch, capsys):
    bundle = Path("bundle").resolve()
    monkeypatch.chdir(tmp_path)
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "name it with --bundle_root" in printed
    assert f"installed configs: {bundle / 'configs'}" in printed
    assert bundle_here_or_installed() == bundle
    for command in (["package", "--weights", "w.pt", "--output", "out"], ["doctor"]):
        main([*command, "--bundle_root", str(bundle)])
        captured = capsys.readouterr()
        assert "no weights at w.pt" in captured.err or f"bundle: {bundle}" in captured.out
        main([*command, "--bundle_root", str(tmp_path / "elsewhere")])
        captured = capsys.readouterr()
        assert "elsewhere: it has no folder configs" in captured.out + captured.err


@pytest.mark.parametrize(
    ("command", "package", "install"),
    [
        (["benchmark", "paper"], "einops", "pip install einops"),
        (["benchmark", "paper", "--device", "cpu"], "bitsandbytes", 'pip install "monai-idm[low-memory]"'),
        (["benchmark", "optimizer", "--device", "cpu"], "bitsandbytes", 'pip install "monai-idm[low-memory]"'),
        (["verify", "--bundle", "bundle"], "jsonschema", 'pip install "monai-idm[zoo]"'),
    ],
)
def test_a_missing_package_is_said_before_work_starts(command, package, install, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(command) == 1
    captured = capsys.readouterr()
    assert package in captured.err
    assert captured.err.rstrip().endswith(install)
    assert not captured.out


def test_an_estimate_needs_no_optimizer(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert _needed("optimizer", "estimate") == set()
    assert _needed("paper", "estimate") == {"einops"}
