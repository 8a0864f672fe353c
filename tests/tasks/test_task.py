"""Laws that every task must obey, one table of cases."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from monai_idm.checkpoints import RunRecord
from monai_idm.data.label_maps import LABEL_MAPS
from monai_idm.data.regions import REGIONS
from monai_idm.tasks import ChooseKnownd, Generation, Segmentation, Synthesis, Task, predicted_channels, task_named
from monai_idm.tasks.segmentation import REGION_TITLES
from monai_idm.tasks.task import setting_names
from monai_idm.trained import TrainedModel

SIZE = (4, 6, 4)
NAMES = ["t1", "t1ce", "flair"]


def volumes(channels, seed=0):
    return torch.randn(2, channels, *SIZE, generator=torch.Generator().manual_seed(seed))


def known(*chosen):
    items = [ChooseKnownd("image", NAMES, names)({"image": x}) for names, x in zip(chosen, volumes(3), strict=True)]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "target")}


MASKS = (volumes(2, seed=1) > 0).float()
ONE_MASK = MASKS[:, :1]
CASES: dict[str, tuple[Task, dict[str, Tensor]]] = {
    "generation": (Generation(["t1", "t2"]), {"image": volumes(2)}),
    "generation of a contrast of one's own": (Generation(["swi"]), {"image": volumes(1)}),
    "generation of ages": (
        Generation(
            NAMES,
            numeric_conditions=[
                {"name": "Age", "mean": 48.0, "sd": 16.0, "min": 20.0, "max": 86.0},
                {"name": "Site", "words": ["Guys", "HH", "IOP"]},
            ],
        ),
        {"image": volumes(3)},
    ),
    "generation of classes": (
        Generation(NAMES, classes=["HGG", "LGG"]), {"image": volumes(3), "class_label": torch.tensor([1, 0])}
    ),
    "segmentation": (Segmentation(NAMES, ["whole", "core"]), {"image": volumes(6), "label": MASKS}),
    "segmentation without coordinates": (
        Segmentation(["flair"], ["lesion"], {"lesion": 1}, coordinates=False), {"image": volumes(1), "label": ONE_MASK}
    ),
    "synthesis of one": (Synthesis(NAMES, ["t1", "flair"]), known(*[["t1", "flair"]] * 2)),
    "synthesis of any": (Synthesis(NAMES), known(["t1"], ["flair", "t1ce"])),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


class Watched(nn.Module):
    """Predicts a function of its arguments, and records them."""

    def __init__(self, channels):
        super().__init__()
        self.channels, self.seen = channels, []

    def forward(self, x, timesteps, context=None, class_labels=None):
        self.seen.append({"x": x, "timesteps": timesteps, "class_labels": class_labels})
        return torch.tanh(x[:, : self.channels] + x[:, -1:] + timesteps.view(-1, 1, 1, 1, 1) / 100)


def noisy(task):
    return volumes(len(task.drawn), seed=5)


def test_its_settings_make_it_again(case):
    task, _ = case
    twin = type(task)(**task.settings)
    assert twin.settings == task.settings
    assert (twin.inputs, twin.drawn, twin.num_classes) == (task.inputs, task.drawn, task.num_classes)
    assert len(twin.condition_names) == len(task.condition_names) == 4 * bool(task.numeric_conditions)
    assert json.loads(json.dumps(task.settings)) == task.settings  # plain types, as the record of the weights needs
    assert list(task.settings) == setting_names(type(task))


def test_its_weights_make_it_again(case, tmp_path):
    task, _ = case
    torch.save(RunRecord(task).sign(nn.Linear(1, 1)).state_dict(), tmp_path / "model.pt")
    found = TrainedModel(tmp_path / "model.pt", task.name).task
    assert type(found) is type(task) is task_named(task.name)
    assert found.settings == task.settings


def test_it_has_defaults_for_its_settings_and_words_for_people(case):
    task, _ = case
    assert {*setting_names(type(task))} <= {*task.defaults}
    assert type(task)(**{name: task.defaults[name] for name in setting_names(type(task))}).drawn
    assert all(text and not text.endswith(".") for text in (task.name, task.title, task.description))
    assert task.label_classes


def test_the_channels_that_it_names_are_those_of_its_tensors(case):
    task, batch = case
    x0, c, x_t = task.image(batch), task.condition(batch), noisy(task)
    assert x0.shape == x_t.shape == (2, len(task.drawn), *SIZE)
    packed = task.pack(x_t, c)
    assert packed["x"].shape == (2, len(task.inputs), *SIZE)
    assert len({*task.inputs}) == len(task.inputs)
    assert len(predicted_channels(task, "v_prediction")) == len(task.drawn)
    weight = task.weight(c)
    assert weight is None or (weight.shape == x0.shape and {*weight.unique().tolist()} <= {0.0, 1.0})
    own = packed.keys() - {"x"}
    assert own <= {"class_labels"}
    if own:
        assert packed["class_labels"].dtype == torch.long
        assert 0 <= packed["class_labels"].min() <= packed["class_labels"].max() < task.num_classes


def test_the_noise_is_seen_where_something_has_to_be_predicted_and_nowhere_else(case):
    task, batch = case
    c, x_t = task.condition(batch), noisy(task)
    weight = task.weight(c)
    one, other = (task.pack(x, c)["x"] for x in (x_t, x_t + 1))
    changed = (one != other)[:, : len(task.drawn)]
    assert torch.equal(changed, torch.ones_like(x_t, dtype=torch.bool) if weight is None else weight > 0)
    assert torch.equal(one[:, len(task.drawn) :], other[:, len(task.drawn) :])  # the channels of the condition


def test_under_condition_is_pack_and_weight_by_hand(case):
    task, batch = case
    c, x_t, t = task.condition(batch), noisy(task), torch.tensor([3, 70])
    packed, weight = task.pack(x_t, c), task.weight(c)
    expected = Watched(len(task.drawn))(**packed, timesteps=t)
    network = Watched(len(task.drawn))
    found = task.under_condition(network)(x_t if c is None else torch.cat([x_t, c], 1), timesteps=t)
    assert torch.equal(found, expected if weight is None else expected * weight)
    (seen,) = network.seen
    assert torch.equal(seen["x"], packed["x"])
    assert torch.equal(seen["timesteps"], t)
    assert (seen["class_labels"] is None) == ("class_labels" not in packed)
    if "class_labels" in packed:
        assert torch.equal(seen["class_labels"], packed["class_labels"])


def test_draws_are_finished_and_combined_case_by_case(case):
    task, batch = case
    c = task.condition(batch)
    draws = torch.stack([volumes(len(task.drawn), seed) for seed in (7, 8, 9)], 1)
    finished = task.finished(draws, c)
    assert finished.shape == draws.shape
    assert task.combined(finished).shape == draws[:, 0].shape
    alone = task.finished(draws[1:, :1], None if c is None else c[1:])
    assert torch.equal(alone, finished[1:, :1])
    weight = task.weight(c)
    if weight is not None:
        keep = (weight == 0)[:, None].expand_as(finished)
        assert torch.equal(finished[keep], task.image(batch)[:, None].expand_as(finished)[keep])  # what was known
        assert torch.equal(finished[~keep], draws[~keep])


def test_a_setting_is_accepted_where_it_is_the_training_s(case):
    task, _ = case
    for name, value in task.settings.items():
        assert task.accepts(name, value, value)
        assert not task.accepts(name, ["trained"], ["given"])
    assert Synthesis.accepts("known", None, ["t1"])
    assert not Synthesis.accepts("known", ["t1"], None)
    assert not Generation.accepts("classes", None, ["HGG"])


@pytest.mark.parametrize(
    ("prediction_type", "expected"), [("v_prediction", "velocity of T1"), ("epsilon", "noise of T1"), ("sample", "T1")]
)
def test_what_is_predicted_has_a_name(prediction_type, expected):
    assert predicted_channels(Generation(["t1"]), prediction_type) == [expected]


def test_every_region_has_a_title():
    assert REGION_TITLES.keys() == REGIONS.keys()
    assert len({*REGION_TITLES.values()}) == len(REGION_TITLES)
    for region in REGIONS:
        assert Segmentation([], [region]).drawn == [REGION_TITLES[region]]
    assert "brats2020" in LABEL_MAPS  # the default


def test_a_name_that_no_task_has_is_refused():
    with pytest.raises(ValueError, match=r"task 'denoising' is not known, only generation, .*imports: in the config"):
        task_named("denoising")
