"""The bundle as MONAI's tools see it, without running it."""

from __future__ import annotations

import inspect
import itertools
import json
import re

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, verify_net_in_out
from monai.bundle.config_item import ComponentLocator

import monai_idm
from idm_bundle.studies.configs import SMALLEST
from tests.bundle.workspace import CONFIGS, TINY, workflow


@pytest.mark.parametrize(
    ("configs", "kind"),
    [
        ("train", "train"),
        ("inference", "infer"),
        (["train", "evaluate"], "train"),
        (["train", "evaluate_generation"], "train"),
        (["train", "paper"], "train"),
        (["train", "native"], "train"),
        (["train", "native", "full_resolution"], "train"),
        (["train", "segmentation"], "train"),
        (["train", "segmentation", "evaluate_segmentation"], "train"),
        (["train", "segmentation", "patchddm"], "train"),
        (["train", "segmentation", "native"], "train"),
        ("inference_segmentation", "infer"),
        (["train", "synthesis"], "train"),
        (["train", "synthesis", "evaluate_synthesis"], "train"),
        ("inference_synthesis", "infer"),
        (["train", "super_resolution"], "train"),
        (["train", "super_resolution", "evaluate_super_resolution"], "train"),
        ("inference_super_resolution", "infer"),
        (["train", "semantic"], "train"),
        (["train", "semantic", "evaluate_semantic"], "train"),
        ("inference_semantic", "infer"),
        (["train", "inpainting"], "train"),
        (["train", "inpainting", "evaluate_inpainting"], "train"),
        ("inference_inpainting", "infer"),
    ],
)
def test_properties_are_complete_before_a_checkpoint_exists(configs, kind, tmp_path):
    # in another folder, as the bundle's own may hold the demo's weights
    values = {**TINY, "ckpt_dir": str(tmp_path)} if kind == "train" else {"ckpt_file": str(tmp_path / "model.pt")}
    if "paper" in configs or "native" in configs:  # their networks have their own tests
        values |= {name: value for name, value in SMALLEST.items() if name.startswith("network_def")}
    run = workflow(configs, kind, tmp_path, **values)
    run.initialize()
    assert run.check_properties() in ([], None)


@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_def_passes_with_one_tensor(config):
    verify_net_in_out(
        "network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / f"{config}.yaml"),
        device="cpu",
        n=1,
    )


def targets(content):
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "_target_":
                yield value
            yield from targets(value)
    elif isinstance(content, list):
        for value in content:
            yield from targets(value)


@pytest.mark.parametrize("config", sorted(file.stem for file in CONFIGS.glob("*.yaml")))
def test_short_target_names_resolve(config):
    parser = ConfigParser({"imports": ["$import monai_idm"]})
    parser.parse()
    locator = ComponentLocator()
    for target in targets(yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())):
        if "." not in target and not target.startswith("@"):
            assert isinstance(locator.get_component_module_name(target), str), f"{target} is missing or ambiguous"


def test_public_names_are_not_those_of_monai():
    locator = ComponentLocator()
    for room in monai_idm.__all__:
        for name in getattr(getattr(monai_idm, room), "__all__", ()):
            component = getattr(getattr(monai_idm, room), name)
            if inspect.isclass(component):
                assert locator.get_component_module_name(name) == component.__module__, name


def test_the_version_is_the_same_everywhere():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert metadata["version"] == monai_idm.__version__
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("config", ["train", "inference"])
def test_the_paper_preset_is_one_flag(config, tmp_path):
    values = {"preset": "paper", "ckpt_file": str(tmp_path / "none.pt")}
    run = workflow(config, "train" if config == "train" else "infer", tmp_path, **values)
    run.initialize()
    with torch.device("meta"):
        network = run.network_def
    assert 343e6 < sum(p.numel() for p in network.parameters()) < 345e6
    assert network.precision == ("auto" if config == "train" else "float32")
    assert network.activations == ("auto" if config == "train" else "rebuilt")


@pytest.mark.parametrize(
    ("overlays", "expected"),
    [
        (["paper"], ("rebuilt", "float32")),
        (["native"], ("auto", "mixed")),
        (["native", "full_resolution"], ("auto", "mixed")),
        (["segmentation", "patchddm"], ("stored", "float32")),
        (["segmentation"], ("auto", "auto")),
        (["synthesis"], ("auto", "auto")),
    ],
)
def test_a_published_setting_does_not_depend_on_the_machine(overlays, expected):
    config = ConfigParser()
    config.read_config([CONFIGS / f"{name}.yaml" for name in ("train", *overlays)])
    assert (config["activations"], config["precision"]) == expected


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_page_of_knobs_names_every_knob(file):
    ends = {"train": "\n# data\n", "inference": "\n# what was trained"}
    head = file.read_text().split(ends.get(file.stem.split("_")[0], "\n\n"))[0]
    page = (CONFIGS.parent / "docs" / "KNOBS.md").read_text()
    knobs = set(re.findall(r"^([a-z_]+):", head, flags=re.MULTILINE)) - {"imports", "initialize"}
    assert not {knob for knob in knobs if f"`{knob}`" not in page}


def test_a_record_names_the_source_of_cases_that_another_tool_handed_in(tmp_path):
    config = ConfigParser()
    config.read_config(CONFIGS / "train.yaml")
    config.update({"output_dir": str(tmp_path), "train#dataset#data": [{"image": "/studies/case.nii.gz"}]})
    config["train#preprocessing#transforms"] = []  # there is no such file
    source = "$monai_idm.data.data_source(@train#dataset, @dataset_dir, @output_dir + '/phantoms')"
    (record,) = (h for h in config["train#handlers"] if isinstance(h, dict) and h["_target_"] == "RecordHandler")
    assert record["data"].startswith("$monai_idm.data.describe_data(@train#dataset,")  # which calls the same function
    config["source"] = source
    assert config.get_parsed_content("source") == "/studies"


def test_a_device_may_be_given_by_its_name(tmp_path):
    config = ConfigParser()
    config.read_config(CONFIGS / "train.yaml")
    config["device"] = "cpu"  # as MONAI Label does
    assert config.get_parsed_content("train#dataloader#pin_memory") is False


LIMITS = {"train": 300, "inference": 90, "evaluate": 40}


def lines(file) -> list[str]:
    stripped = (line.strip() for line in file.read_text().splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_is_short_and_has_no_program_in_it(file):
    assert len(file.read_text().splitlines()) <= LIMITS.get(file.stem.split("_")[0], 100)
    assert "lambda " not in file.read_text()


def test_no_two_configs_repeat_each_other():
    files = sorted(CONFIGS.glob("*.yaml"))
    tasks = len([*CONFIGS.glob("inference*.yaml")])
    assert sum(len(file.read_text().splitlines()) for file in files) <= 620 + 112 * tasks
    runs = {}
    for file in files:
        text = lines(file)
        runs[file.stem] = {tuple(text[i : i + 6]) for i in range(len(text) - 5)}
    for one, other in itertools.combinations(runs, 2):
        assert not runs[one] & runs[other], (one, other)
