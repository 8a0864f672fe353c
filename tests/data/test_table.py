"""Tables as spreadsheets and data sets provide them: a missing name never becomes a subject."""

from __future__ import annotations

import logging

import pytest

from monai_idm.data import read_class_labels

HEADER = "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"


@pytest.fixture
def labels(tmp_path):
    def read(text, column="BraTS_2019_subject_ID", encoding="utf-8"):
        (tmp_path / "names.csv").write_bytes(text.encode(encoding))
        return read_class_labels(tmp_path / "names.csv", ["HGG", "LGG"], (column, "Grade"))

    return read


@pytest.mark.parametrize("nothing", ["NA", "", "nan", " n/a ", "None"])
def test_a_column_of_nothing_is_refused_and_the_right_one_named(labels, nothing):
    text = HEADER + f"HGG,{nothing},a\nHGG,{nothing},b\n"
    message = r"column BraTS_2019_subject_ID .* NA in every row; class_columns must name BraTS_2020_subject_ID$"
    with pytest.raises(ValueError, match=message):
        labels(text)
    assert labels(text, "BraTS_2020_subject_ID") == {"a": 0, "b": 0}


def test_rows_without_a_subject_are_passed_over_and_counted(labels, caplog):
    with caplog.at_level(logging.WARNING, "monai_idm.data.table"):
        assert labels(HEADER + "HGG,NA,a\nLGG,NA,b\nLGG,c,d\nHGG\n") == {"c": 1}
    assert "3 of 4 rows of" in caplog.text
    assert "have no BraTS_2019_subject_ID (NA or empty)" in caplog.text


@pytest.mark.parametrize("cell", ["NA", ""])
def test_a_class_that_is_missing_is_no_class(labels, cell):
    with pytest.raises(ValueError, match=r"names\.csv holds the classes .*not in classes=\['HGG', 'LGG'\]"):
        labels(HEADER + f"{cell},a,a\nHGG,b,b\n")


def test_a_heading_that_comes_twice_is_refused(labels):
    with pytest.raises(ValueError, match="each exactly once"):
        labels("Grade,BraTS_2019_subject_ID,Grade\nHGG,a,LGG\n")


def test_spaces_around_cells_and_blank_lines_are_no_matter(labels):
    assert labels("Grade, BraTS_2019_subject_ID\n\n HGG , a \nLGG,b\n\n") == {"a": 0, "b": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_refused(labels, encoding):
    with pytest.raises(ValueError, match=r"is not a CSV file in UTF-8 .*save it as one"):
        labels(HEADER + "HGG,Müller,b\n", encoding=encoding)
