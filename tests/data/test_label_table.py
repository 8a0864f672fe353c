"""Tables of label numbers, and label maps as channels."""

from __future__ import annotations

import pytest
import torch

from monai_idm.data import LabelToChannelsd, labelled_cases, read_label_table


@pytest.mark.parametrize(
    "text", ["number,name\n4,fluid\n38,cerebellum\n11,fluid\n", "Name\tNumber\nfluid\t4\ncerebellum\t38\nfluid\t11\n"]
)
def test_a_file_and_a_mapping_give_the_same_table(tmp_path, text):
    (tmp_path / "table").write_text("\ufeff" + text, encoding="utf-8")
    table = read_label_table(tmp_path / "table")
    assert table == {"fluid": [4, 11], "cerebellum": [38]}
    assert list(table) == ["fluid", "cerebellum"]  # their order is that of the network's channels
    assert read_label_table({"fluid": [4, 11], "cerebellum": 38}) == table
    assert read_label_table(table) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number,region\n4,a\n", "first line must be number,name"),
        ("number,name\nfour,a\n", "not a table of numbers and names"),
        ("number,name\n4\n", "not a table of numbers and names"),
        ("number,name\n", "names no number"),
        ("", "not a table of numbers and names"),
        ("number,name\n0,air\n", "numbers are integers above 0"),
        ("number,name\n4,a\n4,b\n", "names 4 both a and b"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_table(tmp_path / "table.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels .*none\.csv does not exist"):
        read_label_table(tmp_path / "none.csv")


def channels(label, **labels):
    item = {"subject": "a", "label": torch.tensor(label).view(1, -1, 1, 1)}
    return LabelToChannelsd("label", labels)(item)["label"].flatten(1).tolist()


def test_each_region_is_a_channel():
    assert channels([0.0, 4, 11.0002, 38], fluid=[4, 11], rest=[38]) == [[0, 1, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("label", "message"),
    [([0.0, 5, 4], "holds 5, which the table"), ([4.0, 4.5], "holds 4.5"), ([0.0, 0], "0 everywhere")],
)
def test_a_label_that_the_table_does_not_explain_is_refused(label, message):
    with pytest.raises(ValueError, match=message):
        channels(label, fluid=[4])
    with pytest.raises(ValueError, match="one channel"):
        LabelToChannelsd("label", {"fluid": [4]})({"label": torch.zeros(2, 3, 3, 3)})


def test_the_brain_is_that_of_an_image_or_of_the_labels(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("t1", "parts"):
        (tmp_path / "a" / f"a_{name}.nii.gz").touch()
    files = {name: str(tmp_path / "a" / f"a_{name}.nii.gz") for name in ("t1", "parts")}
    (item,) = labelled_cases(tmp_path, "parts", "image", ["t1", "t2"])
    assert item == {"subject": "a", "image": [files["t1"]], "label": files["parts"]}
    assert labelled_cases(tmp_path, "Parts", "labels", ["t1"]) == [{"subject": "a", "image": files["parts"]}]
    with pytest.raises(FileNotFoundError, match="lacks seg"):
        labelled_cases(tmp_path, "seg", "image", ["t1"])
    with pytest.raises(ValueError, match="choose image or labels"):
        labelled_cases(tmp_path, "parts", "t1", ["t1"])
