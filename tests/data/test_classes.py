"""Classes of cases, from a CSV file to the items of a split."""

from __future__ import annotations

import pytest

from monai_idm.data import prepare_datalist, read_class_labels, sample_list, sampled_classes
from tests.data.test_brats import make_cases

GRADES = "Grade,BraTS_2020_subject_ID\nHGG,a\nLGG,b\nHGG,c\n"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "name_mapping.csv").write_text(GRADES, encoding="utf-8-sig")
    return tmp_path / "name_mapping.csv"


def test_classes_are_numbered_in_the_order_given(file):
    columns = ("BraTS_2020_subject_ID", "Grade")
    assert read_class_labels(file, ["LGG", "HGG"], columns) == {"a": 1, "b": 0, "c": 1}
    with pytest.raises(ValueError, match=r"holds the classes \['LGG'\], which are not in classes=\['HGG'\]"):
        read_class_labels(file, ["HGG"], columns)
    with pytest.raises(ValueError, match=r"has the columns .*'Grade', 'BraTS_2020_subject_ID'"):
        read_class_labels(file, ["HGG"])
    file.write_text(GRADES + "HGG,a\n")
    assert len(read_class_labels(file, ["LGG", "HGG"], columns)) == 3
    file.write_text(GRADES + "LGG,a\n")
    with pytest.raises(ValueError, match=r"lists several classes for a; give each subject one"):
        read_class_labels(file, ["LGG", "HGG"], columns)
    with pytest.raises(FileNotFoundError, match=r"absent.csv does not exist"):
        read_class_labels(file.with_name("absent.csv"), ["HGG"])


def test_every_item_of_a_split_has_its_class(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2020", numbers=(1, 2, 3))
    labels = {f"BraTS20_Training_00{i}": i for i in (1, 2, 3)}
    split = prepare_datalist(tmp_path / "data", tmp_path / "list.json", class_labels=labels)
    items = [item for part in ("training", "validation", "test") for item in split[part]]
    assert {item["subject"]: item["class_label"] for item in items} == labels
    del labels["BraTS20_Training_002"]
    with pytest.raises(ValueError, match="Training_002 has no class, 2 other subjects have one"):
        prepare_datalist(tmp_path / "data", tmp_path / "list.json", class_labels=labels)


def test_a_class_is_asked_for_by_name():
    assert sampled_classes("LGG", ["HGG", "LGG"]) == [1]
    assert sampled_classes(None, ["HGG", "LGG"]) == [0, 1]
    assert sampled_classes(None, None) == []
    for name, classes in [("LGG", None), ("GBM", ["HGG"])]:
        with pytest.raises(ValueError, match=f"class_name='{name}' is not one of classes"):
            sampled_classes(name, classes)


def test_a_sample_has_its_class_by_its_seed_whatever_is_drawn_with_it():
    many = {item["seed"]: item["class_label"] for item in sample_list(6, 0, [0, 1, 2])}
    assert [*many.values()] == [0, 1, 2, 0, 1, 2]
    assert all(item["class_label"] == many[item["seed"]] for item in sample_list(3, 2, [0, 1, 2]))
    assert all("class_label" not in item for item in sample_list(2))
