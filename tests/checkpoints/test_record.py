"""A record travels with the weights, is checked when they are loaded, and protects models trained on data."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from monai_idm.checkpoints import PHANTOM, RunRecord, TrainingSplit, read_record

CONVENTION = {"network_range": [-1.0, 1.0], "prediction_type": "v_prediction"}


def recorded(seed=None, **settings):
    """The record of a run that has one part, with these settings."""
    return RunRecord(parts=[SimpleNamespace(settings=settings)], seed=seed)


def save(file, data=PHANTOM, key=None):
    record = recorded(**CONVENTION, seed=7)
    record.describe_data(data, 12, (32, 32, 32), 2.5)
    weights = record.sign(nn.Linear(2, 3)).state_dict()
    torch.save(weights if key is None else {key: weights, "trainer": {"epoch": 1}}, file)
    return record


@pytest.mark.parametrize("key", [None, "network"])
def test_the_record_is_read_back_beside_bare_weights(tmp_path, key):
    record = save(tmp_path / "model.pt", key=key)
    assert read_record(tmp_path / "model.pt") == record.content
    assert record.content["data"] == {
        "source": PHANTOM,
        "num_cases": 12,
        "spatial_size": [32, 32, 32],
        "spacing_mm": 2.5,
    }
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    nn.Linear(2, 3).load_state_dict(content if key is None else content[key])  # loaders ignore the record


def test_weights_without_a_record_have_none(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    assert read_record(tmp_path / "model.pt") is None


def test_loading_under_another_convention_is_refused_by_name(tmp_path):
    save(tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    same = recorded(**CONVENTION)
    same.sign(nn.Linear(2, 3)).load_state_dict(state)
    assert same.loaded is not None
    assert same.loaded["data"]["spacing_mm"] == 2.5
    other = recorded(**{**CONVENTION, "prediction_type": "epsilon"}).sign(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="prediction_type: v_prediction in the checkpoint, epsilon here"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="with other settings"):
        nn.Sequential(other).load_state_dict(nn.Sequential(same.sign(nn.Linear(2, 3))).state_dict())


def test_a_signed_network_can_be_copied():
    network = recorded(**CONVENTION).sign(nn.Linear(2, 3))
    copy.deepcopy(network).load_state_dict(network.state_dict())


def test_phantoms_do_not_replace_a_model_of_data(tmp_path):
    save(tmp_path / "data.pt", data="BraTS2020")
    save(tmp_path / "phantom.pt")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "foreign.pt")
    phantoms, data = recorded(**CONVENTION), recorded(**CONVENTION)
    phantoms.describe_data(PHANTOM, 3, (8, 8, 8), 1.0)
    data.describe_data("BraTS2021", 3, (8, 8, 8), 1.0)
    with pytest.raises(FileExistsError, match="12 cases of BraTS2020"):
        phantoms.refuse_to_replace(tmp_path / "data.pt")
    with pytest.raises(FileExistsError, match="unknown data"):
        phantoms.refuse_to_replace(tmp_path / "foreign.pt")
    phantoms.refuse_to_replace(tmp_path / "phantom.pt")
    phantoms.refuse_to_replace(tmp_path / "absent.pt")
    data.refuse_to_replace(tmp_path / "data.pt")


SPLIT = {
    "training": [("Ann_1", "Ann"), ("Bob_1", "Bob"), ("Eve_1", "Eve")],
    "validation": [("Dan_1", "Dan"), ("Dan_2", "Dan")],
    "test": [("Fay_1", "Fay")],
}


def network(*splits):
    """A network trained on one split after the other, and the record of the last run."""
    linear, record = nn.Linear(2, 3), None
    for split in splits:
        before = linear.state_dict()
        record = recorded(**CONVENTION)
        linear = record.sign(nn.Linear(2, 3))
        linear.load_state_dict(before)
        record.describe_data("BraTS2020", 3, (8, 8, 8), 1.0, split)
    return linear, record


def read(linear):
    return linear.state_dict()._metadata[""]["record"]


def test_weights_record_their_cases_without_their_names():
    record = read(network(SPLIT)[0])
    known = TrainingSplit.of(record)
    for part, cases in SPLIT.items():
        for subject, _ in cases:
            assert [name for name in SPLIT if known.has(name, subject)] == [part]
    assert known.trained_on(("Ann_1", "Ann"))
    assert known.trained_on(("Ann_2", "Ann"))  # another scan of Ann
    assert not known.trained_on(("Dan_1", "Dan"))
    assert not known.trained_on(("Gil_1", "Gil"))
    text = str(record)
    assert not any(name in text for cases in SPLIT.values() for case in cases for name in case)
    assert read(network(SPLIT)[0]) == record  # the same in every process, and in a resumed run


def test_weights_that_are_trained_further_remember_their_earlier_cases():
    other = {"training": [("Gil_1", "Gil")], "validation": [], "test": [("Ann_1", "Ann")]}
    third = {"training": [("Hal_1", "Hal")], "validation": [], "test": []}
    known = TrainingSplit.of(read(network(SPLIT, other, third)[0]))
    assert all(known.trained_on(case) for case in (("Ann_1", "Ann"), ("Gil_1", "Gil"), ("Hal_1", "Hal")))
    assert known.has("training", "Hal_1")
    assert not known.has("training", "Gil_1")
    assert not known.trained_on(("Fay_1", "Fay"))


def test_a_run_is_resumed_only_with_the_cases_it_had(tmp_path):
    linear, _ = network(SPLIT)
    for cases, parts in (
        (SPLIT, None),
        ({**SPLIT, "test": []}, "in test"),
        ({**SPLIT, "training": SPLIT["training"] + SPLIT["test"], "test": []}, "in training, test"),
        ({**SPLIT, "validation": SPLIT["validation"][:1]}, "in validation"),
    ):
        record = recorded(**CONVENTION)
        record.describe_data("BraTS2020", 3, (8, 8, 8), 1.0, cases)
        record.sign(nn.Linear(2, 3)).load_state_dict(linear.state_dict())
        if parts is None:
            record.require_same_cases()
        else:
            with pytest.raises(ValueError, match=rf"cases other than the current ones \({parts}\); .*--datalist_file"):
                record.require_same_cases()


def test_older_records_have_no_cases(tmp_path):
    save(tmp_path / "model.pt")
    assert TrainingSplit.of(read_record(tmp_path / "model.pt")) is None
    assert TrainingSplit.of(None) is None


WHOLE = CONVENTION | {"zoom": True, "window_percentiles": [0.5, 99.5], "label_map": "brats2020", "coordinates": True}


@pytest.mark.parametrize(
    ("knob", "value"),
    [("zoom", False), ("label_map", "brats2023"), ("window_percentiles", [0, 100]), ("coordinates", False)],
)
def test_preprocessing_and_labels_have_to_be_those_of_the_training(knob, value):
    state = recorded(**WHOLE | {knob: value}).sign(nn.Linear(2, 3)).state_dict()
    with pytest.raises(ValueError, match=re.escape(f"{knob}: {value} in the checkpoint, {WHOLE[knob]} here")):
        recorded(**WHOLE).sign(nn.Linear(2, 3)).load_state_dict(state)


def test_weights_of_another_task_are_refused():
    state = recorded(**WHOLE, regions=["whole"]).sign(nn.Linear(2, 3)).state_dict()
    with pytest.raises(ValueError, match=r"regions: \['whole'\] in the checkpoint, nothing here"):
        recorded(**CONVENTION).sign(nn.Linear(2, 3)).load_state_dict(state)


def test_settings_that_came_later_have_the_value_of_before():
    state = recorded(**CONVENTION).sign(nn.Linear(2, 3)).state_dict()
    recorded(**CONVENTION, noise_shift=1.0, numeric_conditions=None).sign(nn.Linear(2, 3)).load_state_dict(state)
    with pytest.raises(ValueError, match=re.escape("noise_shift: 1.0 in the checkpoint, 2.0 here")):
        recorded(**CONVENTION, noise_shift=2.0).sign(nn.Linear(2, 3)).load_state_dict(state)
    sexes = [{"name": "Sex", "words": ["F", "M"]}]
    with pytest.raises(ValueError, match=r"numeric_conditions: None in the checkpoint, \[\{'name': 'Sex'"):
        recorded(**CONVENTION, numeric_conditions=sexes).sign(nn.Linear(2, 3)).load_state_dict(state)


def test_settings_that_older_weights_lack_are_logged(caplog):
    state = recorded(**CONVENTION).sign(nn.Linear(2, 3)).state_dict()
    linear = recorded(**WHOLE).sign(nn.Linear(2, 3))
    for _ in range(2):
        linear.load_state_dict(state)
    assert caplog.text.count("which did not record the values of these knobs") == 1
    assert "zoom=True, window_percentiles=[0.5, 99.5], label_map=brats2020, coordinates=True" in caplog.text


@pytest.mark.parametrize(
    ("zoom", "coordinates", "free"), [(True, False, False), (False, False, True), (False, True, False)]
)
def test_the_grid_must_be_that_of_training_if_the_result_depends_on_it(zoom, coordinates, free):
    convention = CONVENTION | {"zoom": zoom, "coordinates": coordinates}
    trained = recorded(**convention)
    trained.describe_data(PHANTOM, 3, (8, 8, 8), 1.0)
    state = trained.sign(nn.Linear(2, 3)).state_dict()
    recorded(**convention, spatial_size=[8, 8, 8]).sign(nn.Linear(2, 3)).load_state_dict(state)
    recorded(**convention).sign(nn.Linear(2, 3)).load_state_dict(state)  # samples may have any size
    larger = recorded(**convention, spatial_size=[16, 16, 16]).sign(nn.Linear(2, 3))
    if free:
        larger.load_state_dict(state)
    else:
        with pytest.raises(ValueError, match=r"spatial_size: \[8, 8, 8\] in the checkpoint, \[16, 16, 16\] here"):
            larger.load_state_dict(state)


def test_the_convention_is_the_settings_of_the_task_and_the_parts():
    task = SimpleNamespace(name="segmentation", settings={"regions": ["whole"]})
    parts = [SimpleNamespace(settings={"schedule": "cosine"}), SimpleNamespace(settings={"spatial_size": [8, 8, 8]})]
    record = RunRecord(task, parts, seed=3)
    assert record.content["task"] == "segmentation"
    assert record.content["convention"] == {"regions": ["whole"], "schedule": "cosine"}
    assert record.spatial_size == [8, 8, 8]  # not in the convention: not every network depends on the grid
    assert record.content["seed"] == 3
    assert "task" not in RunRecord().content
