"""A label map is compared with a folder's dataset.json, the names of its cases, and the numbers in their labels."""

from __future__ import annotations

import json

import pytest

from monai_idm.data.label_maps import LABEL_MAPS, contradicted_by_numbers, count_labels, require_label_map

DECATHLON = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
NNUNET = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
NNUNET_REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


@pytest.mark.parametrize(
    ("labels", "right", "wrong", "message"),
    [
        (DECATHLON, "decathlon", "brats2023", "1 is oedema, 2 is necrosis"),
        (DECATHLON, "decathlon", "brats2020", "1 is oedema, 2 is necrosis, 3 is enhancing"),
        (NNUNET, "brats2023", "decathlon", "1 is necrosis, 2 is oedema"),
        (NNUNET_REGIONS, "decathlon", "brats2023", "oedema"),
        (NNUNET | {"RC": 4}, "brats2024", "brats2020", "3 is enhancing, 4 is cavity"),
    ],
)
def test_dataset_json_decides(tmp_path, labels, right, wrong, message):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    require_label_map(tmp_path, ["a"], right)
    require_label_map(tmp_path, ["a"], {"necrosis": 3, "oedema": 1})  # written out by the user
    with pytest.raises(
        ValueError, match=rf"label_map='{wrong}' is .*dataset\.json says that.*{message}.*--label_map {right}"
    ):
        require_label_map(tmp_path, ["a"], wrong)


@pytest.mark.parametrize(
    ("subject", "right", "wrong"),
    [
        ("BraTS-PED-00002-000", "brats2024_ped", "brats2020"),
        ("BraTS-PED-00002-000", "brats2023_ped", "brats2023"),
        ("BraTS-GLI-02405-100", "brats2024", "brats2023"),
        ("BraTS-GLI-02405-101", "brats2024", "brats2020"),
        ("BraTS-GLI-00003-000", "brats2023", "brats2020"),
        ("BraTS-GLI-00003-000", "brats2024", "decathlon"),
        ("BraTS-MET-00003-000", "brats2023", "brats2024_ped"),
        ("BraTS20_Training_001", "brats2020", "brats2023"),
        ("BraTS2021_00000", "brats2020", "brats2024"),
        ("BRATS_001", "decathlon", "brats2023"),
        ("UPENN-GBM-00001_11", "brats2020", "decathlon"),
    ],
)
def test_names_of_collections_decide(tmp_path, subject, right, wrong):
    subjects = ["of_no_collection", subject]
    require_label_map(tmp_path, subjects, right)
    with pytest.raises(
        ValueError, match=rf"1 cases have names of another collection, such as {subject}, .*--label_map"
    ):
        require_label_map(tmp_path, subjects, wrong)


def test_dataset_json_goes_before_names(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 4}}))
    require_label_map(tmp_path, ["BRATS_001"], "brats2020")  # converted to nnU-Net, with names like the Decathlon's


def test_other_names_allow_every_map(tmp_path):
    for label_map in LABEL_MAPS:
        require_label_map(tmp_path, ["PHANTOM_001", "sub-001_ses-01", "脑瘤"], label_map)


@pytest.mark.parametrize("content", ["", "[]", '{"labels": ["a"]}', '{"labels": {"1": "liver", "2": 3}}'])
def test_a_dataset_json_that_names_nothing_decides_nothing(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    require_label_map(tmp_path, ["a"], "brats2020")


def test_a_number_that_only_other_maps_know_decides():
    fits = {"a": [0], "b": [0, 1, 2], "c": [0, 2, 4]}
    assert not contradicted_by_numbers(fits, "brats2020")
    assert not contradicted_by_numbers(fits | {"d": [0, 7], "e": [0, 0.5]}, "brats2020")  # bad cases, not another map
    message = contradicted_by_numbers(fits | {"d": [0, 3], "e": [0, 1, 3]}, "brats2020")
    assert "the labels hold 3 in 2 of 5 cases" in message
    assert "--label_map brats2024, --label_map brats2024_ped, or write the numbers out" in message
    assert "4 in 1 of 3" in contradicted_by_numbers(fits, "brats2023")
    assert "2 in 2 of 3 cases, 4 in 1 of 3" in contradicted_by_numbers(fits, "lesion")


@pytest.mark.parametrize(
    ("numbers", "label_map", "fitting"),
    [
        ([1], "brats2020", "lesion"),  # multiple sclerosis
        ([1, 2, 4], "brats2024", "brats2020"),
        ([1, 2, 3], "brats2024_ped", "brats2023"),
        ([1, 2, 3], "brats2024", ""),  # the same meaning, and no case has a cavity
        ([1, 2], "brats2020", ""),
        ([1, 2, 4], {"necrosis": 1, "oedema": 2, "enhancing": 3, "cavity": 4}, ""),  # the user says so
    ],
)
def test_numbers_that_are_all_of_another_map_decide(numbers, label_map, fitting):
    found = {f"case_{i}": [0, *numbers] for i in range(3)}
    message = contradicted_by_numbers(found, label_map)
    assert bool(message) is bool(fitting)
    assert ("hold only 1 in 3 of 3 cases" in message and f"--label_map {fitting}" in message) or not fitting
    assert not contradicted_by_numbers({"case_0": [0, *numbers]}, label_map)  # one case proves nothing
    named = {f"BraTS-PED-0000{i}-000": [0, 1, 2, 3] for i in range(5)}
    assert not contradicted_by_numbers(named, "brats2024_ped")


def test_what_the_labels_hold_is_said_in_words():
    found = {"a": [0], "b": [0, 1, 2], "c": [0, 2, 4]}
    assert count_labels(found, "brats2020") == "necrosis (1) in 1 of 3, oedema (2) in 2 of 3, enhancing (4) in 1 of 3"
