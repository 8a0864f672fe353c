"""Scans of one patient are never in two parts of a split, however they are named."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest

from idm_bundle.__main__ import main
from monai_idm.data import patient, prepare_datalist, read_patients, split_by_subject, with_patients, write_phantoms
from tests.data.test_brats import touch

SCANS = {
    "UPENN-GBM-00001": ["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"],
    "UCSF-PDGM-0391": ["UCSF-PDGM-0391", "UCSF-PDGM-0391_FU016d", "UCSF-PDGM-0391_FU016d_nifti"],
    "UCSD-PTGBM-0002": ["UCSD-PTGBM-0002_01", "UCSD-PTGBM-0002_02"],
    "sub-001": ["sub-001", "sub-001_ses-01", "sub-001_ses-02", "sub-001_ses-01_run-2", "sub-001_acq-3d_ses-pre"],
    "BraTS-GLI-00000": ["BraTS-GLI-00000-000", "BraTS-GLI-00000-101"],
    "BraTS-MET-00001": ["BraTS-MET-00001-000", "BraTS-MET-00001-002"],
    "BraTS-MEN-RT-0000": ["BraTS-MEN-RT-0000-1", "BraTS-MEN-RT-0000-2"],
    "Brats18_TCIA01_231": ["Brats18_TCIA01_231_1", "Brats18_TCIA01_231_2"],
    "brats_tcia_pat170": ["brats_tcia_pat170_0002", "brats_tcia_pat170_0022"],
    "TCGA-02-0003": ["TCGA-02-0003", "TCGA-02-0003_1999.01.01", "TCGA-02-0003_1999-07-11", "TCGA-02-0003-19990711"],
    "W39": ["W39_1998.09.19", "W39_1999.01.02"],
    "Patient-001": ["Patient-001_week-000-1", "Patient-001_week-044"],
    "RHUH-0001": ["RHUH-0001_0", "RHUH-0001_1", "RHUH-0001_2"],
    "PatientID_0003": ["PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"],
    "100001": ["100001_time1", "100001_time2"],
    "OAS30001": ["OAS30001_MR_d0129", "OAS30001_MR_d0757"],
    "OAS2_0001": ["OAS2_0001_MR1", "OAS2_0001_MR2"],
    "002_S_0295": ["002_S_0295_m12", "002_S_0295_2006-04-18"],
    "P07": ["P07", "P07_preop", "P07_post-op", "P07-baseline", "P07_followup-2", "P07_FU", "P07_tp3", "P07_session2"],
}
OF_THEIR_OWN = [
    *(f"BraTS20_Training_{i:03d}" for i in range(1, 4)),
    *("BRATS_001", "BRATS_002", "BraTS2021_00000", "BraTS2021_00001", "Brats18_TCIA01_231", "Brats18_TCIA01_235"),
    *("IXI012", "IXI012-HH-1211", "IXI013-HH-1212", "TCGA-DU-7294", "TCGA-DU-7295", "TCGA-FG-6692"),
    *("sub-01", "sub-02", "PHANTOM_000", "PHANTOM_001", "patient_01", "patient_02", "RHUH-0001", "RHUH-0002"),
    *("ReMIND-001", "ReMIND-002", "case1", "case2", "20190301", "患者_1", "患者_2", "week-1", "week-2"),
]


@pytest.mark.parametrize("name", SCANS)
def test_scans_under_known_names_are_one_patients(name):
    assert {scan: patient({"subject": scan}) for scan in SCANS[name]} == dict.fromkeys(SCANS[name], name)


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_other_names_are_patients_of_their_own(name):
    assert patient({"subject": name}) == name


def test_what_an_item_says_overrules_its_name():
    assert patient({"subject": "sub-1_ses-1", "patient": "x"}) == "x"


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_two_sides(seed):
    items = [{"subject": scan} for scans in SCANS.values() for scan in scans]
    parts = [{patient(item) for item in part} for part in split_by_subject(items, seed=seed).values()]
    assert sum(map(len, parts)) == len(SCANS) == len(set.union(*parts))


def make(root, *subjects):
    touch(*(root / name / f"{name}_{volume}.nii.gz" for name in subjects for volume in ("t1", "t2")))


def table(file, *lines):
    file.write_text("\n".join(["subject,patient", *lines]))
    return file


def test_a_table_decides_and_later_trainings_keep_it(tmp_path, caplog):
    make(tmp_path / "data", "a", "b", "c", "d", "e")
    file = table(tmp_path / "patients.csv", "a,1", "b,1", "c,2", "d,2", "e,3", "other,4")
    with caplog.at_level(logging.INFO, "monai_idm.data.datalist"):
        split = prepare_datalist(tmp_path / "data", tmp_path / "list.json", patients_file=file)
    assert "5 scans of 3 patients; with several scans: 1 (2), 2 (2)" in caplog.text
    sides = [{item["patient"] for item in split[part]} for part in ("training", "validation", "test")]
    assert [len(side) for side in sides] == [1, 1, 1]
    assert len(set.union(*sides)) == 3
    content = json.loads((tmp_path / "list.json").read_text())
    pair = next(part for part in ("training", "validation", "test") if len(content[part]) == 2)
    elsewhere = "test" if pair == "training" else "training"
    content[elsewhere].append(content[pair].pop())
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has [12] in training and in validation or test"):
        prepare_datalist(tmp_path / "data", tmp_path / "used.json", datalist_file=tmp_path / "list.json")


def test_a_table_also_judges_a_datalist_that_knows_no_patients(tmp_path):
    make(tmp_path / "data", "a", "b", "c")
    split = prepare_datalist(tmp_path / "data", tmp_path / "list.json")
    trained, tested = split["training"][0]["subject"], split["test"][0]["subject"]
    validated = split["validation"][0]["subject"]
    file = table(tmp_path / "patients.csv", f"{trained},1", f"{tested},1", f"{validated},2")
    with pytest.raises(ValueError, match="has 1 in training and in validation or test"):
        prepare_datalist(
            tmp_path / "data", tmp_path / "used.json", datalist_file=tmp_path / "list.json", patients_file=file
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,person\na,1\n", r"the columns \['subject', 'person'\].*must be \['subject', 'patient'\]"),
        ("subject;patient\na;1\n", r"the columns \['subject;patient'\].*separated by commas"),
        ("subject,patient\na,1\na,2\n", "lists several patients for a; give each subject one"),
        ("subject,patient\na,1\nb,\nc,NA\n", "has no patient for b, c; every subject must have one"),
        ("subject,patient\nNA,1\n,2\n", "the column subject of patients_file .* holds NA in every row"),
        ("subject,patient\na,1\n", r"lacks 2 of 3 subjects: b, c; .*add the missing rows"),
        ("", r"the columns \[\]"),
    ],
)
def test_a_table_that_does_not_say_it_all_is_refused(tmp_path, text, message):
    (tmp_path / "patients.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        with_patients([{"subject": name} for name in "abc"], tmp_path / "patients.csv")
    with pytest.raises(FileNotFoundError, match=r"patients_file .*absent\.csv does not exist"):
        read_patients(tmp_path / "absent.csv")


def test_accents_are_compared_however_they_are_encoded(tmp_path):
    file = table(tmp_path / "patients.csv", unicodedata.normalize("NFC", "Müller,1"))
    item = {"subject": unicodedata.normalize("NFD", "Müller")}
    assert with_patients([item], file) == [item | {"patient": "1"}]


def test_a_table_may_encode_accents_in_the_other_way(tmp_path):
    file = table(tmp_path / "patients.csv", unicodedata.normalize("NFD", "Müller,1"))
    assert with_patients([{"subject": unicodedata.normalize("NFC", "Müller")}], file)[0]["patient"] == "1"


def test_prepare_takes_a_table_and_counts(tmp_path, capsys):
    folder = write_phantoms(tmp_path / "data", 4, (16, 16, 16))
    lines = [f"PHANTOM_{i:03d},{p}" for i, p in enumerate("xxyz")]
    file, datalist = table(tmp_path / "patients.csv", *lines), tmp_path / "datalist.json"
    assert main(["prepare", str(folder), str(datalist), "--patients", str(file)]) == 0
    assert "4 scans of 3 patients; with several scans: x (2)" in capsys.readouterr().out
    content = json.loads(datalist.read_text())
    items = [item for part in ("training", "validation", "test") for item in content[part]]
    assert {item["subject"]: item["patient"] for item in items} == dict(line.split(",") for line in lines)
    table(file, *lines[:3])
    assert main(["prepare", str(folder), str(datalist), "--patients", str(file)]) == 1
    assert "lacks 1 of 4 subjects: PHANTOM_003" in capsys.readouterr().err
