"""Numeric conditions: from a table to the items of a split, to the numbers of the network, and to those of samples."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import statistics
import unicodedata

import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch

from monai_idm.data import (
    EncodeConditionsd,
    SaveSettingsd,
    asked_conditions,
    condition_names,
    describe_conditions,
    fit_conditions,
    prepare_datalist,
    read_conditions,
    sample_list,
)
from monai_idm.data.conditions import with_conditions
from tests.data.test_brats import make_cases

AGES = {"a": "20", "b": "70.5", "c": "", "d": "45"}
SEX = {"a": "M", "b": "F", "c": "F", "d": "NA"}
SITE = {"a": "Guys", "b": "HH", "c": "IOP", "d": "Guys"}
ROWS = [f"{case},{AGES[case]},{SEX[case]},{SITE[case]}" for case in AGES]
FITTED = [
    {"name": "Age", "mean": 135.5 / 3, "sd": statistics.pstdev([20, 70.5, 45]), "min": 20.0, "max": 70.5},
    {"name": "Sex", "words": ["F", "M"]},
    {"name": "Site", "words": ["Guys", "HH", "IOP"]},
]


@pytest.fixture
def table(tmp_path):
    def write(*rows, header="subject,Age,Sex,Site", name="people.csv", columns=None):
        (tmp_path / name).write_text("\n".join([header, *rows]))
        return read_conditions(tmp_path / name, columns)

    return write


def items(*subjects, **cells):
    return [{"subject": s, "condition_values": {name: cells[name][s] for name in cells}} for s in subjects]


def encoded(conditions, **cells):
    return EncodeConditionsd(conditions)({"subject": "x", "condition_values": cells})["conditions"].tolist()


def test_rows_may_come_in_any_order(table):
    expected = table(*ROWS)
    assert expected["b"] == {"Age": "70.5", "Sex": "F", "Site": "HH"}
    for seed in range(5):
        shuffled = random.Random(seed).sample(ROWS, len(ROWS))
        assert table(*shuffled, shuffled[0]) == expected
        subjects = random.Random(seed).sample("abcd", 4)
        assert fit_conditions(items(*subjects, Age=AGES, Sex=SEX, Site=SITE)) == FITTED
    assert json.loads(json.dumps(FITTED)) == FITTED


def test_numbers_are_standardised_words_are_1_or_minus_1_and_what_is_unknown_is_nan():
    assert condition_names(FITTED) == ["Age", "Sex: M", "Site: Guys", "Site: HH", "Site: IOP"]
    assert condition_names(None) == []
    assert describe_conditions(FITTED) == "Age (20 to 70.5), Sex (F or M), Site (Guys or HH or IOP)"
    mean, sd = FITTED[0]["mean"], FITTED[0]["sd"]
    expected = [(20 - mean) / sd, 1, -1, 1, -1]
    assert encoded(FITTED, Age="20", Sex="M", Site="HH") == pytest.approx(expected, abs=1e-6)
    assert encoded(FITTED, Age="2e1", Sex="F", Site="HH", Other="?")[1] == -1
    assert [math.isnan(v) for v in encoded(FITTED, Age="n/a", Sex="", Site="IOP")] == [True, True, False, False, False]
    assert all(math.isnan(v) for v in encoded(FITTED, Age="", Sex="", Site=""))
    known = [encoded(FITTED, Age=age, Sex="", Site="")[0] for age in AGES.values() if age]
    assert statistics.fmean(known) == pytest.approx(0, abs=1e-6)
    assert statistics.pstdev(known) == pytest.approx(1, abs=1e-6)


def test_a_word_of_no_training_case_counts_as_unknown():
    with pytest.warns(UserWarning, match="no training case has Site 'Ulm': it counts as unknown"):
        assert all(math.isnan(v) for v in encoded(FITTED, Age="", Sex="", Site="Ulm")[2:])


def test_columns_are_chosen_by_their_headings_which_may_be_numbers(table):
    header, rows = "subject\t51\t52\tnote", ["a\t1.5\t2\tx", "b\t2.5\t3\ty"]
    for columns in ([51, 52], ["51", "52"]):
        found = table(*rows, header=header, name="volumes.tsv", columns=columns)
        assert found == {"a": {"51": "1.5", "52": "2"}, "b": {"51": "2.5", "52": "3"}}
    assert [*table(*rows, header=header, columns=["note", 51])["a"]] == ["note", "51"]
    assert table("a,1", "b", header="subject,Age") == {"a": {"Age": "1"}, "b": {"Age": ""}}
    assert read_conditions(None) is None


@pytest.mark.parametrize(
    ("rows", "columns", "match"),
    [
        (
            ROWS,
            ["Age", "Height"],
            r"the columns \['Height'\] .* its columns are Age, Sex, Site: choose from these with",
        ),
        (ROWS, ["subject"], r"the columns \['subject'\] after the first"),
        (ROWS, "Age", r"condition_columns='Age' is a string; give a list, as in --condition_columns \"\['Age'\]\""),
        (ROWS, [], "must have columns after the first"),
        ([*ROWS, "a,21,M,Guys"], None, "lists several rows for a; give each subject one"),
        (["NA,21,M,Guys"], None, "no row of conditions .* names a subject in its first column, subject"),
        ([], None, "no row of conditions"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rows, columns, match, table):
    with pytest.raises(ValueError, match=match):
        table(*rows, columns=columns)


def test_a_table_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"conditions .*absent.csv does not exist"):
        read_conditions(tmp_path / "absent.csv")
    with pytest.raises(
        ValueError, match=r"condition_columns=\['Age'\] without a table; give it with --conditions FILE"
    ):
        read_conditions(None, ["Age"])


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (["20", "old", "30"], "b has X='old' in conditions, but other cases have numbers; give it a number, or empty"),
        (["20", "inf", "30"], "b has X='inf'"),
        (["20", "1_0", "30"], "b has X='1_0'"),
        (["20", "46,71", "30"], "b has X='46,71'"),
        (["", "NA", "-"], "the column X of conditions has no value for any training case; leave it out"),
        (["5", "", "5.0"], "the same value, 5, for all training cases: nothing can be learned from it"),
        (["M", "M", ""], "the same value, M, for all"),
        (["M", "F", "m"], "the column X of conditions has 'M' and 'm'; write the same word alike"),
        ([f"day {i}" for i in range(11)], "has 11 different words .* and may have 10; group them, or leave it out"),
    ],
)
def test_a_column_that_makes_no_condition_is_refused(cells, match):
    cells = dict(zip("abcdefghijk", cells, strict=False))
    with pytest.raises(ValueError, match=match):
        fit_conditions(items(*cells, X=cells))


def test_a_word_among_the_numbers_of_another_split_is_refused():
    with pytest.raises(ValueError, match="x has Age='old' in conditions, but other cases have numbers"):
        encoded(FITTED, Age="old", Sex="", Site="")


def test_cases_without_a_row_are_unknown_unless_they_are_many(caplog, table):
    given = table(*ROWS[:2], f"{unicodedata.normalize('NFC', 'Ü')},30,M,HH")
    cases = [{"subject": name} for name in ("a", "b", "z", unicodedata.normalize("NFD", "Ü"))]
    found = with_conditions(cases, given)
    assert found["z"] == {"Age": "", "Sex": "", "Site": ""}
    assert found[unicodedata.normalize("NFD", "Ü")]["Age"] == "30"
    assert "1 of 4 cases have no row in conditions, so that these count as unknown: z" in caplog.text
    with pytest.raises(ValueError, match="2 of 3 cases have no row in conditions: y, z; its first column must name"):
        with_conditions([{"subject": name} for name in "ayz"], given)
    caplog.clear()
    with_conditions(cases[:2], given)
    assert not caplog.records


def test_every_item_of_a_split_and_of_its_file_has_its_cells(tmp_path):
    make_cases(tmp_path / "data", "BraTS 2020", numbers=(1, 2, 3))
    given = {f"BraTS20_Training_00{i}": {"Age": str(10 * i), "Sex": "F"} for i in (1, 2, 3)}
    file = tmp_path / "list.json"
    prepare_datalist(tmp_path / "data", file, conditions=given)
    written = json.loads(file.read_text())
    parts = ("training", "validation", "test")
    assert {item["subject"]: item["condition_values"] for part in parts for item in written[part]} == given
    again = prepare_datalist(tmp_path / "data", tmp_path / "2.json", datalist_file=file)
    assert not any("condition_values" in item for part in parts for item in again[part])  # no table, no conditions


def test_a_network_gets_the_conditions_that_it_was_trained_with_or_none():
    assert EncodeConditionsd(FITTED)({"subject": "a"}) == EncodeConditionsd(None)({"subject": "a"}) == {"subject": "a"}
    with pytest.raises(
        ValueError, match="have values of Age, but this network takes no conditions: leave conditions out"
    ):
        encoded(None, Age="20")
    with pytest.raises(ValueError, match="has no column Sex, Site, which the network was trained with, only Age; add"):
        encoded(FITTED, Age="20")


def test_samples_take_values_in_turn_and_say_which(tmp_path):
    asked = asked_conditions({"Age": [20, 70.5, None], "Sex": "F"}, FITTED)
    assert asked == {"Age": ["20", "70.5", ""], "Sex": ["F"], "Site": [""]}
    samples = sample_list(4, 1, conditions=asked)
    assert [sample["condition_values"]["Age"] for sample in samples] == ["70.5", "", "20", "70.5"]  # by seed
    assert sample_list(2, 2, conditions=asked) == samples[1:3]
    assert all("condition_values" not in sample for sample in sample_list(2, conditions={}))

    loader = DataLoader(Dataset(samples, EncodeConditionsd(FITTED)), batch_size=4)
    (batch,) = loader
    assert batch["conditions"].shape == (4, 5)
    assert batch["conditions"].dtype == torch.float32
    save = SaveSettingsd(tmp_path, {}, {})
    for sample in decollate_batch(batch):
        save(sample)
    written = [json.loads((tmp_path / f"sample_00{i}.json").read_text())["condition_values"] for i in (1, 2)]
    assert written == [{"Age": "70.5", "Sex": "F"}, {"Sex": "F"}]
    listed = {"output_dir": tmp_path, "settings": {}}
    assert sample_list(4, 1, conditions=asked, **listed) == []
    for other in ({"Age": [21]}, None):
        with pytest.raises(
            ValueError, match=r"sample_001.json is from a sample with other settings \(condition_values"
        ):
            sample_list(4, 1, conditions=asked_conditions(other, FITTED), **listed)


def test_samples_take_the_values_of_cases_where_none_are_given():
    cases = items("a", "b", "c", Age=AGES, Sex=SEX, Site=SITE)
    assert asked_conditions(None, FITTED[:2], 2.0, cases) == {"Age": ["20", "70.5", ""], "Sex": ["M", "F", "F"]}
    assert asked_conditions({"Age": 30}, FITTED[:2], 2.0, cases) == {"Age": ["30"], "Sex": [""]}
    assert asked_conditions(None, FITTED, 1.0, [{"subject": "a"}]) == asked_conditions(None, None) == {}
    assert asked_conditions({"51": 3000, 52: 7}, [{**FITTED[0], "name": n, "max": 1e4, "min": 0} for n in ("51", "52")])


def test_values_outside_the_range_of_training_are_one_warning(caplog):
    asked_conditions({"Age": [19, 20, 70.5, 71], "Sex": "F"}, FITTED)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Age=19 (trained on 20 to 70.5), Age=71 (trained on 20 to 70.5)" in record.getMessage()


@pytest.mark.parametrize(
    ("values", "conditions", "scale", "match"),
    [
        ({"Agee": 3}, FITTED, 1, r"has 'Agee', but the network was trained with Age \(20 to 70.5\), Sex \(F or M\)"),
        ({"Sex": "X"}, FITTED, 1, r"has Sex='X', but the network was trained with .*Sex \(F or M\)"),
        ({"Age": "old"}, FITTED, 1, r"has Age='old', which is no number; the network was trained with Age \(20 to 70"),
        ("Age=3", FITTED, 1, r"condition_values='Age=3' is no set of names and values; write --condition_values"),
        ({"Age": 3}, None, 1, "the network was trained without conditions; leave it out, or train with --conditions"),
        (None, FITTED, 2, r"guidance_scale=2 has nothing to guide by: give values of Age \(20 to 70.5\)"),
        ({"Age": None}, FITTED, 2, "has nothing to guide by"),
        (None, None, 2, "trained without conditions; classes can be guided by as a column of words of --conditions"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(values, conditions, scale, match):
    with pytest.raises(ValueError, match=match):
        asked_conditions(values, conditions, scale)


@pytest.mark.parametrize("scale", [-1, float("nan"), float("inf"), "strong", None, True])
@pytest.mark.parametrize("values", [None, {"Age": 70}])
def test_a_scale_of_guidance_is_a_number_from_0_on(scale, values):
    trained = [{"name": "Age", "mean": 50.0, "sd": 10.0, "min": 20.0, "max": 80.0}]
    with pytest.raises(ValueError, match=re.escape(f"guidance_scale={scale!r}; choose 0 (ignores the conditions)")):
        asked_conditions(values, trained, scale)
