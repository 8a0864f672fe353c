"""nnU-Net's folders look like the Decathlon's, but their files differ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from monai_idm.data import brats_datalist, prepare_datalist, problem_cases
from tests.data.test_brats import make_decathlon, touch

CHANNELS = ("T1", "T1ce", "T2", "FLAIR")


def make_nnunet(root: Path, version=2, channels=CHANNELS, cases=("BRATS_001", "BRATS_002"), **more) -> None:
    key = {1: "modality", 2: "channel_names"}[version]
    for case in cases:
        touch(*(root / "imagesTr" / f"{case}_{number:04d}.nii.gz" for number in range(len(channels))))
        touch(root / "labelsTr" / f"{case}.nii.gz", root / "imagesTs" / f"{case}9_0000.nii.gz")
    described = {key: {str(i): name for i, name in enumerate(channels)}, **more}
    if version == 2:
        described |= {"file_ending": ".nii.gz"} | more
    else:  # version 1 lists images without channel numbers
        training = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
        described |= {"training": training, "tensorImageSize": "4D"}
    (root / "dataset.json").write_text(json.dumps(described))


@pytest.mark.parametrize("version", [1, 2])
def test_every_channel_is_the_file_of_its_number(tmp_path, version):
    make_nnunet(tmp_path, version)
    file = lambda name: str(tmp_path / name)  # noqa: E731
    assert brats_datalist(tmp_path, ("flair", "t1", "t1ce"), labels=True) == [
        {
            "subject": case,
            "image": [file(f"imagesTr/{case}_{number}.nii.gz") for number in ("0003", "0000", "0001")],
            "label": file(f"labelsTr/{case}.nii.gz"),
        }
        for case in ("BRATS_001", "BRATS_002")
    ]


@pytest.mark.parametrize(
    "channels", [("t1w", "T2w"), ("T1n", "t2W"), ("T1", "t2", "T1-Gd", "flair"), ("T1", "T2", "T1_ce", "T2F")]
)
def test_channels_have_the_names_of_files(tmp_path, channels):
    make_nnunet(tmp_path, channels=channels)
    images = brats_datalist(tmp_path)[0]["image"]
    assert [path[-11:-7] for path in images] == ["0000", "0001"]


def test_the_split_is_of_cases_not_of_files(tmp_path):
    make_nnunet(tmp_path, 1, cases=[f"X{i}" for i in range(5)])
    split = prepare_datalist(tmp_path, tmp_path / "datalist.json")
    assert [len(split[part]) for part in ("training", "validation", "test")] == [3, 1, 1]


@pytest.mark.parametrize("channels", [("T1", "CT"), ("MRI",), ("T1", "seg"), ("T1", "T2", "T1 post")])
def test_unknown_channels_are_refused(tmp_path, channels):
    make_nnunet(tmp_path, channels=channels)
    with pytest.raises(ValueError, match=r"dataset\.json names (the channels .* must be one of t1, t1n|a channel seg)"):
        brats_datalist(tmp_path, ("t1",))


@pytest.mark.parametrize("make", [make_nnunet, make_decathlon])
def test_two_channels_of_one_name_are_refused(tmp_path, make):
    make(tmp_path, **{"channels" if make is make_nnunet else "modality": ("T1", "T2", "t1w")})
    with pytest.raises(ValueError, match=re.escape("['T1', 'T2', 't1w'], of which several are t1")):
        brats_datalist(tmp_path)


def test_a_label_among_the_channels_is_refused(tmp_path):
    make_decathlon(tmp_path, modality=("T1w", "T2w", "Seg"))  # channel 2 would be lost: a label is a file of its own
    with pytest.raises(ValueError, match=r"dataset\.json names a channel seg; labels belong in labelsTr"):
        brats_datalist(tmp_path)


def test_two_orders_that_differ_are_refused(tmp_path):
    make_nnunet(tmp_path, modality={"0": "FLAIR", "1": "T1", "2": "T1ce", "3": "T2"})
    with pytest.raises(ValueError, match=r"gives two orders of the channels.*they must agree"):
        brats_datalist(tmp_path)


@pytest.mark.parametrize("ending", [".png", ".mha"])
def test_other_formats_are_refused(tmp_path, ending):
    make_nnunet(tmp_path, file_ending=ending)
    with pytest.raises(ValueError, match=rf'"file_ending" \'{ending}\'; only NIfTI'):
        brats_datalist(tmp_path)


def test_files_of_both_layouts_are_refused(tmp_path):
    make_nnunet(tmp_path)
    touch(tmp_path / "imagesTr" / "BRATS_003.nii.gz")
    with pytest.raises(
        ValueError, match=r"BRATS_003\.nii\.gz, a file of all channels .*BRATS_001_0000\.nii\.gz, a file"
    ):
        brats_datalist(tmp_path)


def test_a_case_without_a_channel_is_a_problem_of_its_own(tmp_path):
    make_nnunet(tmp_path)
    (tmp_path / "imagesTr" / "BRATS_002_0002.nii.gz").unlink()
    assert problem_cases(tmp_path) == {"BRATS_002": "lacks t2 (has flair, seg, t1, t1ce)"}
    with pytest.raises(FileNotFoundError, match=r"1 of 2 cases are incomplete: BRATS_002 lacks t2"):
        brats_datalist(tmp_path)


def test_a_channel_that_is_not_described_is_a_problem_of_its_own(tmp_path):
    make_nnunet(tmp_path)
    touch(tmp_path / "imagesTr" / "BRATS_001_0004.nii.gz")
    fault = r"has BRATS_001_0004\.nii\.gz, channel 4, but dataset\.json names the channels 0 to 3"
    assert re.match(fault, problem_cases(tmp_path)["BRATS_001"])
    with pytest.raises(ValueError, match=rf"1 of 2 cases .*BRATS_001 {fault}"):
        brats_datalist(tmp_path)


def test_a_channel_given_twice_is_refused(tmp_path):
    make_nnunet(tmp_path)
    touch(tmp_path / "imagesTr" / "BRATS_001_0000.nii")
    with pytest.raises(
        ValueError, match=r"BRATS_001 has t1 twice, as .*0000\.nii and imagesTr/BRATS_001_0000\.nii\.gz"
    ):
        brats_datalist(tmp_path)


@pytest.mark.parametrize("known_by", ["label", "list"])
def test_a_decathlon_whose_names_end_in_four_digits_is_one(tmp_path, known_by):
    touch(*(tmp_path / "imagesTr" / f"CASE_{n:04d}.nii.gz" for n in (0, 1, 7)))
    listed = [{"image": f"./imagesTr/CASE_{n:04d}.nii.gz"} for n in (0, 1, 7)]
    description = {"modality": {"0": "T2w", "1": "T1w"}, "training": listed if known_by == "list" else []}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    if known_by == "label":
        touch(*(tmp_path / "labelsTr" / f"CASE_{n:04d}.nii.gz" for n in (0, 1, 7)))
    items = brats_datalist(tmp_path)
    assert [item["subject"] for item in items] == ["CASE_0000", "CASE_0001", "CASE_0007"]
    assert [item["channels"] for item in items] == [[1, 0]] * 3
