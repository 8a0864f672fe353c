"""Each volume of a case is one file: of two, neither is chosen silently."""

from __future__ import annotations

import json

import pytest

from idm_bundle.__main__ import main
from monai_idm.data import brats_datalist, problem_cases, write_phantoms
from tests.data.test_brats import make_cases, make_decathlon, touch

SUBJECT = "BraTS2021_00001"


@pytest.mark.parametrize(
    ("second", "volume", "first"),
    [
        ("_t1w.nii.gz", "t1", "_t1.nii.gz"),
        ("_t1.nii", "t1", "_t1.nii.gz"),
        ("_T1.nii.gz", "t1", "_t1.nii.gz"),
        ("-t1n.nii.gz", "t1", "_t1.nii.gz"),
        ("_t2f.NII", "flair", "_flair.nii.gz"),
        ("_t1gd.nii.gz", "t1ce", "_t1ce.nii.gz"),
        ("_SEG.nii.gz", "seg", "_seg.nii.gz"),
    ],
)
def test_two_files_of_one_volume_are_refused_by_name(tmp_path, second, volume, first):
    make_cases(tmp_path, "BraTS 2021", numbers=(1, 2))
    folder = tmp_path / SUBJECT
    touch(folder / f"{SUBJECT}{second}")
    everything = ("t1", "t1ce", "t2", "flair")
    with pytest.raises(ValueError, match=rf"1 of 2 cases .*{SUBJECT} has {volume} twice.* move the one") as error:
        brats_datalist(tmp_path, everything, labels=True)
    assert f"{SUBJECT}/{SUBJECT}{first}" in str(error.value)
    assert f"{SUBJECT}/{SUBJECT}{second}" in str(error.value)
    assert set(problem_cases(tmp_path, everything, labels=True)) == {SUBJECT}
    others = [name for name in everything if name != volume]  # a volume that is not requested does not matter
    assert len(brats_datalist(tmp_path, others)) == 2


def test_files_that_differ_in_the_case_of_the_subject_are_two_also(tmp_path):
    make_cases(tmp_path, "BraTS 2021", numbers=(1,))
    touch(tmp_path / SUBJECT / f"{SUBJECT.upper()}_t2.nii.gz")
    with pytest.raises(ValueError, match=rf"has t2 twice, as \S+/{SUBJECT.upper()}_t2.nii.gz and \S+/{SUBJECT}_t2"):
        brats_datalist(tmp_path)


def test_hidden_twins_are_no_files(tmp_path):
    make_cases(tmp_path, "BraTS 2021", numbers=(1,))
    touch(tmp_path / SUBJECT / f"._{SUBJECT}_t1.nii.gz", tmp_path / SUBJECT / f".{SUBJECT}_t1.nii")
    assert not problem_cases(tmp_path)
    assert len(brats_datalist(tmp_path)) == 1


def test_a_decathlon_case_with_two_files_is_refused(tmp_path):
    make_decathlon(tmp_path)
    touch(tmp_path / "imagesTr" / "BRATS_001.nii")
    with pytest.raises(ValueError, match=r"BRATS_001 has t1, t2 twice, as .*BRATS_001\.nii and .*BRATS_001\.nii\.gz"):
        brats_datalist(tmp_path)
    (tmp_path / "imagesTr" / "BRATS_001.nii").unlink()
    touch(tmp_path / "labelsTr" / "BRATS_002.nii")
    with pytest.raises(ValueError, match=r"BRATS_002 has seg twice, as labelsTr/BRATS_002\.nii and labelsTr/"):
        brats_datalist(tmp_path, labels=True)
    assert len(brats_datalist(tmp_path)) == 2


def test_prepare_leaves_such_cases_out_and_says_why(tmp_path, capsys):
    folder = write_phantoms(tmp_path / "data", 5, (16, 16, 16))
    case = folder / "PHANTOM_001"
    (case / "PHANTOM_001_t1w.nii.gz").write_bytes((case / "PHANTOM_001_t1.nii.gz").read_bytes())
    (folder / "PHANTOM_002" / "PHANTOM_002_t2.nii.gz").unlink()
    datalist = tmp_path / "datalist.json"
    assert main(["prepare", str(folder), str(datalist)]) == 3
    problems = json.loads(datalist.read_text())["problems"]
    assert set(problems) == {"PHANTOM_001", "PHANTOM_002"}
    assert "PHANTOM_001_t1.nii.gz and PHANTOM_001/PHANTOM_001_t1w.nii.gz" in problems["PHANTOM_001"]
    assert "PHANTOM_001: has t1 twice" in capsys.readouterr().out
