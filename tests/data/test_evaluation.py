"""Weights are evaluated on what their training set aside, or on patients it never saw; nothing is written."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import Dataset
from torch import nn

from monai_idm.checkpoints import RunRecord
from monai_idm.data import evaluation_datalist, prepare_datalist, split_of
from monai_idm.data.datalist import PARTS

NAMES = [f"BraTS-GLI-{i:05d}-000" for i in range(12)]
LATER = ["BraTS-GLI-00001-001", "BraTS-GLI-00099-000", "BraTS-GLI-00098-000"]  # the first is a second scan


def folder(root, names):
    for name in names:
        for modality in ("t1n", "t2w"):
            file = root / name / f"{name}-{modality}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


def trained(tmp_path, data, **options):
    """Weights as a training run leaves them, and its datalist."""
    written = tmp_path / "output" / "datalist.json"
    datalist = prepare_datalist(data, written, **options)
    record = RunRecord()
    split = split_of(datalist["training"], datalist["validation"], written)
    record.describe_data(str(data), len(datalist["training"]), (8, 8, 8), 1.0, split)
    torch.save(record.sign(nn.Linear(2, 3)).state_dict(), tmp_path / "model.pt")
    return datalist, written


def evaluate(tmp_path, data, split="test", **options):
    options = {"modalities": ("t1", "t2"), **options}
    return evaluation_datalist(tmp_path / "model.pt", split, data, tmp_path / "output" / "datalist.json", **options)


def names(items):
    return [item["subject"] for item in items]


@pytest.mark.parametrize(
    "options", [{}, {"seed": 3}, {"fractions": (0.5, 0.25, 0.25)}, {"problems": {NAMES[2]: "bad"}}]
)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_has_the_split_of_the_training_whatever_made_it(tmp_path, options, part):
    data = folder(tmp_path / "data", NAMES)
    datalist, written = trained(tmp_path, data, **options)
    before = written.read_bytes()
    written.rename(tmp_path / "elsewhere")  # the weights alone record it
    found = evaluate(tmp_path, data, part)
    assert {name: names(found[name]) for name in PARTS} == {name: names(datalist[name]) for name in PARTS}
    assert names(found["all"]) == NAMES
    assert not written.exists()
    (tmp_path / "elsewhere").rename(written)
    evaluate(tmp_path, data, part)
    assert written.read_bytes() == before


def test_later_cases_are_not_evaluated_with_those_of_the_training(tmp_path):
    data = folder(tmp_path / "data", NAMES)
    datalist, _ = trained(tmp_path, data)
    folder(data, LATER)
    found = evaluate(tmp_path, data)
    assert names(found["test"]) == names(datalist["test"])
    assert names(found["all"]) == sorted(NAMES + LATER)


def test_all_of_a_folder_of_other_patients_is_evaluated(tmp_path):
    trained(tmp_path, folder(tmp_path / "data", NAMES))
    others = folder(tmp_path / "others", LATER[1:])
    assert names(evaluate(tmp_path, others, "all")["all"]) == sorted(LATER[1:])
    assert evaluate(tmp_path, others, "all")["training"] == []
    with pytest.raises(ValueError, match=r"none of the 2 cases in .* was in the test split .* --evaluation_split all"):
        evaluate(tmp_path, others)


def test_what_was_trained_on_is_not_evaluated(tmp_path):
    data = folder(tmp_path / "data", NAMES)
    datalist, _ = trained(tmp_path, data)
    with pytest.raises(ValueError, match=rf"trained on {len(datalist['training'])} of the 12 cases .* too good"):
        evaluate(tmp_path, data, "all")
    other = tmp_path / "other.json"
    prepare_datalist(data, other, seed=5)
    with pytest.raises(ValueError, match=r"the weights were trained on \d of the 12 cases"):
        evaluate(tmp_path, data, datalist_file=other)


def test_another_scan_of_a_patient_was_seen_too(tmp_path):
    trained(tmp_path, folder(tmp_path / "data", NAMES), fractions=(0.9, 0.05, 0.05), seed=1)
    seen = json.loads((tmp_path / "output" / "datalist.json").read_text())["training"][0]["subject"]
    again = folder(tmp_path / "again", [f"{seen[:-4]}-001", LATER[1]])
    with pytest.raises(
        ValueError, match=rf"trained on 1 of the 2 cases or on other scans of their patients, such as {seen[:-4]}"
    ):
        evaluate(tmp_path, again, "all")


def test_weights_that_do_not_record_their_cases_need_the_datalist_of_their_training(tmp_path, caplog):
    data = folder(tmp_path / "data", NAMES)
    datalist, written = trained(tmp_path, data, seed=4)
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    assert names(evaluate(tmp_path, data)["test"]) == names(datalist["test"])
    assert f"using the split in {written}" in caplog.text
    moved = written.rename(tmp_path / "moved.json")
    with pytest.raises(ValueError, match=r"it is unknown which cases .* as --datalist_file"):
        evaluate(tmp_path, data)
    assert names(evaluate(tmp_path, data, datalist_file=moved)["test"]) == names(datalist["test"])
    with pytest.raises(ValueError, match="trained on 10 of the 12 cases"):
        evaluate(tmp_path, data, "all", datalist_file=moved)


def test_the_split_of_one_patient_is_what_it_is(tmp_path):
    data = folder(tmp_path / "data", NAMES[:1])
    trained(tmp_path, data)
    assert names(evaluate(tmp_path, data)["test"]) == NAMES[:1]


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluation_split='every'; choose validation, test, or all"):
        evaluate(tmp_path, tmp_path, "every")


def test_items_of_another_tool_go_by_their_first_file(tmp_path):
    split = split_of(
        [{"image": "/data/sub-1.nii.gz"}], [{"image": ["/data/b_t1.nii", "/data/b_t2.nii"]}], tmp_path / "no"
    )
    assert split == {"training": [("sub-1", "sub-1")], "validation": [("b_t1", "b_t1")], "test": []}


def test_before_there_are_weights_the_split_is_that_of_a_training(tmp_path):
    data = folder(tmp_path / "data", NAMES)
    expected = prepare_datalist(data, tmp_path / "datalist.json", seed=3)
    assert names(evaluate(tmp_path, data, seed=3)["test"]) == names(expected["test"])
    assert not (tmp_path / "output").exists()


def test_a_custom_dataset_names_no_cases(tmp_path, caplog):
    items = [{"subject": name} for name in NAMES[:2]]
    assert split_of(Dataset(items), Dataset([]), tmp_path / "absent.json")["training"] == [
        (name, name[:-4]) for name in NAMES[:2]
    ]
    for own in (object(), [torch.zeros(3)], [{"image": torch.zeros(3)}]):
        assert split_of(own, Dataset([]), tmp_path / "absent.json") is None
    assert "its weights will not record what they were trained on" in caplog.text


def test_a_case_that_the_training_left_out_needs_no_files(tmp_path):
    data = folder(tmp_path / "data", NAMES)
    datalist, _ = trained(tmp_path, data, problems={NAMES[2]: "lacks t2"})
    (data / NAMES[2] / f"{NAMES[2]}-t2w.nii.gz").unlink()
    assert names(evaluate(tmp_path, data)["test"]) == names(datalist["test"])
    (data / NAMES[3] / f"{NAMES[3]}-t2w.nii.gz").unlink()  # which the training had
    with pytest.raises(FileNotFoundError, match=rf"1 of 11 cases are incomplete: {NAMES[3]} lacks t2"):
        evaluate(tmp_path, data)


def test_a_folder_of_two_other_patients_is_not_split(tmp_path, caplog):
    trained(tmp_path, folder(tmp_path / "data", NAMES))
    caplog.clear()
    evaluate(tmp_path, folder(tmp_path / "others", LATER[1:]), "all")
    assert "two patients only" not in caplog.text
