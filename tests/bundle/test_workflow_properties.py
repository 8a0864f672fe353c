"""Every property of MONAI's workflows can be read, replaced by an object, and used from then on."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.data import Dataset

from tests.bundle.workspace import CONFIGS, TINY, chain, workflow

# train.yaml alone, and with overlays that replace its parts
TRAININGS = ["train", ["train", "segmentation"], ["train", "synthesis"], ["train", "evaluate"]]
TRAININGS += [["train", "inpainting"], ["train", "semantic"], ["train", "super_resolution"]]
INFERENCES = ["inference", "inference_segmentation", "inference_synthesis", "inference_inpainting"]
INFERENCES += ["inference_semantic", "inference_super_resolution"]


@pytest.mark.parametrize(("file", "properties"), [
    *product(sorted(CONFIGS.glob("*train*.yaml")), [TrainProperties]),
    *product(sorted(CONFIGS.glob("inference*.yaml")), [InferProperties]),
    *product(sorted({*CONFIGS.glob("[!i]*.yaml")} - {*CONFIGS.glob("*train*")}), [TrainProperties]),
], ids=lambda x: getattr(x, "stem", ""))  # fmt: skip
def test_no_config_looks_inside_what_a_user_may_replace(file, properties):
    ids = [p["id"].replace("::", "#") for p in properties.values()]
    references = re.findall(r"[@%]([a-zA-Z_][\w#]*)", yaml.safe_dump(yaml.safe_load(file.read_text()), width=10**6))
    assert not [r for r in references if r not in ids and any(r.startswith(f"{i}#") for i in ids)]


def in_order(properties):
    """Parts before what they are part of, and the trainer last: another trainer comes with its own parts."""
    return sorted(properties, key=lambda name: (name == "trainer", -properties[name]["id"].count("::")))


@pytest.mark.parametrize("configs", TRAININGS, ids=str)
def test_every_property_of_a_training_is_read_and_set(configs, tmp_path):
    run = workflow(configs, "train", tmp_path, **{**TINY, "ckpt_dir": str(tmp_path), "num_inference_steps": 2})
    run.initialize()
    for name in in_order(TrainProperties):
        value = getattr(run, name)
        setattr(run, name, value)
        run.initialize()
        got = getattr(run, name)
        assert got is value or isinstance(value, list | dict | str | int)
        assert run.trainer is not None


@pytest.mark.parametrize("config", INFERENCES)
def test_every_property_of_an_inference_is_read_and_set(config, tmp_path):
    run = workflow(config, "infer", tmp_path)
    run.initialize()
    run.parser["settings"] = {}  # of a checkpoint, which does not exist
    if "save_settings" in run.parser:
        run.parser["save_settings#settings"] = {}
    handlers = run.parser["handlers"]
    run.parser["handlers"] = [h for h in handlers if h.get("_target_") != "CheckedCheckpointLoader"]
    run.initialize()
    for name in in_order(InferProperties):
        value = getattr(run, name)
        setattr(run, name, value)
        run.initialize()
        assert run.evaluator is not None


class Own(torch.utils.data.Dataset):
    """A user's dataset of plain tensors, independent of MONAI."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": torch.full((2, 16, 16, 16), index / 3)}


@pytest.mark.parametrize("dataset", [Own(), Dataset([Own()[i] for i in range(3)])], ids=["torch", "monai"])
def test_a_training_accepts_another_dataset_and_number_of_epochs(dataset, tmp_path):
    run = workflow("train", "train", tmp_path, **{**TINY, "ckpt_dir": str(tmp_path), "num_inference_steps": 2})
    run.initialize()
    run.train_dataset = dataset
    run.max_epochs = 1
    run.initialize()
    run.run()
    assert run.trainer.state.epoch == 1
    (scheduler,) = [run.parser.get_parsed_content("lr_scheduler")]
    assert scheduler.T_max == 1 * TINY["demo#epoch_length"]  # the learning rate falls until the end of the run
    record = run.parser.get_parsed_content("record").content
    assert record["data"]["source"] == f"a {type(dataset).__name__} that names no files"
    assert record["data"]["num_cases"] == 3


@pytest.mark.parametrize("config", ["train", "segmentation", *INFERENCES])
@pytest.mark.parametrize("name", ["DDIMScheduler", "StridedDDIM"])
def test_an_unknown_sampler_is_refused_with_the_names_of_all(config, name):
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.yaml", CONFIGS / "segmentation.yaml"] if config == "segmentation"
                       else CONFIGS / f"{config}.yaml")  # fmt: skip
    parser["sampler"] = name
    parser["num_inference_steps"] = 2
    parser["ckpt_file"] = "none.pt"
    part = "few_step_scheduler" if "few_step_scheduler" in parser else "inferer"
    with pytest.raises(RuntimeError) as failed:
        parser.get_parsed_content(part)
    assert f"sampler='{name}' is not a few-step sampler; choose one of DPMSolver" in chain(failed.value)
