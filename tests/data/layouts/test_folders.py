"""Folders changed by archive tools or by hand: errors name what is wrong and how to correct it."""

from __future__ import annotations

import unicodedata

import pytest

from monai_idm.data import brats_datalist, problem_cases
from tests.data.test_brats import make_cases, make_decathlon, touch

KAGGLE = "BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData"


@pytest.mark.parametrize(
    ("below", "deeper", "give"),
    [
        (KAGGLE, "one level", "BraTS2020_TrainingData"),
        (f"archive/{KAGGLE}", "2 levels", "archive/BraTS2020_TrainingData"),
        ("a/b/HGG", "2 levels", "a/b"),
    ],
)
def test_cases_in_wrapping_folders_are_pointed_at(tmp_path, below, deeper, give):
    make_cases(tmp_path, "BraTS 2020", below=below)
    with pytest.raises(FileNotFoundError, match=rf"no case .*found {deeper} deeper, .* \(2\): give --dataset_dir") as e:
        brats_datalist(tmp_path)
    assert str(e.value).endswith(f"--dataset_dir {tmp_path / give}")
    assert len(brats_datalist(tmp_path / give)) == 2


def test_all_folders_with_cases_are_named(tmp_path):
    make_cases(tmp_path, "BraTS 2020", below=KAGGLE)
    make_cases(tmp_path, "BraTS 2021", numbers=(1, 2, 3), below=KAGGLE.replace("Training", "Validation"))
    with pytest.raises(FileNotFoundError, match=r"TrainingData \(2\) and in .*ValidationData \(3\).*another of these"):
        brats_datalist(tmp_path)


def test_a_wrapped_decathlon_is_pointed_at(tmp_path):
    make_decathlon(tmp_path / "Task01_BrainTumour")
    with pytest.raises(FileNotFoundError, match=r"one level deeper, .*give --dataset_dir .*Task01_BrainTumour$"):
        brats_datalist(tmp_path)


@pytest.mark.parametrize("part", ["imagesTr", "BraTS20_Training_001"])
def test_a_part_of_a_data_set_points_above(tmp_path, part):
    make_decathlon(tmp_path) if part == "imagesTr" else make_cases(tmp_path, "BraTS 2020")
    with pytest.raises(FileNotFoundError, match=rf"give the one above it: --dataset_dir {tmp_path}$"):
        brats_datalist(tmp_path / part)


def test_files_wrapped_as_folders_are_named(tmp_path):
    make_cases(tmp_path, "BraTS 2020", numbers=(1, 2))
    case = tmp_path / "BraTS20_Training_001"
    for name, inner in (("t1", "00000057_brain_t1.nii"), ("t2", "BraTS20_Training_001_t2.nii")):
        (case / f"BraTS20_Training_001_{name}.nii").unlink()
        touch(case / f"BraTS20_Training_001_{name}.nii" / inner)
    problem = problem_cases(tmp_path)["BraTS20_Training_001"]
    assert (
        "lacks t1, t2 (has flair, seg, t1ce; BraTS20_Training_001_t1.nii is a folder, but must be the file" in problem
    )
    assert "move BraTS20_Training_001_t1.nii/00000057_brain_t1.nii out of it" in problem
    assert "move BraTS20_Training_001_t2.nii/BraTS20_Training_001_t2.nii out of it" in problem
    for path in case.glob("*.nii"):  # without any file it is still a case
        if path.is_file():
            path.unlink()
    assert "has nothing" in problem_cases(tmp_path)["BraTS20_Training_001"]


def test_a_file_under_another_name_is_named(tmp_path):
    make_cases(tmp_path, "BraTS 2020", numbers=(354, 355))
    case = tmp_path / "BraTS20_Training_355"
    (case / "BraTS20_Training_355_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")
    with pytest.raises(FileNotFoundError, match=r"355 lacks seg .*W39_1998\.09\.19_Segm\.nii has another name") as e:
        brats_datalist(tmp_path, labels=True)
    assert "rename it to BraTS20_Training_355_<volume>.nii" in str(e.value)
    assert len(brats_datalist(tmp_path)) == 2


def test_many_other_files_are_counted(tmp_path):
    make_cases(tmp_path, "BraTS 2020", numbers=(1,), leave_out=("t2",))
    touch(*(tmp_path / "BraTS20_Training_001" / f"note_{i}.nii" for i in range(5)))
    assert "note_2.nii has another name" in (problem := problem_cases(tmp_path)["BraTS20_Training_001"])
    assert "note_3" not in problem
    assert "and 2 more such files" in problem


@pytest.mark.parametrize("name", ["Müller 1 [a]", "患者一"])
def test_any_script_spaces_and_brackets_are_accepted(tmp_path, name):
    folder, file = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    touch(*(tmp_path / "x [y] z" / folder / f"{file}_{volume}.nii.gz" for volume in ("t1", "t2")))
    assert [item["subject"] for item in brats_datalist(tmp_path / "x [y] z")] == [name]


@pytest.mark.parametrize(
    "pair",
    [("Müller", unicodedata.normalize("NFD", "Müller")), ("Case_1", "case_1"), ("P 1", "P_1"), ("a(1)", "a[1]")],
)
def test_subjects_whose_files_would_have_the_same_names_are_refused(tmp_path, pair):
    touch(*(tmp_path / case / f"{case}_{volume}.nii.gz" for case in pair for volume in ("t1", "t2")))
    with pytest.raises(ValueError, match=r"would share the file name .*rename one of them") as error:
        brats_datalist(tmp_path)
    assert all(f"{name!a}" in str(error.value) for name in pair)
    assert len(brats_datalist(tmp_path, exclude=pair[:1])) == 1
