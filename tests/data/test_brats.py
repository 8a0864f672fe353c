"""Every layout gives the same items; errors name what is wrong with a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_idm.data import brats_datalist

YEARS = {
    "BraTS 2020": ("BraTS20_Training_{:03d}", "_{}.nii", ("t1", "t1ce", "t2", "flair", "seg")),
    "BraTS 2021": ("BraTS2021_{:05d}", "_{}.nii.gz", ("t1", "t1ce", "t2", "flair", "seg")),
    "BraTS 2023": ("BraTS-GLI-{:05d}-000", "-{}.nii.gz", ("t1n", "t1c", "t2w", "t2f", "seg")),
    "TCGA": ("TCGA-DU-{:04d}", "_{}.nii.gz", ("t1", "t1ce", "t2", "flair", "seg")),
    "upper case": ("Case_{:d}", "_{}.NII.GZ", ("T1", "T1CE", "T2", "FLAIR", "SEG")),
}


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def make_cases(root: Path, year: str, numbers=(2, 1), below="", leave_out=()) -> None:
    case, ending, names = YEARS[year]
    for number in numbers:
        subject = case.format(number)
        touch(*(root / below / subject / (subject + ending.format(n)) for n in names if n not in leave_out))


def make_decathlon(root: Path, modality=("FLAIR", "T1w", "t1gd", "T2w"), labelled=(1, 2)) -> None:
    touch(*(root / "imagesTr" / f"{dot}BRATS_{n:03d}.nii.gz" for n in (2, 1) for dot in ("", "._")))
    touch(*(root / "labelsTr" / f"BRATS_{n:03d}.nii.gz" for n in labelled))
    description = {"modality": {str(i): name for i, name in enumerate(modality)}}
    (root / "dataset.json").write_text(json.dumps(description))


@pytest.mark.parametrize("below", ["", "HGG"])
@pytest.mark.parametrize("year", YEARS)
def test_every_layout_gives_the_modalities_in_the_order_asked_for(tmp_path, year, below):
    make_cases(tmp_path, year, below=below)
    case, ending, names = YEARS[year]
    path_of = dict(zip(("t1", "t1ce", "t2", "flair", "label"), names, strict=True))
    expected = []
    for number in (1, 2):
        subject = case.format(number)
        paths = {k: str(tmp_path / below / subject / (subject + ending.format(n))) for k, n in path_of.items()}
        expected.append(
            {"subject": subject, "image": [paths[m] for m in ("t2", "flair", "t1")], "label": paths["label"]}
        )
    assert brats_datalist(tmp_path, ("t2", "flair", "t1"), labels=True) == expected


def test_labels_are_left_out_unless_asked_for(tmp_path):
    make_cases(tmp_path, "BraTS 2020")
    assert [set(item) for item in brats_datalist(tmp_path)] == [{"subject", "image"}] * 2


def test_decathlon_items_give_path_and_channel_per_modality(tmp_path):
    make_decathlon(tmp_path)
    first = {
        "subject": "BRATS_001",
        "image": [str(tmp_path / "imagesTr/BRATS_001.nii.gz")] * 3,
        "channels": [3, 1, 2],
        "label": str(tmp_path / "labelsTr/BRATS_001.nii.gz"),
    }
    items = brats_datalist(tmp_path, ("t2", "t1", "t1ce"), labels=True)
    assert items[0] == first
    assert [item["subject"] for item in items] == ["BRATS_001", "BRATS_002"]


def test_decathlon_channels_follow_the_description(tmp_path):
    make_decathlon(tmp_path, modality=("T2w", "T1w"))
    assert brats_datalist(tmp_path)[0]["channels"] == [1, 0]


def test_hidden_files_and_what_is_no_volume_are_passed_over(tmp_path):
    make_cases(tmp_path, "BraTS 2021", numbers=(7,))
    case = tmp_path / "BraTS2021_00007"
    touch(case / "._BraTS2021_00007_t1.nii.gz", tmp_path / ".trash/BraTS2021_00009/BraTS2021_00009_t1.nii.gz")
    touch(tmp_path / "._BraTS2021_00007", case / "BraTS2021_00007_t1_brain.nii.gz", case / "notes.txt")
    (case / "BraTS2021_00007_t1n.nii.gz").mkdir()  # unpacked by a tool that makes a folder of every file
    [item] = brats_datalist(tmp_path)
    assert item["image"][0] == str(case / "BraTS2021_00007_t1.nii.gz")


def test_a_home_folder_and_a_relative_path_give_absolute_paths(tmp_path, monkeypatch):
    make_cases(tmp_path / "data", "BraTS 2021")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert brats_datalist("~/data") == brats_datalist("data") == brats_datalist(tmp_path / "data")


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist.*correct the path"):
        brats_datalist(tmp_path / "nowhere")


def test_file_instead_of_folder_is_an_error(tmp_path):
    touch(tmp_path / "archive.zip")
    with pytest.raises(NotADirectoryError, match=r"archive\.zip is a file.*unpack it"):
        brats_datalist(tmp_path / "archive.zip")


@pytest.mark.parametrize("layout", ["folders", "decathlon"])
def test_folder_without_case_says_what_was_looked_for(tmp_path, layout):
    touch(tmp_path / "case" / "other_t1.nii.gz", tmp_path / "._x_t1.nii.gz", tmp_path / "readme.nii.txt")
    if layout == "decathlon":
        touch(tmp_path / "imagesTr" / "._BRATS_001.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"no case .*<case>_t1\.nii\.gz.*-t1n\.nii\.gz.*imagesTr"):
        brats_datalist(tmp_path)


def test_cases_that_lack_a_modality_are_named_with_what_they_have(tmp_path):
    make_cases(tmp_path, "BraTS 2020", numbers=(1,))
    make_cases(tmp_path, "BraTS 2020", numbers=range(2, 9), leave_out=("t2", "t1ce"))
    with pytest.raises(FileNotFoundError) as error:
        brats_datalist(tmp_path)
    message = str(error.value)
    assert "7 of 8 cases are incomplete" in message
    assert "BraTS20_Training_002 lacks t2 (has flair, seg, t1)" in message
    assert "BraTS20_Training_006" in message
    assert "BraTS20_Training_007" not in message
    assert "and 2 more" in message


@pytest.mark.parametrize("layout", ["folders", "decathlon"])
def test_labels_asked_for_are_required(tmp_path, layout):
    if layout == "folders":
        make_cases(tmp_path, "BraTS 2020", numbers=(1,))
        make_cases(tmp_path, "BraTS 2020", numbers=(2,), leave_out=("seg",))
    else:
        make_decathlon(tmp_path, labelled=(1,))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 cases are incomplete: \w+_002 lacks seg"):
        brats_datalist(tmp_path, labels=True)


@pytest.mark.parametrize(
    ("modalities", "remedy"), [(("t1", "t3"), "correct 't3'"), ((), "name one"), ("t1n", "correct 't1n'")]
)
def test_unknown_modalities_are_an_error(tmp_path, modalities, remedy):
    with pytest.raises(ValueError, match=f"must be some of t1, t1ce, t2, flair.*{remedy}"):
        brats_datalist(tmp_path, modalities)


def test_a_subject_in_two_folders_is_an_error(tmp_path):
    for grade in ("HGG", "LGG"):
        make_cases(tmp_path, "BraTS 2020", numbers=(1,), below=grade)
    with pytest.raises(ValueError, match=r"two folders give the subject BraTS20_Training_001: .*HGG.*LGG"):
        brats_datalist(tmp_path)


def test_decathlon_without_description_is_an_error(tmp_path):
    make_decathlon(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.json is missing.*channel"):
        brats_datalist(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"modality": {"1": "T1w"}}', '{"modality": {"0": 1}}'])
def test_damaged_decathlon_description_is_an_error(tmp_path, text):
    make_decathlon(tmp_path)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json does not give the channels' order"):
        brats_datalist(tmp_path)


def test_decathlon_without_the_modality_is_an_error(tmp_path):
    make_decathlon(tmp_path, modality=("FLAIR", "T1w"))
    with pytest.raises(FileNotFoundError, match=r"BRATS_001 lacks t2 \(has flair, seg, t1\)"):
        brats_datalist(tmp_path)
