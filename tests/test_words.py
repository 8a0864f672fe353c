"""true, false and null on the command line are what they are in a config."""

from __future__ import annotations

import pytest
import yaml
from monai.bundle import ConfigWorkflow

from monai_idm import read_words
from tests.bundle.workspace import CONFIGS

READ = "$monai_idm.read_words(@words, __local_refs)"
# what a knob was and what is typed, as MONAI's command line hands it over
TYPED = [
    ("train", "zoom", "false", False),
    ("train", "resume", "true", True),
    ("train", "resume", "False", False),
    ("train", "air", "null", None),
    ("train", "epoch_length", "null", None),
    (["train", "segmentation"], "coordinates", "false", False),
    (["train", "synthesis"], "known", "null", None),
    (["train", "multi_gpu_train"], "allow_links", "true", True),
    ("inference", "num_inference_steps", "null", None),
    ("inference_segmentation", "zoom", "FALSE", False),
    ("inference_synthesis", "any_to_any", "true", True),
]


def config(names, **typed) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{name}.yaml") for name in ([names] if isinstance(names, str) else names)]
    kind = "infer" if "inference" in files[0] else "train"
    return ConfigWorkflow(
        config_file=files, workflow_type=kind, logging_file=False, bundle_root=str(CONFIGS.parent), **typed
    )


@pytest.mark.parametrize(("names", "knob", "typed", "value"), TYPED)
def test_a_word_is_its_value_wherever_the_knob_is_read(names, knob, typed, value):
    workflow = config(names, **{knob: typed})
    part = "initialize" if "multi_gpu_train" in names else "run"  # there processes compare their knobs before
    place = workflow.parser[part].index(READ)
    assert workflow.parser.get_parsed_content(knob) == typed
    workflow = config(names, **{knob: typed})
    workflow.parser.get_parsed_content(f"{part}#{place}")
    assert workflow.parser.get_parsed_content(knob) is value


def test_the_parts_that_read_a_knob_get_its_value():
    workflow = config("train", zoom="false", resume="false")
    workflow.parser.get_parsed_content("run#0")
    transforms = workflow.parser.get_parsed_content("transforms")
    (fit,) = (t for t in transforms if type(t).__name__ == "FitToGridd")
    assert fit.zoom is False
    assert workflow.parser.get_parsed_content("record").content["convention"]["zoom"] is False


def test_other_words_stay_words():
    resolved = {"preset": "light", "zoom": True, "x": "nullify"}
    read_words({"preset": "light", "zoom": True, "x": "nullify"}, resolved)
    assert resolved == {"preset": "light", "zoom": True, "x": "nullify"}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_knob_that_can_be_such_a_word_is_read(file):
    content = yaml.safe_load(file.read_text())
    if "run" in content:
        assert content["run"][0] == READ  # before anything reads a knob
    known = set(yaml.safe_load((CONFIGS / "train.yaml").read_text())["words"])
    known = set(content["words"]) if "words" in content else known
    known |= {name.removeprefix("words#") for name in content if name.startswith("words#")} | {"is_not_rank0"}
    words = {name for name, value in content.items() if (value is None or isinstance(value, bool)) and "#" not in name}
    assert words <= known
