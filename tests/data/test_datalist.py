"""A split keeps patients together, depends on its seed and the names only, and is read back as it was written."""

from __future__ import annotations

import json
import logging
import os
from functools import partial

import pytest

from monai_idm.data import brats_datalist, prepare_datalist, split_by_subject, with_patients
from tests.data.test_brats import make_cases, make_decathlon, touch

PARTS = ("training", "validation", "test")


def items_named(*subjects: str) -> list[dict]:
    return [{"subject": subject, "image": []} for subject in subjects]


def subjects(split: dict) -> list[set[str]]:
    return [{item["subject"] for item in split[name]} for name in PARTS]


@pytest.mark.parametrize("n", [3, 4, 5, 10, 11, 100])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.2, 0.6, 0.2), (0.02, 0.49, 0.49)])
def test_parts_are_disjoint_complete_and_not_empty(n, fractions):
    items = items_named(*(f"case_{i:03d}" for i in range(n)))
    parts = subjects(split_by_subject(items, fractions))
    assert all(parts)
    assert sum(map(len, parts)) == n
    assert set.union(*parts) == {item["subject"] for item in items}


def test_fractions_give_the_sizes():
    split = split_by_subject(items_named(*map(str, range(100))), (0.7, 0.2, 0.1))
    assert [len(split[name]) for name in PARTS] == [70, 20, 10]


def test_the_seed_and_the_names_alone_decide():
    items = items_named(*(f"case_{i}" for i in range(20)))
    again = split_by_subject(items[::-1], seed=3)
    assert subjects(split_by_subject(items, seed=3)) == subjects(again)
    assert subjects(split_by_subject(items, seed=4)) != subjects(again)


def test_time_points_of_a_patient_stay_together():
    items = items_named(*(f"BraTS-GLI-{i:05d}-{scan:03d}" for i in range(12) for scan in range(3)))
    patients = [{name[:15] for name in part} for part in subjects(split_by_subject(items))]
    assert sum(map(len, patients)) == 12
    assert len(set.union(*patients)) == 12


def test_other_names_are_patients_of_their_own():
    items = items_named("BraTS20_Training_001", "BraTS20_Training_002", "TCGA-DU-7294", "TCGA-DU-7295")
    assert sum(map(len, subjects(split_by_subject(items)))) == 4


def test_two_patients_share_validation_and_test_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, "monai_idm.data.datalist"):
        training, validation, test = subjects(split_by_subject(items_named("a", "b")))
    assert validation == test != training
    assert len(training) == len(validation) == 1
    assert f"two patients only: the validation set, {validation.pop()}, is also the test set" in caplog.text


def test_one_patient_is_everything_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, "monai_idm.data.datalist"):
        assert subjects(split_by_subject(items_named("a"))) == [{"a"}] * 3
    assert "ONE patient only: a is training, validation and test set alike" in caplog.text


def test_a_usual_split_warns_of_nothing(caplog):
    split_by_subject(items_named("a", "b", "c"))
    assert not caplog.records


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.2, 0.0), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_break_their_rule_are_an_error(fractions):
    with pytest.raises(ValueError, match=r"three numbers above 0 that sum to 1"):
        split_by_subject(items_named("a", "b", "c"), fractions)


def test_one_modality_is_a_list_too(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2020", numbers=range(3))
    with pytest.raises(ValueError, match=r"--modalities \"\['t1'\]\""):  # a str has the length 2
        prepare_datalist(tmp_path / "data", tmp_path / "datalist.json", "t1")
    assert prepare_datalist(tmp_path / "data", tmp_path / "datalist.json", ["t1"])["modalities"] == ["t1"]


def test_nothing_to_split_is_an_error():
    with pytest.raises(ValueError, match="no items to split"):
        split_by_subject([])


@pytest.mark.parametrize("layout", ["folders", "decathlon"])
def test_the_file_says_what_was_returned(tmp_path, layout):
    data, file = tmp_path / "data", tmp_path / "new" / "folder" / "datalist.json"
    if layout == "folders":
        make_cases(data, "BraTS 2021", numbers=range(10))
    else:
        make_decathlon(data)
    prepared = prepare_datalist(data, file, ("t2", "t1"), seed=5, labels=True)
    found = brats_datalist(data, ("t2", "t1"), labels=True)
    assert {name: prepared[name] for name in PARTS} == split_by_subject(with_patients(found), seed=5)
    absolute = lambda path: os.path.normpath(data / path)  # noqa: E731
    for name in PARTS:
        for written, returned in zip(json.loads(file.read_text())[name], prepared[name], strict=True):
            assert [absolute(path) for path in written["image"]] == returned["image"]
    assert prepared["modalities"] == ["t2", "t1"]
    assert prepared["seed"] == 5
    assert prepared["dataset_dir"] == str(data)
    assert os.listdir(file.parent) == ["datalist.json"]  # no temporary file is left


def test_paths_in_the_file_are_relative_so_the_data_may_move(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2020", numbers=range(3))
    prepare_datalist(tmp_path / "data", tmp_path / "datalist.json", labels=True)
    [item] = json.loads((tmp_path / "datalist.json").read_text())["test"]
    subject = item["subject"]
    assert item["image"] == [f"{subject}/{subject}_t1.nii", f"{subject}/{subject}_t2.nii"]
    assert item["label"] == f"{subject}/{subject}_seg.nii"


def test_a_list_that_tests_what_it_trains_on_is_refused(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2023", numbers=range(4))
    file = tmp_path / "datalist.json"
    prepare_datalist(tmp_path / "data", file)
    use = partial(prepare_datalist, tmp_path / "data", tmp_path / "used.json", datalist_file=file)
    sound = json.loads(file.read_text())
    use()
    first = sound["training"][0]
    later = first | {"subject": first["subject"][:-3] + "009"}  # of the same patient
    for test in ([first], [later]):
        file.write_text(json.dumps(sound | {"test": test}))
        with pytest.raises(ValueError, match=r"in training and in validation or test: scores would be too good"):
            use()
    file.write_text(json.dumps(sound | {"training": [first, first]}))
    with pytest.raises(ValueError, match=rf"lists {first['subject']} more than once in training"):
        use()
    file.write_text(json.dumps(sound | {"test": sound["validation"]}))
    assert use()["test"]


@pytest.mark.parametrize("twin", ["a 1", "A_1"])
def test_a_list_whose_subjects_would_share_files_is_refused(tmp_path, twin):
    for case in ("a_1", "b", "c"):
        touch(*(tmp_path / "data" / case / f"{case}_{volume}.nii" for volume in ("t1", "t2")))
    file = tmp_path / "datalist.json"
    content = prepare_datalist(tmp_path / "data", file) and json.loads(file.read_text())
    for part in PARTS:
        for item in content[part]:
            item["subject"] = twin if item["subject"] == "b" else item["subject"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"subjects '(a_1|{twin})' and '(a_1|{twin})' would share the file name"):
        prepare_datalist(tmp_path / "data", tmp_path / "used.json", datalist_file=file)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_links_out_of_the_folder_are_followed_where_that_is_allowed(tmp_path, linked):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    make_cases(data, "BraTS 2020", numbers=range(3))
    case = sorted(data.iterdir())[0]
    target = case if linked == "folder" else sorted(case.glob("*_t1.*"))[0]
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"is a link out of dataset_dir, to .*elsewhere.* --allow_links true"):
        prepare_datalist(data, tmp_path / "datalist.json")
    assert not (tmp_path / "datalist.json").exists()
    assert prepare_datalist(data, tmp_path / "datalist.json", allow_links=True)["test"]


def test_links_within_the_folder_and_to_it_are_like_files(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2020", numbers=range(3))
    case = sorted((tmp_path / "data").iterdir())[0]
    volume = sorted(case.glob("*_t1.*"))[0]
    volume.rename(tmp_path / "data" / "kept.nii")
    volume.symlink_to("../kept.nii")
    (tmp_path / "link").symlink_to("data")
    prepare_datalist(tmp_path / "link", tmp_path / "datalist.json")


def test_the_counts_are_logged(tmp_path, caplog):
    make_cases(tmp_path, "BraTS 2020", numbers=range(10))
    with caplog.at_level(logging.INFO, "monai_idm.data.datalist"):
        prepare_datalist(tmp_path, tmp_path / "datalist.json")
    assert "datalist.json: 8 training, 1 validation, 1 test" in caplog.text


def test_labels_mean_what_they_meant_when_the_datalist_was_prepared(tmp_path):
    for case in ("a", "b", "c"):
        touch(*(tmp_path / "data" / case / f"{case}_{volume}.nii" for volume in ("t1", "t2", "seg")))
    file = tmp_path / "datalist.json"
    assert prepare_datalist(tmp_path / "data", file, label_map="brats2023")["label_map"] == "brats2023"
    use = partial(prepare_datalist, tmp_path / "data", tmp_path / "used.json", datalist_file=file)
    assert "label" in use(label_map="brats2023")["training"][0]
    assert use()["training"]  # for training that needs no labels
    with pytest.raises(ValueError, match="was prepared with label_map='brats2023', but label_map='brats2020' is given"):
        use(label_map="brats2020")


def test_a_map_that_names_contradict_is_refused_before_a_file_is_read(tmp_path):
    for case in ("BraTS-PED-00001-000", "BraTS-PED-00002-000"):
        touch(*(tmp_path / "data" / case / f"{case}-{volume}.nii" for volume in ("t1n", "t2w", "seg")))
    with pytest.raises(ValueError, match=r"label_map='brats2020' is .* 2 cases have names of another collection"):
        prepare_datalist(tmp_path / "data", tmp_path / "datalist.json", label_map="brats2020")
    assert not (tmp_path / "datalist.json").exists()
