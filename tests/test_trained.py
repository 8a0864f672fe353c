"""Settings that weights record win; for others the given value counts, and then the defaults of training."""

from __future__ import annotations

import re

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from idm_bundle.studies.configs import SMALLEST, configured
from monai_idm.checkpoints import DamagedFile, RunRecord, fingerprint, read_weights
from monai_idm.data import BrainToGridd
from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.schedulers import StridedDDPMScheduler, StridedHeunScheduler
from monai_idm.tasks import Generation, Segmentation, Synthesis
from monai_idm.trained import TrainedModel, task_of
from tests.bundle.workspace import CONFIGS
from tests.reversible.chains import disturb

SMALL = {name: value for name, value in SMALLEST.items() if name.startswith("network_def")}
TASKS = {
    "generation": [],
    "segmentation": ["segmentation"],
    "synthesis": ["synthesis"],
    "inpainting": ["inpainting"],
    "semantic": ["semantic"],
    "super_resolution": ["super_resolution"],
}
GENERATION, SEGMENTATION = Generation(["t1", "t2"]), Segmentation(["t1"], ["whole"])
ONE, ANY = Synthesis(["t1", "t2"], ["t1"]), Synthesis(["t1", "t2", "flair"])


def save(folder, task, network=None, older=False, scheduler=None, **grid):
    """A model.pt of a training with these settings, 16^3 voxels of 2.5 mm; if ``older``, as version 0.1.0 wrote it."""
    parts = [StridedDDPMScheduler(**(scheduler or {})), BrainToGridd("image", **{"spatial_size": 16, **grid})]
    record = RunRecord(task, parts, seed=7)
    record.describe_data("phantom", 3, record.spatial_size, 2.5)
    if older:
        for name in ("zoom", "window_percentiles", "label_map", "coordinates"):
            record.content["convention"].pop(name, None)
        del record.content["task"]
        record.content["versions"] = {"monai_idm": "0.1.0"}
    torch.save(record.sign(network or nn.Linear(1, 1)).state_dict(), folder / "model.pt")
    return folder / "model.pt"


def small(**arguments):
    arguments = {name.partition("#")[2]: value for name, value in SMALL.items()} | arguments
    return InvertibleDiffusionUNet(**{"spatial_dims": 3, "in_channels": 2, "out_channels": 2, **arguments})


# arguments of save; a setting that the weights then record; its value; another value, and both as an error shows them
RECORDED = {
    "modalities": ({"task": Generation(["t2"])}, "modalities", ["t2"], ["t1"], "['t2']", "['t1']"),
    "classes": ({"task": Generation(["t1"], ["a", "b"])}, "classes", ["a", "b"], None, "['a', 'b']", "None"),
    "network_range": ({"network_range": (0, 1)}, "network_range", [0, 1], [-1, 1], "[0, 1]", "[-1, 1]"),
    "zoom": ({"zoom": False}, "zoom", False, True, "False", "True"),
    "window": ({"window_percentiles": (1, 99)}, "window_percentiles", [1, 99], [0, 100], "[1, 99]", "[0, 100]"),
    "timesteps": ({"scheduler": {"num_train_timesteps": 10}}, "num_train_timesteps", 10, 2000, "10", "2000"),
    "schedule": ({"scheduler": {"schedule": "cosine"}}, "schedule", "cosine", "linear_beta", "cosine", "linear_beta"),
    "prediction": ({"scheduler": {"prediction_type": "sample"}}, "prediction_type", "sample", "epsilon", "sample",
                   "epsilon"),
    "terminal SNR": ({"scheduler": {"prediction_type": "sample", "zero_terminal_snr": True}}, "zero_terminal_snr", True,
                     False, "True", "False"),
    "grid": ({}, "spatial_size", [16, 16, 16], [8, 8, 8], "[16, 16, 16]", "[8, 8, 8]"),
    "stride": ({"network": lambda: small(bookend_stride=2)}, "bookend_stride", 2, 1, "2", "1"),
    "preset": ({"network": small}, "preset", None, "light", "a network of channels=[16, 32]", "light"),
    "regions": ({"task": SEGMENTATION}, "regions", ["whole"], ["core"], "['whole']", "['core']"),
    "label map": ({"task": SEGMENTATION}, "label_map", "brats2020", {"lesion": 1}, "brats2020", "{'lesion': 1}"),
    "coordinates": ({"task": SEGMENTATION}, "coordinates", True, False, "True", "False"),
    "known": ({"task": ONE}, "known", ["t1"], ["t2"], "['t1']", "['t2']"),
    "known, of any": ({"task": ONE}, "known", ["t1"], None, "['t1']", "None"),
}  # fmt: skip


@pytest.fixture(params=RECORDED)
def recorded(request, tmp_path):
    options, *rest = RECORDED[request.param]
    options = {"task": GENERATION, **options}
    if "network" in options:
        options["network"] = options["network"]()
    return TrainedModel(save(tmp_path, **options), options["task"].name), *rest


def test_what_weights_record_wins(recorded):
    trained, name, value, *_ = recorded
    if name == "preset":
        value = {**small().arguments, "inverse_head": False}
    assert trained[name] == value
    assert trained.reconcile({})[name] == value
    assert trained.reconcile({name: value})[name] == value
    assert trained[name] == value


def test_what_contradicts_the_weights_is_refused_with_both_values(recorded):
    trained, name, _, other, theirs, ours = recorded
    message = re.escape(
        f"{trained.file} was trained with other settings ({name}: {theirs} in the checkpoint, {ours} here)"
    )
    with pytest.raises(ValueError, match=f"{message}; leave these knobs out.* --ckpt_file"):
        trained.reconcile({name: other, "seed": 3})


def test_every_setting_that_contradicts_is_named(tmp_path):
    trained = TrainedModel(save(tmp_path, GENERATION), "generation")
    with pytest.raises(ValueError, match=r"\(zoom: True in .*, False here; schedule: linear_beta in .*, cosine here\)"):
        trained.reconcile({"zoom": False, "prediction_type": "epsilon", "schedule": "cosine"})


def test_a_preset_may_be_given_by_its_name_and_stays_what_the_weights_record(tmp_path):
    network = InvertibleDiffusionUNet.from_preset("light")
    trained = TrainedModel(save(tmp_path, GENERATION, network), "generation")
    arguments = trained["preset"]
    assert arguments == network.arguments
    assert trained.reconcile({"preset": "light"})["preset"] == arguments
    assert trained.reconcile({"preset": dict(arguments)})["preset"] == arguments
    with pytest.raises(ValueError, match="preset: light in the checkpoint, base here"):
        trained.reconcile({"preset": "base"})


def test_free_settings_are_the_run_s_where_it_gives_them(tmp_path):
    file = save(tmp_path, GENERATION)
    assert TrainedModel(file, "generation", free=["spatial_size"]).reconcile({})["spatial_size"] == [16, 16, 16]
    free = TrainedModel(file, "generation", free=["spatial_size"])
    assert free.reconcile({"spatial_size": [8, 8, 8]})["spatial_size"] == [8, 8, 8]
    with pytest.raises(ValueError, match="zoom: True in the checkpoint, False here"):
        free.reconcile({"spatial_size": [8, 8, 8], "zoom": False})


@pytest.mark.parametrize(
    ("task", "zoom", "free"),
    [
        (GENERATION, True, False),
        (GENERATION, False, True),
        (Segmentation(["t1"], ["whole"], coordinates=False), False, True),
        (Segmentation(["t1"], ["whole"], coordinates=True), False, False),  # the network gets coordinates of the grid
    ],
)
def test_the_grid_is_free_where_a_voxel_does_not_depend_on_it(task, zoom, free, tmp_path):
    trained = TrainedModel(save(tmp_path, task, zoom=zoom), task.name)
    if free:
        assert trained.reconcile({"spatial_size": [32, 32, 8]})["spatial_size"] == [32, 32, 8]
        assert trained.to_grid("image").settings["spatial_size"] == [32, 32, 8]
    else:
        with pytest.raises(ValueError, match=r"spatial_size: \[16, 16, 16\] in the checkpoint, \[32, 32, 8\] here"):
            trained.reconcile({"spatial_size": [32, 32, 8]})


def test_a_network_for_any_known_contrasts_accepts_those_that_are_given(tmp_path):
    file = save(tmp_path, ANY)
    assert TrainedModel(file, "synthesis").reconcile({})["known"] is None
    for known in (["t1"], ["flair", "t2"]):
        assert TrainedModel(file, "synthesis").reconcile({"known": known})["known"] == known


@pytest.mark.parametrize("file", ["absent", "bare", "a network's"])
@pytest.mark.parametrize("task", TASKS)
def test_before_weights_record_anything_defaults_and_given_values_are_used(file, task, tmp_path, caplog):
    if file != "absent":
        torch.save((nn.Linear(1, 1) if file == "bare" else small()).state_dict(), tmp_path / "model.pt")
    untrained = {"spatial_size": [8, 8, 8], "zoom": False}
    trained = TrainedModel(tmp_path / "model.pt", task, untrained)
    assert trained.defaults == {**TrainedModel(tmp_path / "absent", task).defaults, **untrained}
    for name, value in trained.defaults.items():
        if file != "a network's" or name != "preset":
            assert trained[name] == value
    given = {"schedule": "linear_beta", "modalities": ["flair"], "spatial_size": [4, 4, 4]}
    agreed = trained.reconcile(given)
    assert {**agreed, **given} == agreed
    assert [trained[name] for name in given] == [*given.values()]
    assert trained.task.modalities == ["flair"]
    assert trained["zoom"] is False
    assert trained.spacing_mm == 1
    assert trained.record == {}
    assert "did not record" not in caplog.text
    with pytest.raises(KeyError):
        trained["no_such_setting"]
    if file == "a network's":
        assert trained["preset"]["channels"] == [16, 32]
        with pytest.raises(ValueError, match=r"preset: a network of channels=\[16, 32\] in the checkpoint, base here"):
            trained.reconcile({"preset": "base"})


@pytest.mark.parametrize("task", TASKS)
def test_before_there_are_weights_the_network_is_that_of_a_training(task, tmp_path):
    trained = TrainedModel(tmp_path / "absent.pt", task)
    own = {"classes": ["HGG", "LGG"]} if task == "generation" else {"modalities": ["t1", "t2", "flair"]}
    trained.reconcile({**own, "bookend_stride": 2})
    theirs = configured({"device": "cpu", **own, "bookend_stride": 2}, *TASKS[task]).get_parsed_content("network_def")
    assert trained.network().arguments == theirs.arguments
    assert (theirs.num_class_embeds is None) == (task not in ("generation", "synthesis"))


@pytest.mark.parametrize("task", [GENERATION, SEGMENTATION, ONE], ids=lambda task: task.name)
def test_weights_of_version_0_1_0_give_the_settings_they_record(task, tmp_path, caplog):
    file = save(tmp_path, task, older=True, zoom=False, network_range=(0, 1))
    trained = TrainedModel(file, task.name)
    assert task_of(trained.record) is type(task)
    assert trained["network_range"] == [0, 1]
    assert trained["spatial_size"] == [16, 16, 16]
    assert trained["zoom"] is True  # not recorded
    unsaid = {"zoom": False, "window_percentiles": [1, 99]}
    if task is SEGMENTATION:
        unsaid |= {"label_map": "decathlon", "coordinates": False}
        assert (trained["label_map"], trained["coordinates"]) == ("brats2020", True)
    assert {**trained.reconcile(unsaid), **unsaid} == trained.reconcile(unsaid)
    assert {name: trained[name] for name in unsaid} == unsaid
    assert "written by version 0.1.0, which did not record" in caplog.text
    assert all(f"{name}={value}" in caplog.text for name, value in unsaid.items())
    with pytest.raises(ValueError, match=r"modalities: .* in the checkpoint, .* here"):
        trained.reconcile({**unsaid, "modalities": ["pd"]})
    with pytest.raises(ValueError, match=r"network_range: \[0, 1\] in the checkpoint, \[-1, 1\] here"):
        trained.reconcile({"network_range": [-1, 1]})


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("task", [GENERATION, SEGMENTATION, ONE, ANY], ids=["generation", "segmentation", "one", "any"])
def test_weights_of_another_task_are_refused(task, older, tmp_path):
    file = save(tmp_path, task, older=older)
    for name in TASKS:
        if name == task.name:
            assert TrainedModel(file, name).task.settings == task.settings
        else:
            with pytest.raises(ValueError, match=rf"weights for {task.name}, but this config is for {name};"):
                TrainedModel(file, name)


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task 'denoising' is not known, only .*generation.*imports:"):
        TrainedModel(tmp_path / "absent.pt", "denoising")


def test_a_damaged_file_is_not_taken_for_an_absent_one(tmp_path):
    (tmp_path / "model.pt").write_bytes(save(tmp_path, GENERATION).read_bytes()[:-40])
    with pytest.raises(DamagedFile):
        TrainedModel(tmp_path / "model.pt", "generation")


def test_a_file_has_a_fingerprint_and_a_voxel_size(tmp_path):
    trained = TrainedModel(save(tmp_path, GENERATION), "generation")
    assert trained.spacing_mm == 2.5
    assert trained.sha256 == fingerprint(trained.file) != TrainedModel(tmp_path / "absent", "generation").sha256 is None
    assert trained.record["seed"] == 7


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("generation", {}),
        ("generation", {"bookend_stride": 2, "modalities": ["t2"]}),
        ("generation", {"classes": ["HGG", "LGG"], "class_file": "any.csv"}),
        ("generation", {"numeric_conditions": [{"name": "Site", "words": ["Guys", "HH", "IOP"]}]}),
        ("generation", {"lambda_r": 0.1, "modalities": ["t1", "t2", "flair"]}),
        ("generation", {"network_def#channels": [16, 32, 64], "network_def#attention_levels": [False] * 3}),
        ("generation", {"network_def#bookends": False, "network_def#num_res_blocks": [1, 2]}),
        ("segmentation", {}),
        ("segmentation", {"coordinates": False, "regions": ["core", "whole"], "bookend_stride": 2}),
        ("segmentation", {"modalities": ["flair"], "label_map": {"oedema": 9}, "lambda_r": 0.1}),
        ("synthesis", {}),
        ("synthesis", {"modalities": ["t1", "t2", "flair"], "known": None, "lambda_r": 0.1}),
    ],
    ids=str,
)
def test_the_network_and_the_task_are_those_of_the_training(task, changes, tmp_path):
    config = configured({"device": "cpu", "spatial_size": [16, 16, 16], **SMALL, **changes}, *TASKS[task])
    network, theirs = disturb(config.get_parsed_content("network")), config.get_parsed_content("task")
    file = tmp_path / "model.pt"
    torch.save(network.state_dict(), file)
    trained = TrainedModel(file, task)
    found = trained.network(precision="float32", activations="stored")
    found.load_state_dict(read_weights(file)[0])
    assert found.activations == "stored"
    assert found.inverse_head is None  # no prediction uses it
    x, t = torch.randn(2, len(theirs.inputs), 8, 8, 8), torch.tensor([3, 900])
    classes = {} if theirs.num_classes is None else {"class_labels": torch.tensor([0, 1])}
    classes |= {"conditions": torch.tensor([[1.0, -1.0, torch.nan]] * 2)} if theirs.condition_names else {}
    torch.testing.assert_close(found(x, t, **classes), network(x, t, **classes))
    assert trained.task.settings == theirs.settings
    assert (trained.task.inputs, trained.task.drawn) == (theirs.inputs, theirs.drawn)


def test_sampler_inferer_and_preprocessing_are_those_of_the_training(tmp_path):
    scheduler = {"num_train_timesteps": 40, "schedule": "cosine", "prediction_type": "sample"}
    scheduler |= {"zero_terminal_snr": True, "noise_shift": 2.0}
    grid = {"network_range": (-2, 3), "zoom": False, "window_percentiles": (1, 99)}
    trained = TrainedModel(save(tmp_path, ANY, scheduler=scheduler, **grid), "synthesis")
    for sampler in (trained.sampler("StridedHeunScheduler", 5), trained.sampler("any", None, "fixed_large")):
        assert sampler.settings == scheduler
        assert sampler.clip_sample_values == (-2, 3)
        training = InvertibleDiffusionInferer(StridedDDPMScheduler(**scheduler)).scheduler
        assert torch.equal(sampler.alphas_cumprod, training.alphas_cumprod)
    few, every = trained.sampler("StridedHeunScheduler", 5), trained.sampler("any", None, "fixed_large")
    assert (type(few), few.num_inference_steps) == (StridedHeunScheduler, 5)
    assert (type(every), every.num_inference_steps, every.variance_type) == (StridedDDPMScheduler, 40, "fixed_large")
    inferer = trained.inferer("StridedHeunScheduler", 5, num_draws=3, window=[8, 8, 8], seed=9)
    assert inferer.task.settings == ANY.settings
    assert inferer.scheduler.settings == scheduler
    assert (inferer.num_draws, inferer.window.roi_size, inferer.seed) == (3, [8, 8, 8], 9)
    to_grid = trained.to_grid("image", mask_mode="trilinear")
    assert to_grid.settings == BrainToGridd("image", 16, **grid).settings
    assert to_grid.steps[4].mode == ("trilinear", "trilinear")


@pytest.mark.parametrize("task", TASKS)
def test_defaults_are_the_knobs_of_the_configs(task):
    config = configured({}, *TASKS[task])
    defaults = dict(TrainedModel("absent.pt", task).defaults)
    assert defaults.pop("spatial_size") is None  # unknown before training: the demo's or another
    assert {name: config.get_parsed_content(name) for name in defaults} == defaults
    record = config.get_parsed_content("record")
    assert {*record.content["convention"], "preset", "bookend_stride"} == {*defaults}


@pytest.mark.parametrize("file", [f"inference{task}.yaml" for task in ("", *(f"_{name}" for name in list(TASKS)[1:]))])
def test_what_weights_decide_is_no_knob_of_an_inference_unless_it_is_null(file):
    config = ConfigParser.load_config_files([CONFIGS / file])
    defaults = TrainedModel("absent.pt", config["trained"]["task"]).defaults
    assert {name: config[name] for name in defaults if config.get(name) is not None} == {}
